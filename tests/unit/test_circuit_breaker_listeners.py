"""The circuit breaker as others have it: listeners, threads, children, operators."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from math import inf

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
from tests.support.breaker_rig import Rig


@pytest.fixture
def rig() -> Rig:
    """A breaker with its defaults."""
    return Rig()


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
        other.join(30)

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
