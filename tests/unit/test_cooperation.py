"""Work that nobody waits for lets those run that somebody waits for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from receipt_dynamo import UsageQuery, cooperation, sqlite_insert
from receipt_dynamo.cooperation import BREATH_SECONDS, WORK_SECONDS, cooperatively
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import FakeClock, encode, make_metric


class WorkingClock(FakeClock):
    """A clock by which the work between two looks takes ``step`` seconds."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step
        self.slept: list[float] = []

    def monotonic(self) -> float:
        self.seconds += self.step
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        super().sleep(seconds)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """How many threads run beside the one that asks."""
    others = SimpleNamespace(count=1)
    monkeypatch.setattr(cooperation, "_thread", SimpleNamespace(_count=lambda: others.count))
    return others


@pytest.mark.usefixtures("others")
def test_a_thread_at_work_sleeps_after_a_fifth_of_a_millisecond() -> None:
    """Every item comes, in order, and between them others may have the interpreter."""
    clock = WorkingClock(WORK_SECONDS / 10)
    assert list(cooperatively(range(100), clock)) == list(range(100))
    assert set(clock.slept) == {BREATH_SECONDS}
    assert 7 <= len(clock.slept) <= 10


def test_a_thread_that_is_alone_loses_no_time(others: SimpleNamespace) -> None:
    """A report takes in a backlog as fast as it can: nobody else wants the interpreter."""
    others.count = 0
    clock = WorkingClock(1.0)
    assert list(cooperatively(range(100), clock)) == list(range(100))
    assert clock.slept == []


@pytest.mark.usefixtures("others")
def test_a_batch_is_read_and_inserted_with_pauses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A put beside the drainer waits for a slice of its work, not for a batch of it."""
    reading, inserting = WorkingClock(WORK_SECONDS), WorkingClock(WORK_SECONDS)
    monkeypatch.setattr(sqlite_insert, "_clock", inserting)
    writer = SpoolWriter(tmp_path / "spool", 1 << 22)
    for number in range(50):
        writer.append(encode(make_metric(request_id=f"{number}")))
    writer.close()
    store = SqliteStore(tmp_path / "usage.db")
    Delivery(tmp_path / "spool", store, reading).run(float("inf"))
    assert len(list(store.query(UsageQuery()))) == 50
    assert len(reading.slept) >= 25
    assert len(inserting.slept) >= 25


@pytest.mark.usefixtures("others")
def test_a_failure_within_a_batch_is_told_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What SQLite will never take is found, whatever pauses lie between the rows."""
    monkeypatch.setattr(sqlite_insert, "_clock", WorkingClock(WORK_SECONDS))
    records = [make_metric(request_id=f"{number}") for number in range(9)]
    store = SqliteStore(tmp_path / "usage.db")
    batch = [StoredRecord(metric, encode(metric)) for metric in records]
    batch[4] = StoredRecord(records[4], "no bytes\ud800")  # type: ignore[arg-type]
    with store.exclusive(5):
        outcome = store.write(Batch(records=batch, segment="s", position=100))
    assert outcome.acknowledged == 8
    assert [found.record for found in outcome.rejected] == [batch[4]]
