"""The dispatcher: what one sender is told to do, answer by answer."""

from __future__ import annotations

import random
import sys
import threading
from math import inf
from typing import Any

import pytest

from receipt_dynamo.dispatch import Dispatch, Dispatcher, DispatchSettings, Sender, Settled, Wait
from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.failures import Key, Kind, Verdict, classify, classify_left
from receipt_dynamo.utils.batch_queue import BatchQueueSettings
from receipt_dynamo.utils.circuit_breaker import CircuitState, CircuitTransition
from receipt_dynamo.utils.clock import SystemClock
from tests.support import FakeClock
from tests.support.fake_dynamodb import client_error

THROTTLE = "ProvisionedThroughputExceededException"


def key(name: object) -> Key:
    return "P", f"{name}"


class Rig:
    """A dispatcher under a clock that stands still, with chance that never moves."""

    def __init__(self, chance: float = 0.5, **settings: Any) -> None:
        self.clock = FakeClock()
        self.transitions: list[CircuitTransition] = []
        self.dispatcher: Dispatcher[str] = Dispatcher(
            DispatchSettings(**settings),
            clock=self.clock,
            chance=lambda: chance,
            listeners=[self.transitions.append],
        )
        self.sender = self.dispatcher.sender()

    def put(self, *names: object) -> None:
        for name in names:
            assert self.dispatcher.put(key(name), f"{name}", 100)

    def fill(self, count: int, start: int = 0) -> None:
        self.put(*range(start, start + count))

    def next(self, sender: Sender[str] | None = None, patience: float = inf) -> Dispatch[str]:
        """Wait as told until there is a batch, for ``patience`` seconds at most."""
        until = self.clock.monotonic() + patience
        while isinstance(step := (sender or self.sender).next(), Wait):
            assert 0 <= step.seconds <= 1.0
            assert self.clock.monotonic() < until, "no batch"
            self.clock.advance(max(step.seconds, 0.001))
        return step

    def answer(
        self, answer: BaseException | list[str], step: Dispatch[str] | None = None
    ) -> Settled[str]:
        """Send the next batch, and let it end by an exception or with these left."""
        step = step or self.next()
        return self.sender.answered(verdict_of(answer, step))

    @property
    def state(self) -> CircuitState:
        return self.dispatcher.snapshot().breaker.state


def verdict_of(answer: BaseException | list[str], step: Dispatch[str]) -> Verdict:
    if isinstance(answer, BaseException):
        return classify(answer, sent=step.items)
    return classify_left([key(name) for name in answer], sent=step.items)


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


def test_an_outage_costs_one_call_for_each_break(rig: Rig) -> None:
    """Five failures, then a probe when the break ends; nothing is lost, and nothing retried."""
    rig.fill(100)
    for _ in range(5):
        rig.answer(ConnectionResetError())
    assert rig.state is CircuitState.OPEN
    for probes in range(1, 6):
        before = rig.clock.monotonic()
        step = rig.next()
        assert (step.attempt, len(step.items)) == (1, 25)
        assert rig.clock.monotonic() - before >= 3.7
        rig.answer(ConnectionResetError(), step)
        assert len([t for t in rig.transitions if t.after is CircuitState.OPEN]) == probes + 1
    assert sum(len(rig.answer([]).acked) for _ in range(4)) == 100


def test_after_an_outage_senders_come_back_one_by_one(rig: Rig) -> None:
    """Two probes, one after the other; then one batch at a time, then two, then four."""
    rig.fill(250)
    senders = [rig.dispatcher.sender() for _ in range(4)]
    rig.answer(client_error("AccessDeniedException"))
    for _ in range(2):
        probe = rig.next()
        assert all(isinstance(sender.next(), Wait) for sender in senders)
        rig.answer([], probe)
    assert rig.state is CircuitState.CLOSED
    for expected in (1, 2, 4, 4):
        steps = [(sender, sender.next()) for sender in senders]
        out = [(sender, step) for sender, step in steps if isinstance(step, Dispatch)]
        assert len(out) == min(expected, 4)
        sender, step = out[0]
        sender.answered(verdict_of([], step))
        for sender, step in out[1:]:  # they bring nothing, and tell nothing of the service
            sender.answered(verdict_of(KeyboardInterrupt(), step))
        rig.clock.advance(1.0)


def test_what_hangs_from_before_an_outage_keeps_no_probe_waiting(rig: Rig) -> None:
    """The probe is the one call at a time; an old one that drips is not counted."""
    rig.fill(100)
    hanging = [rig.dispatcher.sender() for _ in range(3)]
    for sender in hanging:
        rig.next(sender)
    rig.answer(client_error("AccessDeniedException"))
    assert rig.next(patience=25.0).attempt == 1, "before the leases of the others end"


def test_throttling_paces_and_never_opens_the_breaker(rig: Rig) -> None:
    """However often the table refuses all of it; health tells whose limit it was."""
    rig.fill(25)
    for number in range(100):
        partition = "KeyRange" if number % 4 == 0 else "Provisioned"
        reasons = [{"reason": f"TableWrite{partition}ThroughputExceeded", "resource": "arn:x"}]
        rig.answer(client_error(THROTTLE, ThrottlingReasons=reasons))
    assert rig.transitions == []
    seen = rig.dispatcher.snapshot()
    assert (seen.throttled_table, seen.throttled_partition) == (75, 25)
    assert seen.limiter.rate == 0.5
    assert seen.last_failure is not None
    assert seen.last_failure.startswith("throttled (ProvisionedThroughput")


def test_the_one_bad_record_is_found_by_halving(rig: Rig) -> None:
    """It alone is dead, with DynamoDB's words; its neighbours are in the table."""
    rig.fill(25)
    acked, calls = set(), 0
    while len(rig.dispatcher):
        step = rig.next()
        calls += 1
        bad = key(13) in step.items
        settled = rig.answer(client_error("ValidationException", "odd") if bad else [], step)
        acked |= set(settled.acked)
        if settled.dead:
            assert settled.dead == ("13",)
            assert settled.verdict.message == "odd"
    assert acked == {f"{n}" for n in range(25)} - {"13"}
    assert calls <= 12
    assert rig.transitions == []


def test_a_table_that_refuses_everything_buries_three_batches_and_no_more() -> None:
    """Then it is the table: the breaker opens, and the rest is kept."""
    rig = Rig(queue=BatchQueueSettings(max_items=4))
    rig.fill(100)
    dead: list[str] = []
    for _ in range(60):
        settled = rig.answer(client_error("ValidationException", "no such key"))
        dead += settled.dead
    assert len(dead) == 12
    assert settled.verdict.kind is Kind.CONFIG
    assert rig.dispatcher.snapshot().storm == "no such key"
    assert rig.state is CircuitState.OPEN
    assert len(rig.dispatcher) == 88


def test_a_record_on_which_the_server_fails_is_parked_and_later_costs_one_call() -> None:
    """The others pass; put again it is sent alone, and parked again by its first failure."""
    rig = Rig(queue=BatchQueueSettings(max_items=4), workers=1)
    rig.fill(40)
    parked: list[str] = []
    acked: list[str] = []
    while not parked:
        if len(rig.dispatcher) < 8:
            rig.fill(8, start=40 + len(acked))
        step = rig.next(patience=600.0)
        bad = key(13) in step.items
        settled = rig.answer(client_error("InternalServerError") if bad else [], step)
        parked += settled.parked
        acked += settled.acked
    assert parked == ["13"]
    assert {f"{n}" for n in range(40)} - {*acked} == {"13"}
    rig.sender = rig.dispatcher.sender()
    while len(rig.dispatcher):
        rig.answer([])
    rig.dispatcher.put(key(13), "13", 100, alone=True)
    rig.put("new")
    step = rig.next()
    assert list(step.items) == [key(13)]
    assert rig.answer(client_error("InternalServerError"), step).parked == ("13",)


def test_a_fault_of_our_own_in_one_batch_stops_no_other() -> None:
    """It goes behind the others, its sender rests longer each time, and the breaker stays out."""
    rig = Rig(queue=BatchQueueSettings(max_items=4), workers=1)
    rig.fill(8)
    rig.answer(ZeroDivisionError("ours"))
    assert len(rig.answer([]).acked) == 4
    rests = []
    for _ in range(3):
        step = rig.next()
        rig.answer(ZeroDivisionError("ours"), step)
        rested = rig.sender.next()
        assert isinstance(rested, Wait)
        rests.append(rested.seconds)
    assert rests == sorted(rests)
    assert rests[-1] >= 0.2
    assert rig.transitions == []


def test_credentials_that_stay_expired_open_the_breaker_even_without_retries_left(
    rig: Rig,
) -> None:
    """The second time, though no retry was paid for in between."""
    rig = Rig(chance=0.0)
    rig.fill(25)
    rig.dispatcher._parts._quota._tokens = 0.0
    rig.answer(client_error("ExpiredTokenException"))
    assert rig.state is CircuitState.CLOSED
    rig.answer(client_error("ExpiredTokenException"))
    assert rig.state is CircuitState.OPEN


def test_an_interrupt_gives_the_batch_back_and_tells_the_breaker_nothing(rig: Rig) -> None:
    """Also of a probe: the next one may try at once."""
    rig.fill(25)
    rig.answer(client_error("AccessDeniedException"))
    rig.answer(KeyboardInterrupt())
    assert rig.state is CircuitState.HALF_OPEN
    assert len(rig.dispatcher) == 25
    assert len(rig.next(patience=2.0).items) == 25


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
