"""The tables of the embedded store, and the way from an older version to this one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from receipt_dynamo.errors import StoreError, StoreVersionError
from receipt_dynamo.files import create_private_file
from receipt_dynamo.sqlite_damage import DamagedStoreError

__all__ = ["MIGRATIONS", "check_version", "has_its_tables", "prepare"]

_decode: Callable[[bytes], dict[str, Any]] = msgspec.json.Decoder(dict[str, Any]).decode

_VERSION_1 = (
    """CREATE TABLE IF NOT EXISTS metric (
        seq INTEGER PRIMARY KEY,
        service TEXT NOT NULL,
        ts INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        model TEXT NOT NULL,
        operation TEXT NOT NULL,
        job_id TEXT, batch_id TEXT, github_pr INTEGER, user_id TEXT, conversation_id TEXT,
        environment TEXT,
        api_calls INTEGER NOT NULL,
        input_tokens INTEGER, cached_input_tokens INTEGER, cache_write_tokens INTEGER,
        output_tokens INTEGER, reasoning_tokens INTEGER,
        cost_usd TEXT, unpriced_reason TEXT, failed INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (service, request_id, ts))""",
    "CREATE INDEX IF NOT EXISTS metric_time ON metric (ts, service, request_id)",
    *(
        f"CREATE INDEX IF NOT EXISTS metric_{column} ON metric ({column}, ts) "
        f"WHERE {column} IS NOT NULL"
        for column in ("job_id", "batch_id", "github_pr", "user_id", "conversation_id")
    ),
    "CREATE TABLE IF NOT EXISTS ingest (segment TEXT PRIMARY KEY, position INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS gap (
        id TEXT PRIMARY KEY, ts INTEGER NOT NULL, reason TEXT NOT NULL, service TEXT, model TEXT,
        count INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        cost_usd TEXT)""",
)

_AGENT_FIELDS = ("session_id", "tool", "skill", "subagent")
_FROM_RECORD = ", ".join(f"{field} = recorded(body, '{field}')" for field in _AGENT_FIELDS)
_IN_RECORD = " OR ".join(
    f"instr(body, CAST('\"{field}\":' AS BLOB)) > 0" for field in _AGENT_FIELDS
)
_VERSION_2 = (
    *(f"ALTER TABLE metric ADD COLUMN {field} TEXT" for field in _AGENT_FIELDS),
    f"UPDATE metric SET {_FROM_RECORD} WHERE {_IN_RECORD}",  # noqa: S608 - our own field names
    "CREATE INDEX metric_session_id ON metric (session_id, ts) WHERE session_id IS NOT NULL",
)
"""Reports group by these; until then they stood in the records alone."""

MIGRATIONS: tuple[Sequence[str], ...] = (_VERSION_1, _VERSION_2)
"""Entry i brings a store of version i to i + 1. ``ts`` is microseconds since 1970, UTC.

A later version adds columns behind those that are there: salvage reads rows by their place.
"""

_HIGHEST_VERSION = 9999
_COLUMNS = """SELECT made.name, has.name
    FROM sqlite_master AS made, pragma_table_info(made.name) AS has WHERE made.type = 'table'"""


def check_version(found: int, path: Path) -> None:
    """Raise StoreVersionError for a store of a newer version than this library knows.

    A number beyond any that will ever be is damage, and says nothing.
    """
    if len(MIGRATIONS) < found <= _HIGHEST_VERSION:
        raise StoreVersionError(
            f"{path} was written by a newer version of this library (store version {found}, "
            f"this one knows {len(MIGRATIONS)}). Upgrade receipt-usage to read it."
        )


def has_its_tables(connection: sqlite3.Connection) -> bool:
    """Return whether a prepared store has the tables and columns that its version makes."""
    return _made_by(MIGRATIONS) <= set(connection.execute(_COLUMNS))


@lru_cache(maxsize=1)
def _made_by(migrations: tuple[Sequence[str], ...]) -> frozenset[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as model:
        _add_recorded(model)
        for statements in migrations:
            for statement in statements:
                model.execute(statement)
        return frozenset(model.execute(_COLUMNS))


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the store to this version, within the store's lock.

    An older store is copied to ``<name>.v<N>`` first (the way back) and migrated in one
    transaction. Raises StoreVersionError for a newer one, DamagedStoreError for a version that
    cannot be, sqlite3.Error.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    wanted = len(MIGRATIONS)
    if found == wanted:
        return
    check_version(found, path)
    if not 0 <= found < wanted:
        raise DamagedStoreError(f"its version is given as {found}")
    if found == 0 and has_its_tables(connection):  # only its number was lost
        connection.execute(f"PRAGMA user_version = {wanted}")
        return
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        _copy(connection, path, path.with_name(f"{path.name}.v{found}"))
    _add_recorded(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[found:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {wanted}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise StoreError(
            f"{path} could not be brought from store version {found} to {wanted}: {error}. "
            "It was left as it was."
        ) from error


def _add_recorded(connection: sqlite3.Connection) -> None:
    """Teach the connection ``recorded(body, field)``: a text of a record, NULL where it has none.

    SQLite's own JSON is not in every build, and cuts a text at its first NUL.
    """
    connection.create_function("recorded", 2, _recorded, deterministic=True)


def _recorded(body: bytes, field: str) -> str | None:
    try:
        value = _decode(body).get(field)
    except msgspec.MsgspecError:  # damage, which is for a repair to find
        return None
    return value if isinstance(value, str) else None


def _copy(connection: sqlite3.Connection, path: Path, target: Path) -> None:
    """Write a complete copy of the store to ``target``, on the disk before it gets its name."""
    partial = path.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(create_private_file(partial, os.O_WRONLY | os.O_EXCL))
    copy = sqlite3.connect(partial, isolation_level=None)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(target)
