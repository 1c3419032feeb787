"""A model of the queue beside a table: any reply, any order, expiry, forks.

The table is the judge: what is acked is in it, in its newest accepted version, and no key ever
goes back to an older one. Classification is the real one, over replies shaped as DynamoDB's.
"""

from __future__ import annotations

from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from receipt_dynamo.failures import Fate, Key, classify
from receipt_dynamo.utils.batch_queue import (
    BatchQueue,
    BatchQueueSettings,
    Lease,
    Reentry,
    Settlement,
)
from tests.support import FakeClock

NAMES = st.sampled_from("abcdefgh")
SETTINGS = BatchQueueSettings(max_items=4, max_bytes=1000, capacity_items=20, capacity_bytes=5000)
Item = tuple[Key, int, bool]  # its key, its number, whether the table refuses it for ever


def key_of(name: str) -> Key:
    return f"P{name}", f"S{name}"


def unprocessed(keys: list[Key]) -> dict[str, Any]:
    """Return a reply as botocore's low-level client gives it."""
    requests = [{"PutRequest": {"Item": {"PK": {"S": pk}, "SK": {"S": sk}}}} for pk, sk in keys]
    return {"UnprocessedItems": {"usage": requests} if requests else {}}


def client_error(code: str) -> ClientError:
    reply = {
        "Error": {"Code": code, "Message": "m"},
        "ResponseMetadata": {"HTTPStatusCode": 500 if code.startswith("Internal") else 400},
    }
    return ClientError(reply, "BatchWriteItem")  # type: ignore[arg-type]


class QueueModel(RuleBasedStateMachine):
    """Every item that was accepted is waiting, in flight, acked or dead: in one place."""

    leases = Bundle("leases")
    queue_class: ClassVar[type[BatchQueue[Key, Item]]] = BatchQueue

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.queue = self.queue_class(SETTINGS, clock=self.clock, chance=lambda: 0.5)
        self.accepted: dict[int, Item] = {}
        self.left: dict[int, str] = {}  # how each item left: acked or dead
        self.table: dict[Key, int] = {}
        self.live: dict[int, Lease[Key, Item]] = {}
        self.moved_behind = False
        self.before_these: tuple[set[Key], set[Key]] = set(), set()  # waiting, and put behind them
        self.last = 0

    # putting

    @rule(name=NAMES, poison=st.sampled_from([False] * 5 + [True]), size=st.integers(1, 400))
    def put(self, name: str, poison: bool, size: int) -> None:
        self.last += 1
        item = key_of(name), self.last, poison
        held = len(self.accepted) - len(self.left)
        if self.queue.put(item[0], item, size):
            assert held < 20
            self.accepted[self.last] = item
        else:
            assert held > 0

    @rule(names=st.lists(NAMES, min_size=1, max_size=8, unique=True))
    def put_many(self, names: list[str]) -> None:
        for name in names:
            self.put(name, False, 50)

    # taking

    @rule(target=leases, limit=st.none() | st.integers(1, 4))
    def take(self, limit: int | None) -> Any:
        now = self.clock.monotonic()
        self._forget_expired(now)
        due = self.queue.ready_at(limit)
        lease = self.queue.take(limit)
        if lease is None:
            assert due is None or due > now, "ready, and yet nothing came"
            return multiple()
        assert due is not None
        assert due <= now, "a batch before it was ready"
        keys = set(lease.items)
        assert len(keys) <= (limit or 4)
        flying = {key for other in self.live.values() for key in other.items}
        assert not keys & flying, "one key in two batches in flight"
        for key, (own, number, _) in lease.items.items():
            assert key == own
            assert self.table.get(key, 0) <= number, "an older version after a newer one"
        if not self.moved_behind:
            first = min(self._oldest(key) for key in keys)
            waiting = {item[0] for n, item in self.accepted.items() if n not in self.left} - flying
            assert first == min(self._oldest(key) for key in waiting), "not the oldest first"
        earlier, behind = self.before_these
        earlier &= {item[0] for n, item in self.accepted.items() if n not in self.left} - flying
        assert not earlier or next(iter(lease.items)) not in behind, "not behind the others"
        self.before_these = set(), set()
        self.live[lease.number] = lease
        return lease

    @rule(target=leases, seconds=st.just(0.25))
    def linger_and_take(self, seconds: float) -> Any:
        self.clock.advance(seconds)
        return self.take(None)

    def _oldest(self, key: Key) -> int:
        return min(n for n, item in self.accepted.items() if item[0] == key and n not in self.left)

    def _forget_expired(self, now: float) -> None:
        """A lease runs out when somebody asks for a batch; until then a late reply is welcome."""
        self.live = {n: lease for n, lease in self.live.items() if lease.expires_at > now}

    # replies

    @rule(
        lease=consumes(leases),
        share=st.integers(0, 4),
        backwards=st.booleans(),
        answer=st.sampled_from(
            "full partial refused throttled fault applied lost unknown missing".split()
        ),
    )
    def reply(self, lease: Lease[Key, Item], share: int, backwards: bool, answer: str) -> None:
        """The table answers as DynamoDB does, or not at all; a bad record fails its whole batch."""
        keys = list(lease.items)
        refused: list[Key] = []
        reply: Any
        if answer in ("throttled", "fault", "lost"):
            code = "ThrottlingException" if answer == "throttled" else "InternalServerError"
            lost = ReadTimeoutError(endpoint_url="x")
            reply, refused = (lost if answer == "lost" else client_error(code)), keys
        elif any(poison for _, _, poison in lease.items.values()):
            reply, refused = client_error("ValidationException"), keys
        elif answer == "partial":
            refused = list(reversed(keys[:share])) if backwards else keys[:share]
            reply = unprocessed(refused)
        elif answer == "refused":
            reply, refused = unprocessed(keys), keys
        elif answer == "applied":
            reply = ReadTimeoutError(endpoint_url="x")
        elif answer == "unknown":
            reply = unprocessed([key_of("stranger")])
        elif answer == "missing":
            reply = {}
        else:
            reply = unprocessed([])
        self._settle(lease, reply, [key for key in keys if key not in refused])

    def _settle(self, lease: Lease[Key, Item], reply: Any, applied: list[Key]) -> None:
        late = lease.number not in self.live
        if not late:
            for key in applied:
                number = lease.items[key][1]
                assert self.table.get(key, 0) <= number, "the table went back"
                self.table[key] = number
        verdict = classify(reply, sent=list(lease.items))
        fate = verdict.fate()
        if fate in (Fate.ACK, Fate.ACK_REST):
            acked = [key for key in lease.items if key not in verdict.unprocessed]
            settlement = self.queue.settle(lease, acked=acked)
        elif fate is Fate.DEAD:
            settlement = self.queue.settle(lease, dead=list(lease.items))
        elif fate is Fate.BISECT:
            settlement = self.queue.settle(lease, rest=Reentry.SPLIT)
        else:
            settlement = self.queue.settle(lease)
        self._leave(lease, settlement, late)

    def _leave(self, lease: Lease[Key, Item], settlement: Settlement[Item], late: bool) -> None:
        if late:
            assert settlement == Settlement(late=True)
            return
        assert not settlement.late
        del self.live[lease.number]
        for key, number, _ in settlement.acked:
            assert number not in self.left, "settled twice"
            assert self.table[key] >= number, "acked, and not in the table"
            self.left[number] = "acked"
        for key, number, _ in settlement.dead:
            assert number not in self.left, "settled twice"
            assert lease.items[key][2], "buried alive"
            self.left[number] = "dead"

    @rule(lease=consumes(leases))
    def failed_probe(self, lease: Lease[Key, Item]) -> None:
        """It goes behind what waits now."""
        if lease.number not in self.live:
            return
        flying = {key for other in self.live.values() for key in other.items}
        waiting = {item[0] for n, item in self.accepted.items() if n not in self.left} - flying
        assert not self.queue.settle(lease, rest=Reentry.BEHIND).late
        del self.live[lease.number]
        self.moved_behind = True
        self.before_these = waiting, set(lease.items)

    # time, restarts, flushes

    @rule(seconds=st.sampled_from([0.05, 0.2, 5.0]))
    def tick(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.live)
    @rule(target=leases, late=st.sampled_from([-0.01, 0.0, 0.01]))
    def lease_edge(self, late: float) -> Any:
        """Somebody asks just before, at, or just after the end of the oldest lease."""
        ends = min(lease.expires_at for lease in self.live.values())
        self.clock.advance(max(0.0, ends - self.clock.monotonic() + late))
        return self.take(None)

    @precondition(lambda self: self.live)
    @rule(target=leases, data=st.data())
    def newer_behind_one_in_flight(self, data: st.DataObject) -> Any:
        """A newer version comes while the older is in flight, which then fails."""
        lease = data.draw(st.sampled_from(list(self.live.values())))
        name = next(iter(lease.items))[0][1:]
        self.put(name, False, 10)
        self.reply(lease, 0, False, data.draw(st.sampled_from(["refused", "full", "applied"])))
        return self.linger_and_take(0.25)

    @rule()
    def crash(self) -> None:
        """The process dies, or forks: the spool still has what was not settled, in order."""
        self.queue.after_fork()
        self.live.clear()
        self.moved_behind = False
        self.before_these = set(), set()
        for number, item in self.accepted.items():
            if number not in self.left:
                assert self.queue.put(item[0], item, 10)

    @rule()
    def flush(self) -> None:
        """What is there leaves without lingering; the mark counts it down to nothing."""
        mark = self.queue.flush()
        assert self.queue.unsettled(mark) == len(self.accepted) - len(self.left)
        flying = {key for lease in self.live.values() for key in lease.items}
        waiting = {i[0] for n, i in self.accepted.items() if n not in self.left} - flying
        due = self.queue.ready_at()
        assert not waiting or (due is not None and due <= self.clock.monotonic())

    @rule()
    def settles(self) -> None:
        """With a healthy table all of it leaves, within a lease and a linger."""
        deadline = self.clock.monotonic() + SETTINGS.lease + 1
        self.queue.flush()
        calls = 0
        while len(self.queue):
            calls += 1
            assert calls < 500, "the queue runs in circles"
            due = self.queue.ready_at()
            assert due is not None
            assert due <= deadline, "the queue sticks"
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            lease = self.take(None)
            if isinstance(lease, Lease):
                self.reply(lease, 0, False, "full")
        assert set(self.left) == set(self.accepted)

    @invariant()
    def everything_is_in_one_place(self) -> None:
        assert len(self.queue) == len(self.accepted) - len(self.left)

    @invariant()
    def the_table_has_the_newest_that_was_acked(self) -> None:
        for number, how in self.left.items():
            if how == "acked":
                assert self.table[self.accepted[number][0]] >= number


RUN = settings(max_examples=300, stateful_step_count=30, deadline=None)
QueueModel.TestCase.settings = RUN
TestQueueModel = pytest.mark.slow(QueueModel.TestCase)
