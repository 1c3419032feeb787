"""The memory ring: records that the disk refuses, kept until they can be written or delivered."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["MemoryRing"]

RING_RECORDS = 2000
RING_BYTES = 2 << 20


class MemoryRing:
    """A bounded queue of payloads, oldest first. Thread-safe. A kill loses what it holds."""

    def __init__(self, max_records: int = RING_RECORDS, max_bytes: int = RING_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        # Guarded by _lock
        self._payloads: deque[bytes] = deque()
        self._bytes = 0

    def empty_copy(self) -> MemoryRing:
        """Return a ring of the same bounds that holds nothing."""
        return MemoryRing(self._max_records, self._max_bytes)

    def offer(self, payload: bytes) -> bool:
        """Keep ``payload``; return False when the ring is full."""
        with self._lock:
            if (
                len(self._payloads) >= self._max_records
                or self._bytes + len(payload) > self._max_bytes
            ):
                return False
            self._payloads.append(payload)
            self._bytes += len(payload)
            return True

    def peek(self) -> list[bytes]:
        """Return all payloads, oldest first, and keep them."""
        with self._lock:
            return list(self._payloads)

    def take(self, limit: int) -> list[bytes]:
        """Take out the oldest ``limit`` payloads: nobody else has them now.

        What cannot be brought to safety goes back with ``give_back``.
        """
        with self._lock:
            taken = [self._payloads.popleft() for _ in range(min(limit, len(self._payloads)))]
            self._bytes -= sum(map(len, taken))
        return taken

    def give_back(self, payloads: list[bytes]) -> None:
        """Put taken payloads back to the front, in their order, whatever the bounds say."""
        with self._lock:
            self._payloads.extendleft(reversed(payloads))
            self._bytes += sum(map(len, payloads))

    def __len__(self) -> int:
        return len(self._payloads)
