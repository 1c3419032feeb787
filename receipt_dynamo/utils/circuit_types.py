"""What a circuit breaker is told and what it answers: states, outcomes, permits, settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from receipt_dynamo.utils.settings_checks import check_number

__all__ = [
    "CircuitBreakerSettings",
    "CircuitSnapshot",
    "CircuitState",
    "CircuitTransition",
    "Outcome",
    "Permit",
    "Rejected",
]


class CircuitState(StrEnum):
    """CLOSED admits, OPEN waits, HALF_OPEN probes, FORCED_OPEN obeys an operator."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"


class Outcome(StrEnum):
    """What one attempt says about the service."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"
    """Nothing: it moves no count and no state, and frees the slot of a probe."""
    FATAL = "fatal"
    """The service refuses every call of this client: opens at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakerSettings:
    """When to open, for how long, and how to close. Times are seconds.

    Opens after ``consecutive_failures``, or when of at least ``minimum_attempts`` within ``window``
    a share of ``failure_rate`` failed. Stays open for ``base_break``, doubled with every opening up
    to ``max_break``, times a random share between a half and one; openings are counted anew once
    it was closed for ``stable_after``. A fatal outcome starts at ``fatal_break``. Closes after
    ``probe_successes`` probes in a row; a probe that does not answer within ``probe_lease`` is
    given up: twice the call's own timeouts, and 10 s at least, since a dripping server outlasts
    them. After that at most 1, 2, 4, ... up to ``workers`` calls should run at a time.
    """

    consecutive_failures: int = 5
    failure_rate: float = 0.5
    minimum_attempts: int = 10
    window: float = 30.0
    buckets: int = 10
    base_break: float = 5.0
    max_break: float = 60.0
    fatal_break: float = 30.0
    stable_after: float = 60.0
    probe_successes: int = 2
    probe_lease: float = 10.0
    workers: int = 4

    def __post_init__(self) -> None:
        whole = ("consecutive_failures", "minimum_attempts", "buckets", "probe_successes")
        check_number(self, *whole, "workers", least=1, whole=True)
        check_number(self, "failure_rate", above=0, most=1)
        check_number(self, "window", "base_break", "fatal_break", "probe_lease", above=0)
        check_number(self, "max_break", least=max(self.base_break, self.fatal_break))
        check_number(self, "stable_after", least=0)


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to call: as often as ``still_valid`` says in CLOSED, once if it is a ``probe``."""

    generation: int
    probe: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """No leave to call. ``retry_after`` seconds may be 0, and are infinite when forced open."""

    state: CircuitState
    retry_after: float


@dataclass(frozen=True, slots=True)
class CircuitTransition:
    """One change of state, at ``at`` (monotonic seconds); ``until`` is the end of a break."""

    before: CircuitState
    after: CircuitState
    reason: str
    at: float
    generation: int
    trips: int
    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSnapshot:
    """The breaker at one moment, for health and support."""

    state: CircuitState
    reason: str
    generation: int
    trips: int
    consecutive_failures: int
    attempts: int
    failures: int
    probing: bool
    concurrency: int
    late_results: int
    seconds_until_probe: float | None
