"""A long run at a steady rate, with a bad minute now and then: is everything flat?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.running import RunningProxy
from benchmarks.chaos.schedule import Faults, Latency, Phase, Schedule
from benchmarks.stress.crew import Crew
from benchmarks.stress.measures import Evidence, ages
from benchmarks.stress.profiles import OURS, SOAK, Profile
from benchmarks.stress.thresholds import Check

__all__ = ["Sampler", "soak_profile"]

_RATE, _WORKERS = 50.0, 2  # calls a second of each worker
_CYCLE_SECONDS = 600.0
_HEALTHY = Latency(seconds=0.005)
_BAD_MINUTES = (
    (120.0, "15 % lost replies, 5 % errors", {"lost_reply": 0.15, "error_500": 0.05}),
    (240.0, "50 write units/s", {"table_units": 50.0}),
    (360.0, "outage", {"outage": True}),
)
"""When in each cycle a bad minute begins, and what it brings."""

_SAMPLES = 240
_COVERED = 0.9
_SAMPLED = ("rss_mb", "descriptors", "threads")
_FLAT = {"rss_mb": 1.10, "descriptors": 1.10, "threads": 1.5, "age": 1.25}
"""By how much the median of a run's last quarter may exceed that of its second quarter."""


def soak_profile(minutes: float) -> Profile:
    """Return the profile of so many minutes: cycles of ten, the last minutes always healthy."""
    seconds = minutes * 60.0
    phases, at = [], 0.0
    for cycle in range(int(seconds / _CYCLE_SECONDS) + 1):
        for start, label, faults in _BAD_MINUTES:
            begin = cycle * _CYCLE_SECONDS + start
            if begin + 120.0 > seconds:
                continue
            phases.append(Phase(at, begin, Faults(latency=_HEALTHY), ""))
            phases.append(Phase(begin, begin + 60.0, Faults(latency=_HEALTHY, **faults), label))
            at = begin + 60.0
    phases.append(Phase(at, None, Faults(latency=_HEALTHY), ""))
    return Profile(
        name=SOAK,
        text=f"{minutes:g} minutes at {_RATE * _WORKERS:g} calls/s, a bad minute in each two.",
        schedule=Schedule(SOAK, tuple(phases), ""),
        seconds=seconds,
        groups=((OURS,),),
        workers=_WORKERS,
        rate=_RATE,
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    rss_mb: float
    descriptors: int
    threads: int


class Sampler:
    """Looks at the pipeline's process now and then: its memory, open files and threads."""

    def __init__(self, seconds: float) -> None:
        self._every = max(0.5, seconds / _SAMPLES)
        self._samples: list[_Sample] = []

    def __call__(self, crew: Crew, _proxy: RunningProxy, ended: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not ended():
            with suppress(OSError, StopIteration, ValueError):  # it has just ended
                self._samples.append(_look(crew.pids[0], time.monotonic() - begun))
            time.sleep(self._every)

    def add_to(self, document: dict[str, Any], evidence: Evidence) -> None:
        """Put samples, and what follows from them, into the profile's document."""
        (cell,) = document["cells"]
        if not evidence.profile.schedule.fault_windows():
            cell["problems"].append("no minute was bad: a soak takes five minutes at least")
        if len(self._samples) < _COVERED * evidence.seconds / self._every:
            cell["problems"].append("the process was not looked at for the whole time")
        cell["passed"] = cell["passed"] and not cell["problems"]
        sampled = {name: [getattr(each, name) for each in self._samples] for name in _SAMPLED}
        cell["samples"] = {"at": [each.at for each in self._samples], **sampled}
        found = ages(evidence)
        series = {**sampled, "age": [age for _, age in found]}
        for name, most in _FLAT.items():
            growth = _growth(series[name])
            check = Check(
                f"{name}_growth", growth, most, False, growth is not None and growth <= most
            )
            cell["figures"][check.name] = growth
            cell["checks"].append(asdict(check))
            cell["passed"] = cell["passed"] and check.passed
        document["passed"] = all(each["passed"] for each in document["cells"])


def _growth(values: Sequence[float]) -> float | None:
    """Return the median of the last quarter over that of the second: the first warms up."""
    quarter = len(values) // 4
    if not quarter:
        return None
    before = statistics.median(values[quarter : 2 * quarter])
    return statistics.median(values[-quarter:]) / before if before else None


def _look(pid: int, at: float) -> _Sample:
    found: Mapping[str, str] = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return _Sample(
        at,
        int(found["VmRSS"].split()[0]) / 1024,
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        int(found["Threads"]),
    )
