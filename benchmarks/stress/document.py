"""A run as one JSON document: what ``--json`` prints and the page is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.stress.cell import Cell
from benchmarks.stress.contenders import CONTENDERS
from benchmarks.stress.measures import figures, latency_shares, timeline
from benchmarks.stress.plausible import doubts
from benchmarks.stress.profiles import OURS, Profile
from benchmarks.stress.thresholds import checks_of

__all__ = ["profile_document"]

_VARIANTS = frozenset({"full-jitter", "no-breaker"})
"""Ours with another part, to be compared with: not judged."""

_OF_CALLERS = frozenset(
    "offered throughput retention put_p50_us put_p99_us put_max_us cpu_us_per_item peak_mb".split()
)
"""What can be said of a pipeline that records nothing."""


def profile_document(profile: Profile, cells: Sequence[Cell], *, short: bool) -> dict[str, Any]:
    """Return a profile's part of the document. ``passed``: every check of ours held, and every
    count of ours is proven."""
    measured = {cell.contender: _figures(cell) for cell in cells if cell.evidence is not None}
    _compare_outage(measured)
    shown = [_cell(cell, measured, short=short) for cell in cells]
    return {
        "name": profile.name,
        "text": profile.text,
        "seconds": profile.seconds,
        "workers": _workers(profile),
        "faults": [
            {"start": start, "end": min(end, profile.seconds), "label": label}
            for start, end, label in profile.schedule.fault_windows()
        ],
        "passed": all(cell["passed"] for cell in shown),
        "cells": shown,
    }


def _figures(cell: Cell) -> dict[str, float | int | None]:
    assert cell.evidence is not None
    found = figures(cell.evidence)
    if cell.contender != "nothing":
        return found
    return {name: value for name, value in found.items() if name in _OF_CALLERS}


def _workers(profile: Profile) -> str:
    rate = f", {profile.rate:g} calls/s each" if profile.rate is not None else ""
    return f"{profile.workers} {profile.kind}{rate}"


def _compare_outage(measured: Mapping[str, dict[str, float | int | None]]) -> None:
    """Hold our requests during an outage against those of ours without its breaker."""
    ours, other = measured.get(OURS), measured.get("no-breaker")
    if ours is None or other is None:
        return
    with_it, without = ours.get("outage_requests"), other.get("outage_requests")
    if with_it is not None and without:
        ours["outage_requests_share"] = with_it / without


def _cell(
    cell: Cell, measured: Mapping[str, dict[str, float | int | None]], *, short: bool
) -> dict[str, Any]:
    kind = CONTENDERS[cell.contender]
    found = measured.get(cell.contender, {})
    judged = kind.ours and cell.contender not in _VARIANTS
    others = {name: one for name, one in measured.items() if name != cell.contender}
    checks = (
        checks_of(cell.profile.name, found, beside=others, short=short) if judged and found else []
    )
    evidence = cell.evidence
    problems = list(cell.problems)
    if judged and evidence is not None:
        problems += doubts(evidence)
    return {
        "contender": cell.contender,
        "label": kind.label,
        "ours": kind.ours,
        "text": kind.text,
        "figures": found,
        "timeline": None if evidence is None else timeline(evidence),
        "latency": None if evidence is None else latency_shares(evidence),
        "checks": [asdict(check) for check in checks],
        "faults_met": dict(cell.faults_met),
        "problems": problems,
        "passed": not problems and all(check.passed for check in checks),
    }
