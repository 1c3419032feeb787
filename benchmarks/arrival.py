"""How old a record is when it arrives in DynamoDB, and how many calls it took, at a steady rate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.loopback import noting_arrivals
from benchmarks.report import Part, Row
from benchmarks.samples import in_fresh_process, private_directory, ready_metric
from receipt_dynamo import ResilientDynamoClient

__all__ = ["run"]

_SECONDS = 10.0
_RATES = (1000, 100, 10)
_GOAL_RATE = 1000
_LATENCY_SECONDS = 0.01


def _record(endpoint: str, directory: str, rate: int, seconds: float) -> int:
    """A pipeline that records ``rate`` records a second; return how many."""
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")  # noqa: S106
    client = ResilientDynamoClient(
        "usage",
        region="us-east-1",
        endpoint_url=endpoint,
        spool_dir=directory,
        environment="development",
    )
    count = max(1, int(rate * seconds))
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        client.put_ai_usage_metric(ready_metric(timestamp=datetime.now(UTC)))
    client.close(30.0)
    return count


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Return the table."""
    seconds = max(0.05, _SECONDS * scale)
    rows = []
    for rate in _RATES:
        say(f"arrival, {rate} records/s")
        with private_directory() as directory, noting_arrivals(_LATENCY_SECONDS) as (url, ages):
            count = in_fresh_process(_record, url, str(directory), rate, seconds)
            found = sorted(ages())
        last = len(found) - 1
        figures: dict[str, Any] = {
            "age p50 ms": found[int(last * 0.5)] * 1000,
            "age p99 ms": found[int(last * 0.99)] * 1000,
            "age max ms": found[last] * 1000,
            "calls per 1,000": 1000 * ages.calls / count,
        }
        goal = {"age p99 ms": 1000.0, "calls per 1,000": 42.0} if rate == _GOAL_RATE else {}
        rows.append(Row(f"{rate:,} records/s", figures, goal=goal))
    return [
        Part(
            "arrival",
            f"Recorded for {seconds:g} s, a server that takes everything after "
            f"{_LATENCY_SECONDS * 1000:g} ms: age on arrival",
            rows,
            "the age is the server's wall time less the record's own; one call takes 25 at most",
        )
    ]
