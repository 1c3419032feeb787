"""AIUsageMetric: one paid call, validated once, never changed again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from receipt_dynamo.entities import checks
from receipt_dynamo.entities.frozen import FrozenDict
from receipt_dynamo.entities.request_id import mint_request_id

__all__ = ["PRICE_SOURCES", "STATUSES", "UNPRICED_REASONS", "AIUsageMetric"]

PRICE_SOURCES = frozenset(
    {
        "caller",
        "override",
        "per_request",
        "provider",
        "genai-prices",
        "declared_free",
        "not_billable",
    }
)
UNPRICED_REASONS = frozenset(
    {
        "unknown_model",
        "no_usage",
        "failed_call",
        "unknown_unit",
        "inconsistent_usage",
        "price_error",
        "not_priced",
    }
)
STATUSES = frozenset({"complete", "partial", "aborted"})

_ID_FIELDS = (
    "price_version",
    "user_id",
    "job_id",
    "batch_id",
    "conversation_id",
    "session_id",
    "tool",
    "skill",
    "subagent",
    "response_id",
    "environment",
    "deployment_version",
)
_ID_BYTES = 256
_REQUEST_ID_BYTES = 512
_NOTHING = FrozenDict()
_ids_of = attrgetter(*_ID_FIELDS)
_names_of = attrgetter("service", "model", "operation", "request_id", "timestamp")
_figures_of = attrgetter(
    "api_calls",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd",
    "price_source",
    "latency_ms",
)
_unusual_fields_of = attrgetter(
    "total_tokens", "provider_cost_usd", "unpriced_reason", "github_pr", "error"
)
_NO_UNUSUAL = (None,) * 5
_MAX_SERVICES = 256
_services: set[str] = set()
"""Services as they are kept, which were checked before. Emptied when full: no lock is needed."""


class AIUsageMetric(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """One call of a paid service: what was called, for whom, what it used and what it cost.

    Immutable and thread-safe; validated once, here. Raises a ValueError that names the field and
    the value. Its identity is (service, timestamp, request_id): both stores are unique on exactly
    that, and a later arrival replaces an earlier one. Without ``request_id`` one is minted.

    Units: tokens and calls are counts, ``latency_ms`` is milliseconds, money is USD as Decimal of
    up to 38 digits. ``input_tokens`` includes cached reads and writes, ``output_tokens`` includes
    reasoning (the OpenTelemetry GenAI meaning). None is unknown, 0 a known zero; ``total_tokens``
    is always input + output. Exactly one of ``cost_usd`` and ``unpriced_reason`` is set; a metric
    with neither is ``not_priced``. Ids are text of 1 to 256 bytes (``request_id`` 512), the empty
    text means None. ``error`` is cut after 4,096 bytes. ``metadata`` is JSON; a read-only deep copy
    is kept, so the caller's dict is never touched; of more than 32,768 values only the note that
    they were left out.
    """

    service: str
    model: str
    operation: str
    timestamp: datetime
    request_id: str = ""
    api_calls: int = 1
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_details: Mapping[str, int | float] = _NOTHING
    cost_usd: Decimal | None = None
    price_source: str | None = None
    price_version: str | None = None
    provider_cost_usd: Decimal | None = None
    unpriced_reason: str | None = None
    latency_ms: float | None = None
    status: str = "complete"
    user_id: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    github_pr: int | None = None
    conversation_id: str | None = None
    session_id: str | None = None
    tool: str | None = None
    skill: str | None = None
    subagent: str | None = None
    response_id: str | None = None
    environment: str | None = None
    deployment_version: str | None = None
    error: str | None = None
    metadata: Mapping[str, Any] = _NOTHING

    def __post_init__(self) -> None:
        if _is_plain(self):  # most are, and a metric is made for every call of a pipeline
            force_setattr(self, "total_tokens", self.input_tokens + self.output_tokens)  # type: ignore[operator]
        else:
            _check_identity(self)
            _check_tokens(self)
            _check_money(self)
            _check_attribution(self)
        _freeze(self)

    def __hash__(self) -> int:
        return hash(self.identity)

    @property
    def identity(self) -> tuple[str, datetime, str]:
        """What makes this the same record as another: service, timestamp (UTC), request id."""
        return self.service, self.timestamp, self.request_id

    def to_item(self) -> dict[str, Any]:
        """Return the DynamoDB attributes (camelCase, exact Decimals), without keys and Nones."""
        from receipt_dynamo.entities.item import to_item

        return to_item(self)

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> AIUsageMetric:
        """Return the metric of DynamoDB attributes. Keys and unknown attributes are ignored.

        Raises ValueError that names the attribute when one is missing or of the wrong kind.
        """
        from receipt_dynamo.entities.item import from_item

        return from_item(item)


def _is_plain(metric: AIUsageMetric) -> bool:
    """Whether a metric is priced, complete, and every field of it as it is to be kept.

    Then the checks would change nothing but the total (tests/unit/test_metric_plain.py). What is
    not so plain (a subclass of str, a text that is not ASCII, another time zone) they look at.
    """
    service, model, operation, request_id, time = _names_of(metric)
    calls, sent, made, read, written, thought, cost, source, latency = _figures_of(metric)
    most = checks.MAX_COUNT
    if not (
        type(service) is str
        and service in _services
        and type(model) is type(operation) is type(request_id) is str
        and 0 < len(model) <= _ID_BYTES
        and 0 < len(operation) <= _ID_BYTES
        and 0 < len(request_id) <= _REQUEST_ID_BYTES
        and model.isascii()
        and operation.isascii()
        and request_id.isascii()
        and type(time) is checks.PLAIN_DATETIME[0]
        and time.tzinfo is UTC
    ):
        return False
    if not (
        type(calls) is type(sent) is type(made) is int
        and 0 <= calls <= most
        and 0 <= sent <= most
        and 0 <= made <= most
        and (read is None or (type(read) is int and 0 <= read <= sent))
        and (written is None or (type(written) is int and 0 <= written <= sent - (read or 0)))
        and (thought is None or (type(thought) is int and 0 <= thought <= made))
        and type(source) is str
        and source in PRICE_SOURCES
        and checks.is_plain_money(cost)
        and (latency is None or (type(latency) is float and 0 <= latency <= most))
        and metric.status == "complete"
        and _unusual_fields_of(metric) == _NO_UNUSUAL
    ):
        return False
    for text in _ids_of(metric):
        if text is not None and not (
            type(text) is str and 0 < len(text) <= _ID_BYTES and text.isascii()
        ):
            return False
    return True


def _check_identity(metric: AIUsageMetric) -> None:
    service = checks.check_service(metric.service)
    if service is not metric.service:
        force_setattr(metric, "service", service)
    if len(_services) >= _MAX_SERVICES:
        _services.clear()
    _services.add(service)
    for name in ("model", "operation"):
        value = getattr(metric, name)
        text = checks.check_text(name, value, _ID_BYTES)
        if text is None:
            raise ValueError(f"{name}={value!r} is empty: name the {name}")
        if text is not value:
            force_setattr(metric, name, text)
    timestamp = checks.check_timestamp("timestamp", metric.timestamp)
    if timestamp is not metric.timestamp:
        force_setattr(metric, "timestamp", timestamp)
    request_id = checks.check_text("request_id", metric.request_id, _REQUEST_ID_BYTES)
    if request_id is not metric.request_id or request_id is None:
        force_setattr(metric, "request_id", request_id or mint_request_id())


def _check_tokens(metric: AIUsageMetric) -> None:
    if _count(metric, "api_calls") is None:
        raise ValueError("api_calls=None is no count: pass 1 for one call")
    tokens_in = _count(metric, "input_tokens")
    tokens_out = _count(metric, "output_tokens")
    cached = _count(metric, "cached_input_tokens")
    written = _count(metric, "cache_write_tokens")
    reasoning = _count(metric, "reasoning_tokens")
    if tokens_in is not None and (cached or 0) + (written or 0) > tokens_in:
        raise ValueError(
            f"cached_input_tokens={cached} and cache_write_tokens={written} are more than "
            f"input_tokens={tokens_in}: input includes cached reads and writes"
        )
    if tokens_out is not None and (reasoning or 0) > tokens_out:
        raise ValueError(
            f"reasoning_tokens={reasoning} is more than output_tokens={tokens_out}: "
            "output includes reasoning"
        )
    total = _count(metric, "total_tokens", 2 * checks.MAX_COUNT)
    if tokens_in is not None and tokens_out is not None:
        expected = tokens_in + tokens_out
        if total is None:
            force_setattr(metric, "total_tokens", expected)
        elif total != expected:
            raise ValueError(
                f"total_tokens={total} is not input_tokens + output_tokens = {expected}: omit it"
            )
    elif total is not None:
        raise ValueError(
            f"total_tokens={total} cannot be told apart: give input_tokens and output_tokens"
        )


def _count(metric: AIUsageMetric, name: str, limit: int = checks.MAX_COUNT) -> int | None:
    """Return a checked count, kept as a plain int: numpy's and enums' cannot be encoded."""
    value: int | None = getattr(metric, name)
    if value is None or (type(value) is int and 0 <= value <= limit):
        return value
    count = checks.check_count(name, value, limit)
    if count is not value:
        force_setattr(metric, name, count)
    return count


def _choose(metric: AIUsageMetric, name: str, choices: frozenset[str]) -> None:
    value = getattr(metric, name)
    word = checks.check_choice(name, value, choices)
    if word is not value:
        force_setattr(metric, name, word)


def _check_money(metric: AIUsageMetric) -> None:
    cost = metric.cost_usd
    if cost is None:
        reason = metric.unpriced_reason
        if reason is None or reason == "":
            force_setattr(metric, "unpriced_reason", "not_priced")
        else:
            _choose(metric, "unpriced_reason", UNPRICED_REASONS)
        if metric.price_source is not None:
            raise ValueError(
                f"price_source={metric.price_source!r} without cost_usd: a source needs a price"
            )
    else:
        exact = checks.check_money("cost_usd", cost)
        if exact is not cost:
            force_setattr(metric, "cost_usd", exact)
        if metric.unpriced_reason is not None:
            raise ValueError(
                f"cost_usd={cost} and unpriced_reason={metric.unpriced_reason!r}: set only one"
            )
        if metric.price_source is None:
            force_setattr(metric, "price_source", "caller")
        else:
            _choose(metric, "price_source", PRICE_SOURCES)
    if metric.provider_cost_usd is not None:
        provider = checks.check_money("provider_cost_usd", metric.provider_cost_usd)
        force_setattr(metric, "provider_cost_usd", provider)


def _check_attribution(metric: AIUsageMetric) -> None:
    if metric.latency_ms is not None:
        latency = checks.check_milliseconds("latency_ms", metric.latency_ms)
        if latency is not metric.latency_ms:
            force_setattr(metric, "latency_ms", latency)
    if metric.status != "complete":
        _choose(metric, "status", STATUSES)
    for name, value in zip(_ID_FIELDS, _ids_of(metric), strict=True):
        if value is not None:
            text = checks.check_text(name, value, _ID_BYTES)
            if text is not value:
                force_setattr(metric, name, text)
    if _count(metric, "github_pr") == 0:
        raise ValueError("github_pr=0 is no pull request: pass its number, or None")
    if metric.error is not None:
        force_setattr(metric, "error", checks.cut_text(metric.error, checks.MAX_ERROR_BYTES))


def _freeze(metric: AIUsageMetric) -> None:
    """Check what holds further values, and keep a copy of it that cannot be changed."""
    details = metric.usage_details
    if details is not _NOTHING:
        frozen = checks.check_details("usage_details", details)
        force_setattr(metric, "usage_details", frozen or _NOTHING)
    metadata = metric.metadata
    if metadata is not _NOTHING:
        frozen = checks.check_metadata("metadata", metadata)
        force_setattr(metric, "metadata", frozen or _NOTHING)
