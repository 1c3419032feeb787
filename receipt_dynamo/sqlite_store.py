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
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.errors import StoreBusyError, StoreError
from receipt_dynamo.files import (
    FileLock,
    check_private_file,
    create_private_file,
    secure_directory,
)
from receipt_dynamo.fork_gate import ForkGate
from receipt_dynamo.sqlite_schema import MIGRATIONS, prepare
from receipt_dynamo.store import (
    DIMENSIONS,
    Batch,
    DroppedSummary,
    UsageQuery,
    UsageSummary,
    WriteOutcome,
    add_exactly,
    check_dimensions,
    load_timezone,
)

__all__ = ["SqliteStore"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BUSY_SECONDS = 10.0
_ROWS_AT_ONCE = 500
_gate = ForkGate()
"""Around every stay inside SQLite; a writing connection is within for all of its life."""
_COLUMNS = (
    "service ts request_id model operation job_id batch_id github_pr user_id conversation_id "
    "environment api_calls input_tokens cached_input_tokens cache_write_tokens output_tokens "
    "reasoning_tokens cost_usd unpriced_reason failed body"
).split()
_INSERT = (
    f"INSERT OR REPLACE INTO metric ({', '.join(_COLUMNS)}) "  # noqa: S608 - our own column names
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_SUMMED = (
    "api_calls",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "api_calls * failed",
)
_FILTERS = (
    "service",
    "model",
    "operation",
    "job_id",
    "batch_id",
    "github_pr",
    "user_id",
    "conversation_id",
    "environment",
)
_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _group_key(value: str | int | None) -> tuple[bool, str | int]:
    """Sort groups by value, the nameless one last."""
    return (value is None, "" if value is None else value)


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
            connection.executemany(_INSERT, [_row(r.metric, r.payload) for r in batch.records])
            connection.executemany(
                "INSERT OR REPLACE INTO gap VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_gap_row(gap) for gap in batch.gaps],
            )
            connection.execute(
                "INSERT OR REPLACE INTO ingest VALUES (?, ?)", (batch.segment, batch.position)
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._error(error) from error
        return WriteOutcome(acknowledged=len(batch.records))

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield matching metrics, by time. The view is that of the moment of the first ``next``."""
        where, values = _where(query)
        sql = f"SELECT body FROM metric {where} ORDER BY ts, seq"  # noqa: S608 - values are bound
        for (body,) in self._read(sql, values):
            yield _decode_metric(body)

    def summarize(
        self, query: UsageQuery, by: Sequence[str], timezone: str = "UTC"
    ) -> list[UsageSummary]:
        """Return the sums per group; money is added exactly in Python, never by SQL."""
        check_dimensions(by)
        columns = [_group_column(word) for word in by]
        where, values = _where(query)
        keys = ", ".join([*columns, "cost_usd", "unpriced_reason IS NOT NULL"])
        sums = ", ".join(f"coalesce(sum({column}), 0)" for column in _SUMMED)
        sql = f"SELECT {keys}, count(*), {sums} FROM metric {where} GROUP BY {keys}"  # noqa: S608
        groups: dict[tuple[Any, ...], _Sums] = {}
        width = len(by)
        for row in self._read(sql, values, timezone):
            groups.setdefault(row[:width], _Sums()).add(*row[width:])
        if not by and not groups:
            groups[()] = _Sums()
        ordered = sorted(groups, key=lambda key: [_group_key(part) for part in key])
        return [groups[key].summary(dict(zip(by, key, strict=True))) for key in ordered]

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Return what was lost, by the time range of ``query``, its service and its model."""
        where, values = _where(
            UsageQuery(
                since=query.since, until=query.until, service=query.service, model=query.model
            )
        )
        count = tokens_in = tokens_out = 0
        cost: Decimal | None = None
        reasons: dict[str, int] = {}
        sql = f"SELECT reason, count, input_tokens, output_tokens, cost_usd FROM gap {where}"  # noqa: S608
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
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            with closing(_open_reader(uri)) as connection:
                with _gate:
                    version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version != len(MIGRATIONS):
                    with self.exclusive(_BUSY_SECONDS):  # migrates, or says that it is newer
                        pass
                with _gate:
                    if timezone is not None:
                        _add_local_time(connection, timezone)
                    cursor = connection.execute(sql, values)
                    rows = cursor.fetchmany(_ROWS_AT_ONCE)
                while rows:
                    yield from rows
                    with _gate:
                        rows = cursor.fetchmany(_ROWS_AT_ONCE)
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error

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


def _open_reader(uri: str) -> sqlite3.Connection:
    with _gate:
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only = 1")
    return connection


class _Sums:
    """The running sums of one group."""

    __slots__ = ("cost", "counts", "errors", "unpriced")

    def __init__(self) -> None:
        self.counts = [0] * 6
        self.cost: Decimal | None = None
        self.unpriced = 0
        self.errors = 0

    def add(self, cost: str | None, unpriced: int, records: int, *sums: int) -> None:
        if cost is not None:
            self.cost = add_exactly(self.cost, _times(Decimal(cost), records))
        if unpriced:
            self.unpriced += sums[0]
        self.errors += sums[6]
        for index in range(6):
            self.counts[index] += sums[index]

    def summary(self, group: dict[str, str | int | None]) -> UsageSummary:
        calls, tokens_in, cached, written, tokens_out, reasoning = self.counts
        return UsageSummary(
            group=group,
            calls=calls,
            input_tokens=tokens_in,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=tokens_out,
            reasoning_tokens=reasoning,
            cost_usd=self.cost,
            unpriced_calls=self.unpriced,
            errors=self.errors,
        )


def _times(amount: Decimal, count: int) -> Decimal:
    """Return the exact product of an amount and a count of equal records."""
    sign, digits, exponent = amount.as_tuple()
    whole = int("".join(map(str, digits))) * count
    return Decimal((sign, tuple(map(int, str(whole))), int(exponent)))


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def _row(metric: AIUsageMetric, payload: bytes) -> tuple[Any, ...]:
    return (
        metric.service,
        _microseconds(metric.timestamp),
        metric.request_id,
        metric.model,
        metric.operation,
        metric.job_id,
        metric.batch_id,
        metric.github_pr,
        metric.user_id,
        metric.conversation_id,
        metric.environment,
        metric.api_calls,
        metric.input_tokens,
        metric.cached_input_tokens,
        metric.cache_write_tokens,
        metric.output_tokens,
        metric.reasoning_tokens,
        _text(metric.cost_usd),
        metric.unpriced_reason,
        int(metric.error is not None),
        payload,
    )


def _gap_row(gap: Gap) -> tuple[Any, ...]:
    return (
        gap.gap,
        _microseconds(gap.timestamp),
        gap.reason,
        gap.service,
        gap.model,
        gap.count,
        gap.input_tokens,
        gap.output_tokens,
        _text(gap.cost_usd),
    )


def _where(query: UsageQuery) -> tuple[str, list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    if query.since is not None:
        conditions.append("ts >= ?")
        values.append(_microseconds(query.since))
    if query.until is not None:
        conditions.append("ts < ?")
        values.append(_microseconds(query.until))
    for column in _FILTERS:
        value = getattr(query, column)
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if query.unpriced:
        conditions.append("unpriced_reason IS NOT NULL")
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _group_column(word: str) -> str:
    if word == "day":
        return "local_day(ts)"
    if word == "month":
        return "substr(local_day(ts), 1, 7)"
    return DIMENSIONS[word]


def _add_local_time(connection: sqlite3.Connection, timezone: str) -> None:
    """Teach the connection ``local_day(ts)``: the calendar day of a time, in ``timezone``."""
    zone = load_timezone(timezone)

    def local_day(microseconds: int) -> str:
        time = _EPOCH + timedelta(microseconds=microseconds)
        try:
            return time.astimezone(zone).date().isoformat()
        except OverflowError:  # within a day of the year 1 or 9999: the day of UTC
            return time.date().isoformat()

    connection.create_function("local_day", 1, local_day, deterministic=True)


_stores: weakref.WeakSet[SqliteStore] = weakref.WeakSet()
_abandoned: list[sqlite3.Connection] = []


def _forget_all() -> None:
    for store in list(_stores):
        store.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)
