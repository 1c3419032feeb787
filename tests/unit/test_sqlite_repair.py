"""A damaged store is replaced by what can be read of it, and nothing stops meanwhile."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, StoreError, StoreVersionError, UsageClient, UsageQuery
from receipt_dynamo.sqlite_aside import corrupt_stores
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import damage, make_metric, stored_ids
from tests.support.pristine import (
    ALL,
    GAP,
    ROWS,
    Pristine,
    batch,
    ids,
    lost,
    noise,
    page_of_kind,
    zero,
)
from tests.support.sqlite_files import PAGE


def test_a_damaged_page_costs_its_own_rows_and_each_is_counted(
    store: SqliteStore, pristine: Pristine
) -> None:
    """By service and day, so that a report of any range shows what is missing in it."""
    page = page_of_kind(pristine, 13, 5)
    gone = {name for name, pages in pristine.pages.items() if page in pages}
    zero(store, page)

    assert ids(store) == set(pristine.metrics) - gone
    assert len(gone) >= 5
    for service in ("openai", "anthropic"):
        missing = [n for n in gone if pristine.metrics[n].service == service]
        dropped = store.dropped(UsageQuery(service=service)).by_reason
        assert dropped.get("store_corrupt", 0) == len(missing)
    first = min(pristine.metrics[name].timestamp for name in gone)
    assert store.dropped(UsageQuery(until=first)).by_reason == {}
    assert store.dropped(ALL).by_reason["disk"] == GAP.count


@pytest.mark.parametrize("kind", [2, 5, 10], ids=["index interior", "table interior", "index leaf"])
def test_a_page_that_holds_no_rows_costs_none(
    store: SqliteStore, pristine: Pristine, kind: int
) -> None:
    """Rows are found without the pages above them, and without any index."""
    for number in range(1, len(pristine.data) // PAGE):
        if pristine.data[number * PAGE] == kind:
            zero(store, number)
    with store.exclusive(5):
        store.write(batch("new"))
    assert ids(store) == {*pristine.metrics, "new"}
    assert lost(store) == 0


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (lambda data: bytes(len(data)), 0),
        (lambda data: noise(1, len(data)), 0),
        (lambda _: b"", 0),
        (lambda _: b"SQLite format 3", 0),
        (lambda _: b"no database at all, but long enough" * 200, 0),
        (lambda data: bytes(100) + data[100:], ROWS),
        (lambda data: bytes(PAGE) + data[PAGE:], ROWS),
        (lambda data: data[:100] + bytes(PAGE - 100) + data[PAGE:], ROWS),
        (lambda data: data[: len(data) // 2], ROWS // 3),
        (lambda data: data[: len(data) // 2 + 1000], ROWS // 3),
    ],
    ids=["zeros", "noise", "empty", "a start", "text", "header", "page 1", "schema", "cut", "torn"],
)
def test_whatever_lies_there_stops_neither_recording_nor_delivery_nor_reports(
    pristine: Pristine,
    tmp_path: Path,
    client: UsageClient,
    content: Callable[[bytes], bytes],
    kept: int,
) -> None:
    """A report with nothing to take in answers, and then everything goes on as ever."""
    path = tmp_path / "usage" / "usage.db"
    path.write_bytes(content(pristine.data))
    path.chmod(0o600)

    (total,) = client.summarize()
    assert total.calls >= kept
    assert total.calls + client.dropped().count >= kept
    assert client.put_ai_usage_metric(make_metric(request_id="new")) is PutResult.STORED
    assert client.flush().delivered == 1
    assert len(stored_ids(client)) == total.calls + 1
    aside = corrupt_stores(tmp_path / "usage")
    assert [file.read_bytes() for file in aside] == [content(pristine.data)] * bool(
        content(pristine.data)
    )
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_no_figure_that_rotted_gets_into_a_report(store: SqliteStore) -> None:
    """A row whose columns contradict its record is taken for lost, and counted."""
    data = store.path.read_bytes()
    at = data.index(b'"cost_usd":"0.00') + len(b'"cost_usd":"0.00')
    damage(store.path, at, b"9" if data[at : at + 1] != b"9" else b"8")
    zero(store, len(data) // PAGE - 1)
    for metric in store.query(ALL):
        assert metric.cost_usd is not None
        assert metric.cost_usd < 9 * 10**-3 or str(metric.cost_usd)[4] != chr(data[at])
    assert lost(store) >= 1


def test_one_line_says_what_was_found_and_where_it_lies(
    store: SqliteStore, pristine: Pristine, caplog: pytest.LogCaptureFixture
) -> None:
    """An error, once: what was found, how many were salvaged, how many lost, where the file is."""
    page = page_of_kind(pristine, 13, 5)
    gone = sum(page in pages for pages in pristine.pages.values())
    zero(store, page)
    with caplog.at_level(logging.INFO):
        list(store.query(ALL))
        list(store.query(ALL))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    (aside,) = corrupt_stores(store.path.parent)
    assert record.levelno == logging.ERROR
    for part in ("malformed", f"{ROWS - gone} records", f"{gone} are known to be lost", str(aside)):
        assert part in record.getMessage()


def test_a_delivery_that_meets_damage_goes_on_behind_it(
    store: SqliteStore, pristine: Pristine
) -> None:
    """The batch that SQLite refused goes into the new store, within the same hold of the lock."""
    with store.exclusive(5):
        assert store.position("t.seg") == 77
        for number in range(1, len(pristine.data) // PAGE):
            zero(store, number)
        store._writer.execute("PRAGMA shrink_memory")  # type: ignore[union-attr]
        outcome = store.write(batch("new"))
        store.prune_positions([])
        assert store.position("new.seg") == 0
    assert outcome.acknowledged == 1
    assert ids(store) == {"new"}


def test_a_newer_store_is_never_taken_for_a_damaged_one(store: SqliteStore) -> None:
    """Whatever else is wrong with it: only a newer library may say so."""
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version = 7")
        connection.execute("DROP TABLE metric")
    data = bytearray(store.path.read_bytes())
    for content in (data, data[: 3 * PAGE]):
        store.path.write_bytes(content)
        with pytest.raises(StoreVersionError, match="Upgrade"):
            list(store.query(ALL))
        with pytest.raises(StoreVersionError, match="Upgrade"), store.exclusive(5):
            pass
        assert store.path.read_bytes() == content
    assert corrupt_stores(store.path.parent) == []


def test_a_version_that_cannot_be_is_damage(store: SqliteStore, pristine: Pristine) -> None:
    """A flipped bit must not lock a store for ever."""
    damage(store.path, 60, b"\x40\0\0\1")
    assert ids(store) == set(pristine.metrics)


def test_suspicion_alone_replaces_nothing(store: SqliteStore) -> None:
    """What SQLite does not call damage has to be found in a row, or the store stays as it is."""

    def stumble(_rows: object) -> None:
        raise ValueError("cannot be")

    data = store.path.read_bytes()
    with pytest.raises(StoreError, match="cannot be used: it holds what was never stored"):
        store._read("SELECT 1", [], stumble)
    with pytest.raises(StoreError, match="no such column"):
        store._read("SELECT nowhere FROM metric", [], len)
    assert store.path.read_bytes() == data
    assert sorted(p.name for p in store.path.parent.iterdir() if "-" not in p.name) == [
        "store.lock",
        "usage.db",
    ]


@pytest.mark.parametrize("column", ["body", "cost_usd", "ts", "input_tokens", "service"])
def test_a_value_that_sqlite_does_not_mind_is_found_and_repaired(
    store: SqliteStore, pristine: Pristine, column: str
) -> None:
    """No JSON, no amount, no time, no count, no text: what was never stored costs its own row."""
    wrong = {"cost_usd": "zero", "ts": "soon", "input_tokens": 1.5, "service": b"\xff"}
    with closing(sqlite3.connect(store.path)) as connection, connection:
        value = "CAST(? AS TEXT)" if column == "service" else "?"
        sql = f"UPDATE metric SET {column} = {value} WHERE seq = 7"  # noqa: S608
        connection.execute(sql, (wrong.get(column, b"{"),))
    for ask in (
        lambda: store.summarize(ALL, ("day", "service")),
        lambda: store.recorded_times([(m.service, m.request_id) for m in store.query(ALL)]),
        lambda: len(ids(store)),
    ):
        ask()
    assert len(ids(store)) == ROWS - 1
    assert lost(store) == 1
    assert len(corrupt_stores(store.path.parent)) == 1


def test_a_rotten_index_is_found_and_costs_no_row(store: SqliteStore, pristine: Pristine) -> None:
    """A text in it that is none any more, where the row itself is sound."""
    name = sorted(pristine.metrics)[ROWS // 2].encode()
    data = store.path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(name, at)]
    assert len(starts) >= 3  # in the row, and in two indexes
    for at in starts:
        if b'"' not in data[at - 2 : at] and data[at + len(name) : at + len(name) + 5] != b"gpt-4":
            damage(store.path, at, b"\xff")
    assert ids(store) == set(pristine.metrics)
    assert lost(store) == 0
    assert len(corrupt_stores(store.path.parent)) == 1
