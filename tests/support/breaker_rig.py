"""A circuit breaker under a clock that stands still, and what its listener heard."""

from __future__ import annotations

from typing import Any

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
