"""SqliteStore: the embedded store, the default when no DynamoDB table is configured.

One writer at a time: every write, checkpoint and closing of a writing connection happens under
``store.lock``. That is not for speed: SQLite 3.7.0 to 3.51.2 can corrupt a WAL when writers and
checkpointers of several processes meet (its "WAL-reset bug", fixed in 3.51.3), and most Pythons of
today carry such a version. Readers open the file read-only and never checkpoint.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.errors import StoreBusyError, StoreError
from receipt_dynamo.files import (
    FileLock,
    check_private_file,
    create_private_file,
    secure_directory,
)
from receipt_dynamo.fork_gate import ForkGate
from receipt_dynamo.sqlite_insert import insert
from receipt_dynamo.sqlite_rows import (
    INSERT_GAP,
    INSERT_METRIC,
    SUMMED,
    Page,
    Sums,
    add_local_time,
    gap_row,
    group_column,
    group_order,
    metric_row,
    time_of,
    where,
    where_lost,
)
from receipt_dynamo.sqlite_schema import MIGRATIONS, prepare
from receipt_dynamo.store import (
    Batch,
    DroppedSummary,
    Rejection,
    UsageQuery,
    UsageSummary,
    WriteOutcome,
    add_exactly,
    check_dimensions,
)

__all__ = ["SqliteStore"]

_BUSY_SECONDS = 10.0
_CHECKPOINT_PAGES = 4000  # 16 MB: pages that many batches write again go to the file once
_gate = ForkGate()
"""Around every stay inside SQLite; a writing connection is within for all of its life."""
_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode


class SqliteStore:
    """Metrics in one SQLite file. Thread-safe; several processes may use the same file.

    Fulfils ``UsageStore``: ``write`` within ``exclusive``, one transaction for a batch and its read
    offset. Raises StoreError with one clear line for a file that is no store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()
        _stores.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        # Guarded by _mutex
        self._lock = FileLock(self.path.with_name("store.lock"))
        self._writer: sqlite3.Connection | None = None

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        """Hold the store's lock, over all threads and processes, with a connection to write."""
        self._check_fork()
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
            self._lock.acquire(timeout)
            try:
                with _gate:
                    yield from self._written()
            finally:
                self._lock.release()
        finally:
            mutex.release()

    def _written(self) -> Iterator[None]:
        self._writer = self._open_writer()
        try:
            yield
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def _open_writer(self) -> sqlite3.Connection:
        try:
            if not check_private_file(self.path):
                os.close(create_private_file(self.path, os.O_RDWR))
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
                prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error
        return connection

    def _connection(self) -> sqlite3.Connection:
        if self._writer is None:
            raise RuntimeError("SqliteStore writes only within exclusive()")
        return self._writer

    def position(self, segment: str) -> int:
        """Return the offset behind the last record of ``segment`` that is in the store."""
        connection = self._connection()
        try:
            row = connection.execute(
                "SELECT position FROM ingest WHERE segment = ?", (segment,)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from error
        return 0 if row is None else int(row[0])

    def prune_positions(self, segments: Collection[str]) -> None:
        """Forget the offsets of segments that are gone."""
        connection = self._connection()
        try:
            known = {row[0] for row in connection.execute("SELECT segment FROM ingest")}
            gone = known.difference(segments)
            if gone:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("DELETE FROM ingest WHERE segment = ?", [(s,) for s in gone])
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._error(error) from error

    def write(self, batch: Batch) -> WriteOutcome:
        """Take in a batch and its read offset in one transaction. Raises StoreError.

        The offset stays where it was when something is rejected: once it has moved, nobody reads
        the rejected again, and it is not set aside yet.
        """
        connection = self._connection()
        try:
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
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._error(error) from error
        return WriteOutcome(acknowledged=len(batch.records) - len(dead), rejected=rejected)

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id) that the store has."""
        self._check_fork()
        sql = "SELECT min(ts) FROM metric WHERE service = ? AND request_id = ?"
        found: dict[tuple[str, str], datetime] = {}
        try:
            if check_private_file(self.path):
                with _gate, closing(self._open_reader()) as connection:
                    for key in keys:  # each a seek; one statement for all would scan
                        (earliest,) = connection.execute(sql, key).fetchone()
                        if earliest is not None:
                            found[key] = time_of(earliest)
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error
        return found

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield matching metrics, by time, a page at a time.

        What is stored meanwhile may be among them; none comes twice. No connection stays open
        between pages, whatever the caller does with the iterator.
        """
        page = Page()
        while rows := self._read(*page.sql(query)):
            for body in page.bodies(rows):
                yield _decode_metric(body)

    def summarize(
        self, query: UsageQuery, by: Sequence[str], timezone: str = "UTC"
    ) -> list[UsageSummary]:
        """Return the sums per group; money is added exactly in Python, never by SQL."""
        check_dimensions(by)
        columns = [group_column(word) for word in by]
        conditions, values = where(query)
        keys = ", ".join([*columns, "cost_usd", "unpriced_reason IS NOT NULL"])
        sums = ", ".join(f"coalesce(sum({column}), 0)" for column in SUMMED)
        sql = f"SELECT {keys}, count(*), {sums} FROM metric {conditions} GROUP BY {keys}"  # noqa: S608
        groups: dict[tuple[Any, ...], Sums] = {}
        width = len(by)
        for row in self._read(sql, values, timezone):
            groups.setdefault(row[:width], Sums()).add(*row[width:])
        if not by and not groups:
            groups[()] = Sums()
        ordered = sorted(groups, key=lambda key: [group_order(part) for part in key])
        return [groups[key].summary(dict(zip(by, key, strict=True))) for key in ordered]

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Return what was lost, by the time range of ``query``, its service and its model."""
        conditions, values = where_lost(query)
        count = tokens_in = tokens_out = 0
        cost: Decimal | None = None
        reasons: dict[str, int] = {}
        sql = f"SELECT reason, count, input_tokens, output_tokens, cost_usd FROM gap {conditions}"  # noqa: S608
        for reason, lost, lost_in, lost_out, lost_usd in self._read(sql, values):
            count, tokens_in, tokens_out = count + lost, tokens_in + lost_in, tokens_out + lost_out
            reasons[reason] = reasons.get(reason, 0) + lost
            if lost_usd is not None:
                cost = add_exactly(cost, Decimal(lost_usd))
        return DroppedSummary(
            count=count,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cost_usd=cost,
            by_reason=dict(sorted(reasons.items())),
        )

    def _read(
        self, sql: str, values: Sequence[object], timezone: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, read on a connection of its own."""
        self._check_fork()
        try:
            if not check_private_file(self.path):
                return []
            with _gate, closing(self._open_reader()) as connection:
                if timezone is not None:
                    add_local_time(connection, timezone)
                return connection.execute(sql, values).fetchall()
        except (sqlite3.Error, OSError, OverflowError) as error:
            raise self._error(error) from error

    def _check_fork(self) -> None:
        """Raise StoreError in a child that was forked while SQLite was in use.

        SQLite's state is of the whole process: such a child would share its parent's without the
        parent's locks, and write over its records. It only spools; others deliver.
        """
        if _gate.is_unsafe or self._pid != os.getpid():
            raise StoreError(
                f"the store {self.path} cannot be used in this process: it was forked while SQLite "
                "was in use. What it records is in the spool, and is delivered by others."
            )

    def _open_reader(self) -> sqlite3.Connection:
        """Return a connection that cannot write, within the gate. Raises as SQLite does."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA query_only = 1")
            if _version(connection) != len(MIGRATIONS):
                with self.exclusive(_BUSY_SECONDS):  # migrates, or says that it is newer
                    pass
        except BaseException:
            connection.close()
            raise
        return connection

    def _error(self, error: Exception) -> StoreError:
        return StoreError(f"the store {self.path} cannot be used: {error}")

    def close(self) -> None:
        """Nothing stays open between calls; here for the protocol."""

    def forget_after_fork(self) -> None:
        """Let go of what a child inherited; the parent's connection is neither used nor closed."""
        if self._writer is not None:
            _abandoned.append(self._writer)
        self._reset()

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path}>"


def _version(connection: sqlite3.Connection) -> int | None:
    """Return the store's version, or None where its maker was killed before it was made.

    It left a journal then, which only a writer may roll back. Raises as SQLite does.
    """
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            return None
        raise


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_abandoned: list[sqlite3.Connection] = []


def _forget_all() -> None:
    for store in list(_stores):
        store.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)
