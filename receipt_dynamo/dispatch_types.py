"""What a dispatcher is told and what it answers: settings, batches, what left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from receipt_dynamo.failures import Key, Kind, Verdict
from receipt_dynamo.guards import GuardSettings
from receipt_dynamo.utils.batch_queue import BatchQueueSettings, BatchQueueSnapshot
from receipt_dynamo.utils.circuit_breaker import CircuitBreakerSettings, CircuitSnapshot
from receipt_dynamo.utils.goodput_limiter import GoodputLimiterSettings, GoodputSnapshot
from receipt_dynamo.utils.retry_with_backoff import RetrySettings
from receipt_dynamo.utils.settings_checks import check_number

__all__ = ["Dispatch", "DispatchSettings", "DispatchSnapshot", "Settled"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """The settings of the parts; ``workers`` is how many senders there are, for all of them."""

    workers: int = 4
    queue: BatchQueueSettings = field(default_factory=BatchQueueSettings)
    breaker: CircuitBreakerSettings = field(default_factory=CircuitBreakerSettings)
    limiter: GoodputLimiterSettings = field(default_factory=GoodputLimiterSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    guards: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        check_number(self, "workers", least=1, whole=True)


@dataclass(frozen=True, slots=True)
class Dispatch(Generic[T]):
    """A batch to be sent now, in one call: at most 25 records of different keys, in order.

    ``attempt`` counts from 1. What it comes to has to be told the sender, whatever it is.
    """

    items: Mapping[Key, T]
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Generic[T]):
    """What left the queue by one answer; nothing, where the batch is to be sent again.

    ``dead`` records were refused alone, for what they hold. On ``parked`` ones the server fails
    each time, while others pass: they are not dead, and worth another ``put`` in an hour. A record
    that a newer one of its key superseded leaves with that one. ``verdict`` is the one that
    counted: in a storm of poison it is not the one that was told.
    """

    verdict: Verdict
    acked: tuple[T, ...] = ()
    dead: tuple[T, ...] = ()
    parked: tuple[T, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSnapshot:
    """The delivery at one moment, for health and support.

    ``answers`` counts them by kind. ``storm`` is the message that the table refuses everything
    with, or None. ``throttled_table`` and ``throttled_partition`` count the throttles of which
    DynamoDB said whose limit it was; ``last_failure`` is the last answer that acknowledged nothing.
    """

    breaker: CircuitSnapshot
    queue: BatchQueueSnapshot
    limiter: GoodputSnapshot
    retry_tokens: float
    storm: str | None
    answers: Mapping[Kind, int]
    throttled_table: int
    throttled_partition: int
    last_failure: str | None
