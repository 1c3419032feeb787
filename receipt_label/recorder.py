"""Recorder: from what is known of a call to a metric that is kept. Breaks no pipeline."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from receipt_dynamo import (
    AIUsageMetric,
    PutResult,
    UsageClient,
    UsageError,
    mint_request_id,
)
from receipt_label import context as contexts
from receipt_label.alike import AlikeCalls
from receipt_label.context import entered
from receipt_label.faults import FaultLog, believable_count, believable_money
from receipt_label.known_replies import KnownReplies
from receipt_label.masking import RecordMask
from receipt_label.observers import Observers
from receipt_label.pricing import PriceBook
from receipt_label.reply_metric import (
    REMEMBERED_REPLIES,
    ReplyTimes,
    digest_of,
    in_variant,
    metrics_of_reply,
    price_of_record,
    request_id_of,
)
from receipt_label.surroundings import Surroundings
from receipt_label.usage import read_reply
from receipt_label.usage.reply import Reply, Skipped

if TYPE_CHECKING:
    from receipt_label.exporters import MetricExporter
    from receipt_label.usage.quick import QuickReply

__all__ = ["Recorder", "TrackerClosedError"]

_NOTHING: Mapping[str, Any] = {}


class TrackerClosedError(UsageError, RuntimeError):
    """Recording after ``close``, with ``strict=True``."""


class Recorder:
    """The recording half of a tracker. Thread-safe; its methods raise nothing unless ``strict``.

    ``mask`` sees the fields of a record before it is made, ``exporters`` the metric once it is
    stored. A record carries the client's environment and deployment unless its context says
    otherwise.
    """

    def __init__(
        self,
        client: UsageClient,
        book: PriceBook,
        mask: RecordMask,
        *,
        strict: bool,
        now: Callable[[], datetime] | None,
        exporters: Iterable[MetricExporter],
    ) -> None:
        self.strict = strict
        self.faults = FaultLog(mask.message)
        self._client = client
        self._put = getattr(client, "own_put", None)
        self._book = book
        self._mask = mask
        self._now = now or (lambda: datetime.now(UTC))
        self._closed = False
        self._times = ReplyTimes()
        # A mask or a price book of the user's own may say something else each time.
        is_constant = mask.is_constant and type(book) is PriceBook
        self._alike = AlikeCalls(book) if is_constant else None
        self.known = KnownReplies()
        self._surroundings = Surroundings(client.settings, mask)
        self._observers = Observers(exporters, self.faults)
        _recorders.add(self)

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
            made, variant = self._surroundings.of(fields, metadata, price_context)
            made.update(
                service=service,
                model=model,
                operation=operation or made["metadata"].get("operation_type"),
                timestamp=self._now() if timestamp is None else timestamp,
                request_id=self._identity(request_id) or mint_request_id(),
                api_calls=api_calls,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=cached_input_tokens,
                cache_write_tokens=cache_write_tokens,
                reasoning_tokens=reasoning_tokens,
                usage_details=usage_details or _NOTHING,
            )
            if cost_usd is not None:
                made["cost_usd"] = cost_usd
            elif "unpriced_reason" not in made:
                made.update(price_of_record(self._book, made, variant))
            self._mask.apply(made)
            metric = AIUsageMetric(**made)
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

        The same reply recorded again counts once; it keeps the latency that was recorded, unless
        another is given. SKIPPED: not a finished, billable call. ``url``, ``http_status`` and
        ``request_model`` help where the reply does not say them itself; ``fields`` as in
        ``record``. Raises nothing unless ``strict``.
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
            if service is None and url is None and isinstance(reply, Reply):
                # A wrapped client knows the service by its address; one call is of one service.
                service = self.known.service_of(reply)
                if service is not None and service != reply.service:
                    reply = read_reply(
                        response,
                        http_status=http_status,
                        service=service,
                        model=model,
                        operation=operation,
                        request_model=request_model,
                    )
            if isinstance(reply, Reply) and request_id_of(reply) is None:
                self.known.note_object(response)
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
            if fields.get("latency_ms") is None:  # what was measured when it was recorded before
                fields["latency_ms"] = self.known.latency_of(reply)
            metrics = self._metrics(
                reply,
                timestamp=timestamp,
                request_id=request_id,
                fallback_request_id=fallback_request_id,
                fallback_timestamp=fallback_timestamp,
                price_context=price_context,
                metadata=metadata,
                fields=fields,
            )
        except Exception as error:
            return self._refuse_reply(error, reply)
        return self._keep(reply, metrics)

    def record_quick_reply(self, quick: QuickReply, latency_ms: float) -> PutResult:
        """Record a reply that a ``QuickReader`` has read, as ``record_reply`` does, but sooner
        where it is like an earlier one. Raises nothing unless ``strict``."""
        alike = self._alike
        if alike is None or self._closed:
            return self.record_reply(quick.reply(), latency_ms=latency_ms)
        try:
            frame = entered() or contexts.in_force()
            created = quick.created
            time = created or self._times.of(quick.kind[0], quick.response_id, self._now())
            found = alike.call(quick, time, frame.fields, latency_ms)
            if found is None:
                reply = quick.reply()
                metrics = self._metrics(reply, fields={"latency_ms": latency_ms})
                if not frame.fields.get("price_context"):
                    alike.note(quick, frame.fields, metrics[0])
                return self._keep(reply, metrics)
        except Exception as error:
            return self._refuse_reply(error, quick.reply())
        known = self.known
        known.calls[quick.response_id] = quick.kind[0], latency_ms, created
        if len(known.calls) >= REMEMBERED_REPLIES:
            known.turn_over()
        (series, call), client = found, self._client
        if client.put_ai_usage_metric == self._put:
            answer = client.put_call(series, call)
        else:  # what stands in its place sees every metric
            answer = client.put_ai_usage_metric(series.metric(call))
        if frame.operation is not None or self._observers.export:
            self._observers.tell(series.metric(call), answer)
        return answer

    def _metrics(
        self,
        reply: Reply,
        *,
        fields: Mapping[str, Any],
        timestamp: datetime | None = None,
        request_id: str | None = None,
        fallback_request_id: str | None = None,
        fallback_timestamp: datetime | None = None,
        price_context: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[AIUsageMetric]:
        """Return the metrics of a reply in the context in force. Raises what they raise."""
        self._check_open()
        merged, variant = self._surroundings.of(fields, metadata, price_context)
        if variant:
            reply = in_variant(reply, variant)
        time = timestamp or reply.created or fallback_timestamp
        if time is None:
            time = self._times.of(reply.service, reply.response_id, self._now())
        elif reply.created is None:
            self._times.note(reply, time)
        identity = self._identity(request_id) or request_id_of(reply) or fallback_request_id
        return metrics_of_reply(
            reply,
            self._book,
            timestamp=time,
            request_id=identity or mint_request_id(),
            fields=merged,
            mask=self._mask.apply,
        )

    def _keep(self, reply: Reply, metrics: list[AIUsageMetric]) -> PutResult:
        self.known.note(reply, metrics[0].latency_ms)
        result = PutResult.STORED
        for metric in metrics:
            answer = self._client.put_ai_usage_metric(metric)
            self._observers.tell(metric, answer)
            if result is PutResult.STORED:
                result = answer
        return result

    def _refuse_reply(self, error: Exception, reply: Reply) -> PutResult:
        usage = getattr(reply, "usage", None)
        return self._refuse(
            error,
            getattr(reply, "service", None),
            getattr(reply, "model", None),
            usage and usage.input_tokens,
            usage and usage.output_tokens,
        )

    def _identity(self, request_id: str | None) -> str | None:
        """Return the caller's id, or its digest where a credential stands in it: masked, the ids
        of two calls would be the same."""
        if request_id is None or self._mask.id(request_id) is request_id:
            return request_id
        return digest_of(request_id)

    def now(self) -> datetime:
        """Return the time that a record made here and now gets; aware, in UTC."""
        return self._now()

    def checked(self, what: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a scope as its records carry them; see ``checked_fields``."""
        found = contexts.checked_fields(what, fields, strict=self.strict, complain=self.faults.log)
        return {name: self._mask.id(value) for name, value in found.items()}

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
            service=self._name(service),
            model=self._name(model),
            input_tokens=believable_count(input_tokens),
            output_tokens=believable_count(output_tokens),
            cost_usd=believable_money(cost_usd),
        )
        with suppress(Exception):  # an error without text, a log handler that raises
            reason = str(error).rstrip(".")
            self.faults.log(f"a call could not be recorded: {reason}. It is dropped and counted")
        return answer

    def _name(self, name: object) -> str | None:
        return self._mask.id(name) if isinstance(name, str) and name.isprintable() else None

    def _forget_after_fork(self) -> None:
        """Take new locks in a child: a thread of the parent's may have held the old ones."""
        self._times.forget_after_fork()


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _forget_all() -> None:
    for recorder in list(_recorders):
        recorder._forget_after_fork()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_forget_all)
