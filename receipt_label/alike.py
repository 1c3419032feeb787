"""Calls that are alike: what their metrics share is worked out for the first of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from receipt_dynamo import CallFigures, MetricSeries
from receipt_label.pricing.catalog import Fixed

if TYPE_CHECKING:
    from receipt_dynamo import AIUsageMetric
    from receipt_label.pricing import PriceBook
    from receipt_label.pricing.catalog import Quote
    from receipt_label.pricing.tariff import Tariff
    from receipt_label.usage.quick import QuickReply

__all__ = ["AlikeCalls"]

REMEMBERED_KINDS: Final = 256
_MOST_SHARED_BYTES: Final = 8192
# Not by its name, which what freezes time in tests replaces, perhaps before this is imported.
_PLAIN: Final = (datetime.__mro__[-3],)
_DAY_MS: Final = 86_400_000.0  # a call that took longer is looked at


class _Kind(NamedTuple):
    """What calls of a kind have in common: the fields of their context, the metric of the first,
    and the price."""

    fields: Mapping[str, Any]
    """Held for their id, which is no other's meanwhile."""
    first: AIUsageMetric | None
    """None where they share more than is worth keeping twice."""
    series: MetricSeries | None
    """Made for the second: most contexts of one call's own have none."""
    quote: Quote
    tariff: Tariff | None
    """Where it is the same at any time."""


class AlikeCalls:
    """A series of metrics for each kind of call: the next of a kind adds a time, an identity,
    counts, a cost and a latency of its own.

    For replies of a ``QuickReader`` alone: they differ in nothing else. Of one kind are calls in
    the same context of the same service and model, asked for by the same name, that ended alike.
    Thread-safe without a lock: each access is atomic, and a kind is replaced as a whole.
    """

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._kinds: dict[object, _Kind] = {}

    def call(
        self, reply: QuickReply, time: datetime, fields: Mapping[str, Any], latency_ms: float
    ) -> tuple[MetricSeries, CallFigures] | None:
        """Return what comes to the metric of a reply in the context of these ``fields``, as all the
        rest of this package would make it; None where it is not like an earlier one. Raises
        nothing."""
        key, tokens = (id(fields), reply.kind), reply.tokens
        kind = self._kinds.get(key)
        if kind is None or reply.details or not 0 <= latency_ms <= _DAY_MS:
            return None
        _, _, series, quote, tariff = kind
        try:
            tariff = tariff or quote.at(time)
        except Exception:  # the long way says what is wrong, or does without it
            return None
        cost = None if tariff is None else tariff.charge_tokens(tokens)
        if cost is None or (reply.created is None and not _is_plain(time)):
            return None
        if series is None and (series := self._series(key, kind)) is None:
            return None
        name = reply.response_id
        sent, read, written, made, thought = tokens
        return series, CallFigures(
            time, name, name, sent, read, written, made, thought, sent + made, cost, latency_ms
        )

    def _series(self, key: object, kind: _Kind) -> MetricSeries | None:
        """Return the series of a kind, and keep it; None where it would be large."""
        series = None if kind.first is None else MetricSeries(kind.first)
        if series is not None and len(series.head) > _MOST_SHARED_BYTES:
            series = None
        self._kinds[key] = kind._replace(first=None, series=series)
        return series

    def note(self, reply: QuickReply, fields: Mapping[str, Any], metric: AIUsageMetric) -> None:
        """Take note of the metric of a reply: others may be made after it. Raises nothing."""
        service, model, _, _ = reply.kind
        quote = self._book.list_price_of(service, model)
        if quote is None or metric.price_source != "genai-prices" or metric.usage_details:
            return
        key = id(fields), reply.kind
        if key in self._kinds:  # too large
            return
        if len(self._kinds) >= REMEMBERED_KINDS:
            self._kinds = {}
        self._kinds[key] = _Kind(
            fields, metric, None, quote, quote.tariff if isinstance(quote, Fixed) else None
        )


def _is_plain(time: datetime) -> bool:
    """Whether a tracker's clock told the time as a metric keeps it."""
    return time.__class__ is _PLAIN[0] and time.tzinfo is UTC
