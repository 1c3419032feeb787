"""One call of a wrapped client: timed, read, recorded once, and never in its caller's way."""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from functools import wraps
from typing import TYPE_CHECKING, Any

import msgspec

from receipt_label.usage import read_reply
from receipt_label.usage.address import NOWHERE, locate
from receipt_label.usage.reply import Reply, Skipped, Status

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = [
    "Begin",
    "Call",
    "Finish",
    "Instrument",
    "log_fault",
    "observe",
    "status_of",
]

_log = logging.getLogger("receipt_label.instrumentation")
_MAX_FAULTS = 1000


class Instrument:
    """Records the calls of one wrapped client through one tracker. Thread-safe, raises nothing.

    ``clock`` returns seconds, for latencies.
    """

    def __init__(
        self, tracker: AIUsageTracker, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.tracker = tracker
        self.clock = clock

    def begin(
        self,
        *,
        url: str | None = None,
        service: str | None = None,
        operation: str | None = None,
        request_model: object = None,
    ) -> Call:
        """Start a call now.

        ``service`` and ``operation`` win over what the address and the reply say: give them where
        the client knows better.
        """
        model = request_model if isinstance(request_model, str) else None
        return Call(self, url, service, operation, model, self.clock())


class Call(msgspec.Struct, eq=False):
    """One call of an AI service. Made when it starts; what it came to is recorded by its methods.

    They raise nothing. A stream hands its ``Call`` on to a ``StreamRecord``, which sees to once.
    ``started`` is by the instrument's clock. A struct, for one is made in C.
    """

    instrument: Instrument
    url: str | None
    service: str | None
    operation: str | None
    request_model: str | None
    started: float

    def elapsed_ms(self, until: float | None = None) -> float:
        """Return the milliseconds from the start of the call to ``until`` (seconds), or to now."""
        end = self.instrument.clock() if until is None else until
        return int((end - self.started) * 1e6 + 0.5) / 1000  # a tenth of what round() takes

    def reply(
        self,
        response: object,
        *,
        url: str | None = None,
        http_status: int | None = None,
        latency_ms: float | None = None,
        status: Status | None = None,
        error: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record what the vendor sent: anything that ``read_reply`` takes, a Reply that it made, or
        None.

        What cannot be read, and None, is recorded without usage, never with guessed figures; what
        ``read_reply`` skips is not recorded, nor is a ``Skipped`` handed in. ``status`` wins
        over the reply's; ``error`` names what broke a stream off that had begun.
        """
        try:
            reply = self._read(response, url or self.url, http_status)
            if isinstance(reply, Skipped):
                return
            if error is not None:
                reply = _failed(reply, error)
            elif status is not None:
                reply = msgspec.structs.replace(reply, status=status)
            self.instrument.tracker.record_reply(
                reply,
                latency_ms=self.elapsed_ms() if latency_ms is None else latency_ms,
                metadata=metadata,
            )
        except Exception as fault:
            log_fault(fault)

    def made(self, result: object) -> None:
        """Take note of what the caller gets, which stands for this call where it has no id."""
        try:
            self.instrument.tracker.known.note_object(result)
        except Exception as fault:
            log_fault(fault)

    def fail(
        self,
        error: BaseException,
        *,
        http_status: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that the call failed: the type of the error and the HTTP status, no message."""
        try:
            known = {"http_status": http_status} if http_status is not None else {}
            reply = self._unread(self.url)
            if isinstance(reply, Reply):
                self.instrument.tracker.record_reply(
                    _failed(reply, type(error).__name__),
                    latency_ms=self.elapsed_ms(),
                    metadata={**known, **(metadata or {})},
                )
        except Exception as fault:
            log_fault(fault)

    def _read(self, response: object, url: str | None, http_status: int | None) -> Reply | Skipped:
        if isinstance(response, (Reply, Skipped)):
            return response
        if response is None:
            return self._unread(url)
        try:
            return read_reply(
                response,
                url=url,
                http_status=http_status,
                service=self.service,
                operation=self.operation,
                request_model=self.request_model,
            )
        except ValueError:
            return self._unread(url)
        except Exception as fault:  # of ours: the call was made all the same
            log_fault(fault)
            return self._unread(url)

    def _unread(self, url: str | None) -> Reply | Skipped:
        """Return what is known of the call without any reply."""
        where = locate(url) if url else NOWHERE
        model = self.request_model or where.model or "unknown"
        return read_reply(
            {"usage": None, "model": model},
            url=url,
            service=self.service,
            operation=self.operation or where.operation,
            request_model=self.request_model,
        )


def _failed(reply: Reply, error: str) -> Reply:
    """Return the reply of a call that broke. Usage that the vendor told before counts."""
    fault = "failed_call" if reply.usage is None else reply.fault
    status: Status = "aborted"
    return msgspec.structs.replace(reply, error=error[:256], status=status, fault=fault)


Begin = Callable[[tuple[Any, ...], dict[str, Any]], Call | None]
Finish = Callable[[Call, Any], Any]


def observe(method: Callable[..., Any], begin: Begin, finish: Finish | None = None) -> Any:
    """Return ``method`` (bound; sync or async) as it is, but each call of it is recorded.

    ``begin(args, kwargs)`` starts the Call, or returns None to leave this one alone. ``finish(call,
    result)`` returns what the caller gets, by default the result, which is recorded. Neither can
    disturb the caller: where it raises, the bare result is handed over and the fault logged.

    ``method`` is one that makes one request and no other of the SDK's goes through: each call of it
    counts, also one that a hook makes within another.
    """
    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def observed(*args: Any, **kwargs: Any) -> Any:
            call = _begun(begin, args, kwargs)
            if call is None:
                return await method(*args, **kwargs)
            try:
                result = await method(*args, **kwargs)
            except BaseException as error:
                call.fail(error, http_status=status_of(error))
                raise
            return _finished(finish, call, result)

        return observed

    @wraps(method)
    def observed_sync(*args: Any, **kwargs: Any) -> Any:
        call = _begun(begin, args, kwargs)
        if call is None:
            return method(*args, **kwargs)
        try:
            result = method(*args, **kwargs)
        except BaseException as error:
            call.fail(error, http_status=status_of(error))
            raise
        return _finished(finish, call, result)

    return observed_sync


def _begun(begin: Begin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    try:
        return begin(args, kwargs)
    except Exception as fault:
        log_fault(fault)
        return None


def _finished(finish: Finish | None, call: Call, result: Any) -> Any:
    if finish is None:
        call.reply(result)
    else:
        try:
            result = finish(call, result)
        except Exception as fault:
            log_fault(fault)
    call.made(result)
    return result


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an SDK's error carries, or None."""
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if type(value) is int:
            return value
    return None


class Once:
    """Runs one function once, in the context and only in the process that it was made in.

    A child of a fork inherits open streams: they are its parent's to record. Thread-safe.
    """

    __slots__ = ("_context", "_open", "_pid")

    def __init__(self) -> None:
        self._context: Context = copy_context()
        self._open = [True]
        self._pid = os.getpid()

    @property
    def over(self) -> bool:
        """Whether it has run."""
        return not self._open

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """Run ``function`` unless something was run before. Raises nothing."""
        try:
            self._open.pop()  # atomic: of two threads one gets it
        except IndexError:
            return
        if self._pid != os.getpid():
            return
        try:
            self._context.run(function, *args)
        except Exception as fault:
            log_fault(fault)


_faults: set[str] = set()  # Guarded by _faults_lock
_faults_lock = threading.RLock()  # a finalizer may log while its thread holds it


def log_fault(fault: Exception) -> None:
    """Log each distinct fault of the tracking once. Raises nothing."""
    with suppress(Exception):  # an error without text, a log handler that raises
        trace, place = fault.__traceback__, "?"
        while trace is not None:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            trace = trace.tb_next
        key = f"{type(fault).__name__} {place}"
        with _faults_lock:
            if key in _faults or len(_faults) >= _MAX_FAULTS:
                return
            _faults.add(key)
        _log.error(
            "a call of a wrapped client is recorded in part, or not at all: %s (%s)", fault, place
        )


def _forget_after_fork() -> None:
    global _faults_lock  # noqa: PLW0603 - a thread of the parent's may have held the old one
    _faults_lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_after_fork)
