"""The embedded store: one transaction a batch, one record an identity, versions kept apart."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import (
    AIUsageMetric,
    StoreBusyError,
    StoreError,
    StoreVersionError,
    UsageQuery,
)
from receipt_dynamo import sqlite_schema as schema
from receipt_dynamo import sqlite_store as module
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import FULL_FIELDS, NOON, encode, in_fork, make_metric

ALL = UsageQuery()


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "usage.db")


def write(
    store: SqliteStore, *metrics: AIUsageMetric, position: int = 100, gaps: Sequence[Gap] = ()
) -> None:
    records = [StoredRecord(metric, encode(metric)) for metric in metrics]
    with store.exclusive(5):
        store.write(Batch(records=records, gaps=gaps, segment="s.seg", position=position))


def position(store: SqliteStore) -> int:
    with store.exclusive(5):
        return store.position("s.seg")


def test_a_metric_comes_back_as_it_was(store: SqliteStore) -> None:
    """Every field, also those that no column holds."""
    metric = AIUsageMetric(**FULL_FIELDS)
    write(store, metric)
    assert list(store.query(ALL)) == [metric]


def test_the_same_identity_replaces_and_the_later_arrival_wins(store: SqliteStore) -> None:
    """Also within one batch; another service, time or id is another record."""
    first = make_metric(request_id="r", input_tokens=1, error="e")
    again = make_metric(request_id="r", input_tokens=2)
    write(store, first, again)
    write(store, make_metric(request_id="r", input_tokens=3, model="other"))
    (kept,) = store.query(ALL)
    assert (kept.input_tokens, kept.model, kept.error) == (3, "other", None)
    (total,) = store.summarize(ALL, ())
    assert (total.calls, total.input_tokens, total.errors) == (1, 3, 0)
    write(
        store,
        make_metric(request_id="r", service="other"),
        make_metric(request_id="r", timestamp=NOON + timedelta(microseconds=1)),
        make_metric(request_id="r2"),
    )
    assert len(list(store.query(ALL))) == 4


def test_metrics_come_by_time_then_by_arrival(store: SqliteStore) -> None:
    """The order is that of the calls, not of their delivery."""
    late, early = make_metric(timestamp=NOON + timedelta(seconds=1)), make_metric()
    second = make_metric()
    write(store, late, early, second)
    assert list(store.query(ALL)) == [early, second, late]


@pytest.mark.parametrize("fails_at", ["INSERT OR REPLACE INTO ingest", "COMMIT"])
def test_records_and_offset_are_one_transaction(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """A failure before COMMIT leaves neither the records nor the offset."""
    write(store, make_metric(), position=100)

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql.startswith(fails_at):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *args)

    real = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(module.sqlite3, "connect", lambda *a, **k: real(*a, factory=Failing, **k))
        with pytest.raises(StoreError, match=r"usage\.db cannot be used: disk I/O error"):
            write(store, make_metric(), make_metric(), position=200)
    assert len(list(store.query(ALL))) == 1
    assert position(store) == 100
    write(store, make_metric(), position=200)
    assert (len(list(store.query(ALL))), position(store)) == (2, 200)


def test_offsets_of_segments_that_are_gone_are_forgotten(store: SqliteStore) -> None:
    """The table of offsets never grows beyond the segments that exist."""
    write(store, make_metric())
    with store.exclusive(5):
        store.prune_positions(["s.seg", "other.seg"])
        assert store.position("s.seg") == 100
        store.prune_positions([])
        assert store.position("s.seg") == 0


def test_a_store_that_is_not_there_is_empty_and_stays_away(store: SqliteStore) -> None:
    """A question creates nothing."""
    assert list(store.query(ALL)) == []
    (total,) = store.summarize(ALL, ())
    assert (total.calls, total.cost_usd) == (0, None)
    assert store.summarize(ALL, ("day",)) == []
    assert store.dropped(ALL).count == 0
    assert not store.path.exists()


@pytest.fixture
def migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that the store's file does not have yet."""
    monkeypatch.setattr(schema, "MIGRATIONS", EXTENDED)
    monkeypatch.setattr(module, "MIGRATIONS", EXTENDED)


VERSION = len(schema.MIGRATIONS)
EXTENDED = (*schema.MIGRATIONS, ("ALTER TABLE metric ADD COLUMN later TEXT DEFAULT 'new'",))


def test_an_older_store_is_copied_then_migrated(
    store: SqliteStore, request: pytest.FixtureRequest
) -> None:
    """Nothing is lost, and usage.db.v<N> is a complete store: the way back."""
    metrics = [make_metric(request_id=f"{n:02}") for n in range(50)]
    write(store, *metrics)
    request.getfixturevalue("migration")
    assert list(store.query(ALL)) == metrics
    backup = store.path.with_name(f"usage.db.v{VERSION}")
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(store.path)) as now, closing(sqlite3.connect(backup)) as before:
        assert now.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
        assert now.execute("SELECT DISTINCT later FROM metric").fetchall() == [("new",)]
        assert before.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert before.execute("SELECT count(*) FROM metric").fetchone() == (50,)
    assert not list(store.path.parent.glob("*.partial"))
    write(store, make_metric())
    assert len(list(store.query(ALL))) == 51


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transaction: half a migration is none, and the older version still works."""
    write(store, make_metric())
    broken = (*EXTENDED, ("CREATE TABLE extra (x)", "ALTER TABLE nowhere ADD COLUMN x"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        patch.setattr(module, "MIGRATIONS", broken)
        with pytest.raises(
            StoreError, match=f"from store version {VERSION} to {VERSION + 2}.*left as it was"
        ):
            list(store.query(ALL))
    assert len(list(store.query(ALL))) == 1
    write(store, make_metric())


def test_a_newer_store_is_refused_in_one_line(store: SqliteStore) -> None:
    """An older library neither reads nor writes what it does not understand."""
    write(store, make_metric())
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    before = store.path.read_bytes()
    with pytest.raises(StoreVersionError, match=f"version 7.*knows {VERSION}.*Upgrade") as read:
        list(store.query(ALL))
    with pytest.raises(StoreVersionError):
        write(store, make_metric())
    assert "\n" not in str(read.value)
    assert store.path.read_bytes() == before


def test_a_report_that_reads_is_not_disturbed_by_what_arrives(store: SqliteStore) -> None:
    """A long report is not blocked by writers; what was there comes once, also if replaced."""
    names = [f"{n:04}" for n in range(2500)]
    write(store, *[make_metric(request_id=name) for name in names])
    reading = store.query(ALL)
    first = next(reading)
    write(store, *[make_metric(request_id=name) for name in ("0500", "1500", "new")])
    assert [metric.request_id for metric in [first, *reading]] == [*names, "new"]
    unread = store.query(ALL)
    next(unread)
    unread.close()
    write(store, make_metric())


def test_writing_needs_the_lock_and_waits_for_it_only_so_long(store: SqliteStore) -> None:
    """Two writers never meet, in one process or in several."""
    with pytest.raises(RuntimeError, match="exclusive"):
        store.position("s.seg")
    other = SqliteStore(store.path)
    with store.exclusive(5):
        with pytest.raises(StoreBusyError, match=r"store\.lock was held by another process"):
            write_within(other, 0)
        with store.exclusive(0):
            assert store.position("s.seg") == 0
        caught: list[BaseException] = []

        def in_thread() -> None:
            try:
                write_within(store, 0)
            except StoreBusyError as error:
                caught.append(error)

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        assert len(caught) == 1
    write_within(other, 0)


def write_within(store: SqliteStore, timeout: float) -> None:
    with store.exclusive(timeout):
        store.position("s.seg")


def test_a_child_forked_in_the_middle_of_a_write_uses_its_own(store: SqliteStore) -> None:
    """It leaves SQLite alone, which would write over the parent's records; the parent goes on."""
    write(store, make_metric(request_id="before"))
    with store.exclusive(5):

        def child() -> None:
            with pytest.raises(StoreError, match="forked while SQLite was in use"):
                list(store.query(ALL))
            with pytest.raises(StoreError, match="What it records is in the spool"):
                write_within(store, 0)

        assert in_fork(child) == 0
        metric = make_metric(request_id="parent")
        record = StoredRecord(metric, encode(metric))
        store.write(Batch(records=[record], segment="s.seg", position=200))
    assert in_fork(lambda: write(store, make_metric(request_id="child"), position=300)) == 0
    assert {m.request_id for m in store.query(ALL)} == {"before", "parent", "child"}
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_whose_maker_was_killed_can_be_read(tmp_path: Path) -> None:
    """The journal that it left is rolled back by whoever reads first."""
    made, left = tmp_path / "made.db", tmp_path / "usage.db"
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE other (text TEXT)")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO other VALUES (?)", [("x" * 4000,)] * 20)
        connection.execute("UPDATE other SET text = 'y'")  # more than the cache holds
        for suffix in ("", "-journal"):  # as they lie there in the middle of the transaction
            copy = left.with_name(f"{left.name}{suffix}")
            shutil.copy(f"{made}{suffix}", copy)
            copy.chmod(0o600)
        connection.execute("ROLLBACK")
    store = SqliteStore(left)
    assert list(store.query(UsageQuery())) == []
