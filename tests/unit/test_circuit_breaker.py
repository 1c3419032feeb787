"""The circuit breaker: when it opens, for how long, and what closes it again."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from math import inf
from typing import Any

import pytest

from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.utils.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakerSettings,
    CircuitState,
    CircuitTransition,
    Outcome,
    Permit,
    Rejected,
)
from tests.support import FakeClock

LONGEST = 0.999999  # chance that draws a break of (nearly) the whole length


class Rig:
    """A breaker, its clock, and what its listener heard."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.heard: list[CircuitTransition] = []
        self.breaker = CircuitBreaker(
            CircuitBreakerSettings(**settings),
            clock=self.clock,
            chance=lambda: LONGEST,
            listeners=[self.heard.append],
        )

    def permit(self) -> Permit:
        answer = self.breaker.try_acquire()
        assert isinstance(answer, Permit), answer
        return answer

    def rejected(self) -> Rejected:
        answer = self.breaker.try_acquire()
        assert isinstance(answer, Rejected), answer
        return answer

    def call(self, outcome: Outcome, times: int = 1) -> None:
        for _ in range(times):
            assert self.breaker.record(self.permit(), outcome)

    def open(self) -> float:
        """Open it; return the length of the break."""
        self.call(Outcome.FAILURE, 5)
        return self.break_left()

    def break_left(self) -> float:
        due = self.breaker.next_probe_at
        assert due is not None
        return due - self.clock.monotonic()

    def half_open(self) -> None:
        self.open()
        self.clock.advance(self.break_left())

    def close(self) -> None:
        self.half_open()
        self.call(Outcome.SUCCESS, 2)
        assert self.breaker.state is CircuitState.CLOSED


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


def test_transitions_tell_the_whole_story_in_order(rig: Rig) -> None:
    """What happened, why, when, and how long the break is."""
    rig.close()
    assert [(t.before, t.after) for t in rig.heard] == [
        (CircuitState.CLOSED, CircuitState.OPEN),
        (CircuitState.OPEN, CircuitState.HALF_OPEN),
        (CircuitState.HALF_OPEN, CircuitState.CLOSED),
    ]
    opened = rig.heard[0]
    assert opened.until == pytest.approx(opened.at + 5, rel=1e-5)
    assert (opened.trips, rig.heard[1].until) == (1, None)
    assert [t.generation for t in rig.heard] == sorted({t.generation for t in rig.heard})


def test_a_listener_that_fails_or_calls_back_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged; what it does to the breaker is heard after what it was told."""
    heard: list[CircuitState] = []
    clock = FakeClock()

    def meddle(transition: CircuitTransition) -> None:
        if transition.after is CircuitState.OPEN:
            breaker.force_open()
        heard.append(transition.after)

    def fail(_: CircuitTransition) -> None:
        raise RuntimeError("listener")

    breaker = CircuitBreaker(clock=clock, listeners=[fail, meddle])
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            permit = breaker.try_acquire()
            assert isinstance(permit, Permit)
            breaker.record(permit, Outcome.FAILURE)
    assert heard == [CircuitState.OPEN, CircuitState.FORCED_OPEN]
    assert "a listener of the circuit breaker failed" in caplog.text


def test_no_lock_is_held_while_a_listener_runs() -> None:
    """Another thread may use the breaker while a listener waits for it."""
    answers: list[object] = []

    def listen(_: CircuitTransition) -> None:
        other = threading.Thread(target=lambda: answers.append(breaker.try_acquire()), daemon=True)
        other.start()
        other.join(5)

    breaker = CircuitBreaker(clock=FakeClock(), listeners=[listen])
    breaker.force_open()
    assert answers == [Rejected(CircuitState.FORCED_OPEN, inf)]


def test_a_forked_child_has_its_own_breaker(rig: Rig) -> None:
    """The break is kept; the parent's probe and permits mean nothing; a held lock is replaced."""
    rig.half_open()
    probe = rig.permit()
    holder = threading.Thread(target=rig.breaker._lock.acquire)
    holder.start()
    holder.join()
    rig.breaker.after_fork()
    assert not rig.breaker.record(probe, Outcome.SUCCESS)
    assert rig.permit().probe


def test_an_open_break_survives_the_fork(rig: Rig) -> None:
    """The service is no better in the child."""
    length = rig.open()
    rig.breaker.after_fork()
    assert rig.rejected().retry_after == pytest.approx(length)


def test_repr_shows_the_live_state(rig: Rig) -> None:
    """One line for a log or a debugger."""
    rig.call(Outcome.FAILURE)
    assert repr(rig.breaker) == "<CircuitBreaker closed, failures=1/1, run=1, trips=0, gen=0>"
    rig.call(Outcome.FAILURE, 4)
    assert repr(rig.breaker) == "<CircuitBreaker open for 5.0 s, trips=1, gen=1>"
    rig.clock.advance(5)
    rig.permit()
    assert repr(rig.breaker) == "<CircuitBreaker half_open, probing, trips=1, gen=3>"
    rig.breaker.force_open()
    assert repr(rig.breaker) == "<CircuitBreaker forced_open, trips=1, gen=4>"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consecutive_failures", 0),
        ("consecutive_failures", 2.5),
        ("failure_rate", 0),
        ("failure_rate", 1.1),
        ("window", float("nan")),
        ("max_break", 29.0),
        ("probe_lease", float("inf")),
        ("workers", True),
    ],
)
def test_settings_are_checked_at_once(field: str, value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(
        ConfigurationError, match=f"CircuitBreakerSettings.{field}={value!r} is not"
    ):
        CircuitBreakerSettings(**{field: value})


def test_threads_keep_the_breaker_whole() -> None:
    """Eight threads: never two probes within a lease, and every transition is heard in order."""
    clock = FakeClock()
    heard: list[CircuitTransition] = []
    breaker = CircuitBreaker(
        CircuitBreakerSettings(base_break=0.001, max_break=30.0),
        clock=clock,
        listeners=[heard.append],
    )
    live: list[int] = []
    worst = [0]

    def work(number: int) -> None:
        for turn in range(400):
            answer = breaker.try_acquire()
            if isinstance(answer, Rejected):
                clock.advance(0.01)
                continue
            if answer.probe:
                live.append(number)
                worst[0] = max(worst[0], len(live))
                live.remove(number)
            breaker.record(answer, Outcome.FAILURE if turn % 3 else Outcome.SUCCESS)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst[0] == 1
    generations = [t.generation for t in heard]
    assert generations == sorted(generations)
    assert all(a.after is b.before for a, b in pairwise(heard))
