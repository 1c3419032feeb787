"""SqliteOverlay: the embedded store as it would be with what it cannot take in now.

On a full or read-only disk, or while somebody keeps the store's lock, records wait in the spool. A
report shows them all the same: they are put into a database in memory, the store's file is attached
to it for each question, and the questions are asked of a view over both.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from receipt_dynamo.errors import StoreError, StoreVersionError
from receipt_dynamo.files import check_private_file
from receipt_dynamo.forks import notice_fork
from receipt_dynamo.sqlite_aside import salvaged_of
from receipt_dynamo.sqlite_connect import LogState, Reading, gate, log_state
from receipt_dynamo.sqlite_damage import DamagedStoreError, store_error
from receipt_dynamo.sqlite_insert import insert
from receipt_dynamo.sqlite_reader import Rows, SqliteReader, take_checked
from receipt_dynamo.sqlite_rows import (
    COLUMNS,
    INSERT_GAP,
    INSERT_METRIC,
    add_local_time,
    gap_row,
    metric_row,
)
from receipt_dynamo.sqlite_salvage import salvage
from receipt_dynamo.sqlite_schema import MIGRATIONS, check_version, prepare
from receipt_dynamo.store import Batch

__all__ = ["SqliteOverlay"]

_READ_AGAIN = 5
_PATIENCE_SECONDS = 5.0  # for another program that holds the database
_T = TypeVar("_T")
_ALL = ", ".join(COLUMNS)
_VIEWS = (
    f"""CREATE TEMP VIEW metric AS SELECT {_ALL} FROM main.metric
        UNION ALL SELECT {_ALL} FROM base.metric AS below WHERE NOT EXISTS (
            SELECT 1 FROM main.metric AS above WHERE above.service = below.service
            AND above.request_id = below.request_id AND above.ts = below.ts)""",  # noqa: S608
    """CREATE TEMP VIEW gap AS SELECT * FROM main.gap
        UNION ALL SELECT * FROM base.gap WHERE id NOT IN (SELECT id FROM main.gap)""",
    "CREATE TEMP VIEW ingest AS SELECT * FROM base.ingest",
)


class SqliteOverlay(SqliteReader):
    """The store beneath the records that were added. Thread-safe. Fulfils ``UsageOverlay``.

    What is added lies in memory: about twice its bytes in the spool, whose ``max_bytes`` bounds it.
    Where SQLite cannot read the store's file (it is damaged and cannot be repaired now, or it was
    left with a log beside it on a full disk) its rows are read page by page, and lie in memory too.
    Nothing is open between two questions but memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._lock = threading.RLock()
        # Guarded by _lock
        with gate:
            self._memory = _empty_store()
        self._absorbed: tuple[object, ...] | None = None  # the state of the files that were read

    def add(self, batch: Batch) -> None:
        """Add records and gaps. What SQLite will never take is left for the drainer to bury."""
        with self._lock, gate:
            self._check_fork()
            self._memory.execute("BEGIN")
            insert(
                self._memory,
                INSERT_METRIC,
                batch.records,
                lambda record: metric_row(record.metric, record.payload),
            )
            insert(self._memory, INSERT_GAP, batch.gaps, gap_row)
            self._memory.execute("COMMIT")

    def positions(self) -> dict[str, int] | None:
        """Return how far the store has taken in each segment; None where that cannot be read."""
        sql = "SELECT segment, position FROM ingest WHERE typeof(position) = 'integer'"
        try:
            return self._read(sql, [], dict)
        except StoreVersionError:
            raise
        except StoreError:
            return None

    def is_stale(self) -> bool:
        """Return whether rows were read page by page from files that have changed since."""
        return self._absorbed is not None and self._absorbed != self._state()

    def _read(
        self,
        sql: str,
        values: Sequence[object],
        take: Callable[[Rows], _T],
        timezone: str | None = None,
    ) -> _T:
        with self._lock:
            self._check_fork()
            for _ in range(_READ_AGAIN):
                try:
                    rows = self._rows(sql, values, timezone)
                    if rows is not None:
                        return take_checked(take, rows)
                except StoreVersionError:
                    raise
                except (StoreError, DamagedStoreError, sqlite3.Error, OSError) as error:
                    if self._absorbed is not None:
                        raise store_error(self._path, error) from error
                    self._absorb()
                except OverflowError as error:
                    raise store_error(self._path, error) from error
        raise StoreError(f"the store {self._path} changes while it is read. Try again.")

    def _rows(self, sql: str, values: Sequence[object], timezone: str | None) -> Rows | None:
        """Return the rows of a statement, or None where the file has changed beneath it."""
        if timezone is not None:
            add_local_time(self._memory, timezone)
        is_there = check_private_file(self._path)
        if not is_there and check_private_file(salvaged_of(self._path)):
            raise DamagedStoreError("its repair was cut short")
        if self._absorbed is not None or not is_there:
            with gate:
                return self._memory.execute(sql, values).fetchall()
        reading = Reading(self._path)
        with gate:
            try:
                self._attach(reading)
                rows = self._memory.execute(sql, values).fetchall()
            finally:
                self._detach()
        return None if reading.is_stale() else rows

    def _attach(self, reading: Reading) -> None:
        memory = self._memory
        memory.execute("ATTACH ? AS base", (reading.uri,))
        (version,) = memory.execute("PRAGMA base.user_version").fetchone()
        check_version(version, self._path)
        if version != len(MIGRATIONS):
            raise DamagedStoreError("it is of an older version")  # rows are read from any version
        for statement in _VIEWS:
            memory.execute(statement)

    def _detach(self) -> None:
        memory = self._memory
        for view in ("metric", "gap", "ingest"):
            memory.execute(f"DROP VIEW IF EXISTS temp.{view}")
        if any(row[1] == "base" for row in memory.execute("PRAGMA database_list").fetchall()):
            memory.execute("DETACH base")

    def _absorb(self) -> None:
        """Read the store's rows into memory, page by page, beneath those that were added."""
        state = self._state()
        database = self._path if self._path.exists() else salvaged_of(self._path)
        with gate:
            beneath = _empty_store()
            try:
                salvage(database, beneath)
                beneath.execute("BEGIN")
                added = self._memory.execute(f"SELECT {_ALL} FROM main.metric")  # noqa: S608
                beneath.executemany(INSERT_METRIC, added)
                beneath.executemany(INSERT_GAP, self._memory.execute("SELECT * FROM main.gap"))
                beneath.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                beneath.close()
                raise store_error(self._path, error) from error
            with closing(self._memory):
                self._memory, self._absorbed = beneath, state

    def _state(self) -> tuple[int, int, int, LogState] | tuple[()]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns, log_state(self._path)

    def _check_fork(self) -> None:
        notice_fork()
        if gate.is_unsafe or self._pid != os.getpid():
            raise StoreError(f"what was read of {self._path} is of the process that was forked")

    def __repr__(self) -> str:
        return f"<SqliteOverlay {self._path}>"


def _empty_store() -> sqlite3.Connection:
    """Return an empty store in memory, within the gate."""
    memory = sqlite3.connect(
        ":memory:",
        uri=True,
        timeout=_PATIENCE_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    memory.execute("PRAGMA temp_store = MEMORY")
    prepare(memory, Path(":memory:"))
    return memory
