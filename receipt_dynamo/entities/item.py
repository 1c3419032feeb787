"""A metric as DynamoDB attributes, and back.

Attribute names are camelCase; numbers are int or Decimal, never float, so nothing is rounded on
the way. Table keys are not here: they are derived at delivery.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric

__all__ = ["ATTRIBUTES", "format_timestamp", "from_item", "parse_timestamp", "to_item"]

_FIELDS = (
    "service model operation timestamp request_id api_calls input_tokens output_tokens "
    "total_tokens cached_input_tokens cache_write_tokens reasoning_tokens usage_details cost_usd "
    "price_source price_version provider_cost_usd unpriced_reason latency_ms status user_id job_id "
    "batch_id github_pr conversation_id session_id tool skill subagent response_id environment "
    "deployment_version error metadata"
).split()


def _camel_case(name: str) -> str:
    camel = re.sub(r"_([a-z])", lambda match: match.group(1).upper(), name)
    return camel.removesuffix("Usd") + "USD" if camel.endswith("Usd") else camel


ATTRIBUTES: Mapping[str, str] = {name: _camel_case(name) for name in _FIELDS}
"""Field name to attribute name, in the order of the fields."""

_COUNTS = frozenset(name for name in _FIELDS if name.endswith("_tokens")) | {
    "api_calls",
    "github_pr",
}
_WHOLE = 2**64
_REQUIRED = ("service", "model", "operation", "timestamp", "request_id")


def format_timestamp(value: datetime) -> str:
    """Return ``2026-11-21T20:00:00.000000Z``: UTC, always six digits of microseconds."""
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> datetime:
    """Return the aware time of an ISO 8601 text. Raises ValueError."""
    return datetime.fromisoformat(text).astimezone(UTC)


def to_item(metric: AIUsageMetric) -> dict[str, Any]:
    """Return the attributes of ``metric``; unknown fields (None) and empty maps are left out."""
    item: dict[str, Any] = {}
    for name, attribute in ATTRIBUTES.items():
        value = getattr(metric, name)
        if value is None or value == {}:
            continue
        item[attribute] = format_timestamp(value) if name == "timestamp" else _to_dynamo(value)
    return item


def _to_dynamo(value: Any) -> Any:
    if isinstance(value, float):
        # A large whole float is written out in full: its shortest form stands for another integer.
        return Decimal(int(value) if value.is_integer() and abs(value) < _WHOLE else repr(value))
    if isinstance(value, dict):
        return {key: _to_dynamo(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_to_dynamo(inner) for inner in value]
    return value


def from_item(item: Mapping[str, Any]) -> AIUsageMetric:
    """Return the metric of ``item``. Raises ValueError that names the attribute."""
    from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric

    for name in _REQUIRED:
        if not isinstance(item.get(ATTRIBUTES[name]), str):
            raise ValueError(f"the item's attribute {ATTRIBUTES[name]!r} is missing or no text")
    fields: dict[str, Any] = {}
    for name, attribute in ATTRIBUTES.items():
        value = item.get(attribute)
        if value is not None:
            fields[name] = _from_dynamo(name, attribute, value)
    return AIUsageMetric(**fields)


def _from_dynamo(name: str, attribute: str, value: Any) -> Any:
    if name == "timestamp":
        try:
            return parse_timestamp(value)
        except ValueError:
            raise ValueError(f"the item's attribute {attribute!r} is no time: {value!r}") from None
    if name in _COUNTS and isinstance(value, Decimal):
        if value != value.to_integral_value():
            raise ValueError(f"the item's attribute {attribute!r} is no whole number: {value}")
        return int(value)
    if name == "latency_ms" and isinstance(value, Decimal):
        return float(value)
    return _plain(value) if isinstance(value, dict | list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        whole = value == value.to_integral_value() and -(2**63) <= value < _WHOLE
        return int(value) if whole else float(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
