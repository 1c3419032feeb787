"""SqliteReader: the questions that a store of metrics answers, in SQL.

Where the rows are read from is for the class that derives from it: the store itself, or the store
beneath the records that it cannot take in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.sqlite_damage import DamagedStoreError
from receipt_dynamo.sqlite_rows import (
    SUMMED,
    Page,
    Sums,
    group_column,
    group_order,
    metric_of_row,
    microseconds_of,
    time_of,
    where,
    where_lost,
)
from receipt_dynamo.store import (
    DroppedSummary,
    Identity,
    UsageQuery,
    UsageSummary,
    add_exactly,
    check_dimensions,
)

__all__ = ["Rows", "SqliteReader", "take_checked"]

Rows = list[tuple[Any, ...]]
_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")
_VALUES_AT_ONCE = 900  # SQLite before 3.32 binds 999


class SqliteReader:
    """Answers from the tables ``metric`` and ``gap``, wherever they lie."""

    def _read(
        self,
        sql: str,
        values: Sequence[object],
        take: Callable[[Rows], _T],
        timezone: str | None = None,
    ) -> _T:
        """Return what ``take`` makes of the rows of one statement. Raises StoreError.

        What ``take`` raises says that a value cannot be what was stored.
        """
        raise NotImplementedError

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """Return the metrics that the store has under these identities, each under its own."""
        wanted = [
            (service, microseconds_of(time), request_id) for service, time, request_id in identities
        ]
        return self._look_up(
            ("service", "ts", "request_id"),
            wanted,
            "SELECT ts, service, request_id, body FROM metric NATURAL JOIN wanted",
            _by_identity,
        )

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id) that the store has."""
        return self._look_up(
            ("service", "request_id"),
            list(keys),
            "SELECT service, request_id, (SELECT min(ts) FROM metric WHERE "
            "service = wanted.service AND request_id = wanted.request_id) FROM wanted",
            _times,
        )

    def _look_up(
        self,
        columns: Sequence[str],
        wanted: Sequence[tuple[object, ...]],
        select: str,
        take: Callable[[Rows], dict[_K, _V]],
    ) -> dict[_K, _V]:
        """Return what ``select`` finds for the rows of a table ``wanted`` with these columns."""
        row = f"({', '.join('?' * len(columns))})"
        at_once = _VALUES_AT_ONCE // len(columns)
        found: dict[_K, _V] = {}
        for start in range(0, len(wanted), at_once):
            chunk = wanted[start : start + at_once]
            rows = ", ".join([row] * len(chunk))
            sql = f"WITH wanted ({', '.join(columns)}) AS (VALUES {rows}) {select}"
            found |= self._read(sql, [value for key in chunk for value in key], take)
        return found

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield matching metrics, by time, a page at a time.

        What is stored meanwhile may be among them; none comes twice. No connection stays open
        between pages, whatever the caller does with the iterator.
        """
        page = Page()
        while metrics := self._read(*page.sql(query), page.metrics):
            yield from metrics

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
        width = len(by)

        def summed(rows: Rows) -> list[UsageSummary]:
            groups: dict[tuple[Any, ...], Sums] = {} if by else {(): Sums()}
            for row in rows:
                groups.setdefault(row[:width], Sums()).add(*row[width:])
            if not all(type(count) is int for sums in groups.values() for count in sums.counts):
                raise ValueError("a count is no integer")
            ordered = sorted(groups, key=lambda key: [group_order(part) for part in key])
            return [groups[key].summary(dict(zip(by, key, strict=True))) for key in ordered]

        return self._read(sql, values, summed, timezone)

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Return what was lost, by the time range of ``query``, its service and its model."""
        conditions, values = where_lost(query)
        sql = f"SELECT reason, count, input_tokens, output_tokens, cost_usd FROM gap {conditions}"  # noqa: S608
        return self._read(sql, values, _dropped)


def take_checked(take: Callable[[Rows], _T], rows: Rows) -> _T:
    """Return ``take(rows)``. Raises DamagedStoreError for values that cannot have been stored."""
    try:
        return take(rows)
    except (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError) as error:
        raise DamagedStoreError(f"it holds what was never stored: {error}", proven=False) from error


def _by_identity(rows: Rows) -> dict[Identity, AIUsageMetric]:
    metrics = (metric_of_row(*row) for row in rows)
    return {metric.identity: metric for metric in metrics}


def _times(rows: Rows) -> dict[tuple[str, str], datetime]:
    return {
        (service, request_id): time_of(earliest)
        for service, request_id, earliest in rows
        if earliest is not None
    }


def _dropped(rows: Rows) -> DroppedSummary:
    count = tokens_in = tokens_out = 0
    cost: Decimal | None = None
    reasons: dict[str, int] = {}
    for reason, lost, lost_in, lost_out, lost_usd in rows:
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
