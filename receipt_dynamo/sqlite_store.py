"""SqliteStore: the embedded store, the default when no DynamoDB table is configured.

One writer at a time: every write, checkpoint and closing of a writing connection happens under
``store.lock``. That is not for speed: SQLite 3.7.0 to 3.51.2 can corrupt a WAL when writers and
checkpointers of several processes meet (spool.md section 2, "WAL-reset bug"), and most Pythons of
today carry such a version. Readers open the file read-only and never checkpoint.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
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
from receipt_dynamo.sqlite_rows import (
    INSERT_GAP,
    INSERT_METRIC,
    SUMMED,
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
    UsageQuery,
    UsageSummary,
    WriteOutcome,
    add_exactly,
    check_dimensions,
)

__all__ = ["SqliteStore"]

_BUSY_SECONDS = 10.0
_ROWS_AT_ONCE = 500
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
        self._mutex = threading.RLock()
        # Guarded by _mutex
        self._lock = FileLock(self.path.with_name("store.lock"))
        self._writer: sqlite3.Connection | None = None

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        """Hold the store's lock, over all threads and processes, with a connection to write."""
        mutex = self._mutex
        if not mutex.acquire(timeout=max(timeout, 0)):
            raise StoreBusyError(f"{self.path} is busy in another thread. Try again.")
        try:
            if self._writer is not None:  # already ours, further up the stack
                yield
                return
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
        """Take in a batch and its read offset in one transaction. Raises StoreError."""
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                INSERT_METRIC, [metric_row(r.metric, r.payload) for r in batch.records]
            )
            connection.executemany(INSERT_GAP, [gap_row(gap) for gap in batch.gaps])
            connection.execute(
                "INSERT OR REPLACE INTO ingest VALUES (?, ?)", (batch.segment, batch.position)
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._error(error) from error
        return WriteOutcome(acknowledged=len(batch.records))

    @contextmanager
    def lookup(self) -> Iterator[Callable[[str, str], datetime | None]]:
        """Yield a function from (service, request id) to the first time recorded under them."""
        if not check_private_file(self.path):
            yield lambda _service, _request_id: None
            return
        try:
            connection = self._open_reader()
        except sqlite3.Error as error:
            raise self._error(error) from error

        def find(service: str, request_id: str) -> datetime | None:
            sql = "SELECT min(ts) FROM metric WHERE service = ? AND request_id = ?"
            try:
                with _gate:
                    (found,) = connection.execute(sql, (service, request_id)).fetchone()
            except sqlite3.Error as error:
                raise self._error(error) from error
            return None if found is None else time_of(found)

        try:
            yield find
        finally:
            with _gate:
                connection.close()

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield matching metrics, by time. The view is that of the moment of the first ``next``."""
        conditions, values = where(query)
        sql = f"SELECT body FROM metric {conditions} ORDER BY ts, seq"  # noqa: S608 - values are bound
        for (body,) in self._read(sql, values):
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
    ) -> Iterator[Any]:
        """Yield the rows of a reading connection, which is closed at the end or on ``close``."""
        try:
            if not check_private_file(self.path):
                return
            with closing(self._open_reader()) as connection:
                with _gate:
                    if timezone is not None:
                        add_local_time(connection, timezone)
                    cursor = connection.execute(sql, values)
                    rows = cursor.fetchmany(_ROWS_AT_ONCE)
                while rows:
                    yield from rows
                    with _gate:
                        rows = cursor.fetchmany(_ROWS_AT_ONCE)
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

    def _open_reader(self) -> sqlite3.Connection:
        """Return a connection that cannot write. Raises StoreError, sqlite3.Error."""
        with _gate:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.execute("PRAGMA query_only = 1")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != len(MIGRATIONS):
            try:
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


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_abandoned: list[sqlite3.Connection] = []


def _forget_all() -> None:
    for store in list(_stores):
        store.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)
