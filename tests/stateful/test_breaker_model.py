"""A model of the breaker: any order of calls, results late or lost, and time.

A random walk seldom opens the breaker by failures alone, and never asks at the very edge of a break
or of a lease. The macro rules go there on purpose: of the twelve broken breakers in
tests/support/part_mutants.py, four live through 300 examples without them, five of the queues.
"""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)

from receipt_dynamo.utils.circuit_breaker import (
    CircuitBreaker,
    CircuitState,
    CircuitTransition,
    Outcome,
    Permit,
    Rejected,
)
from tests.support import FakeClock
from tests.support.simulation import seeded

CLOSED, OPEN, HALF_OPEN, FORCED = (
    CircuitState.CLOSED,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
    CircuitState.FORCED_OPEN,
)
LEGAL = {
    (CLOSED, OPEN),
    (OPEN, HALF_OPEN),
    (HALF_OPEN, CLOSED),
    (HALF_OPEN, OPEN),
    (CLOSED, FORCED),
    (OPEN, FORCED),
    (HALF_OPEN, FORCED),
    (FORCED, HALF_OPEN),
}
OUTCOMES = st.sampled_from(list(Outcome))
LEASE, WINDOW, WIDTH = 10.0, 30.0, 3.0


class BreakerModel(RuleBasedStateMachine):
    """What the breaker may do, told apart from how it does it.

    ``epoch`` grows with each transition and each probe: a permit of an older one is stale.
    """

    permits = Bundle("permits")
    breaker_class: ClassVar[type[CircuitBreaker]] = CircuitBreaker

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.seen: list[CircuitTransition] = []
        self.state = CLOSED
        self.epoch = 0
        self.probe_until: float | None = None  # of the live probe
        self.successes = 0  # of probes, in a row
        self.run = 0
        self.attempts: list[tuple[float, bool]] = []
        self.trips = 0
        self.closed_since = -inf
        self.open_until = inf
        self.breaker = self.breaker_class(
            clock=self.clock, chance=seeded(7).random, listeners=[self._heard]
        )

    def _heard(self, transition: CircuitTransition) -> None:
        now = self.clock.monotonic()
        assert transition.before is self.state, "a transition from nowhere"
        assert (transition.before, transition.after) in LEGAL
        self.seen.append(transition)
        self.state = transition.after
        self.epoch += 1
        self.probe_until = None
        self.successes = 0
        if transition.after is CLOSED:
            self.run, self.attempts, self.closed_since = 0, [], now
        if transition.after is OPEN:
            assert transition.until is not None
            stable = transition.before is CLOSED and now - self.closed_since >= 60
            self.trips = 1 if stable else self.trips + 1
            self.open_until = transition.until

    def _call(self) -> list[CircuitTransition]:
        """Forget the transitions so far; what a rule causes is then in the returned list."""
        self.seen = []
        return self.seen

    # acquiring

    @rule(target=permits)
    def acquire(self) -> Any:
        caused, before, now = self._call(), self.state, self.clock.monotonic()
        answer = self.breaker.try_acquire()
        live = self.probe_until is not None and now < self.probe_until
        if before is CLOSED:
            assert isinstance(answer, Permit), "CLOSED refused"
            assert not answer.probe
            assert caused == []
        elif before is FORCED:
            assert isinstance(answer, Rejected)
        elif before is OPEN and now < self.open_until:
            assert isinstance(answer, Rejected), "admitted before the break ended"
            assert answer.retry_after == pytest.approx(self.open_until - now)
        elif before is HALF_OPEN and live:
            assert isinstance(answer, Rejected), "two live probes"
        else:
            assert isinstance(answer, Permit), "nobody may probe"
            assert answer.probe
            assert self.state is HALF_OPEN
        if isinstance(answer, Rejected):
            assert caused == []
            return multiple()
        if answer.probe:
            self.epoch += 1
            self.probe_until = now + LEASE
        return answer, self.epoch

    # results, of any permit that was ever given, as often as may be

    @rule(permit=permits, outcome=OUTCOMES)
    def finish(self, permit: tuple[Permit, int], outcome: Outcome) -> None:
        self._finish(permit, outcome)

    def _finish(self, given: tuple[Permit, int], outcome: Outcome) -> None:
        permit, epoch = given
        caused, now = self._call(), self.clock.monotonic()
        stale = epoch != self.epoch or (permit.probe and self.probe_until is None)
        successes = self.successes
        if not stale and not permit.probe and outcome in (Outcome.SUCCESS, Outcome.FAILURE):
            self.attempts.append((now, outcome is Outcome.FAILURE))
            self.run = self.run + 1 if outcome is Outcome.FAILURE else 0
        counted = self.breaker.record(permit, outcome)
        assert counted is not stale
        states = [t.after for t in caused]
        if stale or outcome is Outcome.NEUTRAL:
            assert states == [], "what tells nothing moved the state"
            if not stale and permit.probe:
                self.probe_until = None
        elif outcome is Outcome.FATAL:
            assert states == [OPEN]
            self._check_break(30, now)
        elif permit.probe:
            self._check_probe(outcome, successes, states, now)
        else:
            self._check_trip(states, now)

    def _check_probe(
        self, outcome: Outcome, successes: int, states: list[CircuitState], now: float
    ) -> None:
        if outcome is Outcome.FAILURE:
            assert states == [OPEN]
            self._check_break(5, now)
        elif successes == 1:
            assert states == [CLOSED]
        else:
            assert states == [], "one success closed it"
            self.successes, self.probe_until = 1, None

    def _check_trip(self, states: list[CircuitState], now: float) -> None:
        def rate(seconds: float) -> bool:
            recent = [failed for at, failed in self.attempts if now - at <= seconds]
            return len(recent) >= 10 and sum(recent) >= len(recent) / 2

        failed = bool(self.attempts) and self.run > 0
        if states:
            assert states == [OPEN]
            assert failed, "opened without a failure"
            shares = [WINDOW - WIDTH + step * WIDTH / 4 for step in range(5)]
            assert self.run >= 5 or any(rate(seconds) for seconds in shares)
            self._check_break(5, now)
        else:
            assert self.run < 5

    def _check_break(self, base: float, now: float) -> None:
        longest = min(60, base * 2 ** (self.trips - 1))
        assert longest / 2 <= self.open_until - now <= longest + 1e-6

    # time, and an operator

    @rule(seconds=st.sampled_from([0.001, 0.5, 3.0, 29.9, 60.0, 600.0]))
    def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(force=st.booleans())
    def operator(self, force: bool) -> None:
        caused = self._call()
        if force:
            self.breaker.force_open()
            assert self.state is FORCED
        else:
            was = self.state
            self.breaker.release()
            assert [t.after for t in caused] == ([HALF_OPEN] if was is FORCED else [])

    # macro rules: go where a random walk seldom comes

    @precondition(lambda self: self.state is CLOSED)
    @rule(target=permits)
    def outage(self) -> Any:
        """The service fails until the breaker opens; a permit of before stays out."""
        old = self.acquire_given()
        while self.state is CLOSED:
            self._finish(self.acquire_given(), Outcome.FAILURE)
        return old

    def acquire_given(self) -> tuple[Permit, int]:
        given = self.acquire()
        assert isinstance(given, tuple)
        return given

    @precondition(lambda self: self.state is OPEN)
    @rule(target=permits, late=st.sampled_from([-0.1, 0.0, 0.1]))
    def break_ends(self, late: float) -> Any:
        """Somebody asks just before, at, or just after the end of the break."""
        self.clock.advance(max(0.0, self.open_until - self.clock.monotonic() + late))
        return self.acquire()

    @precondition(lambda self: self.probe_until is not None)
    @rule(target=permits, late=st.sampled_from([-0.1, 0.0, 0.1]))
    def lease_edge(self, late: float) -> Any:
        """Somebody asks just before, at, or just after the end of the live probe's lease."""
        assert self.probe_until is not None
        self.clock.advance(max(0.0, self.probe_until - self.clock.monotonic() + late))
        return self.acquire()

    @precondition(lambda self: self.state is OPEN)
    @rule(target=permits)
    def probe_is_cancelled(self) -> Any:
        """The break ends, a probe comes to nothing, and the next caller asks at once."""
        given = self.break_ends(0.1)
        self._finish(given, Outcome.NEUTRAL)
        return self.acquire()

    @precondition(lambda self: self.state is not FORCED)
    @rule()
    def recovers(self) -> None:
        """From any state a healthy service closes it: within a break, a lease and two probes."""
        deadline = self.clock.monotonic() + 60 + LEASE + 1
        while self.state is not CLOSED:
            due = self.breaker.next_probe_at
            assert due is not None
            assert due <= deadline, "the breaker sticks"
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            self._finish(self.acquire_given(), Outcome.SUCCESS)

    @invariant()
    def the_public_state_is_the_models(self) -> None:
        assert self.breaker.state is self.state
        assert {OPEN: 0, FORCED: 0, HALF_OPEN: 1}.get(self.state, self.breaker.concurrency) == (
            self.breaker.concurrency
        )


BreakerModel.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestBreakerModel = pytest.mark.slow(BreakerModel.TestCase)
