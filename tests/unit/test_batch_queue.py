"""The batch queue: what makes a batch, what is never in one, and where things go that come back."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.utils.batch_queue import (
    BatchQueue,
    BatchQueueSettings,
    Lease,
    Reentry,
    Settlement,
)
from tests.support import FakeClock

Queue = BatchQueue[str, str]


class Rig:
    """A queue without jitter, and its clock."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.queue: Queue = BatchQueue(
            BatchQueueSettings(**settings), clock=self.clock, chance=lambda: 0.5
        )

    def put(self, *keys: str, version: int = 1, size: int = 600) -> None:
        for key in keys:
            assert self.queue.put(key, f"{key}{version}", size)

    def take(self, max_items: int | None = None) -> Lease[str, str]:
        """Take a batch, lingering if need be."""
        lease = self.queue.take(max_items)
        if lease is None:
            self.clock.advance(0.2)
            lease = self.queue.take(max_items)
        assert lease is not None
        return lease

    def sent(self) -> list[str]:
        return list(self.take().items.values())


@pytest.fixture
def rig() -> Rig:
    """A queue with its defaults."""
    return Rig()


def keys(count: int) -> list[str]:
    return [f"k{number:02}" for number in range(count)]


def test_a_batch_is_ready_with_25_items_at_once(rig: Rig) -> None:
    """Under load nothing lingers, and no batch is larger than DynamoDB takes."""
    rig.put(*keys(24))
    assert rig.queue.take() is None
    rig.put("last", "next")
    lease = rig.queue.take()
    assert lease is not None
    assert list(lease.items) == [*keys(24), "last"]
    assert rig.queue.take() is None


def test_a_batch_is_ready_with_a_mebibyte() -> None:
    """Bytes bound a batch as well; one item larger than that goes alone."""
    rig = Rig(max_bytes=1000)
    rig.put("a", "b", size=400)
    assert rig.queue.take() is None
    rig.put("c", size=400)
    assert rig.sent() == ["a1", "b1"]
    rig.put("huge", size=5000)
    assert rig.sent() == ["c1"]
    assert rig.sent() == ["huge1"]


def test_a_lone_item_lingers_and_then_goes(rig: Rig) -> None:
    """200 ms after it came, not after the last one came."""
    rig.put("a")
    rig.clock.advance(0.15)
    rig.put("b")
    assert rig.queue.ready_at() == pytest.approx(rig.clock.monotonic() + 0.05)
    rig.clock.advance(0.051)
    assert rig.sent() == ["a1", "b1"]


def test_the_linger_is_spread_by_a_tenth() -> None:
    """Processes that started together do not send together."""
    for chance, linger in ((0.0, 0.18), (0.999999, 0.22)):
        clock = FakeClock()
        queue: Queue = BatchQueue(clock=clock, chance=lambda chance=chance: chance)
        queue.put("a", "a", 1)
        assert queue.ready_at() == pytest.approx(clock.monotonic() + linger)


def test_the_caller_may_want_smaller_batches(rig: Rig) -> None:
    """A limiter's batch is ready with the limiter's number of items."""
    rig.put("a", "b", "c")
    assert list(rig.take(2).items) == ["a", "b"]
    assert rig.queue.take(2) is None
    assert list(rig.take(0).items) == ["c"]


def test_no_key_is_twice_in_a_batch_and_both_are_settled(rig: Rig) -> None:
    """A newer item takes the place of the one that waits; its ack is the older one's too."""
    rig.put("a", "b")
    rig.put("a", version=2, size=700)
    lease = rig.take()
    assert lease.items == {"a": "a2", "b": "b1"}
    assert rig.queue.settle(lease, acked=["b", "a"]) == Settlement(acked=("b1", "a1", "a2"))
    assert len(rig.queue) == 0


def test_no_key_is_in_two_batches_in_flight(rig: Rig) -> None:
    """What comes under a key in flight waits until that is settled, whatever else goes."""
    rig.put("a")
    lease = rig.take()
    rig.put("a", version=2)
    rig.put("a", version=3)
    rig.put("b")
    other = rig.take()
    assert other.items == {"b": "b1"}
    assert rig.queue.snapshot().muted == 1
    assert rig.queue.settle(lease, acked=["a"]).acked == ("a1",)
    lease = rig.take()
    assert lease.items == {"a": "a3"}
    assert rig.queue.settle(lease, acked=["a"]).acked == ("a2", "a3")


def test_what_comes_back_is_superseded_by_what_came_meanwhile(rig: Rig) -> None:
    """An older version is never sent after a newer one, nor beside it."""
    rig.put("a")
    lease = rig.take()
    rig.put("a", version=2)
    rig.queue.settle(lease)
    lease = rig.take()
    assert lease.items == {"a": "a2"}
    assert rig.queue.settle(lease, acked=["a"]).acked == ("a1", "a2")


def test_what_comes_back_goes_to_the_front_in_its_old_order(rig: Rig) -> None:
    """Two batches that fail in any order are sent again as they were."""
    rig.put(*keys(60))
    first, second = rig.take(), rig.take()
    rig.queue.settle(second, acked=["k30"])
    rig.queue.settle(first, acked=["k10"])
    again = [*rig.take().items, *rig.take().items, *rig.take().items]
    assert again == [key for key in keys(60) if key not in ("k10", "k30")]


def test_what_goes_behind_lets_the_others_pass(rig: Rig) -> None:
    """A batch that failed a probe is not the next probe, if there is another."""
    rig.put(*keys(30))
    failed = rig.take()
    rig.queue.settle(failed, rest=Reentry.BEHIND)
    assert list(rig.take().items) == [*keys(30)[25:], *keys(20)]


def test_halves_are_sent_apart_until_the_bad_one_is_alone(rig: Rig) -> None:
    """Poison among 25 is found with 11 calls, and the other 24 are delivered."""
    rig.put(*keys(25))
    calls, delivered, dead = 0, [], []
    while len(rig.queue):
        lease = rig.take()
        calls += 1
        assert (lease.family, lease.family_size) == (1, 25)
        if "k07" not in lease.items:
            delivered += rig.queue.settle(lease, acked=lease.items).acked
        elif len(lease.items) > 1:
            rig.queue.settle(lease, rest=Reentry.SPLIT)
        else:
            dead += rig.queue.settle(lease, dead=lease.items).dead
    assert dead == ["k071"]
    assert sorted(delivered) == [f"{key}1" for key in keys(25) if key != "k07"]
    assert calls == 11


def test_a_split_part_is_not_topped_up(rig: Rig) -> None:
    """A suspect half is sent with no innocent others, and a suspect alone stays alone."""
    rig.put("a", "b", "c")
    rig.queue.settle(rig.take(), rest=Reentry.SPLIT)
    rig.put(*keys(30))
    half = rig.take()
    assert list(half.items) == ["a", "b"]
    rig.queue.settle(half)
    half = rig.take()
    assert list(half.items) == ["a", "b"]
    rig.queue.settle(half, acked=["a"])
    alone = rig.take()
    assert list(alone.items) == ["b"]
    rig.queue.settle(alone, rest=Reentry.SPLIT)
    assert list(rig.take().items) == ["b"]


def test_a_lease_that_is_not_settled_is_taken_back(rig: Rig) -> None:
    """A hanging sender delays its batch by 30 s; its late ack is not believed."""
    rig.put("a")
    lease = rig.take()
    assert rig.queue.ready_at() == lease.expires_at
    rig.clock.advance(29.9)
    assert rig.queue.take() is None
    rig.clock.advance(0.1)
    again = rig.take()
    assert again.items == {"a": "a1"}
    assert rig.queue.settle(lease, acked=["a"]) == Settlement(late=True)
    assert len(rig.queue) == 1
    assert rig.queue.settle(again, acked=["a"]).acked == ("a1",)
    seen = rig.queue.snapshot()
    assert (seen.expired_leases, seen.late_settlements) == (1, 1)


def test_the_caller_can_ask_which_keys_there_are(rig: Rig) -> None:
    """Waiting or in flight; a newer version of one that is in flight is no other key."""
    rig.put("a", "b")
    assert sorted(rig.queue.keys()) == ["a", "b"]
    rig.take(1)
    second = rig.take()
    rig.put("a", version=2)
    assert sorted(rig.queue.keys()) == ["a", "b"]
    rig.queue.settle(second, acked=["b"])
    assert rig.queue.keys() == ["a"]


def test_an_item_may_be_sent_alone(rig: Rig) -> None:
    """In its turn, without lingering: a suspect should fail in nobody else's batch."""
    rig.put("a")
    for key in ("b", "c"):
        rig.queue.put(key, f"{key}1", 100, alone=True)
    rig.put("d")
    assert rig.take().items == {"a": "a1"}
    leases = [rig.queue.take() for _ in range(3)]
    assert [lease and (dict(lease.items), lease.family_size) for lease in leases] == [
        ({"b": "b1"}, 1),
        ({"c": "c1"}, 1),
        ({"d": "d1"}, 1),
    ]


def test_no_more_batches_fly_than_the_caller_allows(rig: Rig) -> None:
    """For a service that comes back by steps; a batch whose lease ran out flies no more."""
    rig.put("a", "b", "c")
    rig.take(1)
    rig.queue.flush()
    assert rig.queue.take(1, max_leases=1) is None
    assert rig.queue.take(1, max_leases=2) is not None
    assert rig.queue.take(1, max_leases=0) is None
    rig.clock.advance(30.0)
    assert rig.queue.take(1, max_leases=1) is not None


def test_flush_makes_ready_what_is_there_and_counts_only_that(rig: Rig) -> None:
    """What is put later lingers on, and is not waited for."""
    rig.put("a", "b")
    mark = rig.queue.flush()
    assert rig.queue.unsettled(mark) == 2
    lease = rig.queue.take()
    assert lease is not None
    rig.put("c")
    rig.queue.settle(lease, acked=["a"])
    assert rig.queue.unsettled(mark) == 1
    lease = rig.queue.take()
    assert lease is not None
    rig.queue.settle(lease, acked=lease.items)
    assert rig.queue.unsettled(mark) == 0
    rig.put("d")
    assert rig.queue.take() is None


def test_a_flush_waits_for_the_newer_item_that_stands_for_an_older_one(rig: Rig) -> None:
    """The older one is not in the table before the newer one is."""
    rig.put("a")
    mark = rig.queue.flush()
    rig.put("a", version=2)
    assert rig.queue.unsettled(mark) == 1
    rig.queue.settle(rig.take(), acked=["a"])
    assert rig.queue.unsettled(mark) == 0


@pytest.mark.parametrize("settings", [{"capacity_items": 3}, {"capacity_bytes": 1800}])
def test_a_full_queue_says_so_and_is_ready(settings: dict[str, int]) -> None:
    """The reader stops, and what is there leaves without lingering; in flight still counts."""
    rig = Rig(**settings)
    rig.put("a", "b", "c")
    assert not rig.queue.has_room(600)
    assert not rig.queue.put("d", "d", 600)
    lease = rig.queue.take()
    assert lease is not None
    assert not rig.queue.put("d", "d", 600)
    rig.queue.settle(lease, acked=["a"])
    assert rig.queue.put("d", "d", 600)


def test_an_empty_queue_takes_what_is_larger_than_itself() -> None:
    """Such an item still has to leave."""
    rig = Rig(capacity_bytes=1000)
    rig.put("huge", size=5000)
    assert rig.sent() == ["huge1"]


def test_a_dead_item_takes_those_along_that_it_superseded(rig: Rig) -> None:
    """None of them is in the table, so none of them may be forgotten."""
    rig.put("a")
    rig.put("a", version=2)
    lease = rig.take()
    rig.put("a", version=3)
    assert rig.queue.settle(lease, dead=["a"]) == Settlement(dead=("a1", "a2"))
    assert rig.sent() == ["a3"]


def test_settling_what_was_not_leased_is_refused(rig: Rig) -> None:
    """A reply about a key that was not sent is a fault of the caller's to hear of."""
    rig.put("a")
    lease = rig.take()
    with pytest.raises(ValueError, match="key 'b' is not of lease 1"):
        rig.queue.settle(lease, acked=["b"])
    with pytest.raises(ValueError, match="key 'a' cannot be both"):
        rig.queue.settle(lease, acked=["a"], dead=["a"])
    assert rig.queue.settle(lease, acked=["a", "a"]).acked == ("a1",)


def test_an_empty_queue_is_never_ready(rig: Rig) -> None:
    """None, so that the driver waits for a put instead of a time."""
    assert rig.queue.ready_at() is None
    assert rig.queue.take() is None


def test_a_forked_child_starts_empty(rig: Rig) -> None:
    """What the copy holds is the parent's to send, also when its lock was held."""
    rig.put("a", "b")
    lease = rig.take(1)
    rig.put("a", version=2)
    holder = threading.Thread(target=rig.queue._lock.acquire)
    holder.start()
    holder.join()
    rig.queue.after_fork()
    assert (len(rig.queue), rig.queue.ready_at()) == (0, None)
    assert rig.queue.settle(lease, acked=["a"]).late
    rig.put("a", version=3)
    assert rig.sent() == ["a3"]


def test_repr_and_snapshot_show_the_live_state(rig: Rig) -> None:
    """Counts, bytes and the age of the oldest."""
    rig.put("a", "b")
    rig.take(1)
    rig.put("a", version=2)
    rig.clock.advance(1)
    assert repr(rig.queue) == "<BatchQueue 3 items, 1800 bytes, 1 in flight in 1 leases, 1 muted>"
    assert rig.queue.snapshot().oldest_seconds == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_items", 0), ("max_bytes", 1.5), ("linger", -1), ("linger_jitter", 2), ("lease", 0)],
)
def test_settings_are_checked_at_once(field: str, value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(ConfigurationError, match=f"BatchQueueSettings.{field}={value!r} is not"):
        BatchQueueSettings(**{field: value})


def test_threads_settle_each_item_once() -> None:
    """Four putters and four senders, some of whom fail: nothing is lost, nothing comes twice."""
    queue: BatchQueue[str, str] = BatchQueue(BatchQueueSettings(linger=0.0, capacity_items=500))
    settled: list[str] = []
    left = threading.Semaphore(0)

    def put(name: int) -> None:
        for number in range(500):
            while not queue.put(f"{number % 50}", f"{name}.{number}", 10):
                pass
        left.release()

    def send(name: int) -> None:
        turn = name
        while left._value < 4 or len(queue):
            lease = queue.take()
            if lease is None:
                continue
            turn += 1
            acked = list(lease.items)[:: 2 if turn % 3 == 0 else 1]
            settled.extend(queue.settle(lease, acked=acked).acked)

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(settled) == sorted(f"{name}.{n}" for name in range(4) for n in range(500))
