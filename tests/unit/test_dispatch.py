"""The dispatcher: what one sender is told to do, answer by answer."""

from __future__ import annotations

import random
import sys
import threading

import pytest

from receipt_dynamo.dispatch import Dispatch, Dispatcher, DispatchSettings, Settled, Wait
from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.failures import classify, classify_left
from receipt_dynamo.utils.batch_queue import BatchQueueSettings
from receipt_dynamo.utils.circuit_breaker import CircuitState
from receipt_dynamo.utils.clock import SystemClock
from tests.support.dispatch_rig import Rig, key, verdict_of
from tests.support.fake_dynamodb import client_error


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_full_batch_leaves_at_once_and_a_small_one_lingers(rig: Rig) -> None:
    """And what was acknowledged leaves the queue."""
    rig.fill(26)
    step = rig.sender.next()
    assert isinstance(step, Dispatch)
    assert list(step.items.values()) == [f"{n}" for n in range(25)]
    assert len(rig.answer([], step).acked) == 25
    assert rig.sender.next() == Wait(pytest.approx(0.2))
    rig.clock.advance(0.2)
    assert rig.answer([]).acked == ("25",)
    assert len(rig.dispatcher) == 0
    assert rig.sender.next() == Wait(1.0)


def test_what_was_left_goes_first_in_the_next_batch(rig: Rig) -> None:
    """Only the rest is acknowledged."""
    rig.fill(30)
    settled = rig.answer(["3", "20"])
    assert len(settled.acked) == 23
    assert list(rig.next().items.values())[:2] == ["3", "20"]


def test_a_lost_reply_is_asked_for_again_after_a_while(rig: Rig) -> None:
    """The same batch, its next attempt, under the same leave; the pause is within next()."""
    rig.fill(25)
    first = rig.next()
    assert rig.answer(TimeoutError(), first) == Settled(
        verdict=classify(TimeoutError(), sent=first.items)
    )
    assert rig.sender.next() == Wait(pytest.approx(0.0125))
    second = rig.next()
    assert (second.items, second.attempt) == (first.items, 2)
    assert len(rig.answer([], second).acked) == 25


def test_a_pending_retry_is_given_up_when_the_service_is_found_down(rig: Rig) -> None:
    """Its batch is in the queue at once, for the probe that comes."""
    rig.fill(50)
    other = rig.dispatcher.sender()
    rig.answer(TimeoutError())
    step = rig.next(other)
    other.answered(verdict_of(client_error("AccessDeniedException"), step))
    assert rig.state is CircuitState.OPEN
    rig.sender.next()
    assert rig.dispatcher.snapshot().queue.leases == 0
    assert len(rig.dispatcher) == 50


def test_a_pending_retry_ends_with_its_round(rig: Rig) -> None:
    """What was let go is not sent again: a newer record of its key may be in the table by now."""
    rig.put("old")
    rig.dispatcher.flush()
    rig.answer(client_error("InternalServerError", 500))
    assert rig.sender.holds_batch
    rig.dispatcher.clear()
    rig.put("new")
    rig.dispatcher.flush()
    assert list(rig.next().items.values()) == ["new"]


def test_a_reply_after_the_lease_settles_nothing(rig: Rig) -> None:
    """The batch is somebody else's by then; sent twice it counts once."""
    rig.fill(25)
    step = rig.next()
    rig.clock.advance(30.0)
    other = rig.dispatcher.sender()
    again = rig.next(other)
    assert rig.answer([], step).acked == ()
    assert len(other.answered(verdict_of([], again)).acked) == 25


def test_a_newer_record_of_a_key_takes_the_older_with_it(rig: Rig) -> None:
    """Both leave when the newer one is acknowledged."""
    rig.put("a")
    rig.dispatcher.put(key("a"), "newer", 100)
    assert rig.answer([]).acked == ("a", "newer")


def test_flush_sends_what_is_held_without_lingering(rig: Rig) -> None:
    """Its mark counts down to nothing; what comes later is not waited for."""
    rig.put("a")
    mark = rig.dispatcher.flush()
    step = rig.next(patience=0.0)
    assert rig.dispatcher.unsettled(mark) == 1
    rig.answer([], step)
    rig.put("b")
    assert rig.dispatcher.unsettled(mark) == 0


def test_a_full_queue_says_so() -> None:
    """The caller has it in the spool, and comes again."""
    rig = Rig(queue=BatchQueueSettings(capacity_items=1))
    assert rig.dispatcher.put(key("a"), "a", 1)
    assert not rig.dispatcher.put(key("b"), "b", 1)


def test_closing_a_sender_gives_its_batch_back(rig: Rig) -> None:
    """Whether it was sent or waits for its retry; closing twice does nothing."""
    rig.fill(25)
    rig.next()
    rig.sender.close()
    rig.sender.close()
    assert rig.dispatcher.snapshot().queue.leases == 0
    rig.answer(TimeoutError())
    rig.sender.close()
    assert len(rig.next().items) == 25


def test_a_sender_used_out_of_turn_says_so(rig: Rig) -> None:
    """An answer that was forgotten would hold its batch for half a minute."""
    with pytest.raises(RuntimeError, match="call next"):
        rig.sender.answered(classify_left([], sent=[key("a")]))
    rig.fill(25)
    rig.next()
    with pytest.raises(RuntimeError, match="call answered"):
        rig.sender.next()


def test_a_forked_child_starts_empty_and_knows_of_the_outage(rig: Rig) -> None:
    """What is held is the parent's to send; the service is no better in the child."""
    rig.fill(25)
    rig.answer(client_error("AccessDeniedException"))
    lock = rig.dispatcher._parts._lock
    holder = threading.Thread(target=lock.acquire)
    holder.start()
    holder.join()
    rig.dispatcher.after_fork()
    seen = rig.dispatcher.snapshot()
    assert (len(rig.dispatcher), seen.last_failure, dict(seen.answers)) == (0, None, {})
    assert seen.breaker.state is CircuitState.OPEN


def test_settings_are_checked_and_reach_the_parts() -> None:
    """One number of workers holds for breaker and limiter."""
    with pytest.raises(ConfigurationError, match=r"DispatchSettings\.workers=0"):
        DispatchSettings(workers=0)
    assert Rig(workers=7).dispatcher.snapshot().breaker.concurrency == 7
    assert repr(Rig().dispatcher).startswith("<Dispatcher <BatchQueue 0 items")


def test_threads_settle_each_record_once() -> None:
    """Four senders, many faults, a switch at every chance: none is lost, none leaves twice."""
    dispatcher: Dispatcher[int] = Dispatcher(
        DispatchSettings(queue=BatchQueueSettings(linger=0.0)), clock=SystemClock()
    )
    left: list[int] = []
    chance = random.Random(1)  # noqa: S311 - no secret
    done = threading.Event()

    def send() -> None:
        sender = dispatcher.sender()
        while not done.is_set():
            step = sender.next()
            if isinstance(step, Wait):
                done.wait(min(step.seconds, 0.002))
                continue
            drawn = chance.random()
            if drawn < 0.02:
                verdict = classify(TimeoutError(), sent=step.items)
            elif drawn < 0.1:
                verdict = classify(
                    client_error("ReplicatedWriteConflictException"), sent=step.items
                )
            else:
                verdict = classify_left(list(step.items)[:2], sent=step.items)
            if len(step.items) <= 2:
                verdict = classify_left([], sent=step.items)
            settled = sender.answered(verdict)
            left.extend((*settled.acked, *settled.parked))

    threads = [threading.Thread(target=send) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for number in range(1500):
            while not dispatcher.put(key(number % 100), number, 10):
                pass
        while len(dispatcher) and any(thread.is_alive() for thread in threads):
            done.wait(0.01)
    finally:
        sys.setswitchinterval(before)
        done.set()
        for thread in threads:
            thread.join()
    assert sorted(left) == list(range(1500))
