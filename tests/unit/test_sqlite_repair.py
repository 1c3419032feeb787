"""A damaged store is replaced by what can be read of it, and nothing stops meanwhile."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo import (
    AIUsageMetric,
    PutResult,
    StoreBusyError,
    StoreError,
    StoreVersionError,
    UsageClient,
    UsageQuery,
)
from receipt_dynamo import sqlite_connect as connecting
from receipt_dynamo import sqlite_repair as repairing
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_aside import corrupt_stores
from receipt_dynamo.sqlite_pages import PageFile, log_of
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import NOON, damage, encode, in_fork, make_metric, quiet_fork, stored_ids
from tests.support.sqlite_files import PAGE, crashed_copy, many_metrics, pages_of_rows, write

ALL = UsageQuery()
ROWS = 1000
GAP = Gap("gap-1", NOON, "disk", 7, service="openai", input_tokens=3)


class Pristine(SimpleNamespace):
    """A store with many rows: its bytes, its metrics, and the pages that each lies on."""

    data: bytes
    metrics: dict[str, AIUsageMetric]
    pages: dict[str, frozenset[int]]

    def __repr__(self) -> str:
        return "<Pristine>"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    directory = tmp_path_factory.mktemp("pristine")
    directory.chmod(0o700)
    store = SqliteStore(directory / "usage.db")
    metrics = many_metrics(ROWS)
    for start in range(0, ROWS, 100):
        write(store, *metrics[start : start + 100], position=start)
    write(store, gaps=[GAP], segment="t.seg", position=77)
    return Pristine(
        data=store.path.read_bytes(),
        metrics={metric.request_id: metric for metric in metrics},
        pages=pages_of_rows(store.path),
    )


@pytest.fixture
def store(tmp_path: Path, pristine: Pristine) -> SqliteStore:
    return copy_of(pristine, tmp_path / "usage")


def copy_of(pristine: Pristine, directory: Path) -> SqliteStore:
    directory.mkdir(mode=0o700)
    path = directory / "usage.db"
    path.write_bytes(pristine.data)
    path.chmod(0o600)
    return SqliteStore(path)


def ids(store: SqliteStore) -> set[str]:
    return {metric.request_id for metric in store.query(ALL)}


def lost(store: SqliteStore) -> int:
    return store.dropped(ALL).by_reason.get("store_corrupt", 0)


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


def page_of_kind(pristine: Pristine, kind: int, size: int) -> int:
    """Return a page of some kind, other than the first, with at least ``size`` cells."""
    for number in range(1, len(pristine.data) // PAGE):
        page = pristine.data[number * PAGE :][:PAGE]
        if page[0] == kind and int.from_bytes(page[3:5]) >= size:
            return number
    raise AssertionError("no such page")


def zero(store: SqliteStore, page: int) -> None:
    damage(store.path, page * PAGE, bytes(PAGE))


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


def batch(*names: str) -> Batch:
    metrics = [make_metric(request_id=name) for name in names]
    return Batch(
        records=[StoredRecord(metric, encode(metric)) for metric in metrics],
        segment="new.seg",
        position=9,
    )


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


def test_offsets_and_gaps_are_salvaged_as_well(store: SqliteStore, pristine: Pristine) -> None:
    """What the spool still holds is not taken in a second time, losses stay counted."""
    zero(store, 0)
    with store.exclusive(5):
        assert store.position("s.seg") == ROWS - 100
        assert store.position("t.seg") == 77
    dropped = store.dropped(ALL)
    assert (dropped.by_reason, dropped.input_tokens) == ({"disk": 7}, 3)
    assert ids(store) == set(pristine.metrics)


def test_what_lies_in_the_log_is_salvaged_and_set_aside_with_the_file(tmp_path: Path) -> None:
    """What a killed writer had committed belongs to the data, though no checkpoint took it in."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    write(store, *[make_metric(request_id=f"{n:03}") for n in range(100)])
    with store.exclusive(5):
        store.write(batch("in the log"))
        copy = crashed_copy(store, tmp_path / "b")
    log = log_of(copy.path).read_bytes()
    damage(copy.path, 0, b"\0" * 100)

    assert {*(f"{n:03}" for n in range(100)), "in the log"} == ids(copy)
    (aside,) = corrupt_stores(tmp_path / "b")
    assert log_of(aside).read_bytes() == log


@pytest.mark.parametrize("question", ["report", "delivery"])
@pytest.mark.parametrize("offset", [5, 20, 32 + 24 + 50, "last page but one"])
def test_a_damaged_log_loses_nothing_that_can_be_read_of_it(
    tmp_path: Path, offset: int | str, question: str
) -> None:
    """SQLite would pass over all that was committed behind the damage, without a word."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    write(store, make_metric(request_id="first"))
    with store.exclusive(5):
        for n in range(9):
            store.write(batch(f"{n}", f"x{n}"))
        copy = crashed_copy(store, tmp_path / "b")
    log = log_of(copy.path)
    at = offset if isinstance(offset, int) else log.stat().st_size - 2 * (24 + PAGE) + 30
    damage(log, at, bytes([log.read_bytes()[at] ^ 8]))

    if question == "delivery":
        with copy.exclusive(5):
            copy.write(batch("later"))
    assert ids(copy) >= {"first", *(f"{n}" for n in range(9)), *(f"x{n}" for n in range(9))}
    assert len(corrupt_stores(tmp_path / "b")) == 1
    assert lost(copy) == 0


def test_a_log_beside_an_emptied_store_is_salvaged(tmp_path: Path) -> None:
    """SQLite would remove it: to it, an empty file is a new database."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    with store.exclusive(5):
        store.write(batch("in the log"))
        copy = crashed_copy(store, tmp_path / "b")
    copy.path.write_bytes(b"")
    assert ids(copy) == {"in the log"}


def test_the_later_arrival_of_a_record_wins(tmp_path: Path) -> None:
    """Pages keep earlier versions; where only such a one can be read, it is better than none."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    write(store, *[make_metric(request_id=f"{n:02}", input_tokens=1) for n in range(50)])
    with store.exclusive(5):
        records = [make_metric(request_id=f"{n:02}", input_tokens=2) for n in range(50)]
        store.write(
            Batch(
                records=[StoredRecord(m, encode(m)) for m in records], segment="s.seg", position=1
            )
        )
        copy = crashed_copy(store, tmp_path / "b")
    damage(copy.path, 0, b"\0" * 100)
    assert {metric.input_tokens for metric in copy.query(ALL)} == {2}
    assert len(ids(copy)) == 50


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


def test_without_room_for_a_second_store_it_stays_as_it_is(
    store: SqliteStore, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To try would fill the disk for those who record; when there is room it is salvaged."""
    zero(store, page_of_kind(pristine, 13, 5))
    real = os.statvfs

    def full(path: Any) -> Any:
        found = real(path)
        return SimpleNamespace(
            f_flag=0, f_frsize=1, f_bavail=len(pristine.data) - 1, f_blocks=found.f_blocks
        )

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", full)
        patch.setattr(connecting, "_ROOM_BYTES", 0)
        with pytest.raises(StoreError, match=r"damaged.*needs \d+ bytes.*Free some space"):
            list(store.query(ALL))
    assert corrupt_stores(store.path.parent) == []
    assert len(ids(store)) > ROWS - 50


def test_a_repair_that_fails_leaves_the_store_and_no_rest(
    store: SqliteStore, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up meanwhile: the next one starts again."""
    zero(store, page_of_kind(pristine, 13, 5))

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(repairing, "salvage", fail)
        with pytest.raises(StoreError, match="disk is full"):
            list(store.query(ALL))
    assert not list(store.path.parent.glob("*.partial*"))
    assert len(ids(store)) > ROWS - 50


def test_two_that_notice_at_once_salvage_once(
    store: SqliteStore, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds a store that is whole, whether it reads or delivers."""
    # A reader waits 5 s for the one that repairs; on a busy machine that may take longer.
    monkeypatch.setattr("receipt_dynamo.sqlite_store._PATIENCE_SECONDS", 60.0)
    zero(store, page_of_kind(pristine, 13, 5))
    children = []
    for n in range(4):
        pid = quiet_fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if len(ids(store)) > ROWS - 50 else 2
                write(store, make_metric(request_id=f"new-{n}"), segment=f"{n}.seg")
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert len(corrupt_stores(store.path.parent)) == 1
    assert {f"new-{n}" for n in range(4)} <= ids(store)


STEPS = ("rename", "replace", "unlink")


def test_a_kill_at_any_step_of_a_repair_loses_nothing(
    tmp_path: Path, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one that opens the store finishes, or starts again."""
    page = page_of_kind(pristine, 13, 5)
    gone = {name for name, pages in pristine.pages.items() if page in pages}
    step, survived = 0, False
    while not survived:
        step += 1
        store = copy_of(pristine, tmp_path / str(step))
        zero(store, page)

        def killed(store: SqliteStore = store, step: int = step) -> None:
            left = iter(range(step))
            for owner, name in (
                *((Path, name) for name in STEPS),
                (os, "fsync"),
                (repairing, "salvage"),
            ):
                monkeypatch.setattr(owner, name, _fatal(getattr(owner, name), left))
            list(store.query(ALL))

        survived = in_fork(killed) == 0
        assert not (store.path.parent / "usage.db.partial-wal").exists()
        assert ids(store) == set(pristine.metrics) - gone, step
        assert lost(store) == len(gone)
        (aside,) = corrupt_stores(store.path.parent)
        assert aside.stat().st_size == len(pristine.data)
        assert not list(store.path.parent.glob("*.partial"))
    assert step > 6


def _fatal(real: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """Return ``real``, after which the process dies when nothing is ``left``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if next(left, None) is None:
            os._exit(9)
        return answer

    return call


def test_another_program_that_holds_the_database_delays_nobody_longer_than_they_wait(
    store: SqliteStore,
) -> None:
    """A sqlite3 shell with an open transaction: the lock's timeout holds for it too."""
    started = time.monotonic()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as shell:
        shell.execute("PRAGMA journal_mode = WAL")
        shell.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(StoreBusyError, match="held by another program"),
            store.exclusive(0.2),
        ):
            store.write(batch("new"))
    assert time.monotonic() - started < 5
    with store.exclusive(5):
        store.write(batch("new"))


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


SPOTS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "zero page", "noise", "header"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=5,
)


def harm(data: bytearray, spots: list[tuple[str, float, int]]) -> set[int]:
    """Damage a file; return the pages touched."""
    touched = set()
    for kind, where, bit in spots:
        at = int(where * (100 if kind == "header" else len(data)))
        page = at // PAGE
        touched.add(page)
        if kind == "zero page":
            data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        elif kind == "noise":
            end = min(at + 200, (page + 1) * PAGE)
            data[at:end] = noise(at, end - at)
        elif not 60 <= at < 64:  # the version: a newer store is not ours to judge
            data[at] ^= 1 << bit
    return touched


@pytest.mark.no_cover
@settings(max_examples=12)
@given(spots=SPOTS)
def test_any_damage_costs_only_the_rows_it_touches_and_each_is_counted(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: Pristine,
    spots: list[tuple[str, float, int]],
) -> None:
    """Flipped bits, zeroed pages and noise anywhere: no exception, no row of another page lost,
    and what is missing is in every report."""
    check_damage(tmp_path_factory.mktemp("any") / "usage", pristine, spots)


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.timeout(600)
@settings(max_examples=100)
@given(spots=SPOTS)
def test_any_damage_at_length(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: Pristine,
    spots: list[tuple[str, float, int]],
) -> None:
    """The same, many times."""
    directory = tmp_path_factory.mktemp("any")
    check_damage(directory / "usage", pristine, spots)
    shutil.rmtree(directory)


def check_damage(directory: Path, pristine: Pristine, spots: list[tuple[str, float, int]]) -> None:
    store = copy_of(pristine, directory)
    data = bytearray(pristine.data)
    touched = harm(data, spots)
    store.path.write_bytes(data)
    with PageFile(store.path) as pages:
        named = {
            name
            for entry in pages.entries()
            if len(entry) == 4
            for name in entry[:3]
            if name in pristine.metrics
        }

    found = {metric.request_id: metric for metric in store.query(ALL)}
    store.summarize(ALL, ("day", "model", "job"))
    with store.exclusive(5):
        store.write(batch("new"))
    found = {metric.request_id: metric for metric in store.query(ALL)}
    (total,) = store.summarize(ALL, ())
    assert total.calls == len(found)
    assert "new" in found

    safe = {name for name, pages in pristine.pages.items() if not pages & touched}
    assert safe <= set(found)
    assert all(found[name] == pristine.metrics[name] for name in safe)
    assert len(found) - 1 + lost(store) >= len(named)
    if not corrupt_stores(directory):
        return  # nobody noticed: a flipped bit in a value is still a value
    for name in set(found) - {"new"}:  # what rotted in a record's words alone cannot be told
        mine, original = found[name], pristine.metrics[name]
        assert (mine.cost_usd, mine.input_tokens, mine.model) == (
            original.cost_usd,
            original.input_tokens,
            original.model,
        )
