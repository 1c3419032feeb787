"""What the embedded store's SQL is made of: rows from metrics, conditions from queries, sums."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.store import DIMENSIONS, UsageQuery, load_timezone
from receipt_dynamo.sums import Sums, group_order
from receipt_dynamo.sums import local_day as local_day_of

__all__ = [
    "COLUMNS",
    "INSERT_GAP",
    "INSERT_METRIC",
    "SUMMED",
    "Page",
    "Sums",
    "add_local_time",
    "gap_of_row",
    "gap_row",
    "group_column",
    "group_order",
    "metric_of_row",
    "metric_row",
    "microseconds_of",
    "time_of",
    "where",
    "where_lost",
]

_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE_ROWS = 1000
_MICROSECOND = timedelta(microseconds=1)
COLUMNS = (
    "service ts request_id model operation job_id batch_id github_pr user_id conversation_id "
    "environment api_calls input_tokens cached_input_tokens cache_write_tokens output_tokens "
    "reasoning_tokens cost_usd unpriced_reason failed body session_id tool skill subagent"
).split()
"""The columns of ``metric`` behind its rowid, in the order of the table."""

INSERT_METRIC = (
    f"INSERT OR REPLACE INTO metric ({', '.join(COLUMNS)}) "  # noqa: S608 - our own column names
    f"VALUES ({', '.join('?' * len(COLUMNS))})"
)
SUMMED = (
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
    "session_id",
    "tool",
    "skill",
    "subagent",
    "environment",
)
INSERT_GAP = "INSERT OR REPLACE INTO gap VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def microseconds_of(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


class Page:
    """Pages through the metrics of a query by their identity, which never changes.

    A row that is replaced between two pages keeps its place, so that none comes twice.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[int, str, str] | None = None

    def sql(self, query: UsageQuery) -> tuple[str, list[object]]:
        """Return the statement for the next page, and the values to bind."""
        conditions, values = where(query)
        if self._last is not None:
            conditions += " AND " if conditions else "WHERE "
            conditions += "(ts, service, request_id) > (?, ?, ?)"
            values.extend(self._last)
        return (
            f"SELECT ts, service, request_id, body FROM metric {conditions} "  # noqa: S608
            f"ORDER BY ts, service, request_id LIMIT {_PAGE_ROWS}"
        ), values

    def metrics(self, rows: list[tuple[Any, ...]]) -> list[AIUsageMetric]:
        """Return the metrics of a page, and go on behind it.

        Raises ValueError, msgspec.MsgspecError for a record that is not the one of its row.
        """
        metrics = [metric_of_row(*row) for row in rows]
        if rows:
            ts, service, request_id, _ = rows[-1]
            self._last = ts, service, request_id
        return metrics


def metric_of_row(ts: int, service: str, request_id: str, body: bytes) -> AIUsageMetric:
    """Return the metric of a row.

    Raises ValueError, msgspec.MsgspecError for a record that is not the one of its row.
    """
    metric = _decode_metric(body)
    identity = microseconds_of(metric.timestamp), metric.service, metric.request_id
    if identity != (ts, service, request_id):
        raise ValueError(f"the record of {(ts, service, request_id)} is another one")
    return metric


def time_of(microseconds: int) -> datetime:
    """Return the aware time of a ``ts``."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


def metric_row(metric: AIUsageMetric, payload: bytes) -> tuple[Any, ...]:
    """Return the values of INSERT_METRIC."""
    return (
        metric.service,
        microseconds_of(metric.timestamp),
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
        metric.session_id,
        metric.tool,
        metric.skill,
        metric.subagent,
    )


def gap_row(gap: Gap) -> tuple[Any, ...]:
    """Return the values of INSERT_GAP."""
    return (
        gap.gap,
        microseconds_of(gap.timestamp),
        gap.reason,
        gap.service,
        gap.model,
        gap.count,
        gap.input_tokens,
        gap.output_tokens,
        _text(gap.cost_usd),
    )


def gap_of_row(row: tuple[Any, ...]) -> Gap:
    """Return the gap of ``gap_row``. Raises ValueError, TypeError, ArithmeticError."""
    name, ts, reason, service, model, count, tokens_in, tokens_out, cost = row
    return Gap(
        gap=name,
        timestamp=time_of(ts),
        reason=reason,
        count=count,
        service=service,
        model=model,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_usd=None if cost is None else Decimal(cost),
    )


def where(query: UsageQuery) -> tuple[str, list[object]]:
    """Return the WHERE clause of a query, empty where it has none, and the values to bind."""
    conditions, values = _times_between(query)
    for column in _FILTERS:
        value = getattr(query, column)
        if value is not None:
            # "+": by the index of times, which a page follows; that of identities would be sorted
            conditions.append(f"+{column} = ?" if column == "service" else f"{column} = ?")
            values.append(value)
    if query.unpriced:
        conditions.append("unpriced_reason IS NOT NULL")
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def where_lost(query: UsageQuery) -> tuple[str, list[object]]:
    """Return the WHERE clause for gaps. A loss of which the service or model is not known counts
    for each of them."""
    conditions, values = _times_between(query)
    for column in ("service", "model"):
        value = getattr(query, column)
        if value is not None:
            conditions.append(f"({column} = ? OR {column} IS NULL)")
            values.append(value)
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _times_between(query: UsageQuery) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    if query.since is not None:
        conditions.append("ts >= ?")
        values.append(microseconds_of(query.since))
    if query.until is not None:
        conditions.append("ts < ?")
        values.append(microseconds_of(query.until))
    return conditions, values


def group_column(word: str) -> str:
    """Return the SQL behind a word of DIMENSIONS."""
    if word == "day":
        return "local_day(ts)"
    if word == "month":
        return "substr(local_day(ts), 1, 7)"
    return DIMENSIONS[word]


def add_local_time(connection: sqlite3.Connection, timezone: str) -> None:
    """Teach the connection ``local_day(ts)``: the calendar day of a time, in ``timezone``."""
    zone = load_timezone(timezone)

    def local_day(microseconds: int) -> str:
        return local_day_of(time_of(microseconds), zone)

    connection.create_function("local_day", 1, local_day, deterministic=True)
