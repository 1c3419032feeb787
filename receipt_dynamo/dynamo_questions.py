"""What a question means to the items of a table: what it needs of them, which match, their sums.

Items are those of DynamoDB's JSON: no metric is built to be counted. Pure: nothing here talks to
anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from receipt_dynamo.dynamo_wire import Item, Value, read_count
from receipt_dynamo.entities.checks import MAX_COUNT
from receipt_dynamo.entities.item import ATTRIBUTES, parse_timestamp
from receipt_dynamo.store import DIMENSIONS, UsageQuery, check_dimensions, load_timezone
from receipt_dynamo.sums import Group, Sums, local_day
from receipt_dynamo.table import (
    END_OF_TIME,
    INDEXES,
    PROJECTED,
    SHARD,
    START_OF_TIME,
    TTL_ATTRIBUTE,
    Index,
    time_bound,
)

__all__ = ["Conditions", "Question", "Window", "index_for", "is_expired", "is_utf8"]

_ID_BYTES = 256
_FILTERS = (
    "service",
    "model",
    "operation",
    "job_id",
    "batch_id",
    "github_pr",
    "user_id",
    "conversation_id",
    "session_id",
    "tool",
    "skill",
    "subagent",
    "environment",
)
_TOKENS = tuple(
    ATTRIBUTES[field]
    for field in (
        "input_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "output_tokens",
        "reasoning_tokens",
    )
)
_CALLS, _COST, _UNPRICED, _ERROR = (
    ATTRIBUTES[field] for field in ("api_calls", "cost_usd", "unpriced_reason", "error")
)
_DAY_LENGTH, _MONTH_LENGTH = len("2026-11-21"), len("2026-11")


@dataclass(frozen=True, slots=True)
class Window:
    """The time range of a question, as keys are compared with it: ``until`` is not included."""

    since: str = START_OF_TIME
    until: str = END_OF_TIME

    @classmethod
    def of(cls, query: UsageQuery) -> Window:
        """Return the time range of ``query``."""
        return cls(time_bound(query.since, START_OF_TIME), time_bound(query.until, END_OF_TIME))

    @property
    def is_empty(self) -> bool:
        """Whether no time lies within."""
        return self.since >= self.until


def is_expired(item: Item, now: float) -> bool:
    """Whether DynamoDB may delete the item at any moment: it does so within days."""
    ttl = item.get(TTL_ATTRIBUTE)
    return ttl is not None and float(ttl["N"]) <= now


def index_for(query: UsageQuery) -> tuple[Index, Value | None] | None:
    """Return the index that answers ``query``, and the key to ask it for; None: no index does.

    A key of None is a value that no metric can have, such as the empty text.
    """
    for index in INDEXES:
        value = getattr(query, index.field)
        if value is not None:
            return index, _key_value(index, value)
    return None


def _key_value(index: Index, value: object) -> Value | None:
    if index.kind == "N":
        fits = isinstance(value, int) and 0 < value <= MAX_COUNT
        return {"N": str(value)} if fits else None
    fits = isinstance(value, str) and is_utf8(value) and 0 < len(value.encode()) <= _ID_BYTES
    return {"S": str(value)} if fits else None


def is_utf8(text: str) -> bool:
    """Whether a text can be written at all: one with a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Conditions:
    """What an item must say to match a query. Its time is no part of it: keys hold that."""

    def __init__(self, query: UsageQuery, now: float) -> None:
        self._now = now
        self._unpriced = query.unpriced
        self._equal: list[tuple[str, Value]] = []
        for field in _FILTERS:
            value = getattr(query, field)
            if value is not None:
                kind = "N" if field == "github_pr" else "S"
                self._equal.append((ATTRIBUTES[field], {kind: str(value)}))

    @property
    def attributes(self) -> set[str]:
        """The attributes that are looked at."""
        looked_at = {TTL_ATTRIBUTE, *(attribute for attribute, _ in self._equal)}
        return looked_at | {_UNPRICED} if self._unpriced else looked_at

    def hold(self, item: Item) -> bool:
        """Whether the item matches, and has not expired."""
        if TTL_ATTRIBUTE in item and is_expired(item, self._now):
            return False
        if self._unpriced and _UNPRICED not in item:
            return False
        return all(item.get(attribute) == value for attribute, value in self._equal)


class Question:
    """A summary that is asked for: what it needs of each item, and how items are added up."""

    def __init__(self, query: UsageQuery, by: Sequence[str], timezone: str, now: float) -> None:
        check_dimensions(by)
        zone = load_timezone(timezone)
        self.conditions = Conditions(query, now)
        self._groups: list[Callable[[Item], str | int | None]] = []
        self.attributes = {_CALLS, *_TOKENS, _COST, _UNPRICED, _ERROR, *self.conditions.attributes}
        for word in by:
            attribute = ATTRIBUTES[DIMENSIONS[word]]
            self.attributes.add(attribute)
            if word in ("day", "month"):
                length = _DAY_LENGTH if word == "day" else _MONTH_LENGTH
                self._groups.append(_day_reader(zone, length))
            else:
                self._groups.append(_attribute_reader(attribute))

    def can_be_asked(self, index: Index) -> bool:
        """Whether the index holds everything that is needed."""
        return self.attributes <= {*PROJECTED, index.attribute, SHARD}

    def add(self, groups: dict[Group, Sums], item: Item) -> None:
        """Add an item to its group, if it matches."""
        if not self.conditions.hold(item):
            return
        key = tuple([read(item) for read in self._groups])
        sums = groups.get(key)
        if sums is None:
            sums = groups[key] = Sums()
        calls = read_count(item[_CALLS]) if _CALLS in item else 1
        tokens = [read_count(item[name]) if name in item else 0 for name in _TOKENS]
        cost = item.get(_COST)
        failed = calls if _ERROR in item else 0
        price = None if cost is None else cost["N"]
        sums.add(price, _UNPRICED in item, 1, calls, *tokens, failed)


def _attribute_reader(attribute: str) -> Callable[[Item], str | int | None]:
    def read(item: Item) -> str | int | None:
        value: Mapping[str, Any] | None = item.get(attribute)
        if value is None:
            return None
        return int(value["N"]) if "N" in value else str(value["S"])

    return read


def _day_reader(zone: Any, length: int) -> Callable[[Item], str]:
    """Return what reads the calendar day, or its month, of an item in a timezone."""
    attribute = ATTRIBUTES["timestamp"]
    if zone.key == "UTC":
        return lambda item: str(item[attribute]["S"])[:length]
    return lambda item: local_day(parse_timestamp(item[attribute]["S"]), zone)[:length]
