"""Prometheus: counters and a histogram of what was called, and gauges of how recording stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from receipt_dynamo import AIUsageMetric, ConfigurationError, Health
from receipt_label.exporters.totals import DURATION_BUCKETS, Labels, Snapshot, Totals, Trackers

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from receipt_label.tracker import AIUsageTracker

__all__ = ["PrometheusExporter"]

_NAMES = list(Labels._fields)
_EVENTS: dict[str, Callable[[Health], int]] = {
    "recorded": lambda health: health.recorded,
    "spooled": lambda health: health.stored,
    "delivered": lambda health: health.delivered,
    "dropped": lambda health: sum(health.dropped.values()),
}


class PrometheusExporter:
    """Shows what was recorded to Prometheus: pass it to ``AIUsageTracker(exporters=[...])``.

    A collector of ``registry`` (default: prometheus_client's own). Counters are those of this
    process since its start: requests, tokens by type, cost, unpriced requests by reason, and a
    histogram of durations, by provider, model, operation, status and environment. Of the tracker:
    events and what waits, by destination, of all its processes. No id is ever a label; beyond 1,000
    combinations of labels, what is new is added up under ``other``. Thread-safe.

    Raises ConfigurationError without the package prometheus-client, and the registry's ValueError
    where another exporter is registered already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            from prometheus_client import REGISTRY
        except ModuleNotFoundError:
            raise ConfigurationError(
                "PrometheusExporter needs prometheus-client: "
                "pip install 'receipt-usage[prometheus]'"
            ) from None
        self._totals = Totals()
        self._trackers = Trackers()
        (REGISTRY if registry is None else registry).register(self)

    def bind(self, tracker: AIUsageTracker) -> None:
        """Show the health of ``tracker`` too."""
        self._trackers.add(tracker)

    def export(self, metric: AIUsageMetric) -> None:
        """Add one metric to the counters."""
        self._totals.add(metric)

    def describe(self) -> Iterable[Any]:
        """Return the families without samples: what the registry checks for double names."""
        return [*_families([]), *_health_families([])]

    def collect(self) -> Iterator[Any]:
        """Yield the families with their samples: what a scrape reads."""
        yield from _families(self._totals.read())
        yield from _health_families(self._trackers.health())


def _families(totals: Iterable[Snapshot]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily("ai_usage_requests", "Requests to AI services.", labels=_NAMES)
    tokens = CounterMetricFamily(
        "ai_usage_tokens",
        "Tokens by type; cached_input and cache_write are parts of input, reasoning of output.",
        labels=[*_NAMES, "type"],
    )
    cost = CounterMetricFamily(
        "ai_usage_cost_usd", "Cost in USD of the requests that have a price.", labels=_NAMES
    )
    unpriced = CounterMetricFamily(
        "ai_usage_unpriced_requests",
        "Requests whose cost is unknown, and no part of the cost.",
        labels=[*_NAMES, "reason"],
    )
    durations = HistogramMetricFamily(
        "ai_usage_request_duration_seconds", "Duration of requests.", labels=_NAMES
    )
    for one in totals:
        labels = list(one.labels)
        requests.add_metric(labels, one.requests)
        cost.add_metric(labels, float(one.cost_usd))
        for kind, count in one.tokens.items():
            if count:
                tokens.add_metric([*labels, kind], count)
        for reason, count in one.unpriced.items():
            unpriced.add_metric([*labels, reason], count)
        if one.durations:
            durations.add_metric(labels, list(_cumulative(one)), one.seconds)
    yield from (requests, tokens, cost, unpriced, durations)


def _cumulative(one: Snapshot) -> Iterator[tuple[str, int]]:
    below = 0
    for bound, count in zip((*DURATION_BUCKETS, None), one.buckets, strict=True):
        below += count
        yield ("+Inf" if bound is None else f"{bound:g}", below)


def _health_families(destinations: Iterable[Health]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    events = CounterMetricFamily(
        "ai_usage_tracker_events",
        "Records of a destination by what became of them, of all its processes.",
        labels=["destination", "outcome"],
    )
    waiting = GaugeMetricFamily(
        "ai_usage_tracker_pending_records",
        "Records that wait in the spool.",
        labels=["destination"],
    )
    held = GaugeMetricFamily(
        "ai_usage_tracker_spool_bytes", "Bytes that the spool holds.", labels=["destination"]
    )
    oldest = GaugeMetricFamily(
        "ai_usage_tracker_oldest_unsent_seconds",
        "Age of the oldest record that waits; 0 where none does.",
        labels=["destination"],
    )
    dead = GaugeMetricFamily(
        "ai_usage_tracker_dead_records", "Records that the store refuses.", labels=["destination"]
    )
    for health in destinations:
        place = [health.destination]
        for outcome, count in _EVENTS.items():
            events.add_metric([*place, outcome], count(health))
        waiting.add_metric(place, health.pending)
        held.add_metric(place, health.spool_bytes)
        oldest.add_metric(place, health.oldest_unsent_seconds or 0)
        dead.add_metric(place, health.dead)
    yield from (events, waiting, held, oldest, dead)
