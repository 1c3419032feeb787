"""The records of a run: each follows from its worker and its number, so that it can be expected."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from receipt_dynamo import AIUsageMetric
from receipt_dynamo.entities.item import to_item

__all__ = [
    "belongs_to_the_table",
    "expected_item",
    "metric_of",
    "parse_id",
    "partitions_of",
    "record_id",
    "table_item",
]

_FIRST = datetime(2026, 11, 21, 12, tzinfo=UTC)
_SPACING = timedelta(milliseconds=100)  # a run touches a few hours, as a pipeline does
_STEP = 10_000  # records: a part of an hour
_SERVICES = ("openai", "anthropic", "google")
_NO_RECORD = ("REGISTRY", "H#", "G#")
"""How the partition keys begin of what lies in the table beside metrics: registry, hours, gaps."""


def record_id(worker: int, number: int) -> str:
    """Return the request id of a record."""
    return f"w{worker}-{number:07d}"


def parse_id(request_id: str) -> tuple[int, int] | None:
    """Return worker and number of a request id; None: it is not of this run."""
    worker, dash, number = request_id.partition("-")
    if worker[:1] != "w" or not (dash and worker[1:].isdigit() and number.isdigit()):
        return None
    return int(worker[1:]), int(number)


def metric_of(worker: int, number: int) -> AIUsageMetric:
    """Return a record, the same whenever it is made: about 400 bytes as an item."""
    priced = number % 50 != 0
    return AIUsageMetric(
        service=_SERVICES[number % 3],
        model=f"model-{number % 5}",
        operation="chat",
        timestamp=_FIRST + number * _SPACING + timedelta(microseconds=worker),
        request_id=record_id(worker, number),
        input_tokens=1000 + number % 997,
        cached_input_tokens=number % 512,
        output_tokens=number % 301,
        cost_usd=Decimal(number % 100_003) / 10_000_000 if priced else None,
        price_source="caller" if priced else None,
        unpriced_reason=None if priced else "unknown_model",
        latency_ms=800 + number % 400,
        job_id=f"labels-{worker}",
        environment="production",
        metadata={"attempt": 1 + number % 2},
    )


def table_item(metric: AIUsageMetric) -> dict[str, Any]:
    """Return a metric as boto3's resources take it, under the keys of docs/dynamodb.md.

    They are spelled out here: what the library takes for its key is what is to be proven.
    """
    return {
        "PK": f"U#{metric.service}#{metric.timestamp:%Y-%m-%dT%H}#0",
        "SK": f"{metric.timestamp:%Y-%m-%dT%H:%M:%S.%f}Z#{metric.request_id}",
        "sh": 0,
        **to_item(metric),
    }


def partitions_of(last: int) -> list[str]:
    """Return the partitions in which a table must hold the records up to a number, and what the
    library keeps beside them."""
    hours = {f"{_FIRST + number * _SPACING:%Y-%m-%dT%H}" for number in range(0, last + 1, _STEP)}
    hours.add(f"{_FIRST + last * _SPACING:%Y-%m-%dT%H}")
    beside = ["REGISTRY", f"G#{_FIRST:%Y-%m}", *(f"H#{service}" for service in _SERVICES)]
    return [*beside, *(f"U#{service}#{hour}#0" for hour in sorted(hours) for service in _SERVICES)]


def expected_item(request_id: str) -> Mapping[str, Any] | None:
    """Return what the table must hold of a record, keys and all; None: it is not of this run."""
    found = parse_id(request_id)
    return None if found is None else table_item(metric_of(*found))


def belongs_to_the_table(item: Mapping[str, Any]) -> bool:
    """Return whether an item without a request id is one that the library keeps beside metrics."""
    return str(item.get("PK")).startswith(_NO_RECORD)
