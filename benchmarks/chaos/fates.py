"""What becomes of each request: the draws, the buckets and the schedule, without I/O.

Each write takes three numbers of a generator of its own (which fault, how large a part, which
part), each request one of another (its latency), whatever the schedule says. So the same seed and
the same requests, arriving at the same times in the same order, meet the same fates. Requests of
several connections race: then the n-th write to arrive meets the n-th fate, whichever it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from benchmarks.chaos.buckets import Capacity
from benchmarks.chaos.faults import NONE
from benchmarks.chaos.schedule import Schedule
from benchmarks.chaos.writes import WRITES, Item, Write, read_write, without

__all__ = ["BEFORE", "OUTAGE", "PARTIAL", "THROTTLED", "Fate", "Fates"]

OUTAGE, PARTIAL, THROTTLED = "outage", "partial", "throttled"
BEFORE = frozenset(
    {OUTAGE, "error_500", "error_503", "reset_before", "black_hole", "expired_credentials"}
)
"""The faults of which the engine never learns."""


@dataclass(slots=True)
class Fate:
    """What becomes of one request.

    ``hold``: seconds from its arrival before which it gets no reply. ``held_back``: which items of
    the write the engine does not get, though it gets the others. ``refused``: reason and table of
    the limit that nothing was accepted for.
    """

    fault: str = NONE
    hold: float = 0.0
    drip_seconds: float = 0.0
    write: Write | None = None
    held_back: list[int] = field(default_factory=list)
    units: int = 0
    refused: tuple[str, str] | None = None

    @property
    def reaches_engine(self) -> bool:
        """Whether the engine gets any of it."""
        return self.fault not in BEFORE and self.refused is None


class Fates:
    """Decides what becomes of each request. Not thread-safe."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._schedule = schedule
        self._capacity = Capacity(schedule)
        self._of_writes = Random(f"writes {seed}")  # noqa: S311
        self._of_all = Random(f"all {seed}")  # noqa: S311

    def replace(self, schedule: Schedule) -> None:
        """Go by another schedule from now on; its buckets start anew, the draws go on."""
        self._schedule = schedule
        self._capacity = Capacity(schedule)

    def decide(self, operation: str, body: bytes, seconds: float) -> Fate:
        """Return what becomes of a request that arrives ``seconds`` after time zero."""
        faults = self._schedule.at(seconds)
        fate = Fate(hold=faults.latency.draw(self._of_all), drip_seconds=faults.drip_seconds)
        if operation in WRITES:
            write = fate.write = read_write(operation, body)
            random = self._of_writes
            fault, size, part = random.random(), random.random(), random.random()
            fate.fault = faults.strike(fault)
            if fate.fault == PARTIAL:
                fate.held_back = _part(write, size, Random(part))  # noqa: S311
                fate.fault = PARTIAL if fate.held_back else NONE
        if faults.outage:
            return Fate(OUTAGE, write=fate.write)
        if fate.write is not None and fate.reaches_engine:
            self._charge(fate, fate.write, seconds)
        return fate

    def _charge(self, fate: Fate, write: Write, seconds: float) -> None:
        """Take the units of what is let through; hold back what there are none for."""
        reason: tuple[str, str] | None = None
        taken: list[Item] = []
        for index in without(len(write.items), fate.held_back):
            item = write.items[index]
            refusal = self._capacity.refusal(item, seconds)
            if refusal is None:
                taken.append(item)
                continue
            reason = reason or (refusal, item.table)
            if not write.is_batch:
                self._capacity.give_back(taken)
                taken = []
                break
            fate.held_back.append(index)
        fate.units = sum(item.units for item in taken)
        if reason is not None:
            fate.fault = THROTTLED if fate.fault == NONE or not taken else fate.fault
            fate.refused = None if taken else reason
            fate.held_back = sorted(fate.held_back) if taken else []


def _part(write: Write, size: float, random: Random) -> list[int]:
    """Return which items of a batch to hold back: at least one, and not all of them."""
    count = len(write.items)
    if not write.is_batch or count < 2:
        return []
    return sorted(random.sample(range(count), 1 + int(size * (count - 1))))
