"""SqliteSource: the embedded store, read in the order in which its rows were written.

That order is kept for ever: a metric that is replaced gets a new row, behind all others. So a
number says which rows somebody has seen, whatever is written meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_reader import Rows
from receipt_dynamo.sqlite_rows import gap_of_row, metric_of_row
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import StoredRecord

__all__ = ["SqliteSource", "StoredRow"]

_ROWS = "SELECT seq, ts, service, request_id, body FROM metric"
_NUMBERS_AT_ONCE = 500  # SQLite before 3.32 binds 999


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A metric of the store, and its place there."""

    number: int
    record: StoredRecord


class SqliteSource(SqliteStore):
    """Reads rows by their number. Thread-safe. Raises StoreError.

    A store that is not there has no rows.
    """

    def rows_after(self, number: int, limit: int) -> list[StoredRow]:
        """Return up to ``limit`` rows behind a number, in order."""
        sql = f"{_ROWS} WHERE seq > ? ORDER BY seq LIMIT ?"
        return self._read(sql, [number, limit], _stored_rows)

    def rows_at(self, numbers: Sequence[int]) -> list[StoredRow]:
        """Return the rows of these numbers, in order; those that were replaced since are not."""
        rows: list[StoredRow] = []
        rest = iter(sorted(numbers))
        while some := list(islice(rest, _NUMBERS_AT_ONCE)):
            places = ", ".join("?" * len(some))
            sql = f"{_ROWS} WHERE seq IN ({places}) ORDER BY seq"
            rows += self._read(sql, some, _stored_rows)
        return rows

    def count_after(self, number: int) -> int:
        """Return how many rows lie behind a number."""
        return self._read("SELECT count(*) FROM metric WHERE seq > ?", [number], _one_number)

    def gaps(self) -> list[Gap]:
        """Return what was lost, in the order of time."""
        sql = (
            "SELECT id, ts, reason, service, model, count, input_tokens, output_tokens, cost_usd "
            "FROM gap ORDER BY ts, id"
        )
        return self._read(sql, [], lambda rows: [gap_of_row(row) for row in rows])

    def file_number(self) -> int:
        """Return which file the store is; 0 for none. One that was repaired is another file."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0


def _stored_rows(rows: Rows) -> list[StoredRow]:
    return [_stored_row(*row) for row in rows]


def _stored_row(number: int, ts: int, service: str, request_id: str, body: Any) -> StoredRow:
    return StoredRow(number, StoredRecord(metric_of_row(ts, service, request_id, body), body))


def _one_number(rows: Rows) -> int:
    return int(rows[0][0]) if rows else 0
