"""From a reply that an adapter has read to the metric that is recorded: identity, time, price."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from receipt_dynamo import AIUsageMetric
from receipt_label.pricing import Price, PriceBook
from receipt_label.pricing.money import fit
from receipt_label.usage.reply import MIN_ID_CHARACTERS, Usage

if TYPE_CHECKING:
    from receipt_label.usage.reply import Reply

__all__ = [
    "REMEMBERED_REPLIES",
    "ReplyTimes",
    "digest_of",
    "in_variant",
    "kept_id",
    "metrics_of_reply",
    "price_fields",
    "price_of_record",
    "request_id_of",
]

Mask = Callable[[dict[str, Any]], None]

REMEMBERED_REPLIES = 4096
_REQUEST_ID_BYTES = 512
_ID_BYTES = 256
_LOWEST, _HIGHEST = -130, 125  # what a metric can cost, as powers of ten


class ReplyTimes:
    """The times given to replies that carry none, so that the same reply gets the same time again.

    Remembers the last 4,096 by service and response id. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may record while its thread holds it
        self._times: OrderedDict[tuple[str, str], datetime] = OrderedDict()  # Guarded by _lock

    def forget_after_fork(self) -> None:
        """Take a new lock in a child: a thread of the parent's may have held the old one."""
        self._lock = threading.RLock()

    def note(self, reply: Reply, time: datetime) -> None:
        """Remember the time that a caller gave to a reply without one."""
        if reply.response_id is not None and len(reply.response_id) >= MIN_ID_CHARACTERS:
            with self._lock:
                self._times[reply.service, reply.response_id] = time
                self._times.move_to_end((reply.service, reply.response_id))
                if len(self._times) > REMEMBERED_REPLIES:
                    self._times.popitem(last=False)

    def of(self, service: str, response_id: str | None, now: datetime) -> datetime:
        """Return the time of a reply without one: ``now``, or what it was given before."""
        if response_id is None or len(response_id) < MIN_ID_CHARACTERS:
            return now
        key = (service, response_id)
        with self._lock:
            time = self._times.setdefault(key, now)
            self._times.move_to_end(key)
            if len(self._times) > REMEMBERED_REPLIES:
                self._times.popitem(last=False)
        return time


def request_id_of(reply: Reply) -> str | None:
    """Return the vendor's id where it is long enough to be unique, else None."""
    response_id = reply.response_id
    if response_id is None or len(response_id) < MIN_ID_CHARACTERS:
        return None
    return response_id if _fits(response_id) else digest_of(response_id)


def digest_of(response_id: str) -> str:
    """Return an id as one that a metric may have, the same for the same id."""
    digest = hashlib.sha256(response_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256-{digest[:32]}"


def price_fields(
    book: PriceBook,
    *,
    service: str,
    model: str,
    timestamp: datetime,
    usage: Usage | None,
    api_calls: int = 1,
    context: Mapping[str, str] | None = None,
    provider_cost_usd: Decimal | None = None,
    fault: str | None = None,
) -> dict[str, Any]:
    """Return the metric's fields of money: a cost with its source, or why there is none.

    Raises nothing: where the book cannot make sense of an argument, the metric names it.
    """
    try:
        outcome = book.price(
            service=service,
            model=model,
            timestamp=timestamp,
            usage=usage,
            api_calls=api_calls,
            context=context or {},
            provider_cost_usd=provider_cost_usd,
            fault=fault,
        )
    except Exception:
        return {"unpriced_reason": "price_error"}
    if isinstance(outcome, Price):
        if not _LOWEST <= outcome.cost_usd.adjusted() <= _HIGHEST:  # a price file's slip
            return {"unpriced_reason": "price_error"}
        return {
            "cost_usd": outcome.cost_usd,
            "price_source": outcome.source,
            "price_version": outcome.version,
        }
    return {"unpriced_reason": outcome.reason}


def price_of_record(
    book: PriceBook, fields: Mapping[str, Any], variant: Mapping[str, str]
) -> dict[str, Any]:
    """Return the fields of money of a record that is otherwise complete."""
    tokens_in, tokens_out = fields["input_tokens"], fields["output_tokens"]
    details = fields["usage_details"]
    if isinstance(tokens_in, str) or isinstance(tokens_out, str):
        return {}  # no count: the metric says so
    usage = None
    if not (tokens_in is None and tokens_out is None and not details):
        usage = Usage(
            input_tokens=tokens_in,
            cached_input_tokens=fields["cached_input_tokens"],
            cache_write_tokens=fields["cache_write_tokens"],
            output_tokens=tokens_out,
            reasoning_tokens=fields["reasoning_tokens"],
            details=details,
        )
    return price_fields(
        book,
        service=fields["service"] or "",
        model=fields["model"] or "",
        timestamp=fields["timestamp"],
        usage=usage,
        api_calls=fields["api_calls"],
        context=variant,
        provider_cost_usd=fields.get("provider_cost_usd"),
        # A failed call without usage has no price; without error too, the price book decides.
        fault="failed_call" if usage is None and fields.get("error") else None,
    )


def metrics_of_reply(
    reply: Reply,
    book: PriceBook,
    *,
    timestamp: datetime,
    request_id: str,
    fields: dict[str, Any],
    mask: Mask,
) -> list[AIUsageMetric]:
    """Return the metric of a reply, and of each call that the vendor made inside it.

    ``fields`` are the caller's: attribution, latency, own cost (which covers the calls inside).
    ``mask`` is shown the fields of each metric before it is made, and may change them.
    What the vendor wrote never costs the call: figures that a metric refuses go, and it is kept
    unpriced. Raises ValueError for the caller's own fields only.
    """
    metrics = [_metric(reply, book, timestamp, request_id, fields, mask)]
    if reply.also:
        inner = {name: value for name, value in fields.items() if name != "latency_ms"}
        if inner.get("cost_usd") is not None:
            inner["cost_usd"] = Decimal(0)
        metrics += [
            _metric(other, book, timestamp, _inner_id(request_id, number), inner, mask)
            for number, other in enumerate(reply.also, 1)
        ]
    return metrics


def in_variant(reply: Reply, variant: Mapping[str, str]) -> Reply:
    """Return the reply, and the calls inside it, in a variant of the price that the caller names.

    What the vendor says of the same kind wins: a reply knows its own service tier.
    """
    return msgspec.structs.replace(
        reply,
        price_context={**variant, **reply.price_context},
        also=tuple(in_variant(other, variant) for other in reply.also),
    )


def _inner_id(request_id: str, number: int) -> str:
    """Return the id of a call inside another, within what a request id may have."""
    name = f"{request_id}-{number}"
    return name if _fits(name) else f"{digest_of(request_id)}-{number}"


def _metric(
    reply: Reply,
    book: PriceBook,
    timestamp: datetime,
    request_id: str,
    fields: dict[str, Any],
    mask: Mask,
) -> AIUsageMetric:
    try:
        return _build(reply, book, timestamp, request_id, fields, mask)
    except ValueError as refused:
        cost = reply.provider_cost_usd
        if (
            cost is not None and cost.is_finite()
        ):  # of too many digits: it is no reason to lose more
            rounded = msgspec.structs.replace(reply, provider_cost_usd=fit(cost))
            with suppress(ValueError):
                return _build(rounded, book, timestamp, request_id, fields, mask)
            unpaid = msgspec.structs.replace(reply, provider_cost_usd=None)
            with suppress(ValueError):
                return _build(unpaid, book, timestamp, request_id, fields, mask)
        return _build(_reduced(reply, refused), book, timestamp, request_id, fields, mask)


def _reduced(reply: Reply, refused: ValueError) -> Reply:
    """Return the reply with nothing left that a metric could refuse."""
    return msgspec.structs.replace(
        reply,
        model=kept_id(reply.model) or "unknown",
        request_model=kept_id(reply.request_model),
        operation=kept_id(reply.operation) or "unknown",
        response_id=kept_id(reply.response_id),
        usage=None,
        provider_cost_usd=None,
        fault=reply.fault or "inconsistent_usage",
        error=kept_id(reply.error),
        metadata={"refused": str(refused)[:500]},
    )


def kept_id(text: str | None) -> str | None:
    """Return a vendor's text as a metric keeps it."""
    if not text:
        return None
    if text.isascii():
        return text[:_ID_BYTES]
    return text.encode("utf-8", "replace")[:_ID_BYTES].decode("utf-8", "ignore")


def _fits(response_id: str) -> bool:
    """Return whether the vendor's id can be a request id as it stands."""
    if response_id.isascii():
        return len(response_id) <= _REQUEST_ID_BYTES
    try:
        return len(response_id.encode()) <= _REQUEST_ID_BYTES
    except UnicodeEncodeError:
        return False


def _build(
    reply: Reply,
    book: PriceBook,
    timestamp: datetime,
    request_id: str,
    fields: dict[str, Any],
    mask: Mask,
) -> AIUsageMetric:
    usage = reply.usage
    merged: dict[str, Any] = {
        "service": reply.service,
        "model": reply.model,
        "operation": reply.operation,
        "timestamp": timestamp,
        "request_id": request_id,
        "response_id": kept_id(reply.response_id),
        "provider_cost_usd": reply.provider_cost_usd,
        "status": reply.status,
        "error": reply.error,
    }
    if usage is not None:
        merged["input_tokens"] = usage.input_tokens
        merged["cached_input_tokens"] = usage.cached_input_tokens
        merged["cache_write_tokens"] = usage.cache_write_tokens
        merged["output_tokens"] = usage.output_tokens
        merged["reasoning_tokens"] = usage.reasoning_tokens
        if usage.details:
            merged["usage_details"] = usage.details
    merged.update(fields)
    merged["metadata"] = _metadata(reply, merged["model"], fields.get("metadata"))
    if merged.get("cost_usd") is None:
        merged.pop("cost_usd", None)
        merged.update(
            price_fields(
                book,
                service=merged["service"],
                model=merged["model"],
                timestamp=timestamp,
                usage=usage,
                context=reply.price_context,
                provider_cost_usd=reply.provider_cost_usd,
                fault=reply.fault,
            )
        )
    mask(merged)
    return AIUsageMetric(**merged)


def _metadata(reply: Reply, model: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(reply.metadata)
    if reply.request_model and reply.request_model != model:
        metadata["request_model"] = reply.request_model
    if given:
        metadata.update(given)
    return metadata
