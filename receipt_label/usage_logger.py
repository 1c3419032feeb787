"""UsageLogger: what an agent does beside calling models: tools, skills, subagents, actions."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from receipt_dynamo import PutResult, UsageClient, mint_request_id, open_usage_client
from receipt_label import context as contexts
from receipt_label.pricing import PriceBook
from receipt_label.tracker import AIUsageTracker
from receipt_label.uses import Kind, Use

__all__ = ["UsageLogger", "tracker_of_uses"]


def tracker_of_uses(client: UsageClient) -> AIUsageTracker:
    """Return a tracker for records that need no price: it starts without the price data."""
    return AIUsageTracker(client, prices=PriceBook.deferred(client.settings.prices))


class UsageLogger:
    """Logs what an agent does in one session. Thread-safe; a context manager.

    Each method appends one record and answers as ``AIUsageTracker.record`` does: it raises nothing
    for a bad value and never waits; after ``close`` it raises RuntimeError. ``outcome`` is
    ``success``, ``failure`` (where there is an ``error``) or a word of your own; ``duration_ms`` is
    in milliseconds; ``cost_usd`` a Decimal, without which it costs 0, ``not_billable``;
    ``metadata`` is JSON, copied, never changed. ``fields`` are the other fields of a metric, such
    as the ``subagent`` for whom a tool worked, ``request_id`` and ``timestamp``.

    ``tracker`` defaults to one for this environment, which ``close`` then closes too (making it
    raises ConfigurationError). ``session_id`` defaults to the context's, else one is minted. Within
    ``with`` the session's start and its end (duration, outcome) are logged as actions. A logger
    that is garbage before it is closed logs the end as ``abandoned``, but not at the interpreter's
    exit. A forked child may go on logging; the session's end is its maker's.
    """

    def __init__(
        self,
        tracker: AIUsageTracker | None = None,
        *,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open: list[
            None
        ] = []  # one entry while open: to take it out is atomic, without a lock
        self._began: float | None = None
        self._pid = os.getpid()
        self._monotonic = monotonic
        self._metadata: Mapping[str, Any] = dict(metadata or {})
        self._owned: UsageClient | None = None
        if tracker is None:
            self._owned = open_usage_client()
            tracker = tracker_of_uses(self._owned)
        self._tracker = tracker
        self.session_id: str = (
            session_id or contexts.current().get("session_id") or f"session-{mint_request_id()}"
        )
        self._open.append(None)

    @property
    def tracker(self) -> AIUsageTracker:
        """The tracker that this logger records through."""
        return self._tracker

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return not self._open

    def log_tool_usage(
        self,
        tool: str,
        /,
        *,
        outcome: str | None = None,
        error: str | None = None,
        duration_ms: float | None = None,
        cost_usd: Decimal | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> PutResult:
        """Log one use of a tool. Raises RuntimeError after ``close``, nothing else."""
        return self._log("tool", tool, outcome, error, duration_ms, cost_usd, metadata, fields)

    def log_skill(
        self,
        skill: str,
        /,
        *,
        outcome: str | None = None,
        error: str | None = None,
        duration_ms: float | None = None,
        cost_usd: Decimal | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> PutResult:
        """Log one use of a skill. Raises RuntimeError after ``close``, nothing else."""
        return self._log("skill", skill, outcome, error, duration_ms, cost_usd, metadata, fields)

    def log_subagent(
        self,
        subagent: str,
        /,
        *,
        outcome: str | None = None,
        error: str | None = None,
        duration_ms: float | None = None,
        cost_usd: Decimal | None = None,
        usage: Mapping[str, int] | None = None,
        is_leaf: bool = False,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> PutResult:
        """Log one run of a subagent. Raises RuntimeError after ``close``, nothing else.

        ``usage`` is what the subagent says of itself (``{"input_tokens": 900, ...}``). The calls
        that it made are recorded themselves, each with its tokens and price, so these figures are
        kept as ``metadata["reported_usage"]`` and added to nothing. With ``is_leaf`` none of its
        calls is recorded: ``usage`` are then the tokens of this record, which without ``cost_usd``
        is not free but unpriced (``not_priced``). A ``cost_usd`` always counts.
        """
        if is_leaf:
            fields = {**_mapping(usage, "usage"), **fields}
            if cost_usd is None:
                fields |= {"cost_usd": None, "unpriced_reason": "not_priced"}
        elif usage:
            metadata = {**_mapping(metadata, "metadata"), "reported_usage": usage}
        return self._log(
            "subagent", subagent, outcome, error, duration_ms, cost_usd, metadata, fields
        )

    def log_action(
        self,
        action: str,
        /,
        *,
        outcome: str | None = None,
        error: str | None = None,
        duration_ms: float | None = None,
        cost_usd: Decimal | None = None,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> PutResult:
        """Log one action, such as ``deploy``. Raises RuntimeError after ``close``, nothing else.

        ``details`` is JSON that describes it, kept as ``metadata["details"]``.
        """
        if details:
            metadata = {**_mapping(metadata, "metadata"), "details": details}
        return self._log("action", action, outcome, error, duration_ms, cost_usd, metadata, fields)

    def _log(
        self,
        kind: Kind,
        name: str,
        outcome: str | None,
        error: str | None,
        duration_ms: float | None,
        cost_usd: Decimal | None,
        metadata: Mapping[str, Any] | None,
        fields: Mapping[str, Any],
    ) -> PutResult:
        if not self._open:
            raise RuntimeError("this UsageLogger is closed: log before close()")
        use = Use(
            kind=kind,
            name=name,
            outcome=outcome,
            error=error,
            duration_ms=duration_ms,
            cost_usd=cost_usd,
            metadata=_mapping(metadata, "metadata"),
        )
        return self._record(use, fields)

    def _record(self, use: Use, fields: Mapping[str, Any]) -> PutResult:
        record = {"session_id": self.session_id, **use.fields()}
        record["metadata"] = {**self._metadata, **record["metadata"]}
        for name, value in fields.items():
            if value is not None:
                record[name] = value
            elif name == "cost_usd":  # not free: its price is not known
                del record["cost_usd"], record["price_source"]
        return self._tracker.record(**record)

    def close(self, timeout: float = 5.0) -> None:
        """Log the session's end, if its start was, and close the tracker that this logger opened.

        Any number of times, from any thread; the end is logged once. Returns after ``timeout``
        seconds at the latest. Raises nothing.
        """
        self._close(None, None, timeout)

    def _close(self, outcome: str | None, error: str | None, timeout: float = 5.0) -> None:
        try:
            self._open.pop()
        except IndexError:
            return
        self._record_end(outcome, error)
        if self._owned is not None and self._pid == os.getpid():
            self._tracker.close(0.0)
            self._owned.close(timeout)

    def _record_end(self, outcome: str | None, error: str | None) -> None:
        if self._began is not None and self._pid == os.getpid():
            duration = (self._monotonic() - self._began) * 1000
            end = Use(
                kind="action",
                name="session_end",
                outcome=outcome,
                error=error,
                duration_ms=duration,
            )
            self._record(end, {})

    def __enter__(self) -> Self:
        self.log_action("session_start")
        self._began = self._monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._close("failure", kind.__name__)

    def __del__(self) -> None:
        # No flush and no close: whoever lets go of it last, or the collector, must not wait.
        try:
            if not sys.is_finalizing():
                self._open.pop()
                self._record_end("abandoned", None)
        except BaseException:  # noqa: S110 - closed already, or half taken apart
            pass

    def __repr__(self) -> str:
        return f"<UsageLogger {self.session_id} {'closed' if self.closed else 'open'}>"


def _mapping(value: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """Return a mapping; what is none is kept under its name, for the record to take or refuse."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {name: value}
