"""What goes wrong in recording is said once, with the line of the pipeline's that it comes from."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

__all__ = ["FaultLog", "believable_count", "believable_money"]

_MAX_FAULTS = 1000
_MAX_MESSAGE = 500
_MASKED = 8192  # of a message: masked before it is cut
_log = logging.getLogger("receipt_label.tracker")


class FaultLog:
    """Logs each distinct fault once per line of the caller's. Thread-safe; raises nothing.

    ``redact`` is what a message goes through before it is logged: it may quote a refused value.
    """

    def __init__(self, redact: Callable[[str], str] = str) -> None:
        self._redact = redact
        self._seen: set[object] = set()  # Guarded by lock
        self.lock = threading.RLock()  # a signal handler may record within it
        _logs.add(self)

    def log(self, what: str) -> None:
        """Log ``what``, unless the same was logged for the same line. Values behind ``=`` differ
        from call to call and are no part of what is the same."""
        place = _caller()
        key = f"{place} {what.split('=', 1)[0]}"
        with self.lock:
            if key in self._seen or len(self._seen) >= _MAX_FAULTS:
                return
            self._seen.add(key)
        with suppress(Exception):  # a log handler of the pipeline's may raise
            _log.error("%s (%s)", self._redact(what), place)

    def log_once(self, key: object, what: str, error: BaseException) -> None:
        """Log ``what`` and the error once for this ``key``, whichever line it comes from.

        Of the error its type, its message as ``redact`` leaves it, and the line that raised it. A
        traceback would have the message as it is, and those of its causes.
        """
        with self.lock:
            if key in self._seen or len(self._seen) >= _MAX_FAULTS:
                return
            self._seen.add(key)
        with suppress(Exception):
            _log.error("%s (%s)", what, self._shown(error))

    def _shown(self, error: BaseException) -> str:
        try:
            message = self._redact(str(error)[:_MASKED])[:_MAX_MESSAGE]
        except Exception:  # an error without text
            message = ""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        name = type(error).__name__
        told = f"{name}: {message}" if message else name
        if trace is None:
            return told
        return f"{told}; raised at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _caller() -> str:
    """Return ``file:line`` of the first frame outside this package."""
    frame = sys._getframe(1)  # noqa: SLF001 - the only cheap way to the caller's line
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in ("receipt_label", "receipt_dynamo"):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def believable_count(count: object) -> int:
    """Return a count of a refused record's as it is tallied: 0 for what is none."""
    return count if type(count) is int and 0 <= count <= 10**12 else 0


def believable_money(amount: object) -> Decimal | None:
    """Return a cost of a refused record's as it is tallied, or None."""
    try:
        money = amount if isinstance(amount, Decimal) else Decimal(str(amount))
    except Exception:
        return None
    return money if money.is_finite() and 0 <= money < 10**12 else None


_logs: weakref.WeakSet[FaultLog] = weakref.WeakSet()


def _renew_locks() -> None:
    """Take new locks in a child: a thread of the parent's may have held the old ones."""
    for log in list(_logs):
        log.lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
