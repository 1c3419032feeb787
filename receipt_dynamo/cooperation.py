"""Long work in Python code, beside threads that must not wait for it.

A thread that computes keeps the interpreter for a switch interval (5 ms) from one that wants it,
and a caller that records gives it up in its ``os.write``. A short stay in C does not help: it is
over before the other thread is awake. Only a thread that sleeps hands over.
"""

from __future__ import annotations

import _thread
from collections.abc import Iterable, Iterator
from typing import TypeVar

from receipt_dynamo.utils.clock import Clock

__all__ = ["cooperatively"]

WORK_SECONDS = 0.0002
BREATH_SECONDS = 0.00005
_T = TypeVar("_T")


def cooperatively(items: Iterable[_T], clock: Clock) -> Iterator[_T]:
    """Yield ``items``; every 0.2 ms let other threads have the interpreter, where there are any.

    For loops that nobody waits for. What the caller does with an item counts as work.
    """
    if _thread._count() == 0:  # noqa: SLF001 - takes no lock, unlike threading.active_count()
        yield from items
        return
    due = clock.monotonic() + WORK_SECONDS
    for item in items:
        yield item
        if clock.monotonic() >= due:
            clock.sleep(BREATH_SECONDS)
            due = clock.monotonic() + WORK_SECONDS
