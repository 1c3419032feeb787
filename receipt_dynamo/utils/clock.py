"""Time as a dependency: parts that decide take a Clock, which tests turn by hand."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What this library wants to know about time. Seconds are floats; ``now`` is aware, UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""

    def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""

    def wait(self, event: threading.Event, timeout: float) -> bool:
        """Return True as soon as ``event`` is set, False after ``timeout`` seconds."""


class SystemClock:
    """The real time."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Return ``time.monotonic()``."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        time.sleep(seconds)

    def wait(self, event: threading.Event, timeout: float) -> bool:
        """Wait for ``event`` at most ``timeout`` seconds."""
        return event.wait(timeout)
