"""The circuit breaker: when it opens, for how long, and what closes it again."""

from __future__ import annotations

from math import inf

import pytest

from receipt_dynamo.utils.circuit_breaker import CircuitState, Outcome, Rejected
from tests.support.breaker_rig import LONGEST, Rig


@pytest.fixture
def rig() -> Rig:
    """A breaker with its defaults."""
    return Rig()


def test_five_failures_in_a_row_open_it_however_rare_the_calls(rig: Rig) -> None:
    """A writer of one batch a minute learns of an outage by the run, for the rate has no calls."""
    for _ in range(4):
        rig.call(Outcome.FAILURE)
        rig.clock.advance(60)
    assert rig.breaker.state is CircuitState.CLOSED
    rig.call(Outcome.FAILURE)
    assert rig.breaker.state is CircuitState.OPEN
    assert rig.heard[0].reason == "5 failures in a row"


def test_a_success_ends_the_run(rig: Rig) -> None:
    """Four failures, a success and four failures do not open it."""
    rig.call(Outcome.FAILURE, 4)
    rig.call(Outcome.SUCCESS)
    rig.call(Outcome.FAILURE, 4)
    assert rig.breaker.state is CircuitState.CLOSED


def test_half_of_ten_attempts_within_the_window_open_it(rig: Rig) -> None:
    """A partial outage shows in the rate, and only with enough attempts behind it."""
    rig.call(Outcome.SUCCESS, 5)
    rig.call(Outcome.FAILURE, 4)
    assert rig.breaker.state is CircuitState.CLOSED
    rig.call(Outcome.SUCCESS)
    rig.call(Outcome.FAILURE, 2)
    assert rig.breaker.state is CircuitState.OPEN
    assert rig.heard[0].reason == "6 of 12 attempts failed"


def test_what_is_older_than_the_window_is_forgotten(rig: Rig) -> None:
    """Eight attempts of half a minute ago lend no weight to the ninth and tenth."""
    rig.call(Outcome.SUCCESS, 4)
    rig.call(Outcome.FAILURE, 4)
    rig.clock.advance(30)
    rig.call(Outcome.SUCCESS)
    rig.call(Outcome.FAILURE)
    seen = rig.breaker.snapshot()
    assert (seen.state, seen.attempts, seen.failures) == (CircuitState.CLOSED, 2, 1)


def test_a_neutral_outcome_touches_nothing(rig: Rig) -> None:
    """A thousand throttled calls neither open it, nor end a run, nor count as attempts."""
    rig.call(Outcome.FAILURE, 4)
    rig.call(Outcome.NEUTRAL, 1000)
    seen = rig.breaker.snapshot()
    assert (seen.consecutive_failures, seen.attempts) == (4, 4)
    rig.call(Outcome.FAILURE)
    assert rig.breaker.state is CircuitState.OPEN


def test_a_fatal_outcome_opens_it_at_once_and_for_longer(rig: Rig) -> None:
    """No permission is no outage: half a minute passes before the next look."""
    permit = rig.permit()
    rig.breaker.record(permit, Outcome.FATAL, reason="AccessDeniedException")
    assert rig.heard[0].reason == "AccessDeniedException"
    assert rig.break_left() == pytest.approx(30, rel=1e-5)


def test_the_break_doubles_up_to_its_bound_and_is_drawn_between_half_and_whole() -> None:
    """5, 10, 20, 40, 60, 60 s at the longest; half of each at the shortest."""
    for chance, share in ((LONGEST, 1.0), (0.0, 0.5)):
        rig = Rig()
        rig.breaker._chance = lambda chance=chance: chance
        breaks = [rig.open()]
        for _ in range(5):
            rig.clock.advance(rig.break_left())
            rig.call(Outcome.FAILURE)
            breaks.append(rig.break_left())
        assert breaks == pytest.approx([share * s for s in (5, 10, 20, 40, 60, 60)], rel=1e-5)


def test_flapping_keeps_its_long_break(rig: Rig) -> None:
    """Closed for less than a minute, the next opening counts on; after a minute it counts anew."""
    rig.close()
    rig.clock.advance(59)
    assert rig.open() == pytest.approx(10, rel=1e-5)
    rig.clock.advance(rig.break_left())
    rig.call(Outcome.SUCCESS, 2)
    rig.clock.advance(60)
    assert rig.open() == pytest.approx(5, rel=1e-5)


def test_an_open_breaker_rejects_until_the_break_ends(rig: Rig) -> None:
    """Nobody passes before, and the answer says how long."""
    length = rig.open()
    rig.clock.advance(length - 0.5)
    assert rig.rejected().retry_after == pytest.approx(0.5)
    rig.clock.advance(0.5)
    assert rig.permit().probe


def test_one_probe_at_a_time_and_two_successes_close(rig: Rig) -> None:
    """The second caller waits for the first one's lease; one success is not enough."""
    rig.half_open()
    probe = rig.permit()
    assert rig.rejected() == Rejected(CircuitState.HALF_OPEN, 10.0)
    rig.breaker.record(probe, Outcome.SUCCESS)
    assert rig.breaker.state is CircuitState.HALF_OPEN
    rig.call(Outcome.SUCCESS)
    assert rig.breaker.state is CircuitState.CLOSED


def test_one_probe_cannot_succeed_twice(rig: Rig) -> None:
    """A probe whose result is reported again does not close the breaker by itself."""
    rig.half_open()
    probe = rig.permit()
    assert rig.breaker.record(probe, Outcome.SUCCESS)
    assert not rig.breaker.record(probe, Outcome.SUCCESS)
    assert rig.breaker.state is CircuitState.HALF_OPEN


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.FATAL])
def test_a_failed_probe_opens_it_again(rig: Rig, outcome: Outcome) -> None:
    """Also after a first success."""
    rig.half_open()
    rig.call(Outcome.SUCCESS)
    rig.call(outcome)
    assert rig.breaker.state is CircuitState.OPEN


def test_a_neutral_probe_frees_its_slot_and_moves_nothing(rig: Rig) -> None:
    """A probe that is cancelled, or whose record is refused, says nothing about the service."""
    rig.half_open()
    rig.call(Outcome.SUCCESS)
    rig.call(Outcome.NEUTRAL, 3)
    assert rig.breaker.state is CircuitState.HALF_OPEN
    rig.call(Outcome.SUCCESS)
    assert rig.breaker.state is CircuitState.CLOSED


def test_a_lost_probe_is_replaced_when_its_lease_ends_and_then_counts_no_more(rig: Rig) -> None:
    """Its late answer, good or bad, changes nothing but a counter."""
    rig.half_open()
    lost = rig.permit()
    rig.clock.advance(9.9)
    assert rig.breaker.still_valid(lost)
    rig.rejected()
    rig.clock.advance(0.1)
    assert not rig.breaker.still_valid(lost)
    new = rig.permit()
    for outcome in Outcome:
        assert not rig.breaker.record(lost, outcome)
    assert rig.breaker.snapshot().late_results == 4
    assert rig.breaker.record(new, Outcome.SUCCESS)


def test_a_result_from_before_the_outage_counts_no_more(rig: Rig) -> None:
    """A slow success of the old days does not close a half-open breaker, nor a failure open it."""
    old = rig.permit()
    rig.half_open()
    probe = rig.permit()
    rig.breaker.record(old, Outcome.SUCCESS)
    rig.breaker.record(old, Outcome.FAILURE)
    assert rig.breaker.state is CircuitState.HALF_OPEN
    assert rig.breaker.still_valid(probe)
    assert not rig.breaker.still_valid(old)


def test_a_retry_learns_that_the_breaker_has_opened(rig: Rig) -> None:
    """A permit of CLOSED holds for many attempts, and ends with the state."""
    permit = rig.permit()
    for _ in range(4):
        assert rig.breaker.still_valid(permit)
        rig.breaker.record(permit, Outcome.FAILURE)
    assert rig.breaker.still_valid(permit)
    rig.breaker.record(permit, Outcome.FAILURE)
    assert not rig.breaker.still_valid(permit)


def test_after_an_outage_the_load_comes_back_step_by_step(rig: Rig) -> None:
    """None while open, one while probing, then 1, 2, 4 and never more than the workers."""
    assert rig.breaker.concurrency == 4
    rig.open()
    assert rig.breaker.concurrency == 0
    rig.clock.advance(rig.break_left())
    seen = []
    for _ in range(5):
        rig.call(Outcome.SUCCESS)
        seen.append(rig.breaker.concurrency)
    assert seen == [1, 1, 2, 4, 4]


def test_forced_open_obeys_only_the_operator(rig: Rig) -> None:
    """No time and no result ends it; release probes at once, without any trust in advance."""
    permit = rig.permit()
    rig.breaker.release()
    rig.breaker.force_open("maintenance")
    rig.breaker.force_open("again")
    rig.clock.advance(1e6)
    assert rig.rejected() == Rejected(CircuitState.FORCED_OPEN, inf)
    assert rig.breaker.next_probe_at is None
    assert not rig.breaker.record(permit, Outcome.SUCCESS)
    rig.breaker.release()
    assert rig.permit().probe
    assert [t.reason for t in rig.heard] == ["maintenance", "released"]


def test_next_probe_at_is_when_the_driver_has_to_ask(rig: Rig) -> None:
    """Nobody else half-opens it: None when closed, the break's end, the lease's end, or now."""
    assert rig.breaker.next_probe_at is None
    rig.half_open()
    assert rig.breaker.next_probe_at == pytest.approx(rig.clock.monotonic())
    rig.permit()
    assert rig.breaker.next_probe_at == rig.clock.monotonic() + 10
    rig.clock.advance(10)
    rig.call(Outcome.NEUTRAL)
    assert rig.breaker.next_probe_at == rig.clock.monotonic()
