"""SqliteStore: the embedded store, the default when no DynamoDB table is configured.

One writer at a time: every write, checkpoint and closing of a writing connection happens under
``store.lock``. That is not for speed: SQLite 3.7.0 to 3.51.2 can corrupt a WAL when writers and
checkpointers of several processes meet (its "WAL-reset bug", fixed in 3.51.3), and most Pythons of
today carry such a version. Readers open the file read-only and never checkpoint.

A damaged store stops nobody: whoever notices takes the lock and replaces it by what can be salvaged
of it, and the write or the question is done again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from receipt_dynamo.errors import StoreBusyError, StoreError
from receipt_dynamo.files import FileLock, check_private_file, secure_directory
from receipt_dynamo.forks import notice_fork, on_fork
from receipt_dynamo.sqlite_aside import salvaged_of
from receipt_dynamo.sqlite_connect import (
    LogState,
    Reading,
    gate,
    log_bytes,
    log_state,
    open_writer,
    set_patience,
)
from receipt_dynamo.sqlite_damage import DamagedStoreError, damage_in, store_error
from receipt_dynamo.sqlite_insert import insert
from receipt_dynamo.sqlite_overlay import SqliteOverlay
from receipt_dynamo.sqlite_reader import Rows, SqliteReader, take_checked
from receipt_dynamo.sqlite_repair import finish_repair, repair
from receipt_dynamo.sqlite_rows import (
    INSERT_GAP,
    INSERT_METRIC,
    add_local_time,
    gap_row,
    metric_row,
)
from receipt_dynamo.sqlite_schema import MIGRATIONS, check_version
from receipt_dynamo.store import Batch, Rejection, WriteOutcome

__all__ = ["SqliteStore"]

_PATIENCE_SECONDS = 5.0
"""How long a question waits for others: for the lock, to repair, and for other programs."""

_READ_AGAIN = 5
_T = TypeVar("_T")


class _StaleError(Exception):
    """The file was replaced, or written unexpectedly, while it was read."""


class SqliteStore(SqliteReader):
    """Metrics in one SQLite file. Thread-safe; several processes may use the same file.

    Fulfils ``UsageStore``: ``write`` within ``exclusive``, one transaction for a batch and its read
    offset. Raises StoreError with one clear line where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()
        _stores.add(self)

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        # Guarded by _mutex
        self._lock = FileLock(self.path.with_name("store.lock"))
        self._writer: sqlite3.Connection | None = None
        self._deadline = 0.0
        self._known_log: LogState = None  # as the last writer left it: whole

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        """Hold the store's lock, over all threads and processes, with a connection to write.

        Nothing within waits longer than until ``timeout`` seconds are over, another program that
        holds the database included; only the repair of a damaged store takes the time it takes.
        """
        self._check_fork()
        deadline = time.monotonic() + timeout
        mutex = self._mutex
        if not mutex.acquire(timeout=max(timeout, 0)):
            raise StoreBusyError(f"{self.path} is busy in another thread. Try again.")
        try:
            if self._writer is not None:  # already ours, further up the stack
                yield
                return
            if self._lock.held:  # a signal handler, while its own thread opens the store
                raise StoreBusyError(f"{self.path} is being opened. Try again.")
            secure_directory(self.path.parent)
            self._acquire(max(0.0, deadline - time.monotonic()))
            self._deadline = deadline
            try:
                with gate:
                    yield from self._written()
            finally:
                self._lock.release()
        finally:
            mutex.release()

    def _acquire(self, timeout: float) -> None:
        try:
            self._lock.acquire(timeout)
        except OSError as error:
            raise store_error(self.path, error) from error

    def _written(self) -> Iterator[None]:
        self._writer = self._open_writer()
        try:
            yield
        finally:
            self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._known_log = log_state(self.path)

    def _open_writer(self) -> sqlite3.Connection:
        try:
            finish_repair(self.path)
            try:
                return open_writer(self.path, self._time_left(), self._known_log)
            except (sqlite3.Error, DamagedStoreError) as error:
                damage = damage_in(error)
                if damage is None or not repair(self.path, damage):
                    raise
                return open_writer(self.path, self._time_left(), self._known_log)
        except (sqlite3.Error, DamagedStoreError, OSError) as error:
            raise store_error(self.path, error) from error

    def _time_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _with_writer(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what ``work`` does with the writing connection; in a damaged store, after repair.

        A transaction that ``work`` leaves open is rolled back. Raises StoreError.
        """
        try:
            return self._attempt(work, self._connection())
        except DamagedStoreError as damage:
            self._repair(damage)
        try:
            return self._attempt(work, self._connection())
        except DamagedStoreError as damage:
            raise store_error(self.path, damage) from damage

    def _connection(self) -> sqlite3.Connection:
        if self._writer is None:
            raise RuntimeError("SqliteStore writes only within exclusive()")
        return self._writer

    def _attempt(
        self, work: Callable[[sqlite3.Connection], _T], connection: sqlite3.Connection
    ) -> _T:
        try:
            set_patience(connection, self._time_left())
            return work(connection)
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise damage_in(error) or store_error(self.path, error) from error

    def _repair(self, damage: DamagedStoreError) -> None:
        """Replace the store and the writing connection. Called within ``exclusive``."""
        self._close_writer()
        try:
            repair(self.path, damage)
        except (sqlite3.Error, OSError) as error:
            raise store_error(self.path, error) from error
        self._writer = self._open_writer()

    def position(self, segment: str) -> int:
        """Return the offset behind the last record of ``segment`` that is in the store."""
        sql = "SELECT position FROM ingest WHERE segment = ? AND typeof(position) = 'integer'"
        row = self._with_writer(lambda connection: connection.execute(sql, (segment,)).fetchone())
        return 0 if row is None else int(row[0])

    def prune_positions(self, segments: Collection[str]) -> None:
        """Forget the offsets of segments that are gone."""

        def prune(connection: sqlite3.Connection) -> None:
            known = {row[0] for row in connection.execute("SELECT segment FROM ingest")}
            gone = known.difference(segments)
            if gone:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("DELETE FROM ingest WHERE segment = ?", [(s,) for s in gone])
                connection.execute("COMMIT")

        self._with_writer(prune)

    def write(self, batch: Batch) -> WriteOutcome:
        """Take in a batch and its read offset in one transaction. Raises StoreError.

        The offset stays where it was when something is rejected: once it has moved, nobody reads
        the rejected again, and it is not set aside yet.
        """

        def take_in(connection: sqlite3.Connection) -> WriteOutcome:
            connection.execute("BEGIN IMMEDIATE")
            dead = insert(
                connection, INSERT_METRIC, batch.records, lambda r: metric_row(r.metric, r.payload)
            )
            rejected = [Rejection(record, reason) for record, reason in dead]
            lost = insert(connection, INSERT_GAP, batch.gaps, gap_row)
            rejected += [Rejection(gap, reason) for gap, reason in lost]
            if not rejected:
                connection.execute(
                    "INSERT OR REPLACE INTO ingest VALUES (?, ?)", (batch.segment, batch.position)
                )
            connection.execute("COMMIT")
            return WriteOutcome(acknowledged=len(batch.records) - len(dead), rejected=rejected)

        return self._with_writer(take_in)

    def _read(
        self,
        sql: str,
        values: Sequence[object],
        take: Callable[[Rows], _T],
        timezone: str | None = None,
    ) -> _T:
        self._check_fork()
        repaired = False
        for _ in range(_READ_AGAIN):
            try:
                return self._read_once(sql, values, take, timezone)
            except _StaleError:
                continue
            except DamagedStoreError as damage:
                if repaired:
                    raise store_error(self.path, damage) from damage
                repaired = True
                self._repair_for_reader(damage)
            except (sqlite3.Error, OSError, OverflowError) as error:
                raise store_error(self.path, error) from error
        raise StoreBusyError(f"the store {self.path} changes while it is read. Try again.")

    def _read_once(
        self,
        sql: str,
        values: Sequence[object],
        take: Callable[[Rows], _T],
        timezone: str | None,
    ) -> _T:
        """Read on a connection of its own."""
        if not self._is_there():
            return take([])
        reading = Reading(self.path)
        try:
            with gate, closing(self._open_reader(reading)) as connection:
                if timezone is not None:
                    add_local_time(connection, timezone)
                rows = connection.execute(sql, values).fetchall()
            if reading.is_stale():
                raise _StaleError
            return take_checked(take, rows)
        except (sqlite3.Error, DamagedStoreError) as error:
            if reading.is_stale():
                raise _StaleError from error
            damage = damage_in(error)
            if damage is None:
                raise
            damage.inode = reading.inode
            raise damage from error

    def _is_there(self) -> bool:
        """Return whether there is a store to read, after finishing what others have left undone."""
        if not check_private_file(self.path):
            if not check_private_file(salvaged_of(self.path)):
                return check_private_file(self.path)
            with self.exclusive(_PATIENCE_SECONDS):  # a repair was cut short: opening finishes it
                pass
        elif log_bytes(self.path):  # by a writer that was killed, unless one is at work
            with suppress(StoreError), self.exclusive(0):
                pass
        return True

    def _open_reader(self, reading: Reading) -> sqlite3.Connection:
        """Return a connection that cannot write, within the gate. Raises as SQLite does."""
        connection = sqlite3.connect(
            reading.uri,
            uri=True,
            timeout=_PATIENCE_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA query_only = 1")
            version = _version(connection)
            check_version(version, self.path)
            if version != len(MIGRATIONS):
                with self.exclusive(_PATIENCE_SECONDS):  # opening migrates, or repairs
                    pass
        except BaseException:
            connection.close()
            raise
        return connection

    def _repair_for_reader(self, damage: DamagedStoreError) -> None:
        with self.exclusive(_PATIENCE_SECONDS):
            if self.path.stat().st_ino == damage.inode:  # else another has done it meanwhile
                self._repair(damage)

    def _check_fork(self) -> None:
        """Raise StoreError in a child that was forked while SQLite was in use.

        SQLite's state is of the whole process: such a child would share its parent's without the
        parent's locks, and write over its records. It only spools; others deliver.
        """
        notice_fork()
        if gate.is_unsafe:
            raise StoreError(
                f"the store {self.path} cannot be used in this process: it was forked while SQLite "
                "was in use. What it records is in the spool, and is delivered by others."
            )

    def overlay(self) -> SqliteOverlay:
        """Return the store beneath records that it cannot take in; see ``SqliteOverlay``."""
        self._check_fork()
        return SqliteOverlay(self.path)

    def close(self) -> None:
        """Nothing stays open between calls; here for the protocol."""

    def forget_after_fork(self) -> None:
        """Let go of what a child inherited; the parent's connection is neither used nor closed."""
        if self._writer is not None:
            _abandoned.append(self._writer)
        self._reset()

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path}>"


def _version(connection: sqlite3.Connection) -> int:
    """Return the store's version; 0 also where its maker was killed before it was made.

    It left a journal then, which only a writer may roll back. Raises as SQLite does.
    """
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_ROLLBACK:
            return 0
        raise


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_abandoned: list[sqlite3.Connection] = []


def _forget_all() -> None:
    for store in list(_stores):
        store.forget_after_fork()


on_fork(_forget_all)
