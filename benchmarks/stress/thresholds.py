"""What a run must reach, in one place. CLAUDE.md explains the figures; ``FULL`` are the promises,
``SHORT`` the looser ones of the short runs in ``make test``, on machines that are shared.

Only this library is judged: the other contenders' figures stand beside it as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Check", "Limit", "checks_of"]


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


_TRUE = (_most("lost", 0), _most("duplicated", 0), _most("refused", 0))
_LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "healthy": (*_TRUE, _most("calls_per_metric", 0.042, 0.06), _most("breaker_openings", 0)),
    "seed": (
        *_TRUE,
        _least("retention", 0.95, 0.85),
        _least("retried_share", 0.95),
    ),
    "throttle": (
        *_TRUE,
        _least("goodput_share", 0.95, 0.80),
        _least("accepted_per_sent", 0.90, 0.80),
        _most("breaker_openings", 0),
    ),
    "throttle-small": (*_TRUE, _most("breaker_openings", 0)),
    "throttle-square": (*_TRUE, _most("breaker_openings", 0)),
    "throttle-starved": (*_TRUE, _most("breaker_openings", 0)),
    "outage": (
        *_TRUE,
        _least("retention", 0.95, 0.85),
        _most("outage_requests_share", 0.10),
        _least("retried_share", 0.95),
    ),
    "flaky": (*_TRUE, _least("retried_share", 0.95)),
    "kill": (_most("lost", 0), _most("duplicated", 0)),
    "disk-full": (_most("lost", 0), _most("duplicated", 0)),
    "soak": (*_TRUE, _most("age_p99_seconds", 120.0)),  # outages of a minute, and a break after
}
_FAULTLESS_CALLS, _FULL_BATCH = 1.1, 0.04
_SLACK, _SHORT_SLACK = 0.02, 0.10
"""How far below full jitter a share may be measured: two runs of one policy differ as much."""


def checks_of(
    profile: str,
    figures: Mapping[str, float | int | None],
    *,
    baseline: Mapping[str, float | int | None] | None = None,
    short: bool = False,
) -> list[Check]:
    """Return every check of this library's figures. ``baseline`` are those of full jitter."""
    checks = [
        _check(limit, figures.get(limit.figure), short)
        for limit in _LIMITS[profile]
        if figures.get(limit.figure) is not None or limit.figure != "outage_requests_share"
    ]
    if profile == "seed":
        failed = figures.get("failed_calls_share") or 0.0
        most = _FAULTLESS_CALLS * _FULL_BATCH / (1 - failed)
        checks.append(
            _check(_most("calls_per_metric", most, most * 1.5), figures["calls_per_metric"], short)
        )
    if baseline is not None:
        for name in ("goodput_share", "accepted_per_sent"):
            least = (baseline.get(name) or 0.0) - (_SHORT_SLACK if short else _SLACK)
            found = _check(_least(name, least), figures.get(name), short)
            checks.append(
                Check(f"{name} beside full jitter", found.figure, least, True, found.passed)
            )
    return checks


def _check(limit: Limit, figure: float | None, short: bool) -> Check:
    bound = limit.short if short else limit.full
    passed = figure is not None and (figure >= bound if limit.at_least else figure <= bound)
    return Check(limit.figure, figure, bound, limit.at_least, passed)
