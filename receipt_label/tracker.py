"""AIUsageTracker: what a pipeline holds. One line records a call; nothing here ever breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from receipt_dynamo import FlushReport, Health, UsageClient, open_usage_client
from receipt_label import context as contexts
from receipt_label.masking import RecordMask
from receipt_label.pricing import PriceBook
from receipt_label.pricing.shared import shared_book
from receipt_label.recorder import Recorder, TrackerClosedError

if TYPE_CHECKING:
    from receipt_label.batch_output import BatchOutput
    from receipt_label.exporters import MetricExporter
    from receipt_label.tracking import Tracked

__all__ = ["AIUsageTracker", "TrackerClosedError"]

_Client = TypeVar("_Client")
_F = TypeVar("_F", bound=Callable[..., Any])


class AIUsageTracker(Recorder):
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
        rules = RecordMask(mask, record_content=record_content, on_failure=self._note_mask_failure)
        self._owns_client = client is None
        if client is None:
            client = open_usage_client()
        if not isinstance(prices, PriceBook):
            path = client.settings.prices if prices is None else Path(prices)
            prices = shared_book(path)
        super().__init__(client, prices, rules, strict=strict, now=now, exporters=exporters)
        if defaults:
            self._surroundings.defaults.update(self.checked("defaults", defaults))
        self._observers.bind(self)

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
        return contexts.ContextScope(self.checked("context()", fields))

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
            fields=self.checked("track()", fields),
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
            fields=self.checked("tool()", fields),
        )

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
        A ``timestamp`` that is none is logged, and raises with ``strict``.
        """
        from receipt_label.batch_output import record_output

        return record_output(self, content, timestamp=timestamp, **fields)

    def _note_mask_failure(self, kind: str) -> None:
        self.faults.log(f"the mask failed with {kind}: the content is dropped, the figures stay")

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
