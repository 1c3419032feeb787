"""Many actors in one thread, under a clock that jumps: the same seed is the same run.

An actor is a generator that yields the seconds it sleeps. Real parts (breaker, queue, retry,
limiter) run unchanged in it; only the driver that would own threads is replaced.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Generator
from datetime import datetime, timedelta
from queue import SimpleQueue
from typing import Any

from tests.support import NOON

Actor = Generator[float, None, None]


def seeded(seed: int) -> random.Random:
    """Return chance that is the same for the same seed."""
    return random.Random(seed)  # noqa: S311 - no secret


class Simulation:
    """An event heap and the clock that goes with it; implements ``Clock`` for the parts."""

    def __init__(self) -> None:
        self.now_seconds = 0.0
        self._heap: list[tuple[float, int, Actor]] = []
        self._order = itertools.count()  # actors due at one moment run in the order they came

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self.now_seconds

    def cpu_time(self) -> float:
        return 0.0

    def now(self) -> datetime:
        """Return the virtual wall time."""
        return NOON + timedelta(seconds=self.now_seconds)

    def sleep(self, seconds: float) -> None:
        """Refuse: an actor yields."""
        raise AssertionError(f"a part slept {seconds} s by itself")

    def receive(self, inbox: SimpleQueue[Any], timeout: float) -> Any:
        """Refuse: an actor yields."""
        raise AssertionError("a part waited by itself")

    def start(self, actor: Actor, delay: float = 0.0) -> None:
        """Let an actor run, ``delay`` seconds from now."""
        heapq.heappush(self._heap, (self.now_seconds + delay, next(self._order), actor))

    def stop(self, actor: Actor) -> None:
        """Kill an actor where it stands."""
        self._heap = [entry for entry in self._heap if entry[2] is not actor]
        heapq.heapify(self._heap)
        actor.close()

    def delay(self, actors: list[Actor], seconds: float) -> None:
        """Let actors sleep ``seconds`` longer than they wanted to."""
        asleep = {id(actor) for actor in actors}
        self._heap = [
            (at + seconds * (id(actor) in asleep), order, actor) for at, order, actor in self._heap
        ]
        heapq.heapify(self._heap)

    def run(self, until: float) -> None:
        """Run all that is due before ``until``, and stand there."""
        while self._heap and self._heap[0][0] < until:
            self.now_seconds, _, actor = heapq.heappop(self._heap)
            try:
                pause = next(actor)
            except StopIteration:
                continue
            assert pause >= 0, f"an actor slept {pause} s"
            self.start(actor, pause)
        self.now_seconds = until
