"""One run of a tracked operation: what was called within it, and the record that it leaves."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from receipt_dynamo import AIUsageMetric, PutResult, mint_request_id, plain_decimal
from receipt_label import context as contexts
from receipt_label.known_replies import USAGE_KEYS
from receipt_label.pricing.money import plus
from receipt_label.reply_metric import kept_id
from receipt_label.usage import read_reply
from receipt_label.usage.reply import Reply, Skipped

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["Operation", "Plan", "Run"]

REMEMBERED_REPLIES = 256
"""Replies that an operation remembers, to tell whether the one that is returned was recorded."""

_SDKS = frozenset(
    "openai anthropic google mistralai groq cohere cerebras ollama together fireworks voyageai "
    "perplexity xai_sdk litellm".split()
)

_lock = threading.RLock()  # a signal handler may record within it


def counting() -> threading.RLock:
    """Return the lock of every operation's figures: there is little to be done under it."""
    return _lock


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - a thread of the parent's may have held the old one
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``track`` and ``tool`` were told: how each run is recorded."""

    name: str | None = None
    service: str | None = None
    model: str | None = None
    operation: str | None = None
    is_tool: bool = False
    cost: Decimal | None = None
    bill_failures: bool = False
    reply: Callable[[Any], object] | None = None
    error_messages: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether a run is no paid call itself: what it costs is what the calls within it cost."""
        return self.service is None


class Operation:
    """One run of a tracked operation, from within: what ``with tracker.track(...)`` yields.

    Its figures are those of the calls that were recorded within it so far, in whatever thread or
    task took its context along (not in other processes). Whatever is put into ``metadata``, a dict,
    goes into its record. Thread-safe; raises nothing.
    """

    def __init__(
        self,
        tracker: AIUsageTracker | None,
        name: str,
        around: Operation | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.operation_id = mint_request_id()
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.calls = 0  # this and the next are Guarded by _lock
        self.failed_calls = 0
        self.unpriced_calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd = Decimal(0)
        self._tracker = tracker
        self._around = around
        self.outcome: Callable[[], tuple[str, dict[str, Any]]] | None = None
        self._replies: deque[str] = deque(maxlen=REMEMBERED_REPLIES)
        self._frame: contexts.Frame | None = None

    def record(self, **fields: Any) -> PutResult:
        """Record a call made within this operation; see ``AIUsageTracker.record``.

        Also from a thread that has no context.
        """
        return self._within("record", **fields)

    def record_response(self, response: object, **fields: Any) -> PutResult:
        """Record a vendor's reply to a call made within this operation.

        See ``AIUsageTracker.record_response``. Also from a thread that has no context.
        """
        return self._within("record_response", response, **fields)

    def _within(self, method: str, *args: Any, **fields: Any) -> PutResult:
        if self._tracker is None:
            return PutResult.DROPPED
        record: Callable[..., PutResult] = getattr(self._tracker, method)
        before = contexts.in_force()
        if before.operation is self or self._frame is None:
            return record(*args, **fields)
        contexts.put_in_force(self._frame)
        try:
            return record(*args, **fields)
        finally:
            contexts.put_in_force(before)

    def note(self, metric: AIUsageMetric) -> None:
        """Add what was recorded within, here and in every operation around this one.

        The record of an operation stands for no call and has no figures: it adds nothing.
        """
        operation: Operation | None = self
        with _lock:
            while operation is not None:
                operation._add(metric)  # noqa: SLF001 - the same class
                operation = operation._around  # noqa: SLF001

    def _add(self, metric: AIUsageMetric) -> None:
        self.calls += metric.api_calls
        self.input_tokens += metric.input_tokens or 0
        self.output_tokens += metric.output_tokens or 0
        if metric.cost_usd is None:
            self.unpriced_calls += metric.api_calls
        else:
            self.cost_usd = plus(self.cost_usd, metric.cost_usd)
        if metric.error is not None:
            self.failed_calls += metric.api_calls
        if metric.response_id is not None:
            self._replies.append(metric.response_id)

    def has_recorded(self, reply: Reply) -> bool:
        """Whether a reply that is returned was recorded within: by its id, where it has one.

        By the id alone: a wrapped client knows the service by its address, a reply does not.
        """
        if reply.response_id is None:
            return self.calls > 0
        return kept_id(reply.response_id) in self._replies

    def totals(self) -> dict[str, Any]:
        """Return what was called within, for the metadata of the record; {} where nothing was."""
        if self.calls == 0:
            return {}
        within: dict[str, Any] = {
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": plain_decimal(self.cost_usd),
        }
        if self.failed_calls:
            within["failed_calls"] = self.failed_calls
        if self.unpriced_calls:
            within["unpriced_calls"] = self.unpriced_calls
        return {"within": within}

    def __repr__(self) -> str:
        return f"<Operation {self.name} calls={self.calls} cost_usd={self.cost_usd}>"


class Run:
    """A run as its wrapper drives it: ``with run`` around each step, then one of its ends.

    Nothing of it is in force between two steps, so no token outlives one; a generator's own scopes
    are put back with the next step. What goes wrong here is logged, and reaches no caller.
    """

    def __init__(
        self, plan: Plan, tracker: AIUsageTracker, name: str, fields: Mapping[str, Any]
    ) -> None:
        self.began: datetime = tracker.now()
        self._plan = plan
        self._tracker = tracker
        self._outer = contexts.in_force()
        own = {**({"tool": name} if plan.is_tool else {}), **plan.fields, **fields}
        self.operation = Operation(tracker, name, self._outer.operation, own.pop("metadata", None))
        inner = contexts.merged(self._outer.fields, own, name, self.operation.operation_id)
        self.frame = contexts.Frame(inner, self, self._outer, self.operation)
        self.operation._frame = self.frame  # noqa: SLF001 - the same module
        self._own = own
        self._body = self.frame  # what was in force when the last step ended
        self._before = self._outer
        self._seconds = 0.0
        self._step_began = 0.0
        self._ended = False
        self._pid = os.getpid()

    def __enter__(self) -> Run:
        self._before = contexts.in_force()
        contexts.put_in_force(self._body)
        self._step_began = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seconds += perf_counter() - self._step_began
        left = contexts.in_force()
        if self.is_in_force(left):  # not where another task or thread ends what this one began
            self._body = left
            contexts.put_in_force(self._before)

    def is_in_force(self, frame: contexts.Frame | None) -> bool:
        """Whether this run's entry is ``frame``, or one around it."""
        while frame is not None:
            if frame is self.frame:
                return True
            frame = frame.outer
        return False

    def succeed(self, result: object = None) -> None:
        """Record that it came to its end, with what it returned."""
        self._end("complete", None, result)

    def stop(self) -> None:
        """Record that its reader stopped before its end."""
        self._end("partial", None, None)

    def fail(self, error: BaseException) -> None:
        """Record that it raised."""
        self._end("aborted", self._name_of(error), None)

    def _name_of(self, error: BaseException) -> str:
        name = type(error).__qualname__
        if not self._plan.error_messages:
            return name
        try:
            return f"{name}: {error}"
        except Exception:  # an error without text
            return name

    def _end(self, status: str, error: str | None, result: object) -> None:
        if self._ended or self._pid != os.getpid():  # a child of a fork: its parent records it
            return
        self._ended = True
        before = contexts.in_force()
        try:
            latency = self._seconds * 1000
            reply = self._reply_or_none(result) if status == "complete" else None
            alone = reply is not None and self.operation.calls == 0
            if reply is not None:
                contexts.put_in_force(self.frame)
                self._tracker.record_reply(
                    reply,
                    latency_ms=latency if alone else None,
                    fallback_timestamp=self.began,
                    metadata=self.operation.metadata if alone else None,
                )
            if not alone:
                contexts.put_in_force(self._outer)
                self._tracker.record(**self._record(status, error, latency))
        except Exception as fault:
            if self._tracker.strict:
                raise
            self._tracker.faults.log(f"an operation could not be recorded: {fault!r}")
        finally:
            contexts.put_in_force(before)

    def _record(self, status: str, error: str | None, latency: float) -> dict[str, Any]:
        plan, operation = self._plan, self.operation
        counted: dict[str, Any] = {}
        if operation.outcome is not None:
            own_status, counted = operation.outcome()
            status = own_status if status == "complete" else status
        record: dict[str, Any] = {
            **self._own,
            "service": plan.service or "action",
            "model": plan.model or operation.name,
            "operation": plan.operation or operation.name,
            "timestamp": self.began,
            "request_id": operation.operation_id,
            "api_calls": 0 if plan.free else 1,
            "latency_ms": latency,
            "status": status,
            "error": error,
            "metadata": {**operation.totals(), **counted, **operation.metadata},
        }
        if plan.cost is not None and (error is None or plan.bill_failures):
            record["cost_usd"] = plan.cost
        elif plan.free or plan.is_tool:
            record.update(cost_usd=Decimal(0), price_source="not_billable")
        return record

    def _reply_or_none(self, result: object) -> Reply | None:
        try:
            return self._reply_of(result)
        except Exception as fault:
            if self._tracker.strict:
                raise
            self._tracker.faults.log(
                f"no reply could be taken from what {self.operation.name} returned: {fault!r}"
            )
            return None

    def _reply_of(self, result: object) -> Reply | None:
        """Return the vendor's reply that a run returned, if nobody has recorded it."""
        if not self._plan.free:
            return None
        if self._plan.reply is not None:
            response = self._plan.reply(result)
        else:
            response = result if _looks_like_reply(result) else None
        if response is None:
            return None
        try:
            reply = read_reply(response)
        except ValueError:
            if self._plan.reply is not None:
                raise
            return None
        if isinstance(reply, Skipped) or self.operation.has_recorded(reply):
            return None
        known = self._tracker.known
        if self._plan.reply is None and (
            known.has(reply, response)  # only handed on: recorded by whoever made the call
            or (isinstance(result, dict) and reply.usage is None)
        ):
            return None
        known.note_object(response)
        return reply


def _looks_like_reply(result: object) -> bool:
    """Whether a function's result is worth reading: an SDK's object, or a dict with usage."""
    if isinstance(result, dict):
        return any(isinstance(result.get(key), Mapping) for key in USAGE_KEYS)
    return type(result).__module__.partition(".")[0] in _SDKS
