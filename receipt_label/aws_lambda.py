"""AWS Lambda: what an invocation recorded is delivered before it returns.

A sandbox is frozen as soon as the handler has returned, and no thread of its own runs then. What
was not delivered waits on its disk for the next invocation; when AWS reclaims the sandbox it is
gone. So the handler delivers at its end, within the time that it has left.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from receipt_dynamo import FlushReport, safe_logger

__all__ = ["flush_after_invocation"]

RESERVE_SECONDS = 0.5
UNKNOWN_SECONDS = 2.0
_log = safe_logger("receipt_label.aws_lambda")
P = ParamSpec("P")
R = TypeVar("R")


class Flushable(Protocol):
    """An AIUsageTracker, or a client."""

    def flush(self, timeout: float) -> FlushReport:
        """Deliver what is spooled, and return within ``timeout`` seconds."""


def flush_after_invocation(
    tracker: Flushable, *, reserve_seconds: float = RESERVE_SECONDS
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a Lambda handler: flush ``tracker`` when it returns or raises.

        @flush_after_invocation(tracker)
        def handler(event, context): ...

    The flush may take what ``context.get_remaining_time_in_millis()`` says is left, less
    ``reserve_seconds``, which stay for the answer to leave; 2 seconds where there is no such
    context. The handler's result or exception is passed on as it is. What could not be delivered in
    time stays in the sandbox's spool, and a warning says how many records.

    Raises, where the handler is decorated, ValueError for a negative ``reserve_seconds`` and
    TypeError for an ``async def``, which Lambda does not await: the flush would come before it.
    """
    if not reserve_seconds >= 0:
        raise ValueError(f"reserve_seconds={reserve_seconds!r} is no duration: 0 or more")

    def decorate(handler: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(handler):
            raise TypeError(
                f"{handler.__qualname__} is async, and the flush would come before it has run: "
                "decorate a handler that runs it, with asyncio.run"
            )

        @functools.wraps(handler)
        def invoke(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return handler(*args, **kwargs)
            finally:
                _flush(tracker, _seconds_left((*args, *kwargs.values()), reserve_seconds))

        return invoke

    return decorate


def _flush(tracker: Flushable, timeout: float) -> None:
    report = tracker.flush(timeout)
    if report.pending:
        _log.warning(
            "%d usage records wait in this sandbox for its next invocation: %.1f s were too short",
            report.pending,
            timeout,
        )


def _seconds_left(arguments: tuple[object, ...], reserve: float) -> float:
    for argument in reversed(arguments):
        remaining = getattr(argument, "get_remaining_time_in_millis", None)
        if callable(remaining):
            try:
                return max(0.0, float(remaining()) / 1000 - reserve)
            except Exception:  # a context made by hand: the handler's result matters more
                break
    return UNKNOWN_SECONDS
