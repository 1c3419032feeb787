"""The dispatcher in an outage, throttled, or with what cannot be stored: what each costs."""

from __future__ import annotations

import pytest

from receipt_dynamo.dispatch import Dispatch, Wait
from receipt_dynamo.failures import Kind
from receipt_dynamo.utils.batch_queue import BatchQueueSettings
from receipt_dynamo.utils.circuit_breaker import CircuitState
from tests.support.dispatch_rig import THROTTLE, Rig, key, verdict_of
from tests.support.fake_dynamodb import client_error


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
