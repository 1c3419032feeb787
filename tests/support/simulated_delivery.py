"""A process that delivers, in the simulation: every part is the real one, only the threads are not.

The spool is a list that survives the process; the ledger says how each record left it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from receipt_dynamo.failures import Fate, Key, Kind, Verdict, classify
from receipt_dynamo.guards import Blockage, HeadOfLineGuard, PoisonStormGuard
from receipt_dynamo.utils.batch_queue import BatchQueue, BatchQueueSettings, Lease, Reentry
from receipt_dynamo.utils.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakerSettings,
    CircuitTransition,
    Outcome,
    Permit,
    Rejected,
)
from receipt_dynamo.utils.goodput_limiter import (
    GoodputLimiter,
    GoodputLimiterSettings,
    Slot,
    Wait,
)
from receipt_dynamo.utils.retry_with_backoff import RetryQuota, RetrySchedule, RetrySettings
from tests.support.fake_dynamodb import FakeDynamoDB, Item, make_item, put_requests
from tests.support.simulation import Actor, Simulation, seeded

_IDLE = 0.05  # seconds between two looks of a sender that found nothing
_PARKED = 60.0  # seconds between two attempts at what was parked


@dataclass(frozen=True, slots=True)
class Record:
    """One record in the spool. ``number`` is its place there and its version in the table."""

    number: int
    key: Key
    item: Item
    accepted_at: float


@dataclass(slots=True)
class Spool:
    """Records in order, and how each left: acked, dead or parked, and when."""

    records: list[Record] = field(default_factory=list)
    left: dict[int, tuple[str, float]] = field(default_factory=dict)
    acked_through: int = 0  # the low-water mark: what a new process reads on from

    def append(self, key: Key, now: float, **marks: str) -> Record:
        """Accept a record."""
        number = len(self.records) + 1
        record = Record(number, key, make_item(key, number, **marks), now)
        self.records.append(record)
        return record

    def leave(self, record: Record, how: str, now: float) -> None:
        """Note how a record left; again after a crash, since the mark is a contiguous one."""
        self.left[record.number] = how, now
        while self.acked_through + 1 in self.left:
            self.acked_through += 1

    def is_replaced(self, record: Record) -> bool:
        """Return whether a newer record of the same key was accepted."""
        return any(newer.key == record.key for newer in self.records[record.number :])

    @property
    def pending(self) -> int:
        """How many records have not left."""
        return len(self.records) - len(self.left)


class Delivery:
    """One process that drains a spool with some senders, until it is killed."""

    def __init__(
        self, simulation: Simulation, table: FakeDynamoDB, spool: Spool, seed: int, workers: int = 4
    ) -> None:
        self._simulation = simulation
        self._table = table
        self._spool = spool
        self._random = seeded(seed)
        chance = self._random.random
        self.transitions: list[CircuitTransition] = []
        self.queue: BatchQueue[Key, Record] = BatchQueue(
            BatchQueueSettings(capacity_items=200), clock=simulation, chance=chance
        )
        self.breaker = CircuitBreaker(
            CircuitBreakerSettings(workers=workers),
            clock=simulation,
            chance=chance,
            listeners=[self.transitions.append],
        )
        self.limiter = GoodputLimiter(
            GoodputLimiterSettings(workers=workers), clock=simulation, chance=chance
        )
        self._retry = RetrySettings()
        self._quota = RetryQuota(self._retry)
        self._storm = PoisonStormGuard()
        self._head_of_line: HeadOfLineGuard[Key] = HeadOfLineGuard()
        self._in_flight = 0
        self._read = spool.acked_through
        self._actors = [
            self._read_spool(),
            self._retry_parked(),
            *(self._send() for _ in range(workers)),
        ]
        for actor in self._actors:
            simulation.start(actor)

    def kill(self) -> None:
        """End the process, wherever its senders are."""
        for actor in self._actors:
            self._simulation.stop(actor)

    def freeze(self, seconds: float) -> None:
        """Let no time pass for its senders, as between two invocations of a Lambda."""
        self._simulation.delay(self._actors, seconds)

    def _read_spool(self) -> Actor:
        while True:
            records = self._spool.records
            while self._read < len(records) and self.queue.put(
                records[self._read].key, records[self._read], 100
            ):
                self._read += 1
            yield 0.1

    def _retry_parked(self) -> Actor:
        """Try what was parked again, unless a newer record has taken its place by now."""
        while True:
            yield _PARKED
            for number, (how, _) in list(self._spool.left.items()):
                record = self._spool.records[number - 1]
                if how == "parked" and not self._spool.is_replaced(record):
                    self.queue.put(record.key, record, 100)

    def _send(self) -> Actor:
        while True:
            ready = self.queue.ready_at()
            now = self._simulation.monotonic()
            if ready is None or ready > now or self._in_flight >= max(1, self.breaker.concurrency):
                yield _IDLE
                continue
            permit = self.breaker.try_acquire()
            if isinstance(permit, Rejected):
                yield max(0.001, min(permit.retry_after, 5.0))
                continue
            slot = self.limiter.acquire()
            lease = None if isinstance(slot, Wait) else self.queue.take(slot.size)
            if isinstance(slot, Wait) or lease is None:
                if permit.probe:
                    self.breaker.record(permit, Outcome.NEUTRAL)
                if isinstance(slot, Slot):
                    self.limiter.record(slot, sent=0, accepted=None)
                yield slot.seconds if isinstance(slot, Wait) else _IDLE
                continue
            self._in_flight += 1
            try:
                yield from self._dispatch(permit, slot, lease)
            finally:
                self._in_flight -= 1

    def _dispatch(self, permit: Permit, slot: Slot, lease: Lease[Key, Record]) -> Actor:
        """Send one batch, with inline retries, and settle it."""
        schedule = RetrySchedule(self._retry, self._quota, self._simulation, self._random.random)
        attempt, before, delay = 0, None, 0.0
        while True:
            attempt += 1
            yield from self._round_trip()
            verdict = self._call(lease)
            yield from self._round_trip()
            outcome = verdict.outcome(permit, again=verdict.rule is before)
            self.breaker.record(permit, outcome, reason=str(verdict))
            if verdict.kind in (Kind.OK, Kind.PARTIAL):
                self._quota.succeeded()
            backoff = verdict.backoff(paced=True)
            once = permit.probe or self._head_of_line.suspects(lease.items)
            if backoff is None or once or not self.breaker.still_valid(permit):
                break
            pause = schedule.next_delay(attempt, backoff)
            if pause is None:
                break
            before = verdict.rule
            yield pause
            if not self.breaker.still_valid(permit):
                break
        delay = self.limiter.record(
            slot, sent=len(lease.items), accepted=verdict.accepted, hint=verdict.retry_after
        )
        self._settle(permit, lease, verdict)
        yield delay

    def _round_trip(self) -> Actor:
        yield self._random.uniform(0.005, 0.015)

    def _call(self, lease: Lease[Key, Record]) -> Verdict:
        answer: Any
        try:
            items = [record.item for record in lease.items.values()]
            answer = self._table.batch_write_item(**put_requests(items))
        except Exception as error:
            answer = error
        return self._storm.judge(classify(answer, sent=lease.items))

    def _settle(self, permit: Permit, lease: Lease[Key, Record], verdict: Verdict) -> None:
        fate = verdict.fate()
        if fate in (Fate.ACK, Fate.ACK_REST):
            acked = [key for key in lease.items if key not in verdict.unprocessed]
            self._storm.accepted()
            self._head_of_line.settled(acked)
            self._leave(self.queue.settle(lease, acked=acked).acked, "acked")
        elif fate is Fate.DEAD:
            self._storm.refused_alone(lease.family, lease.family_size, verdict.message)
            self._head_of_line.settled(lease.items)
            self._leave(self.queue.settle(lease, dead=lease.items).dead, "dead")
        elif fate is Fate.BISECT:
            self.queue.settle(lease, rest=Reentry.SPLIT)
        elif verdict.kind in (Kind.TRANSIENT, Kind.CORRUPT):
            last = self.queue.holds_only(lease)
            blockage = self._head_of_line.failed(lease.items, probe=permit.probe, last=last)
            if blockage is Blockage.PARK:
                self._leave(self.queue.settle(lease, dead=lease.items).dead, "parked")
            else:
                self.queue.settle(lease, rest=Reentry(blockage.value))
        else:
            behind = verdict.kind in (Kind.CONFIG, Kind.AUTH)
            self.queue.settle(lease, rest=Reentry.BEHIND if behind else Reentry.FRONT)

    def _leave(self, records: tuple[Record, ...], how: str) -> None:
        for record in records:
            self._spool.leave(record, how, self._simulation.monotonic())
