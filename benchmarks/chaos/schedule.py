"""What a proxy does when: phases of faults in seconds after time zero, by name or from a file.

Times are seconds since ``begin``. Where no phase is, everything is healthy.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import SHARES, Faults, Latency, as_json, built_from

__all__ = ["HEALTHY", "NAMED", "SHARES", "Faults", "Latency", "Phase", "Schedule", "load"]

HEALTHY = Faults()
_ALTERNATING_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Phase:
    """``faults`` from ``start`` to ``end`` in seconds, None: for ever. Raises ValueError."""

    start: float
    end: float | None
    faults: Faults
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.start, int | float) or not 0 <= self.start < inf:
            raise ValueError(f"Phase.start is {self.start!r}. Give seconds of at least 0.")
        if self.end is None:
            return
        if not isinstance(self.end, int | float) or not self.start < self.end < inf:
            raise ValueError(f"Phase.end is {self.end!r}. Give more than {self.start}, or null.")

    @property
    def until(self) -> float:
        """The end in seconds, ``math.inf`` for one that never comes."""
        return inf if self.end is None else self.end


@dataclass(frozen=True)
class Schedule:
    """Phases in the order of time, none over another. Immutable; raises ValueError."""

    name: str
    phases: Sequence[Phase]
    text: str = ""
    _starts: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("Schedule.name is empty. Give one.")
        object.__setattr__(self, "phases", tuple(self.phases))
        end = 0.0
        for phase in self.phases:
            if phase.start < end:
                raise ValueError(
                    f"A phase of {self.name!r} starts at {phase.start:g}. "
                    f"Start it after the one before it has ended, at {end:g} or later."
                )
            end = phase.until
        object.__setattr__(self, "_starts", [phase.start for phase in self.phases])

    def at(self, seconds: float) -> Faults:
        """Return what happens to a request that arrives then."""
        index = self._index(seconds)
        return self.phases[index].faults if index is not None else HEALTHY

    def spans(self, start: float, end: float) -> Iterator[tuple[float, float, Faults]]:
        """Yield the spans from ``start`` to ``end`` in which the same faults hold, without gaps."""
        while start < end:
            index = self._index(start)
            if index is not None:
                until, faults = self.phases[index].until, self.phases[index].faults
            else:
                later = bisect_right(self._starts, start)
                until = self._starts[later] if later < len(self._starts) else inf
                faults = HEALTHY
            yield start, min(until, end), faults
            start = until

    def units(self, start: float, end: float) -> float | None:
        """Return the write units that the table's bucket gains in that span, None: no limit.

        What the bucket holds at ``start`` is not in it.
        """
        total = 0.0
        for first, last, faults in self.spans(start, end):
            if faults.table_units is None:
                return None
            total += faults.table_units * (last - first)
        return total

    def fault_windows(self) -> list[tuple[float, float, str]]:
        """Return start, end (``math.inf``: never) and label of the phases that are not healthy."""
        return [
            (phase.start, phase.until, phase.label)
            for phase in self.phases
            if not phase.faults.is_healthy
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads; numbers that are defaults are left out."""
        phases = [
            {"start": one.start, "end": one.end, "label": one.label, "faults": as_json(one.faults)}
            for one in self.phases
        ]
        return {"name": self.name, "text": self.text, "phases": phases}

    @classmethod
    def from_json(cls, value: object) -> Schedule:
        """Return the schedule of a JSON object. Raises ValueError that says what is wrong where."""
        if not isinstance(value, Mapping) or not isinstance(value.get("phases"), list):
            raise ValueError("A schedule is not an object with phases. See docs/chaos.md.")
        phases = [_phase(one, f"phases[{at}]") for at, one in enumerate(value["phases"])]
        return built_from(cls, {**value, "phases": phases}, where="The schedule")

    def _index(self, seconds: float) -> int | None:
        index = bisect_right(self._starts, seconds) - 1
        return index if index >= 0 and seconds < self.phases[index].until else None


def _phase(value: object, where: str) -> Phase:
    given = dict(value) if isinstance(value, Mapping) else value
    if isinstance(given, dict):
        faults = given.get("faults", {})
        if isinstance(faults, Mapping) and "latency" in faults:
            told = faults["latency"]
            latency = built_from(Latency, told, where=f"{where}.faults.latency")
            faults = {**faults, "latency": latency}
        given["faults"] = built_from(Faults, faults, where=f"{where}.faults")
    return built_from(Phase, given, where=where)


def load(name_or_path: str | Path) -> Schedule:
    """Return the schedule of that name, or of that file of JSON. Raises ValueError."""
    if (named := NAMED.get(str(name_or_path))) is not None:
        return named
    try:
        return Schedule.from_json(json.loads(Path(name_or_path).read_text()))
    except OSError as error:
        names = ", ".join(NAMED)
        raise ValueError(
            f"There is no schedule {str(name_or_path)!r}. Give a file, or one of {names}."
        ) from error
    except ValueError as error:
        raise ValueError(f"{name_or_path}: {error}") from error


def _milliseconds(count: float) -> Latency:
    return Latency(seconds=count / 1000)


def _alternating(*kinds: Phase) -> list[Phase]:
    """Return ``kinds`` over and over for an hour."""
    period = kinds[-1].until
    assert isfinite(period)
    return [
        Phase(first + kind.start, first + kind.until, kind.faults, kind.label)
        for first in (round(period * n, 6) for n in range(int(_ALTERNATING_SECONDS / period)))
        for kind in kinds
    ]


def _limited(units: float) -> Faults:
    return Faults(latency=_milliseconds(5), table_units=units)


_FLAKY = Faults(
    latency=Latency(p50=0.005, p99=0.05),
    lost_reply=0.15,
    reset_before=0.025,
    reset_after=0.025,
    error_500=0.05,
    partial=0.05,
    drip=0.01,
    drip_seconds=1.0,
    truncated=0.01,
    black_hole=0.002,
)

NAMED: Mapping[str, Schedule] = {
    one.name: one
    for one in (
        Schedule("healthy", [], "Nothing fails, and nothing is slower than the engine is."),
        Schedule(
            "seed",
            [
                Phase(0, 15, Faults(latency=_milliseconds(1)), "1 ms"),
                Phase(
                    15,
                    30,
                    Faults(latency=_milliseconds(10), error_500=0.05, error_503=0.05),
                    "10 ms, 10 % fail",
                ),
                Phase(
                    30,
                    60,
                    Faults(latency=_milliseconds(50), error_500=0.125, error_503=0.125),
                    "50 ms, 25 % fail",
                ),
            ],
            "A store that becomes slower and fails more: 1, 10, then 50 ms; 0, 10, then 25 %.",
        ),
        Schedule(
            "throttle",
            [Phase(0, None, _limited(1000), "1,000 units/s")],
            "A table that takes 1,000 write units a second.",
        ),
        Schedule(
            "throttle-small",
            [Phase(0, None, _limited(20), "20 units/s")],
            "A table that takes 20 write units a second.",
        ),
        Schedule(
            "throttle-square",
            _alternating(
                Phase(0, 5, _limited(800), "800 units/s"),
                Phase(5, 10, _limited(100), "100 units/s"),
            ),
            "A table that takes 800 write units a second for 5 s, then 100 for 5 s, for an hour.",
        ),
        Schedule(
            "outage",
            [
                Phase(0, 3, Faults(latency=_milliseconds(5)), "healthy"),
                Phase(3, 9, Faults(outage=True), "outage"),
                Phase(9, None, Faults(latency=_milliseconds(5)), "healthy"),
            ],
            "Every connection is reset for 6 s.",
        ),
        Schedule(
            "flaky",
            [Phase(0, None, _FLAKY, "flaky")],
            "15 % lost replies, 5 % resets, 5 % errors, 5 % partial batches, and some others.",
        ),
        Schedule(
            "expired",
            [
                Phase(0, 3, Faults(latency=_milliseconds(5)), "healthy"),
                Phase(3, 8, Faults(expired_credentials=1.0), "credentials expired"),
                Phase(8, None, Faults(latency=_milliseconds(5)), "healthy"),
            ],
            "Credentials that have expired for 5 s.",
        ),
    )
}
"""The schedules that have a name."""
