"""A store that the first version of the library wrote: every answer is that of a new one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, UsageQuery
from receipt_dynamo.sqlite_schema import MIGRATIONS
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import DIMENSIONS, UsageReader
from tests.support import damage, make_metric
from tests.support.sqlite_files import leave_version_1, write

ALL = UsageQuery()
NAMES: dict[str, list[str | None]] = {
    "session_id": [None, "s1", "s2"],
    "tool": [None, "Bash", 'a "quoted": name', "nul\0within", "ünï"],
    "skill": [None, "pdf"],
    "subagent": [None, None, "Explore"],
}


def some_metrics(count: int = 120) -> list[AIUsageMetric]:
    """Return metrics of which some carry what agents do, and some only speak of it."""
    chance = Random(7)  # noqa: S311 - the same metrics every time
    metrics = []
    for number in range(count):
        fields: dict[str, Any] = {name: chance.choice(values) for name, values in NAMES.items()}
        spoken = chance.choice([{}, {"tool": "only in metadata", "session_id": "no"}])
        metrics.append(
            make_metric(request_id=f"{number:04}", input_tokens=number, metadata=spoken, **fields)
        )
    return metrics


def answers(store: UsageReader) -> list[Any]:
    """Return what a store answers by each dimension and to each filter."""
    queries = [ALL] + [
        UsageQuery(**{name: value}) for name, values in NAMES.items() for value in values if value
    ]
    return [
        list(store.query(ALL)),
        [store.summarize(query, (word,), "UTC") for query in queries for word in DIMENSIONS],
        store.summarize(ALL, ("session", "tool", "skill", "subagent"), "UTC"),
    ]


@pytest.fixture
def old(tmp_path: Path) -> SqliteStore:
    """A store of the first version, with metrics."""
    store = SqliteStore(tmp_path / "old" / "usage.db")
    leave_version_1(store.path, some_metrics())
    return store


@pytest.fixture
def expected(tmp_path: Path) -> list[Any]:
    """What a store of this version answers that took in the same metrics."""
    store = SqliteStore(tmp_path / "new" / "usage.db")
    write(store, *some_metrics())
    return answers(store)


def test_an_old_store_answers_as_a_new_one(old: SqliteStore, expected: list[Any]) -> None:
    """Sessions, tools, skills and subagents that were recorded before there were columns."""
    assert answers(old) == expected
    with closing(sqlite3.connect(old.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    with closing(sqlite3.connect(old.path.with_name("usage.db.v1"))) as before:
        assert before.execute("PRAGMA user_version").fetchone() == (1,)
        assert before.execute("SELECT count(*) FROM metric").fetchone() == (120,)


def test_an_old_store_that_cannot_be_migrated_answers_all_the_same(
    old: SqliteStore, expected: list[Any]
) -> None:
    """The overlay reads its rows, whichever columns they have, and changes nothing."""
    before = old.path.read_bytes()
    assert answers(old.overlay()) == expected
    assert old.path.read_bytes() == before


def test_a_damaged_old_store_is_salvaged_whole(old: SqliteStore, expected: list[Any]) -> None:
    """Rows without the new columns are rows: nothing of them is lost or counted as lost."""
    damage(old.path, 0, bytes(100))
    assert answers(old) == expected
    assert old.dropped(ALL).count == 0


def test_a_migrated_store_is_salvaged_whole(old: SqliteStore, expected: list[Any]) -> None:
    """Rows that the migration did not touch are shorter than those that it did."""
    list(old.query(ALL))
    damage(old.path, 0, bytes(100))
    assert answers(old) == expected
    assert old.dropped(ALL).count == 0


def test_a_record_that_rotted_stops_no_migration(old: SqliteStore) -> None:
    """What is damaged is for a repair to find; the other rows get their columns."""
    with closing(sqlite3.connect(old.path)) as connection:
        connection.execute("UPDATE metric SET body = X'7B22746F6F6C223A' WHERE seq = 1")
        connection.commit()
    tools = [row.group["tool"] for row in old.summarize(ALL, ("tool",), "UTC")]
    assert tools == [*sorted(filter(None, NAMES["tool"])), None]


def test_a_session_is_found_by_an_index(old: SqliteStore) -> None:
    """A report of one session reads its rows, not all of them."""
    list(old.query(ALL))
    with closing(sqlite3.connect(old.path)) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT count(*) FROM metric WHERE session_id = ?", ("s1",)
        ).fetchall()
    assert "metric_session_id" in str(plan)


@pytest.mark.parametrize("migrated", [False, True])
def test_a_store_that_lost_its_version_is_known_by_its_tables(
    old: SqliteStore, expected: list[Any], migrated: bool
) -> None:
    """A number that rotted to 0 neither stops a migration nor repeats one."""
    if migrated:
        list(old.query(ALL))
    with closing(sqlite3.connect(old.path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    assert answers(old) == expected
