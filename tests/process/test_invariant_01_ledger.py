"""Invariant 1: STORED = delivered + pending + dead + quarantined, under random SIGKILLs.

Invariant 2 with it: nothing twice, and what comes again to a store comes byte for byte.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import PutResult, Settings, StoreBusyError, StoreError, UsageClient, UsageQuery
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.health import FlushReport
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, UsageStore, WriteOutcome
from receipt_dynamo.utils.clock import SystemClock
from tests.support import make_metric
from tests.support.file_store import FileStore
from tests.support.ledger import (
    assert_ledger,
    damaged_line,
    poison_line,
    read_ledger,
)
from tests.support.zygote import Tell, Worker, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 110  # for each of two stores
BURST = 20  # what a writer records between pauses, so that drainers keep up
BY_HAND = {BURST - 2: poison_line, BURST - 1: damaged_line}
STORES: dict[str, Callable[[Path], UsageStore]] = {
    "sqlite": lambda directory: SqliteStore(directory / "usage.db"),
    "acks_in_headers": lambda directory: FileStore(directory / "usage.jsonl"),
}


class FlakyStore:
    """A store that fails at random: it is busy, or a write fails before or after it was done."""

    def __init__(self, store: UsageStore, chance: random.Random, tell: Tell) -> None:
        self._store = store
        self._chance = chance
        self._tell = tell

    def _fail(self, what: str) -> None:
        if self._chance.random() < 0.1:
            raise StoreError(what)

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:
        if self._chance.random() < 0.1:
            raise StoreBusyError("busy")
        return self._store.exclusive(timeout)

    def write(self, batch: Batch) -> WriteOutcome:
        self._tell("store")
        self._fail("before the write")
        outcome = self._store.write(batch)
        self._fail("after the write")
        return outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def settings_of(directory: Path, **changes: Any) -> Settings:
    return Settings(usage_dir=directory, segment_bytes=1 << 15, **changes)


def record(tell: Tell, directory: Path, name: str) -> None:
    """A writer: tell of every record that was answered STORED, and of lines put in by hand."""
    client = UsageClient(settings_of(directory, drain="external"), SqliteStore(directory / "none"))
    for n in itertools.count():
        by_hand = BY_HAND.get(n % BURST)
        if by_hand is None:
            put(client, name, n, tell)
            continue
        segment = client._pipeline.spool.writer.active_segment
        assert segment is not None
        with segment.open("ab", buffering=0) as file:
            file.write(by_hand(f"{name}-{n}"))
        tell(f"{name}-{n}")
        threading.Event().wait(0.01)


def put(client: UsageClient, name: str, n: int, tell: Tell) -> None:
    metric = make_metric(request_id=f"{name}-{n}", input_tokens=1, cost_usd="0.01")
    assert client.put_ai_usage_metric(metric) is PutResult.STORED
    tell(f"{name}-{n}")


def drain(tell: Tell, directory: Path, name: str, store: str, way: str) -> None:
    """A drainer whose store fails at random, and whose acks do."""
    chance = random.Random(name)  # noqa: S311 - chance, no secrets
    flaky = FlakyStore(STORES[store](directory), chance, tell)
    ack = SegmentReader.ack

    def flaky_ack(segment: SegmentReader, offset: int) -> None:
        if chance.random() < 0.1:
            raise OSError("before the ack")
        ack(segment, offset)
        if chance.random() < 0.1:
            raise OSError("after the ack")

    SegmentReader.ack = flaky_ack  # type: ignore[assignment,method-assign]
    WAYS[way](directory, flaky, name, tell)


def run_delivery(directory: Path, store: UsageStore, name: str, tell: Tell) -> None:
    delivery = Delivery(directory / "spool" / "local", store, SystemClock())
    while True:
        try:
            delivery.run(float("inf"))
        except StoreError:
            tell(f"failed {name}")


def run_flushes(directory: Path, store: UsageStore, name: str, tell: Tell) -> None:
    client = UsageClient(settings_of(directory, drain="manual"), store)
    while True:
        assert isinstance(client.flush(), FlushReport)
        tell(f"flushed {name}")


def run_thread(directory: Path, store: UsageStore, name: str, tell: Tell) -> None:
    client = UsageClient(settings_of(directory), store)
    for n in itertools.count():
        put(client, name, n, tell)
        threading.Event().wait(0.01)


WAYS = {"delivery": run_delivery, "flushes": run_flushes, "thread": run_thread}


class Storm:
    """Writers and drainers on one directory, killed one after the other."""

    def __init__(self, zygote: Zygote, directory: Path, store: str) -> None:
        self.chance = random.Random(f"storm over {store}")  # noqa: S311
        self.directory = directory
        self.spool = directory / "spool" / "local"
        self.entrusted: list[str] = []
        self.perhaps: list[str] = []
        self._zygote = zygote
        self._store = store
        self._started = itertools.count()
        self._named: dict[Worker, str] = {}

    def start_writer(self) -> Worker:
        name = f"writer{next(self._started)}"
        worker = self._zygote.start(record, self.directory, name)
        self._named[worker] = name
        return worker

    def start_drainer(self) -> Worker:
        number = next(self._started)
        way = list(WAYS)[number % len(WAYS)]
        name = f"{way}{number}"
        worker = self._zygote.start(drain, self.directory, name, self._store, way)
        self._named[worker] = name
        return worker

    def kill(self, victim: Worker, after: int) -> None:
        """Kill a worker once it has told ``after`` more lines; enter what it was answered."""
        victim.wait_for(victim.count + after)
        victim.kill()
        name = self._named.pop(victim)
        told = [line for line in victim.told if line.startswith(f"{name}-")]
        self.entrusted += told
        self.perhaps.append(f"{name}-{len(told)}")  # killed between its write and its answer


@pytest.mark.parametrize("store_name", STORES)
def test_invariant_01_the_ledger_is_exact_after_random_kills(
    tmp_path: Path, store_name: str
) -> None:
    """110 SIGKILLs of writers and drainers over a store that fails at random: what was STORED is
    in the store, still pending, dead or in quarantine, exactly, and nothing is there twice."""
    directory = tmp_path / "usage"
    store = STORES[store_name](directory)
    UsageClient(settings_of(directory, drain="manual"), store).close()  # the directories
    with Zygote(tmp_path) as zygote:
        storm = Storm(zygote, directory, store_name)
        writers = [storm.start_writer() for _ in range(2)]
        drainers = [storm.start_drainer() for _ in range(3)]
        for _ in range(KILLS):
            group, start, lines = storm.chance.choice(
                [(writers, storm.start_writer, 100), (drainers, storm.start_drainer, 12)]
            )
            victim = group.pop(storm.chance.randrange(len(group)))
            storm.kill(victim, storm.chance.randrange(lines))
            group.append(start())
        for drainer in drainers:
            storm.kill(drainer, 0)
        for writer in writers:
            storm.kill(writer, 1)

    ledger = read_ledger(storm.spool, store)
    assert_ledger(ledger, storm.entrusted, storm.perhaps)
    assert ledger.delivered
    assert ledger.pending
    assert ledger.dead
    assert ledger.quarantined
    assert Delivery(storm.spool, store, SystemClock()).run(float("inf")).finished
    assert list_segments(storm.spool) == []
    ledger = read_ledger(storm.spool, store)
    assert ledger.pending == set()
    assert_ledger(ledger, storm.entrusted, storm.perhaps)
    assert store.dropped(UsageQuery()).by_reason == {"corrupt": len(ledger.quarantined)}
