"""How much a spool may hold: a bound in bytes, and room that must stay free on the disk.

A writer spends a grant, byte by byte; the directory is measured when a grant is given, never when a
record is appended. A grant is one segment at most (or one record that is longer), so that all
processes together overshoot the bound by no more than that each.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from receipt_dynamo.files import secure_directory
from receipt_dynamo.spool.reader import spool_bytes

__all__ = ["Allowance", "SpoolBounds", "SpoolFullError", "default_min_free", "segment_size"]

_MIN_FREE_BYTES = 256 << 20
_MIN_FREE_SHARE = 0.02
_LEAST_SEGMENT_BYTES = 4096
_REFUSED_SECONDS = 1.0  # how long a refusal of the bounds is believed without asking again


class SpoolFullError(OSError):
    """The spool has reached its bound. ``reason`` is ``max_bytes`` or ``min_free``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def default_min_free(total_bytes: int) -> int:
    """Return what must stay free on a disk of ``total_bytes``: 256 MiB or 2 %, the larger."""
    return max(_MIN_FREE_BYTES, int(total_bytes * _MIN_FREE_SHARE))


def segment_size(segment_bytes: int, max_bytes: int) -> int:
    """Return after how many bytes to begin a new segment: an eighth of the bound at most.

    Only whole segments can make room, and only sealed ones: one that filled the bound never would.
    """
    return min(segment_bytes, max(_LEAST_SEGMENT_BYTES, max_bytes // 8))


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
        """Return how many bytes must go to make room for one more grant; 0 when there is room."""
        held = spool_bytes(self._directory)
        return max(0, held + self._grant_bytes - self._max_bytes)

    def grant(self, need: int = 1) -> int:
        """Return how many bytes may be appended before the next measurement, ``need`` at least.

        Raises SpoolFullError when there is no room, OSError when the disk cannot be asked.
        """
        held = spool_bytes(self._directory)
        room = self._max_bytes - held
        if room < need:
            raise SpoolFullError(
                "max_bytes",
                f"the spool {self._directory} holds {held} bytes; its bound is {self._max_bytes}",
            )
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize
        reserve = self._min_free_bytes
        if reserve is None:
            reserve = default_min_free(disk.f_blocks * disk.f_frsize)
        if free - reserve < need:
            raise SpoolFullError(
                "min_free",
                f"the disk of {self._directory} has {free} bytes left; {reserve} stay free",
            )
        return max(need, min(self._grant_bytes, room, free - reserve))


class Allowance:
    """What one writer may append before the directory is measured again.

    ``bytes`` are what is left of its grant; the writer subtracts what it appends. Without bounds
    there is no end to it. Guarded by the writer's lock, which ``refill`` takes by itself.
    """

    def __init__(
        self,
        directory: Path,
        bounds: SpoolBounds | None,
        grant_bytes: int,
        lock: threading.RLock,
    ) -> None:
        self._directory = directory
        self._bounds = bounds
        self._low = grant_bytes // 2
        self._lock = lock
        # Guarded by _lock
        self.bytes = sys.maxsize if bounds is None else 0
        self._need = 1
        self._grants = 0
        self._refusal: tuple[float, str, str] | None = None  # when, the reason, in words

    def renew(self, need: int) -> None:
        """Measure on the recording path: a writer was faster than its ``refill``.

        A refusal is believed for a while. Raises SpoolFullError, OSError.
        """
        if self._bounds is None:
            return
        now = time.monotonic()
        if self._refusal is not None:
            refused_at, reason, text = self._refusal
            if now - refused_at < _REFUSED_SECONDS:
                raise SpoolFullError(reason, text)  # a new one: an old one gathers tracebacks
        self._need = need
        try:
            granted = self._bounds.grant(need)
        except SpoolFullError as refusal:
            self._refusal = now, refusal.reason, str(refusal)
            raise
        except FileNotFoundError:  # the directory was removed under us: make it again
            secure_directory(self._directory, sync=False)
            granted = self._bounds.grant(need)
        self.bytes, self._refusal = granted, None
        self._grants += 1

    def refill(self) -> None:
        """Measure off the recording path, before the grant is spent. Raises SpoolFullError,
        OSError."""
        bounds = self._bounds
        if bounds is None or (self._refusal is None and self.bytes >= self._low):
            return
        with self._lock:
            grants, before = self._grants, self.bytes
        try:
            granted = bounds.grant(self._need)
        except SpoolFullError as refusal:
            with self._lock:
                self._refusal = time.monotonic(), refusal.reason, str(refusal)
                self.bytes = 0
            raise
        with self._lock:
            if grants == self._grants:  # else an append has asked meanwhile
                self.bytes, self._refusal = granted - (before - self.bytes), None
