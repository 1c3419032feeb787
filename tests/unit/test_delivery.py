"""Delivery: put, ack, unlink, each repeatable; no record is skipped and none stops the others."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from receipt_dynamo import StoreError, UsageQuery
from receipt_dynamo.delivery import BATCH_RECORDS, Delivery, DeliveryReport
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.spool.pending import pending_records
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, WriteOutcome
from tests.support import NOON, damage, encode, make_metric, only_segment
from tests.support.delivery_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_was_sealed_is_stored_and_its_file_removed(bench: Bench) -> None:
    """Nothing stays behind of a segment whose records are all in the store."""
    bench.spool("a", "b")
    report = bench.run()
    assert (report.delivered, report.finished) == (2, True)
    assert bench.stored == ["a", "b"]
    assert list_segments(bench.directory) == []
    assert bench.run().delivered == 0


def test_active_segments_are_delivered_up_to_their_last_newline(bench: Bench) -> None:
    """A running process's records arrive too, its half-written one later, its file stays."""
    writer = bench.spool("a", seal=False)
    path = only_segment(bench.directory)
    line = encode_line(encode(make_metric(request_id="b")))
    with path.open("ab") as file:
        file.write(line[:40])
    assert bench.run().delivered == 1
    assert bench.run().delivered == 0
    with path.open("ab") as file:
        file.write(line[40:])
    assert bench.run().delivered == 1
    writer.append(encode(make_metric(request_id="c")))
    assert bench.run().delivered == 1
    assert bench.stored == ["a", "b", "c"]
    assert path.exists()


def test_a_whole_record_without_its_newline_is_kept(bench: Bench) -> None:
    """Killed between the last two bytes of a write, or written short: the record is complete."""
    bench.spool("a")
    with only_segment(bench.directory).open("ab") as file:
        file.write(encode_line(encode(make_metric(request_id="b")))[:-1])
    assert bench.run().bad_lines == 0
    assert bench.stored == ["a", "b"]


STEPS = ["write", "ack", "remove", "prune_positions"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_beside_any_step_is_repeated_without_harm(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    """However a drainer dies between put, ack and unlink, the next one finishes its work."""
    ids = [f"{n:04d}" for n in range(BATCH_RECORDS + 7)]
    bench.spool(*ids)
    owner = SqliteStore if step in ("write", "prune_positions") else SegmentReader
    real = getattr(owner, step)

    def dies(self: object, *args: object) -> object:
        if when == "after":
            real(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dies)
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    other = Delivery(bench.directory, SqliteStore(bench.store.path), bench.clock)
    assert other.run(float("inf")).finished
    assert bench.stored == ids
    assert list_segments(bench.directory) == []


def test_a_failing_store_keeps_everything_spooled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ack ever passes a record that the store has not taken."""
    bench.spool("a", "b")

    def fail(self: SqliteStore, batch: Batch) -> WriteOutcome:
        raise StoreError(f"no room for {len(batch.records)} records")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "write", fail)
        for _ in range(3):
            with pytest.raises(StoreError, match="no room for 2"):
                bench.run()
    assert pending_records(bench.directory) == 2
    bench.run()
    assert bench.stored == ["a", "b"]


def test_two_drainers_at_once_change_nothing(bench: Bench) -> None:
    """Every record arrives once, whoever brings it."""
    ids = [f"{n:05d}" for n in range(3000)]
    for start in range(0, 3000, 300):
        bench.spool(*ids[start : start + 300])
    reports: list[DeliveryReport] = []

    def drain() -> None:
        delivery = Delivery(bench.directory, SqliteStore(bench.store.path), bench.clock)
        reports.append(delivery.run(float("inf")))

    threads = [threading.Thread(target=drain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.delivered for report in reports) == 3000
    assert sorted(bench.stored) == ids


def test_time_that_is_up_leaves_the_rest_for_the_next_run(bench: Bench) -> None:
    """A deadline is kept to within one batch, and says that it was not finished."""
    ids = [f"{n:05d}" for n in range(3 * BATCH_RECORDS)]
    bench.spool(*ids)
    report = bench.delivery.run(bench.clock.monotonic())
    assert (report.delivered, report.finished) == (BATCH_RECORDS, False)
    assert bench.run().finished
    assert sorted(bench.stored) == ids


def test_progress_is_told_as_it_happens(bench: Bench) -> None:
    """A progress bar adds up to the records delivered."""
    bench.spool(*[str(n) for n in range(BATCH_RECORDS + 1)])
    told: list[int] = []
    bench.delivery.run(float("inf"), told.append)
    assert told == [BATCH_RECORDS, 1]


def test_a_gap_is_delivered_once_however_often(bench: Bench) -> None:
    """What was dropped is counted once, as the records are."""
    gap = Gap(gap="g", timestamp=NOON, reason="disk", count=5, input_tokens=7)
    writer = bench.spool("a", seal=False)
    for _ in range(2):
        writer.append(encode(gap), count=0)
    bench.run()
    dropped = bench.store.dropped(UsageQuery())
    assert (dropped.count, dropped.input_tokens) == (5, 7)


def test_a_run_goes_on_behind_an_empty_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that ends before the mark of a torn write does not end the run."""
    monkeypatch.setattr("receipt_dynamo.delivery.BATCH_RECORDS", 2)
    bench.spool("a", "b")
    last = encode_line(encode(make_metric(request_id="c"))).rstrip(b"\n")
    with only_segment(bench.directory).open("ab") as file:
        file.write(b"\n\n" + last)
    bench.run()
    assert bench.stored == ["a", "b", "c"]
    assert list_segments(bench.directory) == []


def test_no_more_goes_than_has_to(bench: Bench) -> None:
    """Another process may make room meanwhile: before each segment it is asked for anew."""
    bench.spool("a")
    bench.spool("b")
    bench.spool("c")
    answers = iter([1, 0])
    spool = Spool(SpoolWriter(bench.directory, 1 << 22), bench.clock)
    bench.delivery.drop_oldest(lambda: next(answers), spool)
    assert spool.drops.take(NOON) == [], "the loss is in the spool as soon as the segment is gone"
    spool.writer.seal()
    bench.run()
    assert bench.stored == ["b", "c"]
    assert bench.store.dropped(UsageQuery()).by_reason == {"drop_oldest": 1}


def test_a_segment_that_makes_room_counts_all_it_held(bench: Bench) -> None:
    """Sound records with their figures, unreadable and damaged ones by number, gaps as they are."""
    writer = bench.spool("a", "b", seal=False)
    writer.append(b"unreadable")
    writer.append(encode(Gap("g", NOON, "disk", 5)))
    writer.seal()
    damage(only_segment(bench.directory), HEADER_BYTES + 20, b"?")
    spool = Spool(SpoolWriter(bench.directory, 1 << 22), bench.clock)
    bench.delivery.drop_oldest(lambda: 1, spool)
    spool.write_gaps()
    spool.writer.seal()
    bench.run()
    lost = bench.store.dropped(UsageQuery()).by_reason
    assert lost == {"corrupt": 1, "disk": 5, "drop_oldest": 2}
