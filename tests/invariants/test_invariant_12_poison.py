"""Invariant 12: one poison among 25 records, and 24 are delivered, 1 is dead with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from receipt_dynamo import StoreError, UsageQuery
from receipt_dynamo.delivery import Delivery, DeliveryReport
from receipt_dynamo.spool.aside import Aside
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, WriteOutcome
from tests.support import FakeClock, encode, make_metric
from tests.support.stores import POISON, MemoryStore, forbid_poison

IDS = [f"r{n:02d}" for n in range(25)]
SOUND = [name for name in IDS if name != "r12"]


class Bench:
    """A spool with a poison among its records, and a store that refuses it."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory = directory / "spool"
        self.store: Any = MemoryStore()
        if kind == "embedded":
            self.store = SqliteStore(directory / "usage.db")
            with self.store.exclusive(5):
                pass
            forbid_poison(self.store.path)
        self.clock = FakeClock()
        self.delivery = Delivery(self.directory, self.store, self.clock)

    def payloads(self) -> list[bytes]:
        return [
            encode(make_metric(request_id=name, model=POISON if name == "r12" else "gpt-4o"))
            for name in IDS
        ]

    def spool(self, *payloads: bytes) -> None:
        writer = SpoolWriter(self.directory, 1 << 22)
        for payload in payloads:
            writer.append(payload)
        writer.seal()

    def run(self) -> DeliveryReport:
        return self.delivery.run(float("inf"))

    def unsent(self, path: Path) -> int:
        """How many records of a segment lie behind what the store has settled."""
        with SegmentReader(path) as segment, self.store.exclusive(5):
            return len(segment.read(self.delivery._start(segment), 1000).payloads)

    @property
    def stored(self) -> list[str]:
        return [metric.request_id for metric in self.store.query(UsageQuery())]

    @property
    def dead(self) -> list[tuple[str, str]]:
        """The request id and the reason of every letter in ``dead/``."""
        letters = [
            msgspec.json.decode(line)
            for path in sorted((self.directory / "dead").glob("*.jsonl"))
            for line in path.read_bytes().splitlines()
        ]
        return [
            (msgspec.json.decode(letter["record"])["request_id"], letter["reason"])
            for letter in letters
        ]


@pytest.fixture(params=["embedded", "table"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, request.param)


def test_one_poison_in_25_dies_alone(bench: Bench) -> None:
    """Its 24 neighbours are delivered, it lies in dead/ with the reason, and the segment ends."""
    bench.spool(*bench.payloads())
    report = bench.run()
    assert (report.delivered, report.dead, report.finished) == (24, 1, True)
    assert bench.stored == SOUND
    ((name, reason),) = bench.dead
    assert name == "r12"
    assert "poison is forbidden" in reason or "the table refuses it" in reason
    assert list_segments(bench.directory) == []
    assert bench.run().dead == 0


def test_poison_from_memory_dies_alone(bench: Bench) -> None:
    """Records that never saw the disk are settled as the others are."""
    ring = MemoryRing()
    for payload in bench.payloads():
        ring.offer(payload)
    bench.spool()
    report = DeliveryReport()
    bench.delivery.deliver_memory(ring, report)
    assert (report.delivered, report.dead, len(ring)) == (24, 1, 0)
    assert bench.stored == SOUND
    assert [name for name, _ in bench.dead] == ["r12"]


def test_nothing_is_acked_past_a_poison_that_dead_has_no_room_for(bench: Bench) -> None:
    """The segment waits, others go on; with room again it moves, and nothing is there twice."""
    bench.spool(*bench.payloads())
    (waiting,) = list_segments(bench.directory)
    bench.spool(encode(make_metric(request_id="other")))
    (bench.directory / "dead").write_text("in the way")
    for _ in range(3):
        report = bench.run()
        assert (report.failed_segments, report.dead, report.finished) == (1, 0, False)
        assert list_segments(bench.directory) == [waiting]
        assert bench.unsent(waiting) == 25
    assert "other" in bench.stored
    (bench.directory / "dead").unlink()
    report = bench.run()
    assert (report.delivered, report.dead, report.finished) == (24, 1, True)
    assert bench.stored == ["other", *SOUND]
    assert len(bench.dead) == 1


def test_poison_in_memory_that_dead_has_no_room_for_stays_and_stops_nothing(bench: Bench) -> None:
    """On a full disk the others are delivered, and only the poison keeps its place in memory."""
    ring = MemoryRing()
    for payload in bench.payloads():
        ring.offer(payload)
    bench.spool()
    (bench.directory / "dead").write_text("in the way")
    report = DeliveryReport()
    bench.delivery.deliver_memory(ring, report)
    assert (report.delivered, report.dead, len(ring)) == (24, 0, 1)
    assert bench.stored == SOUND
    (bench.directory / "dead").unlink()
    bench.delivery.deliver_memory(ring, report)
    assert (report.dead, len(ring)) == (1, 0)
    assert [name for name, _ in bench.dead] == ["r12"]


@pytest.mark.parametrize("step", ["bury", "ack"])
def test_a_drainer_killed_beside_the_burial_loses_no_poison(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Stored = delivered + dead, at whichever step the process dies."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    bench.spool(*bench.payloads())
    with monkeypatch.context() as patch:
        patch.setattr(*((Aside, "bury") if step == "bury" else (SegmentReader, "ack")), killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    other = Delivery(bench.directory, bench.store, bench.clock)
    assert other.run(float("inf")).finished
    assert bench.stored == SOUND
    assert {name for name, _ in bench.dead} == {"r12"}


def test_a_store_that_fails_after_the_burial_fills_no_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a batch is sent again, its poison is buried once."""
    bench.spool(*bench.payloads())
    real: Callable[..., WriteOutcome] = type(bench.store).write

    def fails_then(self: object, batch: Batch) -> WriteOutcome:
        if not batch.records:
            raise StoreError("away")
        return real(self, batch)

    monkeypatch.setattr(type(bench.store), "write", fails_then)
    for _ in range(5):
        with pytest.raises(StoreError):
            bench.run()
    monkeypatch.undo()
    assert bench.run().finished
    assert bench.stored == SOUND
    assert len(bench.dead) == 1


def test_a_damaged_line_beside_a_poison_is_counted_once(bench: Bench) -> None:
    """A batch that is sent again, and has grown meanwhile, counts its losses under one name."""
    bench.spool(*bench.payloads())
    (waiting,) = list_segments(bench.directory)
    with waiting.open("ab") as file:
        file.write(b"00000000 rotten\nnext")
    (bench.directory / "dead").write_text("in the way")
    bench.run()
    with waiting.open("ab") as file:
        file.write(b"\n00000000 rotten too\nnext\n")
    (bench.directory / "dead").unlink()
    bench.run()
    lost = (
        sum(gap.count for gap in bench.store.gaps.values())
        if isinstance(bench.store, MemoryStore)
        else bench.store.dropped(UsageQuery()).count
    )
    kept = (bench.directory / "quarantine").glob("*")
    assert lost == sum(len(path.read_bytes().splitlines()) for path in kept) == 4
