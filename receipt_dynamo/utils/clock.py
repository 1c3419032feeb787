"""Time as a dependency: parts that decide take a Clock, which tests turn by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

__all__ = ["Clock", "SystemClock"]

T = TypeVar("T")


class Clock(Protocol):
    """What this library wants to know about time. Seconds are floats; ``now`` is aware, UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""

    def cpu_time(self) -> float:
        """Return the seconds for which the calling thread has had a processor."""

    def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""

    def receive(self, inbox: SimpleQueue[T], timeout: float) -> T | None:
        """Return the next item of ``inbox``, or None after ``timeout`` seconds."""


class SystemClock:
    """The real time."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Return ``time.monotonic()``."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    def cpu_time(self) -> float:
        """Return ``time.thread_time()``."""
        return time.thread_time()

    def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        time.sleep(seconds)

    def receive(self, inbox: SimpleQueue[T], timeout: float) -> T | None:
        """Wait for an item at most ``timeout`` seconds."""
        try:
            return inbox.get(timeout=timeout)
        except Empty:
            return None
