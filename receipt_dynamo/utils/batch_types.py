"""What a batch queue is told and what it answers: leases, settlements, settings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from receipt_dynamo.utils.settings_checks import check_number

__all__ = ["BatchQueueSettings", "BatchQueueSnapshot", "Lease", "Reentry", "Settlement"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Reentry(StrEnum):
    """Where what a batch leaves unsettled goes."""

    FRONT = "front"
    """To its old place."""
    BEHIND = "behind"
    """Behind all that waits now, so that a batch which fails every time blocks nobody."""
    SPLIT = "split"
    """To its old place, in two halves that are sent apart; a single item is sent alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchQueueSettings:
    """Bounds of a batch and of the queue. Times are seconds, sizes bytes.

    A batch is ready with ``max_items`` or ``max_bytes`` (DynamoDB takes 25 items and 16 MB), or
    when its oldest item has waited ``linger``, give or take a share of ``linger_jitter``. A lease
    that is not settled after ``lease`` is taken back: it must outlast every attempt at sending.
    ``capacity_items`` and ``capacity_bytes`` bound all that is not settled.
    """

    max_items: int = 25
    max_bytes: int = 1 << 20
    linger: float = 0.2
    linger_jitter: float = 0.1
    lease: float = 30.0
    capacity_items: int = 2_000
    capacity_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        counts = ("max_items", "max_bytes", "capacity_items", "capacity_bytes")
        check_number(self, *counts, least=1, whole=True)
        check_number(self, "linger", least=0)
        check_number(self, "linger_jitter", least=0, most=1)
        check_number(self, "lease", above=0)


@dataclass(frozen=True, slots=True)
class Lease(Generic[K, T]):
    """A batch in flight.

    A part of a batch that was split is not topped up with other items; ``family`` is the number of
    the batch that was whole, and ``family_size`` how many items that one had.
    """

    number: int
    items: Mapping[K, T]
    expires_at: float
    family: int
    family_size: int


@dataclass(frozen=True, slots=True)
class Settlement(Generic[T]):
    """What left the queue, superseded items before the one that replaced them.

    ``late``: the lease had expired, nothing has changed, and the items are sent again.
    """

    acked: tuple[T, ...] = ()
    dead: tuple[T, ...] = ()
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchQueueSnapshot:
    """The queue at one moment. Superseded items count; ``muted`` wait for a batch in flight."""

    items: int
    bytes: int
    muted: int
    in_flight: int
    leases: int
    expired_leases: int
    late_settlements: int
    oldest_seconds: float | None
