"""MetricSeries: calls that differ in their figures alone. What they share is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric

__all__ = ["CallFigures", "MetricSeries"]

_encode = msgspec.json.Encoder().encode
_copy: Callable[[Any], Any] = attrgetter("__copy__")(msgspec.Struct)


class CallFigures(msgspec.Struct, omit_defaults=True, gc=False):
    """What is one call's own: fields of AIUsageMetric, under their names and in their units.

    Nothing is checked: it is for what knows that the ids are ASCII of 1 to 256 characters, the time
    is in UTC itself, the tokens add up, the cost is positive and the latency finite.
    """

    timestamp: datetime
    request_id: str
    response_id: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    cost_usd: Decimal | None = None
    latency_ms: float | None = None


_SHARED = [
    (field.name, field.default)
    for field in msgspec.structs.fields(AIUsageMetric)
    if field.name not in CallFigures.__struct_fields__
]


class MetricSeries:
    """The metrics of calls of the same service and model, for the same purpose. Immutable.

    For what records one call after the other: a metric of all its fields takes several times as
    long to make and to encode. The first of them is ``like``; its own figures are left out.
    """

    __slots__ = ("head", "like")

    def __init__(self, like: AIUsageMetric) -> None:
        self.like = like
        self.head = _encode(_shared_fields(like))[:-1] + b","
        """The start of each record in the spool, up to its figures."""

    def metric(self, call: CallFigures) -> AIUsageMetric:
        """Return the metric of one call: what its record in the spool is read as."""
        metric: AIUsageMetric = _copy(self.like)
        for name in CallFigures.__struct_fields__:
            force_setattr(metric, name, getattr(call, name))
        return metric


def _shared_fields(metric: AIUsageMetric) -> dict[str, Any]:
    """Return the fields that are no call's own, without those that have their defaults."""
    values = ((name, getattr(metric, name), default) for name, default in _SHARED)
    return {name: value for name, value, default in values if value != default}
