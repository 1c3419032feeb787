"""How much a spool may hold: a bound in bytes, and room that must stay free on the disk.

A writer spends a grant, byte by byte; the directory is measured when a grant is given, never when a
record is appended. A grant is one segment at most, so that all processes together overshoot the
bound by no more than a segment each.
"""

from __future__ import annotations

import os
from pathlib import Path

from receipt_dynamo.spool.reader import list_segments, spool_bytes

__all__ = ["SpoolBounds", "SpoolFullError", "default_min_free"]

_MIN_FREE_BYTES = 256 << 20
_MIN_FREE_SHARE = 0.02


class SpoolFullError(OSError):
    """The spool has reached its bound. ``reason`` is ``max_bytes`` or ``min_free``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def default_min_free(total_bytes: int) -> int:
    """Return what must stay free on a disk of ``total_bytes``: 256 MiB or 2 %, the larger."""
    return max(_MIN_FREE_BYTES, int(total_bytes * _MIN_FREE_SHARE))


class SpoolBounds:
    """Measures a spool directory and grants bytes to a writer. Stateless; thread-safe."""

    def __init__(
        self, directory: Path, *, max_bytes: int, min_free_bytes: int | None, grant_bytes: int
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._grant_bytes = grant_bytes

    def excess(self) -> int:
        """Return by how many bytes the spool is over its bound; 0 when it is not."""
        return max(0, spool_bytes(list_segments(self._directory)) - self._max_bytes)

    def grant(self) -> int:
        """Return how many bytes may be appended before the next measurement.

        Raises SpoolFullError when there is no room, OSError when the disk cannot be asked.
        """
        held = spool_bytes(list_segments(self._directory))
        if held >= self._max_bytes:
            raise SpoolFullError(
                "max_bytes",
                f"the spool {self._directory} holds {held} bytes; its bound is {self._max_bytes}",
            )
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize
        reserve = self._min_free_bytes
        if reserve is None:
            reserve = default_min_free(disk.f_blocks * disk.f_frsize)
        if free <= reserve:
            raise SpoolFullError(
                "min_free",
                f"the disk of {self._directory} has {free} bytes left; {reserve} stay free",
            )
        return max(1, min(self._grant_bytes, self._max_bytes - held, free - reserve))
