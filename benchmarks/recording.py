"""What recording a call costs its caller, beside yardsticks measured in the same run.

    make bench                      the table
    make bench ARGS=--json          the same as JSON

Every call is timed by itself. The operations take turns in rounds, so that a slow minute of the
machine hits all of them alike; what counts is the ratio to the yardsticks, not the microseconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from receipt_dynamo import AIUsageMetric, Settings, UsageClient, open_usage_client
from receipt_label import AIUsageTracker

Operation = Callable[[], object]

RECORD: dict[str, Any] = {
    "service": "openai",
    "model": "gpt-4o-2024-08-06",
    "operation": "chat",
    "input_tokens": 1200,
    "cached_input_tokens": 1024,
    "output_tokens": 300,
    "latency_ms": 812.5,
    "job_id": "labels-2026-11",
    "user_id": "pipeline",
    "metadata": {"function": "label_receipt", "attempt": 1},
}
REPLY: dict[str, Any] = {
    "id": "chatcmpl-Dyln92ILj4hwfpf8pkB29u5SE8WQb",
    "object": "chat.completion",
    "created": 1783375763,
    "model": "gpt-4o-2024-08-06",
    "service_tier": "default",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}


@dataclass(slots=True)
class Measured:
    """The timings of one operation, in nanoseconds."""

    name: str
    yardstick: bool
    samples: list[int] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Return the time in microseconds that ``share`` of the calls do not exceed."""
        return self.samples[min(len(self.samples) - 1, int(len(self.samples) * share))] / 1000


def _metric(**fields: Any) -> AIUsageMetric:
    return AIUsageMetric(
        **RECORD, timestamp=datetime.now(UTC), cost_usd=Decimal("0.00588"), **fields
    )


@contextmanager
def _client(directory: Path, drain: str) -> Iterator[UsageClient]:
    settings = Settings.from_env({}, usage_dir=directory, drain=drain, exit_flush_seconds=0.0)
    client = open_usage_client(settings)
    try:
        yield client
    finally:
        client.close()


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


def _sqlite_insert(directory: Path, stack: ExitStack) -> Operation:
    """One row into a WAL database, synchronous NORMAL, autocommit: what many would write."""
    connection = sqlite3.connect(directory / "yardstick.db", isolation_level=None)
    stack.callback(connection.close)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE usage (body TEXT)")
    body = json.dumps(RECORD)
    return lambda: connection.execute("INSERT INTO usage VALUES (?)", (body,))


def _operations(directory: Path, stack: ExitStack) -> list[tuple[str, bool, Operation]]:
    quiet = stack.enter_context(_client(directory / "quiet", "manual"))
    busy = stack.enter_context(_client(directory / "busy", "thread"))
    tracked = stack.enter_context(_client(directory / "tracked", "manual"))
    tracker = AIUsageTracker(tracked, strict=True)
    metric = _metric()
    record = json.loads(json.dumps(RECORD)) | {"timestamp": metric.timestamp.isoformat()}
    call = {name: value for name, value in RECORD.items() if name not in ("job_id", "user_id")}
    stack.enter_context(tracker.context(job_id=RECORD["job_id"], user_id=RECORD["user_id"]))
    return [
        ("an empty call (the timer)", True, lambda: None),
        ("json.dumps of the record", True, lambda: json.dumps(record)),
        ("OpenTelemetry span, 10 attributes", True, _span()),
        ("SQLite WAL insert, autocommit", True, _sqlite_insert(directory, stack)),
        ("put_ai_usage_metric", False, lambda: quiet.put_ai_usage_metric(metric)),
        (
            "put_ai_usage_metric, drainer running",
            False,
            lambda: busy.put_ai_usage_metric(metric),
        ),
        ("tracker.record", False, lambda: tracker.record(**call)),
        ("tracker.record_response", False, lambda: tracker.record_response(REPLY)),
    ]


def _time(operation: Operation, calls: int, samples: list[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(calls):
        start = clock()
        operation()
        samples.append(clock() - start)


def measure(rounds: int, calls: int) -> list[Measured]:
    """Time every operation ``rounds`` times ``calls`` times, in turns."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        directory.chmod(0o700)
        operations = _operations(directory, stack)
        results = [Measured(name, yardstick) for name, yardstick, _ in operations]
        for _, _, operation in operations:
            _time(operation, 500, [])
        for _ in range(rounds):
            for result, (_, _, operation) in zip(results, operations, strict=True):
                gc.collect()
                _time(operation, calls, result.samples)
    for result in results:
        result.samples.sort()
    return results


def _report(results: list[Measured], rounds: int, calls: int) -> dict[str, Any]:
    dumps = next(result for result in results if result.name.startswith("json.dumps"))
    return {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "rounds": rounds,
        "calls": calls,
        "unit": "microseconds",
        "rows": [
            {
                "operation": result.name,
                "yardstick": result.yardstick,
                "p50": result.percentile(0.5),
                "p99": result.percentile(0.99),
                "p99_9": result.percentile(0.999),
                "mean": round(statistics.fmean(result.samples) / 1000, 3),
                "p50_to_json_dumps": round(result.percentile(0.5) / dumps.percentile(0.5), 2),
            }
            for result in results
        ],
    }


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="microseconds per call", title_justify="left")
    table.add_column("operation")
    for name in ("p50", "p99", "p99.9", "mean", "p50 / json.dumps"):
        table.add_column(name, justify="right")
    for index, row in enumerate(report["rows"]):
        figures = [f"{row[name]:.1f}" for name in ("p50", "p99", "p99_9", "mean")]
        last = index + 1 == len(report["rows"]) or not report["rows"][index + 1]["yardstick"]
        table.add_row(
            row["operation"],
            *figures,
            f"{row['p50_to_json_dumps']:.2f}",
            end_section=row["yardstick"] and last,
        )
    console = Console()
    console.print(table)
    machine = report["machine"]
    console.print(
        f"{report['rounds']} rounds of {report['calls']} calls; Python {machine['python']}, "
        f"{machine['cpus']} CPUs, {machine['system']}, load {machine['load']:.1f}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; print a table, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=5000, help="calls per round and operation")
    options = parser.parse_args(arguments)
    report = _report(measure(options.rounds, options.calls), options.rounds, options.calls)
    if options.json:
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        _print_table(report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
