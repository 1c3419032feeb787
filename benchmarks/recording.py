"""One thread: what a call costs its caller, beside what else one might do with a record.

The operations take turns in rounds, so that a slow minute of the machine hits all of them alike.
"""

from __future__ import annotations

import gc
import json
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.report import Part, Row, timings
from benchmarks.samples import (
    RECORD,
    REPLY,
    Operation,
    client_of,
    in_fresh_process,
    line_of,
    open_append,
    plain_sqlite,
    private_directory,
    ready_metric,
    record_values,
    time_calls,
)
from receipt_label import AIUsageTracker

__all__ = ["ROUNDS", "Timed", "in_turns", "run"]

ROUNDS = 10
_CALLS = 3000
_WARM_UP = 300


def _span() -> Operation:
    """An OpenTelemetry span with ten attributes, as a batch processor takes it."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class NullExporter(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(NullExporter()))
    tracer = provider.get_tracer("benchmark")
    attributes = {
        "gen_ai.provider.name": "openai",
        "gen_ai.response.model": RECORD["model"],
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 1200,
        "gen_ai.usage.output_tokens": 300,
        "gen_ai.usage.cache_read.input_tokens": 1024,
        "job": RECORD["job_id"],
        "user.id": RECORD["user_id"],
        "function": "label_receipt",
        "attempt": 1,
    }
    return lambda: tracer.start_span("chat", attributes=attributes).end()


def _operations(directory: Path) -> list[tuple[str, dict[str, float] | None, Operation]]:
    """Return the operations with their goals; None stands for a yardstick."""
    put = client_of(directory / "put")
    tracker = AIUsageTracker(client_of(directory / "tracked"), strict=True)
    tracker.context(job_id=RECORD["job_id"], user_id=RECORD["user_id"]).__enter__()
    metric = ready_metric()
    record, line = record_values(metric), line_of(metric)
    call = {name: value for name, value in RECORD.items() if name not in ("job_id", "user_id")}
    file = open_append(directory / "bare")
    return [
        ("an empty call (the timer)", None, lambda: None),
        ("os.write of the same bytes", None, lambda: os.write(file, line)),
        ("json.dumps of the record", None, lambda: json.dumps(record)),
        ("OpenTelemetry span, 10 attributes", None, _span()),
        ("SQLite WAL NORMAL insert", None, plain_sqlite(directory / "yardstick.db")),
        (
            "put_ai_usage_metric",
            {"p50": 5, "p99": 50},
            lambda: put.put_ai_usage_metric(metric),
        ),
        ("tracker.record", {"p50": 15}, lambda: tracker.record(**call)),
        ("tracker.record_response", {}, lambda: tracker.record_response(REPLY)),
    ]


class Timed(Protocol):
    """An operation that sees to its own timing."""

    def time(self, calls: int) -> array[int]:
        """Return how long each call took, in nanoseconds."""
        ...


def in_turns(
    operations: Sequence[tuple[str, dict[str, float] | None, Operation | Timed]], calls: int
) -> list[Row]:
    """Time every operation, in turns; a goal of None is a yardstick's."""
    taken = [array("q") for _ in operations]
    for _, _, operation in operations:
        _time(operation, min(_WARM_UP, calls))
    for _ in range(ROUNDS):
        for samples, (_, _, operation) in zip(taken, operations, strict=True):
            gc.collect()
            samples.extend(_time(operation, calls))
    return [
        Row(name, timings(samples), goal is None, goal or {})
        for samples, (name, goal, _) in zip(taken, operations, strict=True)
    ]


def _time(operation: Operation | Timed, calls: int) -> array[int]:
    return time_calls(operation, calls) if callable(operation) else operation.time(calls)


def _measure(directory: Path, calls: int) -> list[Row]:
    """Time them all. What they have spooled nobody delivers: the process ends."""
    return in_turns(_operations(directory), calls)


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time one thread that nothing of ours disturbs."""
    calls = max(20, int(_CALLS * scale))
    say("one thread")
    with private_directory() as directory:
        rows = in_fresh_process(_measure, directory, calls)
    title = f"One thread, no drainer: microseconds per call ({ROUNDS} x {calls} calls in turns)"
    return [Part("recording", title, rows)]
