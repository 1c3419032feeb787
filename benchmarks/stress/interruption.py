"""How a run ends before its time: Ctrl-C, SIGTERM and a terminal that is gone are one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

__all__ = ["InterruptionError", "going_on", "interruptible"]

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptionError(Exception):
    """A part of a run that ends because the run does."""


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield what is set when the run is to end. For the main thread.

    The first signal raises KeyboardInterrupt here; more of them change nothing, so that what runs
    is ended in order. A signal that is ignored (``nohup``) stays ignored.
    """
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            stop.set()
            raise KeyboardInterrupt

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def going_on(stop: threading.Event, things: Iterable[T]) -> Iterator[T]:
    """Yield the things for as long as the run goes on. Raises InterruptionError."""
    for thing in things:
        if stop.is_set():
            raise InterruptionError
        yield thing
