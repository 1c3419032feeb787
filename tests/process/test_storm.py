"""All of delivery at once: a real engine behind faults, writers and drainers that are killed.

`make storm` brings 100,000 records through it; .ci/run has a short one, with STORM_RECORDS=10000.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import sys
import time
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event

import pytest

from benchmarks.chaos.running import chaos_proxy
from benchmarks.chaos.schedule import Faults, Phase, Schedule
from receipt_dynamo import AIUsageMetric, PutResult, ResilientDynamoClient, UsageQuery
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.health_check import read_health
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import NOON, write
from tests.support.zygote import Tell, Worker, Zygote

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

RECORDS = int(os.environ.get("STORM_RECORDS", "100000"))
LONG = 100_000  # records, with which each kind of fault strikes for certain
WRITERS, DRAINERS = 4, 2
SHARE = RECORDS // WRITERS
SEED = int(os.environ.get("STORM_SEED", "11"))
OUTAGES = ((30.0, 38.0), (70.0, 82.0))  # seconds
LIMIT, EVERY_SECONDS = (6.0, 9.0), 20.0  # at the limit from 6 to 9 of each 20 seconds
FLAKY = Faults(lost_reply=0.15, reset_before=0.05, error_500=0.05)
AT_THE_LIMIT = replace(FLAKY, partial=0.25, table_units=200.0)
KILL_SECONDS = 3.0  # between two kills
PATIENCE_SECONDS = 1500.0
BURST = 50
TABLE = "storm"


def metric_of(writer: int, number: int) -> AIUsageMetric:
    """Return a record that is the same whenever it is made."""
    return AIUsageMetric(
        service=("openai", "anthropic", "google")[number % 3],
        model=f"model-{number % 5}",
        operation="label",
        timestamp=NOON + timedelta(milliseconds=200 * number + writer),
        request_id=f"storm-{writer}-{number:06d}",
        input_tokens=number % 1000,
        output_tokens=number % 77,
        cost_usd=Decimal(number % 1000) / 1_000_000,
        price_source="caller",
        job_id=f"job-{number % 4}" if number % 10 == 0 else None,
    )


def client_of(directory: Path, endpoint: str, drain: str) -> ResilientDynamoClient:
    return ResilientDynamoClient(
        TABLE, endpoint_url=endpoint, spool_dir=directory, drain=drain, segment_bytes=1 << 18
    )


def record(tell: Tell, directory: Path, endpoint: str, drain: str, writer: int, first: int) -> None:
    """A writer: record from ``first`` on, and tell how far it has come."""
    client = client_of(directory, endpoint, drain)
    for number in range(first, SHARE):
        assert client.put_ai_usage_metric(metric_of(writer, number)) is PutResult.STORED
        if number % BURST == 0:
            tell(str(number))
            Event().wait(0.02)
    tell(str(SHARE))
    client.close(30.0)


def ship(tell: Tell, directory: Path, endpoint: str) -> None:
    """A drainer, for as long as it lives."""
    client = client_of(directory, endpoint, "manual")
    tell("here")
    while True:
        if not client.ship():
            Event().wait(0.1)


def storm_schedule() -> Schedule:
    """Return a flaky table, at its limit for 3 of 20 seconds and gone for two spans."""
    starts = [EVERY_SECONDS * turn for turn in range(int(PATIENCE_SECONDS / EVERY_SECONDS))]
    limits = [(start + LIMIT[0], start + LIMIT[1]) for start in starts]
    edges = sorted({0.0, *(edge for span in (*limits, *OUTAGES) for edge in span)})

    def faults(at: float) -> Faults:
        if any(start <= at < end for start, end in OUTAGES):
            return Faults(outage=True)
        return AT_THE_LIMIT if LIMIT[0] <= at % EVERY_SECONDS < LIMIT[1] else FLAKY

    spans = itertools.pairwise([*edges, None])
    return Schedule("storm", [Phase(start, end, faults(start)) for start, end in spans])


class Storm:
    """Writers and drainers of one spool, of which one is killed now and then."""

    def __init__(self, zygote: Zygote, directory: Path, endpoint: str) -> None:
        self._zygote = zygote
        self._place = (directory, endpoint)
        self._chance = random.Random(SEED)  # noqa: S311
        self._writers = {number: self._write(number, 0) for number in range(WRITERS)}
        self._drainers = [self._drain() for _ in range(DRAINERS)]
        self.kills = 0

    def _write(self, number: int, first: int) -> Worker:
        drain = "thread" if number % 2 else "external"
        return self._zygote.start(record, *self._place, drain, number, first)

    def _drain(self) -> Worker:
        return self._zygote.start(ship, *self._place)

    def kill_one(self) -> None:
        """Kill a writer or a drainer, and start another in its place."""
        self.kills += 1
        victim = self._chance.randrange(WRITERS + DRAINERS)
        if victim >= WRITERS:
            self._drainers[victim - WRITERS].kill()
            self._drainers[victim - WRITERS] = self._drain()
            return
        writer = self._writers[victim]
        if writer.has_ended():
            assert writer.wait() == 0, writer.errors
            return
        writer.send(signal.SIGKILL)
        writer.wait()
        told = writer.told
        self._writers[victim] = self._write(victim, int(told[-1]) if told else 0)

    def is_written(self) -> bool:
        """Whether every writer has come to its end; one that failed fails the test."""
        ended = [writer.has_ended() for writer in self._writers.values()]
        if all(ended):
            assert [writer.wait() for writer in self._writers.values()] == [0] * WRITERS
        return all(ended)

    def end(self) -> None:
        for drainer in self._drainers:
            drainer.kill()


def test_everything_arrives_once_through_a_storm(
    dynamodb: str, zygote: Zygote, tmp_path: Path
) -> None:
    """15 % lost replies, 5 % resets, 5 % faults of the server, partial batches, throttling, two
    outages, and a process killed every three seconds: each record is in the table, once, and
    the table's sums are those of the embedded store."""
    table = DynamoClient(TABLE, endpoint_url=dynamodb)
    table.create_table(shards=2)
    began = time.monotonic()
    with chaos_proxy(dynamodb, storm_schedule(), seed=SEED) as proxy:
        proxy.begin()
        storm = Storm(zygote, tmp_path / "usage", proxy.endpoint)
        client = client_of(tmp_path / "usage", proxy.endpoint, "manual")
        for number in itertools.count():
            wait(KILL_SECONDS)
            written, left = storm.is_written(), client.pending()
            if written and not left:
                break
            assert time.monotonic() - began < PATIENCE_SECONDS, (written, left)
            if number % 5 == 0:
                say(f"{time.monotonic() - began:5.0f} s: {left:,} wait, {storm.kills} kills")
            storm.kill_one()
        storm.end()
        counts = proxy.stop()
        taken = time.monotonic() - began
    health = read_health(client.settings)
    assert (health.dead_ever, health.dropped, health.corrupt_lines) == (0, {}, 0)
    say(f"{RECORDS:,} records in {taken:.0f} s, {storm.kills} kills; calls: {counts}")
    if RECORDS >= LONG:
        assert_kinds(counts)
    compare(table, tmp_path)


def assert_kinds(counts: dict[str, int]) -> None:
    """The storm was one: each kind of fault struck."""
    for kind in ("lost_reply", "reset_before", "error_500", "partial", "throttled", "outage"):
        assert any(counts[name] for name in counts if name.endswith(f" {kind}")), kind


def compare(table: DynamoClient, directory: Path) -> None:
    """Hold the table against an embedded store with the same records."""
    store = SqliteStore(directory / "expected.db")
    for writer in range(WRITERS):
        for first in range(0, SHARE, 5000):
            last = min(first + 5000, SHARE)
            write(store, [metric_of(writer, number) for number in range(first, last)])
    everything = UsageQuery()
    for by in ((), ("service", "model"), ("day", "job")):
        assert table.summarize(everything, by) == store.summarize(everything, by, "UTC"), by
    of_a_job = UsageQuery(job_id="job-2")
    assert list(table.query(of_a_job)) == list(store.query(of_a_job))
    found = [metric.request_id for metric in table.query(everything)]
    assert len(found) == len(set(found)) == RECORDS


def wait(seconds: float) -> None:
    select.select([], [], [], seconds)


def say(text: str) -> None:
    """Tell whoever watches a run that takes minutes."""
    print(text, file=sys.__stderr__, flush=True)
