"""Policies that the goodput limiter is measured against, with its face, and the simulation of them.

Each paces the senders of one process. The simulation has an endless backlog; what is refused goes
first into the next batch.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from botocore.exceptions import ClientError

from receipt_dynamo.failures import classify
from receipt_dynamo.utils.chance import Chance
from receipt_dynamo.utils.clock import Clock
from receipt_dynamo.utils.goodput_limiter import (
    GoodputLimiter,
    GoodputLimiterSettings,
    Slot,
    Wait,
)
from tests.support.fake_dynamodb import FakeDynamoDB, Item, SizedItem, key_of, put_requests
from tests.support.simulation import Actor, Simulation, seeded

__all__ = ["CELLS", "POLICIES", "Cell", "Figures", "measure"]

_ROUND_TRIP = (0.010, 0.030)  # seconds, drawn for each call
_BATCH = 25


class Pacer(Protocol):
    """What a sender asks before each call, and tells after it."""

    def acquire(self) -> Slot | Wait:
        """Return leave for a batch, or how long to wait."""

    def record(
        self, slot: Slot, *, sent: int, accepted: int | None, hint: float | None = None
    ) -> float:
        """Return for how many seconds the sender pauses."""


class FullJitter:
    """The baseline, for one sender: after a refusal a uniform pause below a bound that doubles."""

    def __init__(self, chance: Chance, base: float, cap: float) -> None:
        self._chance, self._base, self._cap = chance, base, cap
        self._refusals = 0

    def acquire(self) -> Slot | Wait:
        return Slot(0, _BATCH)

    def record(
        self, slot: Slot, *, sent: int, accepted: int | None, hint: float | None = None
    ) -> float:
        if accepted == sent:
            self._refusals = 0
            return 0.0
        bound = min(self._cap, self._base * 2.0 ** min(self._refusals, 20))
        self._refusals += 1
        return self._chance() * bound


class GrowingRate:
    """An anchored rate that grows: 0.85 of the goodput on refusal, doubling growth when quiet."""

    def __init__(self, clock: Clock, chance: Chance, workers: int) -> None:
        self._clock, self._chance, self._workers = clock, chance, workers
        self._rate: float | None = None
        self._next_at = self._cut_at = self._refused_at = self._before = clock.monotonic()
        self._taken: deque[tuple[float, int]] = deque()
        self._refusals = 0

    def acquire(self) -> Slot | Wait:
        if self._rate is None:
            return Slot(0, _BATCH)
        now = self._clock.monotonic()
        if now < self._next_at:
            return Wait(self._next_at - now)
        size = max(1, min(_BATCH, int(self._rate / (2 * self._workers)) + 1))
        burst = min(_BATCH, self._rate / 4)
        self._next_at = max(self._next_at, now - burst / self._rate) + size / self._rate
        return Slot(0, size)

    def record(
        self, slot: Slot, *, sent: int, accepted: int | None, hint: float | None = None
    ) -> float:
        now = self._clock.monotonic()
        elapsed, self._before = now - self._before, now
        taken = accepted or 0
        self._taken.append((now, taken))
        while self._taken[0][0] < now - 1:
            self._taken.popleft()
        if taken == sent:
            self._refusals = 0
            if self._rate is not None:
                quiet = now - self._refused_at
                growth = min(1.0, 0.1 * 2 ** min(20.0, quiet / 0.7))
                self._rate += max(1.0, growth * self._rate) * elapsed
            return 0.0
        self._refused_at = now
        if self._rate is None or now - self._cut_at >= 0.3:
            goodput = float(sum(count for _, count in self._taken))
            rate = goodput if self._rate is None else min(goodput, self._rate)
            self._rate, self._cut_at = max(1.0, 0.85 * rate), now
        if taken:
            return 0.0
        self._refusals += 1
        return self._chance() * min(5.0, 0.05 * 2 ** min(self._refusals - 1, 20))


MakePacers = Callable[[Clock, Chance, int], list[Pacer]]
"""Make the pacers of one process, one for each of its senders (perhaps one for all)."""


def _jitter(base: float, cap: float) -> MakePacers:
    return lambda clock, chance, workers: [FullJitter(chance, base, cap) for _ in range(workers)]


def _growing(clock: Clock, chance: Chance, workers: int) -> list[Pacer]:
    return [GrowingRate(clock, chance, workers)] * workers


def _limiter(clock: Clock, chance: Chance, workers: int) -> list[Pacer]:
    settings = GoodputLimiterSettings(workers=workers)
    return [GoodputLimiter(settings, clock=clock, chance=chance)] * workers


BASELINE = "full jitter, base 1 s, cap 5 s"
LIMITER = "goodput limiter"
POLICIES: dict[str, MakePacers] = {
    "full jitter, base 50 ms, cap 20 s": _jitter(0.05, 20.0),
    BASELINE: _jitter(1.0, 5.0),
    "anchored rate that grows": _growing,
    LIMITER: _limiter,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A table and who writes to it. ``steps`` are (from when, write units a second)."""

    processes: int
    workers: int
    steps: tuple[tuple[float, float], ...]

    def capacity(self, seconds: float) -> float:
        """Return how many units come within ``seconds``, the first burst apart."""
        edges = [start for start, _ in self.steps[1:] if start < seconds]
        starts = [0.0, *edges]
        ends = [*edges, seconds]
        rates = [rate for _, rate in self.steps]
        return sum(
            rate * (end - start)
            for rate, start, end in zip(rates[: len(starts)], starts, ends, strict=True)
        )


_SQUARE = tuple((10.0 * n, 100.0 if n % 2 else 800.0) for n in range(100))
CELLS: dict[str, Cell] = {
    "4 x 4, steady 1000": Cell(4, 4, ((0.0, 1000.0),)),
    "4 x 4, steady 20": Cell(4, 4, ((0.0, 20.0),)),
    "4 x 4, 1000, 200, 1000": Cell(4, 4, ((0.0, 1000.0), (40.0, 200.0), (80.0, 1000.0))),
    "4 x 4, 10 s of 800, of 100": Cell(4, 4, _SQUARE),
    "1 x 1, steady 20": Cell(1, 1, ((0.0, 20.0),)),
    "1 x 4, steady 20": Cell(1, 4, ((0.0, 20.0),)),
    "16 x 2, steady 1000": Cell(16, 2, ((0.0, 1000.0),)),
}
"""Processes x senders, and the table's write units a second."""


@dataclass(frozen=True, slots=True)
class Figures:
    """``goodput``: accepted as a share of the capacity; ``efficiency``: of what was sent."""

    goodput: float
    efficiency: float
    calls: float


def measure(
    make: MakePacers, cell: Cell, *, seconds: float = 120.0, seeds: int = 3, burst: float = 1.0
) -> Figures:
    """Return the mean figures of ``seeds`` runs of ``seconds`` virtual time each."""
    runs = [_run(make, cell, seconds, seed, burst) for seed in range(seeds)]
    return Figures(
        sum(run.goodput for run in runs) / seeds,
        sum(run.efficiency for run in runs) / seeds,
        sum(run.calls for run in runs) / seeds,
    )


def _run(make: MakePacers, cell: Cell, seconds: float, seed: int, burst: float) -> Figures:
    simulation = Simulation()
    chance = seeded(seed)
    table = FakeDynamoDB(
        simulation, capacity=cell.steps, burst=burst, seed=seed, keep_history=False
    )
    numbers = iter(range(1 << 40))
    for _ in range(cell.processes):
        backlog: deque[Item] = deque()
        for pacer in make(simulation, chance.random, cell.workers):
            sender = _send(pacer, table, backlog, numbers, chance)
            simulation.start(sender, chance.uniform(0, 0.05))
    simulation.run(seconds)
    return Figures(
        table.taken / cell.capacity(seconds), table.taken / table.sent, float(table.calls)
    )


def _make_item(number: int) -> Item:
    """Return an item of one write unit; hundreds of thousands are made."""
    item = SizedItem(PK={"S": "U#openai"}, SK={"S": f"{number}"})
    item.size = 100
    return item


def _send(
    pacer: Pacer,
    table: FakeDynamoDB,
    backlog: deque[Item],
    numbers: Iterator[int],
    chance: random.Random,
) -> Actor:
    """One sender: asks, waits, sends, tells, pauses."""
    while True:
        slot = pacer.acquire()
        if isinstance(slot, Wait):
            yield slot.seconds
            continue
        while len(backlog) < slot.size:
            backlog.append(_make_item(next(numbers)))
        batch = [backlog.popleft() for _ in range(slot.size)]
        half = chance.uniform(*_ROUND_TRIP) / 2
        yield half
        sent = [key_of(item) for item in batch]
        answer: object
        try:
            answer = table.batch_write_item(**put_requests(batch))
        except ClientError as error:
            answer = error
        yield half
        verdict = classify(answer, sent=sent)
        backlog.extendleft(i for i in reversed(batch) if key_of(i) in verdict.unprocessed)
        yield pacer.record(slot, sent=len(sent), accepted=verdict.accepted)
