"""A whole run: profile after profile, contenders of a group at the same time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from benchmarks.report import machine
from benchmarks.stress.cell import Cell, run_group
from benchmarks.stress.document import profile_document
from benchmarks.stress.engines import Engine, running_engine
from benchmarks.stress.places import remove_abandoned
from benchmarks.stress.profiles import (
    CI,
    PROFILES,
    SOAK,
    Profile,
    ci_profiles,
    scaled,
    with_contenders,
)
from benchmarks.stress.progress import Progress, showing_progress
from benchmarks.stress.soak import Sampler, soak_profile

__all__ = ["Plan", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run. Without ``contenders`` those of each profile; ``kind`` of workers likewise."""

    profiles: tuple[str, ...]
    contenders: tuple[str, ...] = ()
    seed: int = 7
    scale: float = 1.0
    minutes: float = 60.0
    kind: str | None = None
    short: bool = False
    engine: str | None = None

    @property
    def is_short(self) -> bool:
        """Whether the limits of short runs judge: the full ones hold at full length only."""
        return self.short or self.scale < 1 or CI in self.profiles

    def chosen(self) -> list[Profile]:
        """Return the profiles as they are to be run."""
        found: list[Profile] = []
        for name in self.profiles:
            if name == CI:
                found += ci_profiles()
            elif name == SOAK:
                found.append(soak_profile(self.minutes))
            else:
                found.append(scaled(PROFILES[name], self.scale))
        if self.contenders:
            found = [self._with_contenders(profile) for profile in found]
        if self.kind is not None:
            found = [self._with_kind(profile) for profile in found]
        return found

    def _with_contenders(self, profile: Profile) -> Profile:
        """A soak looks at one process, and is of this library."""
        return profile if profile.name == SOAK else with_contenders(profile, self.contenders)

    def _with_kind(self, profile: Profile) -> Profile:
        """A small disk is that of one process."""
        assert self.kind is not None
        return profile if profile.disk_bytes else replace(profile, kind=self.kind)


def run(plan: Plan, stop: threading.Event | None = None) -> dict[str, Any]:
    """Return the document of a run (docs/stress.md). Raises EngineError.

    ``stop`` is set by whoever interrupts it.
    """
    stop = stop or threading.Event()
    profiles = plan.chosen()
    remove_abandoned()
    started, begun = datetime.now(UTC), time.monotonic()
    seconds = sum(profile.seconds * len(profile.groups) for profile in profiles)
    with running_engine(plan.engine) as engine, showing_progress(seconds) as progress:
        told = [_run_profile(profile, engine, plan, progress, stop) for profile in profiles]
    return {
        "version": 1,
        "started": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": time.monotonic() - begun,
        "seed": plan.seed,
        "engine": engine.name,
        "machine": machine(),
        "passed": all(profile["passed"] for profile in told),
        "profiles": told,
    }


def _run_profile(
    profile: Profile, engine: Engine, plan: Plan, progress: Progress, stop: threading.Event
) -> dict[str, Any]:
    cells: list[Cell] = []
    sampler = Sampler(profile.seconds) if profile.name == SOAK else None
    for group in profile.groups:
        with progress.doing(profile, group):
            cells += run_group(profile, group, engine, seed=plan.seed, watch=sampler, stop=stop)
    document = profile_document(profile, cells, short=plan.is_short)
    if sampler is not None and cells[0].evidence is not None:
        sampler.add_to(document, cells[0].evidence)
    return document
