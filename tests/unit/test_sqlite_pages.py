"""Reading a SQLite file without SQLite: what its pages hold, and whether its log is whole."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo.sqlite_pages import PageFile, log_is_whole, log_of
from tests.support import damage

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 127, 128, -129, 2**23, -(2**31), 2**47, 2**48]),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(200, 3000).map(lambda size: b"x" * size),
    st.integers(3000, 20_000).map(lambda size: "y" * size),
)
FRAME = 24 + 4096


@settings(max_examples=60)
@given(
    page_size=st.sampled_from([512, 1024, 4096, 65536]),
    rows=st.lists(st.tuples(VALUES, VALUES), max_size=60),
    rowids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=60, max_size=60, unique=True),
)
def test_every_value_comes_back_as_sqlite_wrote_it(
    tmp_path_factory: pytest.TempPathFactory,
    page_size: int,
    rows: list[tuple[object, object]],
    rowids: list[int],
) -> None:
    """Of any type and length, under any rowid, on pages of any size; in indexes as well."""
    path = tmp_path_factory.mktemp("pages") / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("CREATE TABLE t (a, b, c)")
        connection.execute("CREATE INDEX i ON t (b, a)")
        stored = [(rowid, a, b, "end") for rowid, (a, b) in zip(rowids, rows, strict=False)]
        connection.executemany("INSERT INTO t (rowid, a, b, c) VALUES (?, ?, ?, ?)", stored)

    with PageFile(path) as pages:
        read = [(row.rowid, *row.values) for row in pages.rows() if len(row.values) == 3]
        named = [entry for entry in pages.entries() if len(entry) == 3]

    assert sorted(map(repr, read)) == sorted(map(repr, stored))
    assert sorted(map(repr, named)) == sorted(repr((b, a, rowid)) for rowid, a, b, _ in stored)


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A database whose writer was killed: three commits of a row each lie in its log."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a, b, c)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for n in range(3):
            connection.execute("INSERT INTO t VALUES (?, 'b', 'c')", (n,))
        copy = tmp_path / "copy" / "x.db"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        shutil.copy(log_of(path), log_of(copy))
    assert log_of(copy).stat().st_size == 32 + 3 * FRAME
    return copy


def test_what_lies_in_the_log_is_read(logged: Path) -> None:
    """Commits that no checkpoint has brought into the file belong to the data."""
    with PageFile(logged) as pages:
        assert {row.values for row in pages.rows()} >= {(n, "b", "c") for n in range(3)}


def test_a_long_record_is_found_in_the_file_and_in_the_log(tmp_path: Path) -> None:
    """The pages that a record overflows to may be in either, in an earlier version or a later."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a, b, c)")
        connection.execute("INSERT INTO t VALUES (1, ?, 'in the file')", ("x" * 9000,))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO t VALUES (2, ?, 'in the log')", ("y" * 9000,))
        with PageFile(path) as pages:
            found = {row.values for row in pages.rows()}
    assert {(1, "x" * 9000, "in the file"), (2, "y" * 9000, "in the log")} <= found


@pytest.mark.parametrize("size", [*range(33), 32 + FRAME, 32 + FRAME + 30, 31 + 3 * FRAME])
def test_a_log_that_ends_too_early_is_whole(logged: Path, size: int) -> None:
    """Whoever wrote it was killed: what is missing was never committed."""
    with log_of(logged).open("r+b") as log:
        log.truncate(size)
    assert log_is_whole(log_of(logged))


@pytest.mark.parametrize(
    ("offset", "whole"),
    [
        (0, False),  # the header: SQLite ignores the whole log
        (17, False),
        (32 + 2, False),  # the first frame: its page number, its salts, its page
        (32 + 9, True),  # ... of another round: all behind it is left over
        (32 + 24 + 4000, False),
        (32 + FRAME + 24 + 100, False),
        (32 + 2 * FRAME + 24 + 100, True),  # the last one: as if it were torn
    ],
)
def test_commits_behind_damage_are_noticed(logged: Path, offset: int, whole: bool) -> None:
    """SQLite reads on to the first damaged frame, and forgets the rest without a word."""
    log = log_of(logged)
    damage(log, offset, bytes([log.read_bytes()[offset] ^ 1]))
    if offset == 32 + 9:  # all frames of the later round
        for n in (1, 2):
            damage(log, offset + n * FRAME, bytes([log.read_bytes()[offset + n * FRAME] ^ 1]))
    assert log_is_whole(log) is whole
    with closing(sqlite3.connect(logged)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
    assert count < 3


def test_what_an_earlier_round_left_in_the_log_does_not_count(tmp_path: Path) -> None:
    """A log is written from its start again; what lies behind is of no consequence."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a, b, c)")
        for n in range(5):
            connection.execute("INSERT INTO t VALUES (?, 'b', 'c')", (n,))
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.execute("INSERT INTO t VALUES (9, 'b', 'c')")
        salts = struct.unpack_from(">2I", log_of(path).read_bytes(), 16)
        assert log_of(path).stat().st_size > 32 + FRAME
        assert struct.unpack_from(">2I", log_of(path).read_bytes(), 32 + FRAME + 8) != salts
        assert log_is_whole(log_of(path))


@pytest.mark.parametrize("size", [512, 4096, 8192, 32768])
def test_a_destroyed_header_hides_no_page_size(tmp_path: Path, size: int) -> None:
    """The pages behind it are read all the same, where their size is common or the log has it."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {size}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a, b, c)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, 1)", [(n, "x" * 90) for n in range(999)]
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        shutil.copy(path, tmp_path / "y.db")
        if size != 4096:
            shutil.copy(log_of(path), log_of(tmp_path / "y.db"))
    damage(tmp_path / "y.db", 0, b"\0" * 100)
    with PageFile(tmp_path / "y.db") as pages:
        assert len({row.values[0] for row in pages.rows() if len(row.values) == 3}) == 999
