"""What a store of metrics can do: the protocol that both stores fulfil, and the types it speaks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, Inexact
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import Gap

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = [
    "DIMENSIONS",
    "Batch",
    "DroppedSummary",
    "LayeredStore",
    "Rejection",
    "StoredRecord",
    "UsageOverlay",
    "UsageQuery",
    "UsageReader",
    "UsageStore",
    "UsageSummary",
    "WriteOutcome",
    "add_exactly",
    "check_dimensions",
    "load_timezone",
    "plain_decimal",
]

DIMENSIONS: Mapping[str, str] = {
    "day": "timestamp",
    "month": "timestamp",
    "service": "service",
    "model": "model",
    "operation": "operation",
    "job": "job_id",
    "batch": "batch_id",
    "pr": "github_pr",
    "user": "user_id",
    "conversation": "conversation_id",
    "session": "session_id",
    "tool": "tool",
    "skill": "skill",
    "subagent": "subagent",
    "environment": "environment",
    "unpriced_reason": "unpriced_reason",
}
"""What a summary can be grouped by, and the metric's field behind each word."""

_EXACT = Context(prec=400, traps=[Inexact])  # 38 digits anywhere between 1E-130 and 9.99E+125


def add_exactly(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    """Return the exact sum, whatever the caller's decimal context; None counts as nothing."""
    if left is None or right is None:
        return left if right is None else right
    return _EXACT.add(left, right)


def plain_decimal(value: Decimal) -> str:
    """Return ``value`` without exponent and without trailing zeros: ``0.0125``, ``3``."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def check_dimensions(by: Sequence[str]) -> None:
    """Raise ValueError unless every word of ``by`` is known and named once."""
    for word in by:
        if word not in DIMENSIONS:
            raise ValueError(f"cannot group by {word!r}: one of {', '.join(DIMENSIONS)}")
    if len(set(by)) != len(by):
        raise ValueError(f"cannot group by the same word twice: {','.join(by)}")


def load_timezone(name: str) -> ZoneInfo:
    """Return the IANA timezone ``name``. Raises ValueError that names it."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"unknown timezone {name!r}: use an IANA name, such as UTC or Europe/Berlin"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which metrics: all conditions hold together; None means any.

    ``since`` is inclusive, ``until`` exclusive; both aware. ``unpriced`` keeps only metrics that
    carry no price.
    """

    since: datetime | None = None
    until: datetime | None = None
    service: str | None = None
    model: str | None = None
    operation: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    github_pr: int | None = None
    user_id: str | None = None
    conversation_id: str | None = None
    session_id: str | None = None
    tool: str | None = None
    skill: str | None = None
    subagent: str | None = None
    environment: str | None = None
    unpriced: bool = False

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            value: datetime | None = getattr(self, name)
            if value is not None and value.utcoffset() is None:
                raise ValueError(f"{name}={value.isoformat()} has no timezone: add one")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSummary:
    """The sums of one group. ``calls``, ``unpriced_calls`` and ``errors`` add up ``api_calls``.

    Tokens add up what is known; ``cost_usd`` adds the priced calls exactly and is None if none is.
    """

    group: Mapping[str, str | int | None]
    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None
    unpriced_calls: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedSummary:
    """Records that were lost, with what is known of them."""

    count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    by_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A metric beside the very bytes that the spool holds of it."""

    metric: AIUsageMetric
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one write takes in, and how far the segment is read once it has."""

    records: Sequence[StoredRecord]
    gaps: Sequence[Gap] = ()
    segment: str
    position: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that the store will never take, however often it is sent, and why, in words."""

    record: StoredRecord | Gap
    reason: str


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What became of a batch: how many records the store has, and which it will never take."""

    acknowledged: int
    rejected: Sequence[Rejection] = ()


Identity = tuple[str, datetime, str]
"""Service, timestamp and request id, on which a store is unique: ``AIUsageMetric.identity``."""


class UsageReader(Protocol):
    """Answers questions about metrics. Raises StoreError where it cannot."""

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """Return the metrics that the store has under these identities, each under its own."""

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id) that the store has."""

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield the metrics that match, by time."""

    def summarize(self, query: UsageQuery, by: Sequence[str], timezone: str) -> list[UsageSummary]:
        """Return the sums per group, ordered by group."""

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Return what was lost in the time range of ``query``."""


class UsageStore(UsageReader, Protocol):
    """A store of metrics, unique on their identity; a later arrival replaces an earlier one."""

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:
        """Keep other drainers of this store away. Raises StoreBusyError after ``timeout`` s."""

    def position(self, segment: str) -> int | None:
        """Return how far ``segment`` was taken in. Called within ``exclusive``.

        None: this store keeps no positions, the segment's own ack counts.
        """

    def prune_positions(self, segments: Collection[str]) -> None:
        """Forget the positions of all segments but these."""

    def write(self, batch: Batch) -> WriteOutcome:
        """Take in a batch. Called within ``exclusive``. Raises StoreError.

        What the store will never take is rejected, and stops nothing else of the batch. The
        position then stays: the caller sets the rejected aside, and moves it with an empty batch.
        """

    def close(self) -> None:
        """Free what the store holds. It may be used again."""


class UsageOverlay(UsageReader, Protocol):
    """A store as it would be with records that it cannot take in now. Changes nothing in it."""

    def positions(self) -> Mapping[str, int] | None:
        """Return how far the store has taken in each segment; None where it keeps no positions, or
        they cannot be read."""

    def add(self, batch: Batch) -> None:
        """Add records and gaps; a later one replaces an earlier one of the same identity."""

    def is_stale(self) -> bool:
        """Return whether the store has changed in a way that this overlay does not see."""


@runtime_checkable
class LayeredStore(Protocol):
    """A store that can be read beneath records that it cannot take in."""

    def overlay(self) -> UsageOverlay:
        """Return an overlay without records."""
