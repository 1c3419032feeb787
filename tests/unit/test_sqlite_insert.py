"""What SQLite will never take is told from what it cannot take now."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from receipt_dynamo import StoreError, UsageQuery
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_insert import insert
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord, WriteOutcome
from tests.support import NOON, encode, make_metric


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "usage.db")


def record(name: str, **forged: Any) -> StoredRecord:
    """A record; ``forged`` fields go past every check."""
    metric = make_metric(request_id=name)
    payload = encode(metric)
    for field, value in forged.items():
        msgspec.structs.force_setattr(metric, field, value)
    return StoredRecord(metric, payload)


def write(store: SqliteStore, *records: StoredRecord, **batch: Any) -> WriteOutcome:
    with store.exclusive(5):
        return store.write(Batch(records=records, segment="s", position=100, **batch))


def stored(store: SqliteStore) -> list[str]:
    return [metric.request_id for metric in store.query(UsageQuery())]


def position(store: SqliteStore) -> int:
    with store.exclusive(5):
        return store.position("s")


@pytest.mark.parametrize(
    ("forged", "said"),
    [
        ({"github_pr": 2**63}, "too large"),
        ({"model": object()}, "type 'object' is not supported"),
        ({"model": "\ud800"}, "surrogates not allowed"),
        ({"model": None}, "NOT NULL constraint failed: metric.model"),
    ],
)
@pytest.mark.parametrize("place", [0, 12, 24])
def test_a_row_that_cannot_be_bound_or_fails_a_constraint_is_rejected_alone(
    store: SqliteStore, forged: dict[str, Any], said: str, place: int
) -> None:
    """24 of 25 go in, one comes back with SQLite's own words, and the position waits for it."""
    records = [record(f"r{n:02d}") for n in range(25)]
    records[place] = poison = record("poison", **forged)
    outcome = write(store, *records)
    assert outcome.acknowledged == 24
    ((rejected, reason),) = [(r.record, r.reason) for r in outcome.rejected]
    assert rejected is poison
    assert said in reason
    assert len(stored(store)) == 24
    assert position(store) == 0
    with store.exclusive(5):
        assert not store.write(Batch(records=(), segment="s", position=100)).rejected
    assert position(store) == 100


def test_several_poisons_and_a_gap_beside_them_are_each_told_apart(store: SqliteStore) -> None:
    """However many there are, what is sound goes in, and the last version of a record stays."""
    gap = Gap("g", NOON, "disk", 2**70)
    records = [record(f"r{n % 20}", **({"model": None} if n % 7 == 0 else {})) for n in range(40)]
    outcome = write(store, *records, gaps=[gap, Gap("h", NOON, "disk", 3)])
    assert [r.record for r in outcome.rejected] == [*records[::7], gap]
    assert outcome.acknowledged == 34
    assert len(set(stored(store))) == 20
    assert store.dropped(UsageQuery()).count == 3


def test_a_full_disk_rejects_nothing(store: SqliteStore) -> None:
    """What cannot go in now is tried again for ever, and the batch is in as a whole or not."""
    write(store, record("first"))
    with store.exclusive(5):
        connection = store._connection()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        batch = [record(f"r{n}", model="x" * 256) for n in range(200)]
        with pytest.raises(StoreError, match="full"):
            store.write(Batch(records=batch, segment="s", position=900))
    assert stored(store) == ["first"]
    assert position(store) == 100


def test_a_statement_that_is_used_wrongly_rejects_nothing() -> None:
    """A mistake of ours is no fault of any record: nobody is buried for it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("BEGIN")
        with pytest.raises(sqlite3.ProgrammingError, match="Incorrect number of bindings"):
            insert(connection, "INSERT INTO t VALUES (?)", ["a"], lambda item: (item, item))


def test_a_constraint_that_ends_the_transaction_rejects_nothing(store: SqliteStore) -> None:
    """Without its transaction a batch could go in by halves: it waits as a whole."""
    write(store, record("first"))
    connection = sqlite3.connect(store.path)
    connection.execute(
        "CREATE TRIGGER t BEFORE INSERT ON metric WHEN NEW.request_id = 'b' "
        "BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END"
    )
    connection.close()
    with pytest.raises(StoreError, match="all of it"):
        write(store, record("a"), record("b"), record("c"))
    assert stored(store) == ["first"]
