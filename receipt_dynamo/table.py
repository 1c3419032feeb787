"""The DynamoDB table: its keys, its indexes, and under which key a record lies.

The one source of truth for ``create_table``, for what a table is checked against, and for templates
that deploy it. Pure: nothing here talks to anybody.

| record | PK | SK |
|---|---|---|
| a metric | ``U#{service}#{yyyy-mm-dd}T{hh}#{sh}`` | ``{timestamp}#{request id}`` |
| a gap | ``G#{yyyy-mm}`` | ``{timestamp}#{gap id}`` |
| the hours of a service | ``H#{service}`` | ``{yyyy-mm}`` |
| the services and shards | ``REGISTRY`` | ``services`` |

Timestamps are text, UTC, always with six digits of microseconds: they sort as the times do. No key
is constant for what is written often, so writes spread over services and hours; ``sh`` spreads a
single service further, over as many shards as the table was made with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

from receipt_dynamo.entities.item import ATTRIBUTES, format_timestamp

__all__ = [
    "BATCH_ITEMS",
    "END_OF_TIME",
    "HOURS_ATTRIBUTE",
    "INDEXES",
    "MAX_SHARDS",
    "PARTITION_KEY",
    "PROJECTED",
    "REGISTRY_KEY",
    "SHARD",
    "SORT_KEY",
    "START_OF_TIME",
    "TTL_ATTRIBUTE",
    "Index",
    "Key",
    "Shards",
    "definition",
    "differences",
    "gap_partition",
    "hour_by_number",
    "hour_of",
    "hours_partition",
    "metric_key",
    "metric_partition",
    "month_of",
    "number_of_hour",
    "service_of",
    "shard_of",
    "sort_key",
    "split_sort_key",
    "time_bound",
]

PARTITION_KEY = "PK"
SORT_KEY = "SK"
SHARD = "sh"
TTL_ATTRIBUTE = "ttl"
"""When DynamoDB may delete an item, in seconds since 1970. It takes days to: readers filter."""

HOURS_ATTRIBUTE = "hours"
BATCH_ITEMS = 25
"""How many items one BatchWriteItem takes."""

MAX_SHARDS = 1024
START_OF_TIME = "0001-01-01T00:00:00.000000Z"
END_OF_TIME = "A"  # behind every digit
_TIMESTAMP_LENGTH = len(START_OF_TIME)
_HOUR_LENGTH = len("2026-11-21T20")
_MONTH_LENGTH = len("2026-11")


class Key(NamedTuple):
    """The primary key of an item."""

    partition: str
    sort: str


REGISTRY_KEY = Key("REGISTRY", "services")


@dataclass(frozen=True, slots=True)
class Index:
    """A sparse index: it holds the metrics that carry ``field``, by time.

    HASH [attribute, sh], RANGE [SK]: two natural attributes, no key text made for the index.
    """

    name: str
    field: str
    kind: str = "S"

    @property
    def attribute(self) -> str:
        """The attribute that the index is asked by."""
        return ATTRIBUTES[self.field]


INDEXES: Sequence[Index] = (
    Index("GSI_CONV", "conversation_id"),
    Index("GSI_BATCH", "batch_id"),
    Index("GSI_JOB", "job_id"),
    Index("GSI_PR", "github_pr", "N"),
    Index("GSI_USER", "user_id"),
)
"""In the order in which they usually narrow a question down the most."""

PROJECTED: Sequence[str] = (
    *(
        ATTRIBUTES[field]
        for field in (
            "service",
            "model",
            "operation",
            "environment",
            "timestamp",
            "api_calls",
            "input_tokens",
            "output_tokens",
            "total_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
            "cost_usd",
            "unpriced_reason",
            "error",
        )
    ),
    TTL_ATTRIBUTE,
)
"""What an index knows of a metric beside its keys: enough for every sum that a report shows."""


def definition(table_name: str) -> dict[str, Any]:
    """Return the parameters of CreateTable. TTL is no part of it: it is switched on afterwards."""
    keys = {PARTITION_KEY: "S", SORT_KEY: "S", SHARD: "N"}
    keys.update((index.attribute, index.kind) for index in INDEXES)
    return {
        "TableName": table_name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": name, "AttributeType": kind} for name, kind in keys.items()
        ],
        "KeySchema": _key_schema([PARTITION_KEY], SORT_KEY),
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index.name,
                "KeySchema": _key_schema([index.attribute, SHARD], SORT_KEY),
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(PROJECTED)},
            }
            for index in INDEXES
        ],
    }


def _key_schema(hashed: Iterable[str], ranged: str) -> list[dict[str, str]]:
    return [
        *({"AttributeName": name, "KeyType": "HASH"} for name in hashed),
        {"AttributeName": ranged, "KeyType": "RANGE"},
    ]


def differences(described: Mapping[str, Any]) -> list[str]:
    """Return how a table, as DescribeTable tells it, differs from ``definition``, in words.

    Further indexes and another billing mode are no difference: both leave every record and every
    answer as they are.
    """
    wanted = definition("")
    found = _differing_keys("the table", described, wanted, described)
    have = {index["IndexName"]: index for index in described.get("GlobalSecondaryIndexes") or ()}
    for index in wanted["GlobalSecondaryIndexes"]:
        name = index["IndexName"]
        if name not in have:
            found.append(f"the index {name} is missing")
            continue
        found += _differing_keys(f"the index {name}", have[name], index, described)
        found += _differing_projection(name, have[name].get("Projection") or {})
    return found


def _differing_keys(
    what: str, have: Mapping[str, Any], wanted: Mapping[str, Any], described: Mapping[str, Any]
) -> list[str]:
    types = {
        entry["AttributeName"]: entry["AttributeType"]
        for entry in described.get("AttributeDefinitions") or ()
    }
    own_types = {
        entry["AttributeName"]: entry["AttributeType"]
        for entry in definition("")["AttributeDefinitions"]
    }
    is_now = _shown_keys(have.get("KeySchema") or (), types)
    should_be = _shown_keys(wanted["KeySchema"], own_types)
    return [] if is_now == should_be else [f"{what} has the keys {is_now}, not {should_be}"]


def _shown_keys(schema: Iterable[Mapping[str, str]], types: Mapping[str, str]) -> str:
    parts = (
        f"{entry['AttributeName']} ({entry['KeyType']}, {types.get(entry['AttributeName'], '?')})"
        for entry in schema
    )
    return ", ".join(parts) or "(none)"


def _differing_projection(name: str, projection: Mapping[str, Any]) -> list[str]:
    if projection.get("ProjectionType") == "ALL":
        return []
    lacking = sorted(set(PROJECTED).difference(projection.get("NonKeyAttributes") or ()))
    return [f"the index {name} does not hold {', '.join(lacking)}"] if lacking else []


def sort_key(timestamp: str, name: str) -> str:
    """Return the SK of a record: its time, then what tells it from others of that time."""
    return f"{timestamp}#{name}"


def split_sort_key(sort: str) -> tuple[str, str]:
    """Return time and name of an SK."""
    return sort[:_TIMESTAMP_LENGTH], sort[_TIMESTAMP_LENGTH + 1 :]


def hour_of(timestamp: str) -> str:
    """Return ``2026-11-21T20`` of a timestamp or an SK."""
    return timestamp[:_HOUR_LENGTH]


def month_of(timestamp: str) -> str:
    """Return ``2026-11`` of a timestamp or an SK."""
    return timestamp[:_MONTH_LENGTH]


def number_of_hour(hour: str) -> int:
    """Return the number of an hour within its month: 0 to 743."""
    return (int(hour[8:10]) - 1) * 24 + int(hour[11:13])


def hour_by_number(month: str, number: int) -> str:
    """Return the hour of ``number_of_hour``: ``2026-11-21T20``."""
    day, hour = divmod(number, 24)
    return f"{month}-{day + 1:02}T{hour:02}"


def metric_partition(service: str, hour: str, shard: int) -> str:
    """Return the PK of a service's metrics of one hour and shard."""
    return f"U#{service}#{hour}#{shard}"


def metric_key(service: str, timestamp: str, request_id: str, shards: Shards) -> Key:
    """Return the key of the metric of an identity."""
    shard = shard_of(request_id, shards.at(timestamp))
    return Key(
        metric_partition(service, hour_of(timestamp), shard), sort_key(timestamp, request_id)
    )


def service_of(key: Key) -> str:
    """Return the service of a metric's key: no service has a ``#`` in its name."""
    return key.partition.split("#", 2)[1]


def gap_partition(month: str) -> str:
    """Return the PK of the gaps of a month."""
    return f"G#{month}"


def hours_partition(service: str) -> str:
    """Return the PK under which the hours of a service are registered."""
    return f"H#{service}"


def shard_of(request_id: str, shards: int) -> int:
    """Return in which of ``shards`` a metric lies: the same one for ever."""
    return crc32(request_id.encode()) % shards if shards > 1 else 0


def time_bound(time: datetime | None, unbounded: str) -> str:
    """Return a time as the text that keys are compared with; ``unbounded`` for None."""
    if time is None:
        return unbounded
    try:
        return format_timestamp(time.astimezone(UTC))
    except OverflowError:  # within a day of the year 1 or 9999, with an offset
        return START_OF_TIME if time.year == 1 else END_OF_TIME


@dataclass(frozen=True, slots=True)
class Shards:
    """Over how many shards a service's hour is spread, and since when.

    It belongs to the table: every writer must agree on it, or the same record would lie twice.
    ``entries`` are (from, shards), by time; before the first one there is one shard.
    """

    entries: tuple[tuple[str, int], ...] = ()

    @property
    def latest(self) -> int:
        """The number of shards in force from now on."""
        return self.entries[-1][1] if self.entries else 1

    def at(self, timestamp: str) -> int:
        """Return the number of shards in force at a time."""
        count = 1
        for since, shards in self.entries:
            if since > timestamp:
                break
            count = shards
        return count

    def most_between(self, since: str, until: str) -> int:
        """Return the highest number in force at any time from ``since`` up to ``until``."""
        later = (shards for start, shards in self.entries if since < start < until)
        return max(self.at(since), *later, 1)
