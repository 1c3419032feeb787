"""Running totals by label: what both exporters add up, and read out when they are asked."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from receipt_dynamo import AIUsageMetric, Health
from receipt_label.pricing.money import plus

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["DURATION_BUCKETS", "TOKEN_TYPES", "Labels", "Series", "Totals", "Trackers", "Words"]

MAX_SERIES: Final = 1000
"""Combinations of labels that are kept apart; what comes later is added up under ``other``."""

HEALTH_SECONDS: Final = 1.0

DURATION_BUCKETS: Final = tuple(0.01 * 2**n for n in range(14))
"""Upper bounds in seconds, 0.01 to 81.92: those of OpenTelemetry's GenAI conventions."""

TOKEN_TYPES: Final = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached_input": "cached_input_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}
"""Type of token -> field of the metric. The last three are parts of the first two."""

_FIELDS: Final = tuple(TOKEN_TYPES.values())


class Labels(NamedTuple):
    """What totals are kept by: little that differs, and no ids."""

    provider: str
    model: str
    operation: str
    status: str
    environment: str


_Key = tuple[str, str, str, str, str]
_OTHER: Final[_Key] = ("other", "other", "other", "other", "other")


def labels_of(metric: AIUsageMetric) -> _Key:
    """Return the values of ``Labels`` for a metric: a plain tuple, which is made faster."""
    return (
        metric.service, metric.model, metric.operation, metric.status, metric.environment or "",
    )  # fmt: skip


class Series:
    """The totals of one combination of labels."""

    __slots__ = ("buckets", "cost_usd", "durations", "requests", "seconds", "tokens", "unpriced")

    def __init__(self) -> None:
        self.requests = 0
        self.cost_usd = Decimal(0)
        self.tokens = [0] * len(_FIELDS)
        self.unpriced: dict[str, int] = {}
        self.durations = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(DURATION_BUCKETS) + 1)

    def add(self, metric: AIUsageMetric) -> None:
        """Add one metric."""
        self.requests += metric.api_calls
        if metric.cost_usd is not None:
            self.cost_usd = plus(self.cost_usd, metric.cost_usd)
        elif metric.unpriced_reason is not None:
            count = self.unpriced.get(metric.unpriced_reason, 0)
            self.unpriced[metric.unpriced_reason] = count + metric.api_calls
        if metric.input_tokens is not None or metric.output_tokens is not None:
            for place, name in enumerate(_FIELDS):
                self.tokens[place] += getattr(metric, name) or 0
        if metric.latency_ms is not None:
            seconds = metric.latency_ms / 1000
            self.durations += 1
            self.seconds += seconds
            self.buckets[bisect_left(DURATION_BUCKETS, seconds)] += 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The totals of one combination of labels at one moment. Money is exact."""

    labels: Labels
    requests: int
    cost_usd: Decimal
    tokens: dict[str, int]
    unpriced: dict[str, int]
    durations: int
    seconds: float
    buckets: list[int]


class Totals:
    """Adds metrics up by their labels. Thread-safe; a signal handler may record within it.

    A child of a fork starts at zero: what its parent added up is the parent's to show.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._lock = threading.RLock()
        self._series: dict[_Key, Series] = {}  # Guarded by _lock
        _all.add(self)

    def add(self, metric: AIUsageMetric) -> Labels:
        """Add one metric; return the labels that it is counted under."""
        key = labels_of(metric)
        with self._lock:
            series = self._series.get(key)
            if series is None:
                if len(self._series) >= self._max_series:
                    key = _OTHER
                series = self._series.setdefault(key, Series())
            series.add(metric)
        return Labels(*key)

    def read(self) -> list[Snapshot]:
        """Return the totals as they are now."""
        with self._lock:
            return [
                Snapshot(
                    Labels(*key),
                    one.requests,
                    one.cost_usd,
                    dict(zip(TOKEN_TYPES, one.tokens, strict=True)),
                    dict(one.unpriced),
                    one.durations,
                    one.seconds,
                    list(one.buckets),
                )
                for key, one in self._series.items()
            ]

    def _forget_after_fork(self) -> None:
        self._lock = threading.RLock()
        self._series = {}


class Words:
    """The values of one label, the first ``limit`` of them; for what comes later ``other`` stands.

    Thread-safe without a lock: two threads at once may keep one more.
    """

    def __init__(self, limit: int, other: str) -> None:
        self._limit = limit
        self._other = other
        self._known: set[str] = {other}

    def kept(self, word: str) -> str:
        """Return ``word``, or what stands for it."""
        if word not in self._known:
            if len(self._known) > self._limit:
                return self._other
            self._known.add(word)
        return word


class Trackers:
    """The trackers whose health an exporter shows, as long as somebody holds them.

    One look serves a second: a collection asks once for each of its instruments.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._known: weakref.WeakSet[AIUsageTracker] = weakref.WeakSet()
        self._clock = clock
        self._seen: tuple[float, list[Health]] = (-HEALTH_SECONDS, [])

    def add(self, tracker: AIUsageTracker) -> None:
        """Take note of one."""
        self._known.add(tracker)
        self._seen = (-HEALTH_SECONDS, [])

    def health(self) -> Iterable[Health]:
        """Return how each destination stands; takes bounded time, raises nothing."""
        now = self._clock()
        if now - self._seen[0] < HEALTH_SECONDS:
            return self._seen[1]
        by_destination = {tracker.client.settings.destination: tracker for tracker in self._known}
        self._seen = (now, [tracker.health() for tracker in by_destination.values()])
        return self._seen[1]


_all: weakref.WeakSet[Totals] = weakref.WeakSet()


def _forget_all() -> None:
    for totals in list(_all):
        totals._forget_after_fork()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_forget_all)
