"""What a run must reach, in one place. CLAUDE.md explains the figures; ``full`` are the promises,
``short`` the looser ones of the short runs in ``make test``, on machines that are shared.

Only this library is judged: the other contenders' figures stand beside it as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Check", "Limit", "checks_of"]

Figures = Mapping[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure must be at least or at most; ``short`` in a short run."""

    figure: str
    full: float
    short: float
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One limit held against one figure."""

    name: str
    figure: float | None
    limit: float
    at_least: bool
    passed: bool


def _most(figure: str, full: float, short: float | None = None) -> Limit:
    return Limit(figure, full, full if short is None else short)


def _least(figure: str, full: float, short: float | None = None) -> Limit:
    return Limit(figure, full, full if short is None else short, at_least=True)


_ALWAYS = (
    _most("lost", 0),
    _most("duplicated", 0),
    _most("refused", 0),
    _most("put_over_100ms", 2, 10),  # a machine in use stops a process for so long now and then
    _most("kept_share", 0.05, 0.15),
    _least("steadiness", 0.5, 0.1),
)
_ONCE = _most("written_again_share", 0.03, 0.15)  # what was on its way when a flush began
_FEW_CALLS = _most("calls_per_metric", 0.12, 0.2)
_KEEPS_PACE = _least("retention", 0.95, 0.5)  # two seconds beside two others, on shared cores
_NEVER_OPEN = _most("breaker_openings", 0)
_LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "healthy": (*_ALWAYS, _ONCE, _most("calls_per_metric", 0.042, 0.06), _NEVER_OPEN),
    "seed": (*_ALWAYS, _ONCE, _KEEPS_PACE, _least("retried_share", 0.95)),
    "throttle": (
        *_ALWAYS,
        _ONCE,
        _FEW_CALLS,
        _least("goodput_share", 0.95, 0.80),
        _least("accepted_per_sent", 0.90, 0.80),
        _NEVER_OPEN,
    ),
    "throttle-small": (
        *_ALWAYS,
        _most("written_again_share", 0.15, 0.3),
        _NEVER_OPEN,
    ),  # few in all
    "throttle-square": (*_ALWAYS, _ONCE, _FEW_CALLS, _NEVER_OPEN),
    "throttle-starved": (*_ALWAYS, _ONCE, _NEVER_OPEN),
    "outage": (
        *_ALWAYS,
        _ONCE,
        _FEW_CALLS,
        _KEEPS_PACE,
        _most("outage_requests_share", 0.10, 0.60),
        _least("breaker_openings", 1),
        _least("retried_share", 0.95),
    ),
    "flaky": (*_ALWAYS, _FEW_CALLS, _least("retried_share", 0.95)),
    "kill": (
        _most("lost", 0),
        _most("duplicated", 0),
        _most("refused", 0),
        _FEW_CALLS,
        _least("retried_share", 0.95),
    ),
    "disk-full": (*_ALWAYS, _least("breaker_openings", 1)),
    "soak": (
        _most("lost", 0),
        _most("duplicated", 0),
        _most("refused", 0),
        _most("kept_share", 0.05),
        _most("age_p99_seconds", 120.0),  # outages of a minute, and a break after
    ),
}
_OF_OTHERS = {"outage_requests_share": "no-breaker"}
"""Figures that need another contender in the same run."""

_OF_FAILURES = frozenset({"retried_share"})
"""Figures that have no meaning where no write failed; that one did is checked elsewhere."""

_FAULTLESS_CALLS, _FULL_BATCH = 1.1, 0.04
_SLACK, _SHORT_SLACK = 0.02, 0.10
"""How far below full jitter a share may be measured: two runs of one policy differ as much."""

_SLACKS = {"throttle-starved": 0.10}
"""More where it has a price: of the four seconds after the table has recovered, the limiter may let
one and a half pass before it looks, where full jitter may look at once."""


def checks_of(
    profile: str,
    figures: Figures,
    *,
    beside: Mapping[str, Figures] | None = None,
    short: bool = False,
) -> list[Check]:
    """Return every check of this library's figures; ``beside`` are those of the other contenders.

    A figure that is missing passes no check, but for what needs a contender that is not there, and
    for what retry saved where nothing failed.
    """
    others = beside or {}
    checks = [
        _check(limit, figures.get(limit.figure), short)
        for limit in _LIMITS[profile]
        if _applies(limit.figure, figures, others)
    ]
    if profile == "seed":
        most = _FAULTLESS_CALLS * _FULL_BATCH / (1 - (figures.get("failed_calls_share") or 0.0))
        limit = _most("calls_per_metric", most, most * 1.5)
        checks.append(_check(limit, figures.get(limit.figure), short))
    if "full-jitter" in others:
        slack = _SHORT_SLACK if short else _SLACKS.get(profile, _SLACK)
        checks += _beside_full_jitter(figures, others["full-jitter"], slack)
    return checks


def _applies(name: str, figures: Figures, others: Mapping[str, Figures]) -> bool:
    if name in _OF_OTHERS:
        return _OF_OTHERS[name] in others
    return not (name in _OF_FAILURES and figures.get(name) is None)


def _beside_full_jitter(figures: Figures, baseline: Figures, slack: float) -> list[Check]:
    checks = []
    for name in ("goodput_share", "accepted_per_sent"):
        figure, least = figures.get(name), baseline.get(name)
        limit = (least or 0.0) - slack
        passed = figure is not None and least is not None and figure >= limit
        checks.append(Check(f"{name} beside full jitter", figure, limit, True, passed))
    return checks


def _check(limit: Limit, figure: float | None, short: bool) -> Check:
    bound = limit.short if short else limit.full
    passed = figure is not None and (figure >= bound if limit.at_least else figure <= bound)
    return Check(limit.figure, figure, bound, limit.at_least, passed)
