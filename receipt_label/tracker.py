"""AIUsageTracker: what a pipeline holds. One line records a call; nothing here ever breaks it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from receipt_dynamo import (
    AIUsageMetric,
    FlushReport,
    ForkGate,
    Health,
    PutResult,
    UsageClient,
    UsageError,
    mint_request_id,
    open_usage_client,
)
from receipt_label import context as contexts
from receipt_label.context import as_id
from receipt_label.faults import FaultLog
from receipt_label.masking import RecordMask
from receipt_label.observers import Observers
from receipt_label.pricing import PriceBook
from receipt_label.reply_metric import (
    ReplyTimes,
    in_variant,
    metrics_of_reply,
    price_fields,
    request_id_of,
)
from receipt_label.usage import read_reply
from receipt_label.usage.reply import Reply, Skipped, Usage

if TYPE_CHECKING:
    from receipt_label.batch_output import BatchOutput
    from receipt_label.exporters import MetricExporter
    from receipt_label.tracking import Tracked

__all__ = ["AIUsageTracker", "TrackerClosedError"]

_Client = TypeVar("_Client")
_NO_METADATA: Mapping[str, Any] = {}
_F = TypeVar("_F", bound=Callable[..., Any])


class TrackerClosedError(UsageError, RuntimeError):
    """Recording after ``close``, with ``strict=True``."""


class AIUsageTracker:
    """Records paid calls with their tokens, cost, latency and purpose. Thread-safe.

    Recording never raises into the pipeline and never waits for the network; it answers STORED,
    MEMORY, DROPPED or SKIPPED. With ``strict=True`` (for tests) bad values and use after ``close``
    raise. ``client`` defaults to the one for this environment, which ``close`` then closes too;
    ``prices`` is a PriceBook or the path of a price file (default: ``RECEIPT_USAGE_PRICES``).
    ``defaults`` are context fields that every record carries unless something else says otherwise;
    each of ``exporters`` sees every metric once it is stored (see ``MetricExporter``).

    Metadata and errors are masked before anything is written (:func:`receipt_label.mask`).
    ``mask`` is a callable that does more of it, or False for none at all. Metadata under the names
    of prompts and replies (``messages``, ``prompt``) is kept only with ``record_content=True``.

    Raises ConfigurationError when the environment names no usable store, PriceFileError for a price
    file with a mistake: both when the tracker is made, never later.
    """

    def __init__(
        self,
        client: UsageClient | None = None,
        *,
        strict: bool = False,
        prices: PriceBook | Path | str | None = None,
        mask: Callable[[Any], Any] | bool | None = None,
        record_content: bool = False,
        now: Callable[[], datetime] | None = None,
        defaults: Mapping[str, Any] | None = None,
        exporters: Iterable[MetricExporter] = (),
    ) -> None:
        self.strict = strict
        self._mask = RecordMask(
            mask, record_content=record_content, on_failure=self._note_mask_failure
        )
        self.faults = FaultLog(self._mask.message)
        self._owns_client = client is None
        self._client = open_usage_client() if client is None else client
        self._book = _load_book(prices, self._client.settings.prices)
        self._now = now or (lambda: datetime.now(UTC))
        self._closed = False
        self._times = ReplyTimes()
        settings = self._client.settings
        self._defaults: dict[str, Any] = {"environment": str(settings.environment)}
        if settings.deployment_version:
            self._defaults["deployment_version"] = settings.deployment_version
        if defaults:
            self._defaults.update(self._checked("defaults", defaults))
        self._observers = Observers(exporters, self.faults)
        self._observers.bind(self)
        _trackers.add(self)

    @property
    def client(self) -> UsageClient:
        """The client that this tracker records through."""
        return self._client

    @property
    def prices(self) -> PriceBook:
        """The price book that this tracker prices with."""
        return self._book

    def context(self, **fields: Any) -> contexts.ContextScope:
        """Return a scope whose fields every record within it carries. ``with`` and ``async with``.

        Fields: see ``CONTEXT_FIELDS``; ``metadata`` and ``price_context`` are merged key by key,
        None changes nothing. A bad value is left out, logged once, and raises with ``strict=True``;
        an unknown name is a TypeError.
        """
        return contexts.ContextScope(self._checked("context()", fields))

    def _checked(self, what: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        found = contexts.checked_fields(what, fields, strict=self.strict, complain=self.faults.log)
        return {name: self._mask.id(value) for name, value in found.items()}

    @overload
    def track(self, operation: _F, /) -> _F: ...
    @overload
    def track(
        self,
        operation: str | None = None,
        /,
        *,
        service: str | None = None,
        model: str | None = None,
        reply: Callable[[Any], object] | None = None,
        error_messages: bool = False,
        **fields: Any,
    ) -> Tracked: ...
    def track(
        self,
        operation: str | Callable[..., Any] | None = None,
        /,
        *,
        service: str | None = None,
        model: str | None = None,
        reply: Callable[[Any], object] | None = None,
        error_messages: bool = False,
        **fields: Any,
    ) -> Any:
        """Track an operation of the pipeline's: decorate a function, or enter a block.

            @tracker.track
            def label(receipt): ...

            with tracker.track("label", job_id="j") as operation:
                operation.record_response(reply)

        Functions, coroutine functions, generators and async generators, methods of every kind; a
        block needs a name, a function has one. What is recorded within carries the operation in
        its metadata (``operation_type``, ``operation_id``, ``parent_operation``) and ``fields``,
        which are those of ``context``.

        Each run leaves one record: latency (for generators the time within, not their reader's),
        status, the type of the error (its message only with ``error_messages``). Where the function
        returns a vendor's reply and nothing was recorded within, that is the call's own record;
        ``reply`` takes it out of another result, such as ``lambda result: result["raw"]``. Else it
        is of service ``action``, not billable, and stands for no call, with the sums of the calls
        within in its metadata. With ``service`` the run is a call itself, of ``model``, priced by
        the price book. See ``Operation``. Recording raises nothing unless ``strict``; TypeError
        where it is used wrongly.
        """
        from receipt_label.tracking import track

        return track(
            self,
            operation,
            service=service,
            model=model,
            reply=reply,
            error_messages=error_messages,
            fields=self._checked("track()", fields),
        )

    def tool(
        self,
        name: str | None = None,
        /,
        *,
        cost: Decimal | int | str | None = None,
        service: str = "tool",
        bill_failures: bool = False,
        error_messages: bool = False,
        **fields: Any,
    ) -> Tracked:
        """Track a tool that costs ``cost`` USD a call: decorate a function, or enter a block.

            @tracker.tool(cost=Decimal("0.01"))
            def look_up(vat_number): ...

        Each call is one record of ``service``, the tool's name as model, ``execute_tool`` as
        operation. A call that raises costs nothing, unless ``bill_failures``. Without ``cost`` it
        is not billable. Calls of AI services within carry the tool's name. Else as ``track``.

        Raises ValueError for a cost that is not exact money, such as a float.
        """
        from receipt_label.tracking import tool

        return tool(
            self,
            name,
            cost=cost,
            service=service,
            bill_failures=bill_failures,
            error_messages=error_messages,
            fields=self._checked("tool()", fields),
        )

    def record(
        self,
        *,
        service: str | None = None,
        model: str | None = None,
        operation: str | None = None,
        timestamp: datetime | None = None,
        request_id: str | None = None,
        api_calls: int = 1,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_input_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        usage_details: Mapping[str, int | float] | None = None,
        cost_usd: Decimal | None = None,
        price_context: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> PutResult:
        """Record one call. ``service``, ``model`` and ``operation`` are required.

        ``fields`` are the other fields of AIUsageMetric: ``latency_ms``, ``error``, ``status``,
        ``provider_cost_usd``, ids. Without ``cost_usd`` the call is priced here and now;
        ``price_context`` selects a variant (``service_tier``, ``processing``). To repeat a record
        without counting it twice, give ``request_id`` and ``timestamp`` again. Context fields apply
        where an argument is missing. Thread-safe; raises nothing unless ``strict``.
        """
        try:
            self._check_open()
            merged = {**self._defaults, **contexts.current()}
            merged["metadata"] = _merged_metadata(merged.get("metadata"), metadata)
            variant = _merged_metadata(merged.pop("price_context", None), price_context)
            for name, value in fields.items():
                if value is not None:
                    merged[name] = self._mask.id(as_id(name, value))
            time = self._now() if timestamp is None else timestamp
            if cost_usd is not None:
                merged["cost_usd"] = cost_usd
            elif "unpriced_reason" not in merged:
                usage = _usage(
                    input_tokens,
                    cached_input_tokens,
                    cache_write_tokens,
                    output_tokens,
                    reasoning_tokens,
                    usage_details,
                )
                merged.update(
                    price_fields(
                        self._book,
                        service=service or "",
                        model=model or "",
                        timestamp=time,
                        usage=usage,
                        api_calls=api_calls,
                        context=variant,
                        provider_cost_usd=merged.get("provider_cost_usd"),
                        fault=_fault(usage, merged.get("error")),
                    )
                )
            operation = operation or merged["metadata"].get("operation_type")
            self._mask.apply(merged)
            metric = AIUsageMetric(
                service=service,  # type: ignore[arg-type]  # None is refused there, by name
                model=model,  # type: ignore[arg-type]
                operation=operation,
                timestamp=time,
                request_id=request_id or "",
                api_calls=api_calls,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=cached_input_tokens,
                cache_write_tokens=cache_write_tokens,
                reasoning_tokens=reasoning_tokens,
                usage_details=usage_details or _NO_METADATA,
                **merged,
            )
        except Exception as error:
            return self._refuse(error, service, model, input_tokens, output_tokens, cost_usd)
        answer = self._client.put_ai_usage_metric(metric)
        self._observers.tell(metric, answer)
        return answer

    def record_response(
        self,
        response: object,
        *,
        service: str | None = None,
        model: str | None = None,
        operation: str | None = None,
        url: str | None = None,
        http_status: int | None = None,
        request_model: str | None = None,
        timestamp: datetime | None = None,
        request_id: str | None = None,
        **fields: Any,
    ) -> PutResult:
        """Record the reply of an AI service: an SDK object, a dict, or the text of an event stream.

        The same reply recorded again counts once. SKIPPED: not a finished, billable call. ``url``,
        ``http_status`` and ``request_model`` help where the reply does not say them itself;
        ``fields`` as in ``record``. Raises nothing unless ``strict``.
        """
        try:
            if self.strict:
                self._check_open()
            reply = read_reply(
                response,
                url=url,
                http_status=http_status,
                service=service,
                model=model,
                operation=operation,
                request_model=request_model,
            )
        except Exception as error:
            return self._refuse(error, service, model)
        if isinstance(reply, Skipped):
            return PutResult.SKIPPED
        return self.record_reply(reply, timestamp=timestamp, request_id=request_id, **fields)

    def record_reply(
        self,
        reply: Reply,
        *,
        timestamp: datetime | None = None,
        request_id: str | None = None,
        fallback_request_id: str | None = None,
        fallback_timestamp: datetime | None = None,
        price_context: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> PutResult:
        """Record a reply that ``read_reply`` has read; what importers call.

        The fallbacks hold where neither the caller nor the reply names an id of 20 characters, or a
        time. Calls that the vendor made inside this one (``reply.also``) are recorded beside it.
        Raises nothing unless ``strict``.
        """
        try:
            self._check_open()
            merged = {**self._defaults, **contexts.current()}
            merged["metadata"] = _merged_metadata(merged.get("metadata"), metadata)
            variant = _merged_metadata(merged.pop("price_context", None), price_context)
            if variant:
                reply = in_variant(reply, variant)
            for name, value in fields.items():
                if value is not None:
                    merged[name] = self._mask.id(as_id(name, value))
            time = timestamp or reply.created or fallback_timestamp
            if time is None:
                time = self._times.of(reply, self._now())
            elif reply.created is None:
                self._times.note(reply, time)
            identity = request_id or request_id_of(reply) or fallback_request_id
            metrics = metrics_of_reply(
                reply,
                self._book,
                timestamp=time,
                request_id=identity or mint_request_id(),
                fields=merged,
                mask=self._mask.apply,
            )
        except Exception as error:
            usage = getattr(reply, "usage", None)
            return self._refuse(
                error,
                getattr(reply, "service", None),
                getattr(reply, "model", None),
                usage and usage.input_tokens,
                usage and usage.output_tokens,
            )
        answers = self._client.put_ai_usage_metrics(metrics)
        for metric, answer in zip(metrics, answers, strict=True):
            self._observers.tell(metric, answer)
        return next((answer for answer in answers if answer is not PutResult.STORED), answers[0])

    def wrap(self, client: _Client, *, include_usage: bool = False) -> _Client:
        """Return a client like ``client`` (OpenAI, Anthropic, ...) whose every call is recorded.

        Its type, replies, errors, streams and requests stay as they are. ``client`` itself stays
        bare, and shares its connections with the result. Wrapped twice it counts once.

        ``include_usage`` asks for the usage of OpenAI's chat and completion streams, and hides the
        chunk that brings it; nothing else ever changes a request. Raises TypeError for what is no
        client known here.
        """
        from receipt_label.instrumentation import wrap_client

        return wrap_client(self, client, include_usage=include_usage)

    def record_batch_output(
        self,
        content: object,
        *,
        timestamp: datetime | float | None = None,
        **fields: Any,
    ) -> BatchOutput:
        """Record the calls of a batch from its output, at the price of batches.

        ``content`` is the output of OpenAI's, Anthropic's, Gemini's or Bedrock's batch API: text or
        bytes (JSON lines), what ``client.files.content(...)`` returned, or an iterable of results.
        The same output recorded again counts once; for replies that say no time (Anthropic's,
        embeddings) that takes the same ``timestamp`` again: give the batch's own end, a datetime or
        seconds since 1970. ``fields`` as in ``record``. Raises TypeError for what is no output.
        """
        from receipt_label.batch_output import record_output

        return record_output(self, content, timestamp=timestamp, **fields)

    def _check_open(self) -> None:
        if self._closed:
            raise TrackerClosedError("this tracker is closed: record before close()")

    def _refuse(
        self,
        error: Exception,
        service: object = None,
        model: object = None,
        input_tokens: object = None,
        output_tokens: object = None,
        cost_usd: object = None,
    ) -> PutResult:
        """Count a record that cannot be made, with what can be believed of its figures."""
        if self._closed and not isinstance(error, TrackerClosedError):
            error = TrackerClosedError(f"this tracker is closed; besides, {error}")
        if self.strict:
            raise error
        answer = self._client.count_dropped(
            "closed" if self._closed else "invalid",
            service=service if isinstance(service, str) and service.isprintable() else None,
            model=model if isinstance(model, str) and model.isprintable() else None,
            input_tokens=_believable(input_tokens),
            output_tokens=_believable(output_tokens),
            cost_usd=_believable_money(cost_usd),
        )
        with suppress(Exception):  # an error without text, a log handler that raises
            reason = str(error).rstrip(".")
            self.faults.log(f"a call could not be recorded: {reason}. It is dropped and counted")
        return answer

    def _note_mask_failure(self, kind: str) -> None:
        self.faults.log(f"the mask failed with {kind}: the content is dropped, the figures stay")

    def now(self) -> datetime:
        """Return the time that a record made here and now gets; aware, in UTC."""
        return self._now()

    def _forget_after_fork(self) -> None:
        """Take new locks in a child: a thread of the parent's may have held the old ones."""
        self._times.forget_after_fork()

    def flush(self, timeout: float = 30.0) -> FlushReport:
        """Deliver what is spooled within ``timeout`` seconds; see UsageClient.flush."""
        return self._client.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Flush, and close the client that this tracker opened. Any number of times."""
        already, self._closed = self._closed, True
        if already:
            return
        if self._owns_client:
            self._client.close(timeout)
        else:
            self._client.flush(timeout)

    def health(self, *, probe: bool = False) -> Health:
        """Return how its destination stands, with a level and reasons; see UsageClient.health."""
        return self._client.health(probe=probe)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AIUsageTracker {'closed' if self._closed else 'open'} {self._client!r}>"


_books: dict[tuple[Path | None, int], PriceBook] = {}
_loading = ForkGate()
"""A fork waits for it: a child forked while modules load would find them locked for ever."""
_books_lock = threading.RLock()  # a signal handler may make a tracker within it


def _load_book(given: PriceBook | Path | str | None, setting: Path | None) -> PriceBook:
    """Return the price book; the same file, unchanged, is read once a process."""
    if isinstance(given, PriceBook):
        return given
    path = Path(given) if given is not None else setting
    changed = path.stat().st_mtime_ns if path is not None and path.is_file() else 0
    with _books_lock:
        book = _books.get((path, changed))
        if book is None:
            with _loading:
                book = _books[path, changed] = PriceBook.load(path)
        return book


def _merged_metadata(
    outer: Mapping[str, Any] | None, inner: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    if outer and inner:
        return {**outer, **inner}
    return outer or inner or _NO_METADATA


def _usage(
    tokens_in: int | None,
    cached: int | None,
    written: int | None,
    tokens_out: int | None,
    reasoning: int | None,
    details: Mapping[str, int | float] | None,
) -> Usage | None:
    if tokens_in is None and tokens_out is None and not details:
        return None
    return Usage(
        input_tokens=tokens_in,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=tokens_out,
        reasoning_tokens=reasoning,
        details=details or {},
    )


def _fault(usage: Usage | None, error: object) -> str | None:
    """A failed call without usage has no price; without error and usage, the price book decides."""
    return "failed_call" if error and usage is None else None


def _believable(count: object) -> int:
    return count if type(count) is int and 0 <= count <= 10**12 else 0


def _believable_money(amount: object) -> Decimal | None:
    try:
        money = amount if isinstance(amount, Decimal) else Decimal(str(amount))
    except Exception:
        return None
    return money if money.is_finite() and 0 <= money < 10**12 else None


_trackers: weakref.WeakSet[AIUsageTracker] = weakref.WeakSet()


def _forget_all() -> None:
    global _books_lock  # noqa: PLW0603 - a thread of the parent's may have held the old one
    _books_lock = threading.RLock()
    for tracker in list(_trackers):
        tracker._forget_after_fork()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_forget_all)
