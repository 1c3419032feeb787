"""What a proxy does to requests at one moment: how long they take, how many fail and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from math import exp, isfinite, log
from random import Random
from statistics import NormalDist
from typing import Any, TypeVar

__all__ = ["NONE", "SHARES", "Faults", "Latency", "as_json", "built_from"]

SHARES = (
    "error_500",
    "error_503",
    "reset_before",
    "reset_after",
    "lost_reply",
    "black_hole",
    "drip",
    "truncated",
    "partial",
    "expired_credentials",
)
"""The faults that strike a share of the writes, in the order in which a draw meets them."""

NONE = "none"
HEALTHY_LATENCY_SECONDS = 0.01  # DynamoDB's own promise: single-digit milliseconds
_NORMAL = NormalDist()
_NORMAL_P99 = _NORMAL.inv_cdf(0.99)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How many seconds a reply takes at least: ``seconds``, ``low``..``high``, or ``p50``/``p99``.

    ``low`` and ``high`` are the bounds of a uniform distribution, ``p50`` and ``p99`` two
    percentiles of a lognormal one. Without any: 0 seconds. Raises ValueError.
    """

    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    p50: float | None = None
    p99: float | None = None

    def __post_init__(self) -> None:
        given = as_json(self)
        if set(given) not in (set(), {"seconds"}, {"low", "high"}, {"p50", "p99"}):
            raise ValueError(
                f"Latency has {', '.join(given)}. Give seconds, or low and high, or p50 and p99."
            )
        for name, value in given.items():
            _check(f"Latency.{name}", value, least=1e-6 if name[0] == "p" else 0.0)
        for name, lower, upper in (("high", self.low, self.high), ("p99", self.p50, self.p99)):
            if lower is not None and upper is not None and upper < lower:
                raise ValueError(f"Latency.{name} is {upper}. Give at least {lower}.")

    def draw(self, random: Random) -> float:
        """Return the seconds of one reply. Takes exactly one number of ``random``."""
        drawn = random.random()
        if self.low is not None and self.high is not None:
            return self.low + (self.high - self.low) * drawn
        if self.p50 is not None and self.p99 is not None:
            sigma = log(self.p99 / self.p50) / _NORMAL_P99
            return self.p50 * exp(sigma * _NORMAL.inv_cdf(max(drawn, 1e-12)))
        return self.seconds or 0.0

    @property
    def median(self) -> float:
        """The seconds that half of the replies take at least."""
        if self.low is not None and self.high is not None:
            return (self.low + self.high) / 2
        return self.p50 or self.seconds or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens to requests; without arguments nothing does. Raises ValueError.

    Shares are of write requests, 0 to 1, together at most 1. ``outage`` and ``latency`` are for
    reads as well. ``table_units`` and ``key_units`` are write units a second, None: no limit; a
    bucket holds what ``burst_seconds`` bring. docs/chaos.md has each fault in a line.
    """

    latency: Latency = field(default_factory=Latency)
    error_500: float = 0.0
    error_503: float = 0.0
    reset_before: float = 0.0
    reset_after: float = 0.0
    lost_reply: float = 0.0
    black_hole: float = 0.0
    drip: float = 0.0
    drip_seconds: float = 2.0
    truncated: float = 0.0
    partial: float = 0.0
    expired_credentials: float = 0.0
    outage: bool = False
    table_units: float | None = None
    key_units: float | None = None
    burst_seconds: float = 1.0
    bucket_starts_empty: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.latency, Latency):
            raise ValueError(f"Faults.latency is {self.latency!r}. Give a Latency.")
        for name in SHARES:
            _check(f"Faults.{name}", getattr(self, name), most=1.0)
        if (total := self.failing) > 1 + 1e-9:
            raise ValueError(f"The shares of Faults are {total:g} together. Give at most 1.")
        for name in ("table_units", "key_units"):
            if getattr(self, name) is not None:
                _check(f"Faults.{name}", getattr(self, name))
        for name in ("burst_seconds", "drip_seconds"):
            _check(f"Faults.{name}", getattr(self, name), least=1e-3)
        for name in ("outage", "bucket_starts_empty"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Faults.{name} is {getattr(self, name)!r}. Give true or false.")

    @property
    def failing(self) -> float:
        """The share of the writes that meet a fault of ``SHARES``."""
        return float(sum(getattr(self, name) for name in SHARES))

    @property
    def is_healthy(self) -> bool:
        """Whether nothing fails, nothing is limited, and the median reply takes at most 10 ms."""
        limited = self.table_units is not None or self.key_units is not None
        slow = self.latency.median > HEALTHY_LATENCY_SECONDS
        return not (self.failing or self.outage or limited or slow)

    def strike(self, drawn: float) -> str:
        """Return the fault that a write meets which has drawn a number from 0 up to 1."""
        for name in SHARES:
            share = getattr(self, name)
            if drawn < share:
                return name
            drawn -= share
        return NONE


def _check(name: str, value: object, *, least: float = 0.0, most: float = float("inf")) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not (fits and isfinite(value) and least <= value <= most):  # type: ignore[arg-type,operator]
        bounds = f"from {least:g} to {most:g}" if isfinite(most) else f"of at least {least:g}"
        raise ValueError(f"{name} is {value!r}. Give a number {bounds}.")


def as_json(thing: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of this package that differ from their defaults."""
    found: dict[str, Any] = {}
    for one in fields(thing):
        value = getattr(thing, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if value != default:
            found[one.name] = as_json(value) if isinstance(value, Faults | Latency) else value
    return found


def built_from(kind: type[T], value: object, *, where: str) -> T:
    """Return a ``kind`` from its JSON. Raises ValueError that says ``where`` and what is wrong."""
    names = [one.name for one in fields(kind) if one.init]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}. Give an object with some of {', '.join(names)}.")
    for name in value:
        if name not in names:
            raise ValueError(f"{where} has {name!r}. It may have {', '.join(names)}.")
    try:
        return kind(**value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
