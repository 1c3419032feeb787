"""Salvage: the rows of a damaged store, checked one by one and brought into a new one.

A row is taken when what its columns say agrees with the record that it holds, so that no figure
that rotted gets into a report. What is gone is counted: a row that contradicts itself, and a row
that an index still names, become gap records that every report shows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from receipt_dynamo.cooperation import cooperatively
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.entities.request_id import mint_request_id
from receipt_dynamo.sqlite_pages import PageFile, Row
from receipt_dynamo.sqlite_record import Value
from receipt_dynamo.sqlite_rows import COLUMNS, INSERT_GAP, gap_row, metric_row, time_of
from receipt_dynamo.sqlite_schema import check_version
from receipt_dynamo.utils.clock import SystemClock

__all__ = ["LOST", "Salvage", "salvage"]

LOST = "store_corrupt"
"""The reason of the gaps that count what a damaged store has lost."""

_VALUES = len(COLUMNS) + 1  # and the rowid's own column
_BODY = COLUMNS.index("body") + 1  # the last value of a row of the first version
_GAP_VALUES, _POSITION_VALUES, _ENTRY_VALUES = 9, 2, 4
_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode
_decode_gap = msgspec.json.Decoder(Gap).decode
_encode = msgspec.json.Encoder().encode
_INSERT = (
    f"INSERT OR IGNORE INTO metric (seq, {', '.join(COLUMNS)}) "  # noqa: S608 - our own names
    f"VALUES ({', '.join('?' * _VALUES)})"
)
_IDENTITY = "SELECT service, request_id, ts FROM metric WHERE seq = ?"
_SAME_IDENTITY = "service = ? AND request_id = ? AND ts = ?"
_NAMED = """CREATE TEMP TABLE named (
    seq INTEGER PRIMARY KEY, service TEXT, request_id TEXT, ts INTEGER)"""
_STILL_THERE = """DELETE FROM named WHERE seq IN (SELECT seq FROM metric) OR EXISTS (
    SELECT 1 FROM metric AS m
    WHERE m.service = named.service AND m.request_id = named.request_id AND m.ts = named.ts)"""
_LOST = """SELECT service, min(ts), count(*) FROM (
        SELECT service, ts FROM named GROUP BY service, ts, coalesce(request_id, seq))
    GROUP BY service, ts / 86400000000"""


@dataclass(slots=True)
class Salvage:
    """How many records were brought to safety, how many are known to be lost.

    ``contradictions`` are rows and index entries that cannot be trusted: they prove the damage,
    also where another copy of the row could be read.
    """

    records: int = 0
    lost: int = 0
    contradictions: int = 0


def salvage(database: Path, target: sqlite3.Connection) -> Salvage:
    """Bring every row of ``database`` that can be read into ``target``, an empty store.

    Gaps and read offsets too. Takes about a minute for a million records. Raises OSError,
    sqlite3.Error of ``target``, and StoreVersionError for a store of a newer version.
    """
    found, clock = Salvage(), SystemClock()
    with PageFile(database) as pages:
        check_version(pages.user_version(), database)
        target.execute("BEGIN IMMEDIATE")
        target.execute(_NAMED)
        for row in cooperatively(pages.rows(), clock):
            if len(row.values) > _BODY:
                _take_metric(row, target, found)
            elif len(row.values) == _GAP_VALUES:
                _take_gap(row.values, target)
            elif len(row.values) == _POSITION_VALUES:
                _take_position(row.values, target)
        for entry in cooperatively(pages.entries(), clock):
            _check_entry(entry, target, found)
    target.execute(_STILL_THERE)
    for gap in _gaps(target):
        found.lost += gap.count
        target.execute(INSERT_GAP, gap_row(gap))
    (found.records,) = target.execute("SELECT count(*) FROM metric").fetchone()
    target.execute("DROP TABLE named")
    target.execute("COMMIT")
    return found


def _take_metric(row: Row, target: sqlite3.Connection, found: Salvage) -> None:
    """Take a row of any version: an earlier one has fewer columns, a later one has more."""
    body = row.values[_BODY]
    stored = row.values[1:_VALUES]
    try:
        if not isinstance(body, bytes):
            raise ValueError("the record is none")
        whole = metric_row(_decode_metric(body), body)
        if whole[: len(stored)] != stored:
            raise ValueError("the columns contradict the record")
    except (msgspec.MsgspecError, ValueError):
        found.contradictions += 1
        _name(target, row.rowid, *stored[:3])
        return
    if target.execute(_INSERT, (row.rowid, *whole)).rowcount == 0:
        _choose_later(row.rowid, whole, target)


def _choose_later(rowid: int, stored: tuple[Value, ...], target: sqlite3.Connection) -> None:
    """Keep the later of two arrivals of one record; rowids grow as records arrive.

    An earlier one lies on a page of an earlier version. A rowid that another record has is damage,
    and says nothing about the record.
    """
    service, ts, request_id, *_ = stored
    there = target.execute(
        f"SELECT seq FROM metric WHERE {_SAME_IDENTITY}",  # noqa: S608
        (service, request_id, ts),
    ).fetchone()
    if there is None:
        target.execute(_INSERT, (None, *stored))
    elif there[0] < rowid:
        target.execute("DELETE FROM metric WHERE seq = ?", there)
        if target.execute(_INSERT, (rowid, *stored)).rowcount == 0:
            target.execute(_INSERT, (None, *stored))


def _take_gap(values: tuple[Value, ...], target: sqlite3.Connection) -> None:
    name, ts, reason, service, model, count, tokens_in, tokens_out, cost = values
    if not isinstance(ts, int):
        return
    try:
        gap = {
            "gap": name,
            "timestamp": time_of(ts),
            "reason": reason,
            "service": service,
            "model": model,
            "count": count,
            "input_tokens": tokens_in,
            "output_tokens": tokens_out,
            "cost_usd": cost,
        }
        row = gap_row(_decode_gap(_encode(gap)))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError):
        return
    if row == values:
        target.execute(INSERT_GAP, row)


def _take_position(values: tuple[Value, ...], target: sqlite3.Connection) -> None:
    """Keep the lowest offset found: to read a record again is harmless, to skip one is not."""
    segment, position = values
    if isinstance(segment, str) and isinstance(position, int):
        target.execute(
            "INSERT INTO ingest VALUES (?, ?) ON CONFLICT (segment) "
            "DO UPDATE SET position = min(position, excluded.position)",
            (segment, position),
        )


def _check_entry(entry: tuple[Value, ...], target: sqlite3.Connection, found: Salvage) -> None:
    """Note a record that an index names and that was not found.

    Neither its rowid nor its identity may be there: of an entry that rotted, one still is.
    """
    if len(entry) != _ENTRY_VALUES:
        return
    if any(isinstance(value, bytes) for value in entry):  # a text that is none any more
        found.contradictions += 1
        return
    first, second, third, rowid = entry
    if isinstance(first, int):  # the index by time: (ts, service, request_id)
        first, second, third = second, third, first
    if not (isinstance(first, str) and isinstance(third, int) and isinstance(rowid, int)):
        return
    row = target.execute(_IDENTITY, (rowid,)).fetchone()
    if row is None:
        _name(target, rowid, first, third, second)
    elif row != (first, second, third):
        found.contradictions += 1


def _name(
    target: sqlite3.Connection, rowid: int, service: Value, ts: Value, request_id: Value
) -> None:
    known = isinstance(service, str) and isinstance(ts, int) and isinstance(request_id, str)
    identity = (service, request_id, ts) if known else (None, None, None)
    target.execute("INSERT OR REPLACE INTO named VALUES (?, ?, ?, ?)", (rowid, *identity))


def _gaps(target: sqlite3.Connection) -> Iterator[Gap]:
    """Return what is lost, by service and day: dated as the calls were, for the reports' ranges."""
    now = datetime.now(UTC)
    for service, ts, count in target.execute(_LOST).fetchall():
        try:
            time = now if ts is None else time_of(ts)
        except OverflowError:
            time = now
        yield Gap(
            gap=f"{LOST}-{mint_request_id()}",
            timestamp=time,
            reason=LOST,
            count=count,
            service=service,
        )
