"""A process that delivers, in the simulation: the dispatcher is the real one, the threads are not.

The spool is a list that survives the process; the ledger says how each record left it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from receipt_dynamo.dispatch import Dispatch, Dispatcher, DispatchSettings, Sender, Wait
from receipt_dynamo.failures import Key, Verdict, classify
from receipt_dynamo.utils.batch_queue import BatchQueueSettings
from receipt_dynamo.utils.circuit_breaker import CircuitTransition
from tests.support.fake_dynamodb import FakeDynamoDB, Item, make_item, put_requests
from tests.support.simulation import Actor, Simulation, seeded

_LOOK = 0.5  # seconds between two looks of a sender that nobody wakes
_PARKED = 60.0  # seconds between two attempts at what was parked
_SIZE = 100


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
    by_key: dict[Key, list[Record]] = field(default_factory=dict)
    left: dict[int, tuple[str, float]] = field(default_factory=dict)
    acked_through: int = 0  # the low-water mark: what a new process reads on from

    def append(self, key: Key, now: float, **marks: str) -> Record:
        """Accept a record."""
        number = len(self.records) + 1
        record = Record(number, key, make_item(key, number, **marks), now)
        self.records.append(record)
        self.by_key.setdefault(key, []).append(record)
        return record

    def leave(self, record: Record, how: str, now: float) -> None:
        """Note how a record left; again after a crash, since the mark is a contiguous one."""
        self.left[record.number] = how, now
        while self.acked_through + 1 in self.left:
            self.acked_through += 1

    def is_replaced(self, record: Record) -> bool:
        """Return whether a newer record of the same key was accepted."""
        return self.by_key[record.key][-1] is not record

    @property
    def pending(self) -> int:
        """How many records have not left."""
        return len(self.records) - len(self.left)


class Delivery:
    """One process that drains a spool with some senders, until it is killed."""

    def __init__(
        self,
        simulation: Simulation,
        table: FakeDynamoDB,
        spool: Spool,
        seed: int,
        *,
        workers: int = 4,
        round_trip: float = 0.02,
        drips: float = 0.0,
    ) -> None:
        self._simulation = simulation
        self._table = table
        self._spool = spool
        self._random = seeded(seed)
        self._round_trip = round_trip
        self._drips = drips
        self.transitions: list[CircuitTransition] = []
        self.dispatcher: Dispatcher[Record] = Dispatcher(
            DispatchSettings(workers=workers, queue=BatchQueueSettings(capacity_items=200)),
            clock=simulation,
            chance=self._random.random,
            listeners=[self.transitions.append],
        )
        self._read = spool.acked_through
        senders = [self.dispatcher.sender() for _ in range(workers)]
        self._actors = [self._read_spool(), self._retry_parked(), *map(self._send, senders)]
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
            while self._read < len(records):
                record = records[self._read]
                if not self.dispatcher.put(record.key, record, _SIZE):
                    break
                self._read += 1
            yield 0.1

    def _retry_parked(self) -> Actor:
        """Try what was parked again, unless a newer record has taken its place by now."""
        while True:
            yield _PARKED
            for number, (how, _) in list(self._spool.left.items()):
                record = self._spool.records[number - 1]
                if how == "parked" and not self._spool.is_replaced(record):
                    self.dispatcher.put(record.key, record, _SIZE, alone=True)

    def _send(self, sender: Sender[Record]) -> Actor:
        while True:
            step = sender.next()
            if isinstance(step, Wait):
                yield min(step.seconds, _LOOK)
                continue
            yield self._one_way()
            verdict = self._call(step)
            yield self._one_way() + self._drip()
            settled = sender.answered(verdict)
            for how in ("acked", "dead", "parked"):
                for record in getattr(settled, how):
                    self._spool.leave(record, how, self._simulation.monotonic())

    def _one_way(self) -> float:
        return self._random.uniform(0.25, 0.75) * self._round_trip

    def _drip(self) -> float:
        """Let some replies come byte by byte, longer than a lease, as no timeout prevents."""
        drips = self._random.random() < self._drips and self._table.is_in_trouble()
        return self._random.uniform(5.0, 45.0) if drips else 0.0

    def _call(self, step: Dispatch[Record]) -> Verdict:
        answer: Any
        try:
            items = [record.item for record in step.items.values()]
            answer = self._table.batch_write_item(**put_requests(items))
        except Exception as error:
            answer = error
        return classify(answer, sent=step.items)
