"""One thread: what contexts, operations and exporters add to a record."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.recording import ROUNDS, in_turns
from benchmarks.report import Part, Row
from benchmarks.samples import (
    RECORD,
    Operation,
    client_of,
    in_fresh_process,
    private_directory,
    time_calls,
)
from receipt_label import (
    AIUsageTracker,
    MetricExporter,
    OpenTelemetryExporter,
    PrometheusExporter,
    ai_usage_context,
)

__all__ = ["run"]

_CALLS = 2000


class _Within:
    """An operation that is timed within a scope: the scope is entered for the timing alone."""

    def __init__(self, scope: AbstractContextManager[Any], operation: Operation) -> None:
        self._scope = scope
        self._operation = operation

    def time(self, calls: int) -> array[int]:
        """Time ``calls`` calls within the scope."""
        with self._scope:
            return time_calls(self._operation, calls)


def _exporters() -> dict[str, MetricExporter]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from prometheus_client import CollectorRegistry

    return {
        "Prometheus": PrometheusExporter(CollectorRegistry()),
        "OpenTelemetry": OpenTelemetryExporter(MeterProvider([InMemoryMetricReader()])),
    }


def _measure(directory: Path, calls: int) -> list[Row]:
    tracker = AIUsageTracker(client_of(directory / "plain"), strict=True)
    call = {name: value for name, value in RECORD.items() if name not in ("job_id", "user_id")}

    def record() -> None:
        tracker.record(**call)

    def nothing() -> None: ...

    operations: list[tuple[str, dict[str, float] | None, Operation | _Within]] = [
        ("an empty call (the timer)", None, nothing),
        ("record", {}, record),
        ("record in tracker.context", {}, _Within(tracker.context(job_id="j"), record)),
        ("record in ai_usage_context", {}, _Within(ai_usage_context("label"), record)),
        ("record in tracker.track", {}, _Within(tracker.track("label"), record)),
        ("a tracked function that does nothing", {}, tracker.track("nothing")(nothing)),
        ("a tool that does nothing", {}, tracker.tool("nothing", cost=1)(nothing)),
    ]
    for name, exporter in _exporters().items():
        shown = AIUsageTracker(client_of(directory / name), strict=True, exporters=[exporter])
        operations.append((f"record, {name}", {}, lambda shown=shown: shown.record(**call)))
    return in_turns(operations, calls)


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time one thread that nothing of ours disturbs."""
    calls = max(20, int(_CALLS * scale))
    say("contexts and exporters")
    with private_directory() as directory:
        rows = in_fresh_process(_measure, directory, calls)
    title = f"Contexts and exporters: microseconds per call ({ROUNDS} x {calls} calls in turns)"
    return [Part("contexts", title, rows)]
