"""OpenTelemetry: metrics under the names of the GenAI conventions, old or new.

The conventions are still moving (open-telemetry/semantic-conventions-genai): ours are neutral
names inside, and one table here.
"""

from __future__ import annotations

import os
import re
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal

from receipt_dynamo import AIUsageMetric, ConfigurationError, Health, __version__
from receipt_label.exporters.totals import (
    DURATION_BUCKETS,
    Labels,
    Snapshot,
    Totals,
    Trackers,
    Words,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

    from receipt_label.tracker import AIUsageTracker

__all__ = ["OpenTelemetryExporter"]

MAX_WAITING: Final = 50_000
"""Calls between two collections whose durations and sizes are kept; counters know no such bound."""

MAX_SERIES: Final = 900
"""Combinations of attributes: OpenTelemetry's SDK keeps 2,000 of an instrument, and tokens have two
types."""

MAX_ERROR_TYPES: Final = 100
"""Values of ``error.type`` that are kept apart; what comes later is ``_OTHER``."""

OPT_IN: Final = "gen_ai_latest_experimental"
TOKEN_BUCKETS: Final = tuple(float(4**n) for n in range(14))

PROVIDERS: Final = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}
"""Service -> ``gen_ai.provider.name``, where they differ."""

COUNTERS: Final = {
    "gen_ai.client.inference.usage.input_tokens": "input",
    "gen_ai.client.inference.usage.output_tokens": "output",
    "gen_ai.client.inference.usage.cache_read.input_tokens": "cached_input",
    "gen_ai.client.inference.usage.cache_write.input_tokens": "cache_write",
    "gen_ai.client.inference.usage.reasoning.output_tokens": "reasoning",
}
"""The newest names -> type of token."""

_ERROR = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.$-]{0,127}+|[1-5]\d\d)(?=:|\Z)")
_MAX_DIGITS = 4  # of a class or a code; an id has more
_OTHER: Final = "_OTHER"
_Attributes = dict[str, str]


class OpenTelemetryExporter:
    """Shows what was recorded to OpenTelemetry: pass it to ``AIUsageTracker(exporters=[...])``.

    ``meter_provider`` defaults to the global one. ``conventions`` are ``deployed`` (tokens as the
    histogram ``gen_ai.client.token.usage``) or ``latest`` (tokens as counters); the default is
    ``latest`` where ``OTEL_SEMCONV_STABILITY_OPT_IN`` names ``gen_ai_latest_experimental``. No id
    is ever an attribute; beyond 900 combinations of attributes, what is new is added up under
    ``other``, and beyond 100 types of errors under ``_OTHER``. Nothing is sent from here: the
    provider's reader asks, and what is shown are the sums since this process started. Thread-safe.

    Raises ConfigurationError without the package opentelemetry-api, and ValueError for conventions
    that are neither.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        *,
        conventions: Literal["deployed", "latest"] | None = None,
    ) -> None:
        try:
            from opentelemetry.metrics import get_meter
        except ModuleNotFoundError:
            raise ConfigurationError(
                "OpenTelemetryExporter needs opentelemetry-api: pip install 'receipt-usage[otel]'"
            ) from None
        chosen = conventions or _from_environment()
        if chosen not in ("deployed", "latest"):
            raise ValueError(f"conventions={chosen!r} are unknown: 'deployed' or 'latest'")
        self._totals = Totals(MAX_SERIES)
        self._trackers = Trackers()
        self._errors = Words(MAX_ERROR_TYPES, _OTHER)
        self._waiting: deque[tuple[Labels, AIUsageMetric]] = deque(  # an append is atomic
            maxlen=MAX_WAITING
        )
        _all.add(self)
        self._make_instruments(
            get_meter("receipt_label", __version__, meter_provider), latest=chosen == "latest"
        )

    def bind(self, tracker: AIUsageTracker) -> None:
        """Show the health of ``tracker`` too."""
        self._trackers.add(tracker)

    def export(self, metric: AIUsageMetric) -> None:
        """Add one metric to the counters, and keep it for the histograms."""
        self._waiting.append((self._totals.add(metric), metric))

    def _make_instruments(self, meter: Meter, *, latest: bool) -> None:
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Duration of calls.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._sizes = None
        if not latest:
            self._sizes = meter.create_histogram(
                "gen_ai.client.token.usage",
                unit="{token}",
                description="Tokens of calls.",
                explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
            )

        def counter(name: str, unit: str, figure: Callable[[Snapshot], float]) -> None:
            meter.create_observable_counter(name, [self._observe(figure)], unit=unit)

        counter("ai_usage.requests", "{request}", lambda one: one.requests)
        counter("gen_ai.client.operation.cost", "USD", lambda one: float(one.cost_usd))
        counter("ai_usage.unpriced_requests", "{request}", lambda one: sum(one.unpriced.values()))
        for name, kind in COUNTERS.items() if latest else ():
            counter(name, "{token}", lambda one, kind=kind: one.tokens[kind])  # type: ignore[misc]
        meter.create_observable_counter(
            "ai_usage.tracker.events", [self._observe_events], unit="{record}"
        )
        for name, unit, gauge in _GAUGES:
            meter.create_observable_gauge(name, [self._observe_health(gauge)], unit=unit)

    def _observe(
        self, figure: Callable[[Snapshot], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            self._record_waiting()
            return [
                Observation(figure(one), _attributes(one.labels)) for one in self._totals.read()
            ]

        return observe

    def _record_waiting(self) -> None:
        """Hand over the calls since the last collection: histograms cannot be observed.

        It is done here, on the thread of whoever collects: a record of a histogram takes some 8 us
        (measured), and waits for a lock that no signal handler may wait for.
        """
        while True:
            try:
                labels, metric = self._waiting.popleft()
            except IndexError:
                return
            attributes = _attributes(labels)
            if metric.latency_ms is not None:
                timed = attributes
                if metric.error is not None:
                    kind = self._errors.kept(_error_type(metric.error))
                    timed = {**attributes, "error.type": kind}
                self._durations.record(metric.latency_ms / 1000, timed)
            if self._sizes is not None:
                for kind, count in (
                    ("input", metric.input_tokens),
                    ("output", metric.output_tokens),
                ):
                    if count is not None:
                        self._sizes.record(count, {**attributes, "gen_ai.token.type": kind})

    def _observe_events(self, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [
            Observation(count, {"destination": health.destination, "outcome": outcome})
            for health in self._trackers.health()
            for outcome, count in (
                ("recorded", health.recorded),
                ("spooled", health.stored),
                ("delivered", health.delivered),
                ("dropped", sum(health.dropped.values())),
            )
        ]

    def _observe_health(
        self, gauge: Callable[[Health], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(gauge(health), {"destination": health.destination})
                for health in self._trackers.health()
            ]

        return observe


_GAUGES: Final[tuple[tuple[str, str, Callable[[Health], float]], ...]] = (
    ("ai_usage.tracker.pending", "{record}", lambda health: health.pending),
    ("ai_usage.tracker.dead", "{record}", lambda health: health.dead),
    ("ai_usage.tracker.spool.size", "By", lambda health: health.spool_bytes),
    (
        "ai_usage.tracker.oldest_unsent",
        "s",
        lambda health: health.oldest_unsent_seconds or 0,
    ),
)


def _from_environment() -> str:
    words = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "")
    return "latest" if OPT_IN in [word.strip() for word in words.split(",")] else "deployed"


def _attributes(labels: Labels) -> _Attributes:
    attributes = {
        "gen_ai.provider.name": PROVIDERS.get(labels.provider, labels.provider),
        "gen_ai.operation.name": labels.operation,
        "gen_ai.response.model": labels.model,
        "ai_usage.status": labels.status,
    }
    if labels.environment:
        attributes["deployment.environment.name"] = labels.environment
    return attributes


def _error_type(error: str) -> str:
    """Return ``error.type``: the name of a class, a vendor's code or a status of HTTP, as it stands
    alone or before a colon. ``_OTHER`` for all else: it is never a message and never an id."""
    word = _ERROR.match(error)
    if word is None or sum(map(str.isdigit, word[0])) > _MAX_DIGITS:
        return _OTHER
    return word[0]


_all: weakref.WeakSet[OpenTelemetryExporter] = weakref.WeakSet()


def _forget_waiting() -> None:
    """Leave in a child of a fork what its parent has yet to show."""
    for exporter in list(_all):
        exporter._waiting.clear()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_forget_waiting)
