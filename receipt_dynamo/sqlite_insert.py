"""Inserting a batch into the embedded store, and telling apart what SQLite will never take."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from receipt_dynamo.cooperation import cooperatively
from receipt_dynamo.utils.clock import SystemClock

__all__ = ["insert"]

_T = TypeVar("_T")
_clock = SystemClock()
_BINDING = "Error binding parameter"


def insert(
    connection: sqlite3.Connection,
    sql: str,
    items: Sequence[_T],
    row: Callable[[_T], tuple[Any, ...]],
) -> list[tuple[_T, str]]:
    """Insert the rows of ``items``, in order, within the open transaction.

    Returns the items that SQLite will never take, each with the reason; all others are in. They are
    found by halving, which inserts rows again: ``sql`` must replace. Raises sqlite3.Error for what
    is no fault of a row: a full disk, a busy or a damaged file.
    """
    try:
        connection.executemany(sql, map(row, cooperatively(items, _clock)))
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        if not (_is_of_a_row(error) and connection.in_transaction):
            raise
        if len(items) == 1:
            return [(items[0], f"SQLite refuses it: {error}")]
        middle = len(items) // 2
        return [
            *insert(connection, sql, items[:middle], row),
            *insert(connection, sql, items[middle:], row),
        ]
    return []


def _is_of_a_row(error: Exception) -> bool:
    """Whether the values of a row are at fault, and so will be next time.

    A value of a type that SQLite has not is a ProgrammingError, and so is the wrong use of a
    connection: only the text tells them apart.
    """
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return str(error).startswith(_BINDING)
    return isinstance(
        error, sqlite3.DataError | sqlite3.IntegrityError | OverflowError | UnicodeEncodeError
    )
