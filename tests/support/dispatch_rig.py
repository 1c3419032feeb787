"""A dispatcher under a clock that stands still, for the tests of what it decides."""

from __future__ import annotations

from math import inf
from typing import Any

from receipt_dynamo.dispatch import Dispatch, Dispatcher, DispatchSettings, Sender, Settled, Wait
from receipt_dynamo.failures import Key, Verdict, classify, classify_left
from receipt_dynamo.utils.circuit_breaker import CircuitState, CircuitTransition
from tests.support import FakeClock

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
