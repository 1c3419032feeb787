"""Connections to the embedded store: one that writes, and ones that read whatever the disk allows.

A reader of a database in WAL mode needs the file ``-shm`` beside it, and makes it where it is not
there. On a full disk that fails, and on file systems whose blocks are smaller than a page, or that
copy on write, it does worse: the file is there, its memory is not, and the first access kills the
process (SIGBUS). So nobody comes near it there: what has no log is read as a file that does not
change, and checked afterwards; what has one is not for SQLite to read.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from receipt_dynamo.errors import StoreError
from receipt_dynamo.files import check_private_file, create_private_file
from receipt_dynamo.fork_gate import ForkGate
from receipt_dynamo.sqlite_damage import DamagedStoreError
from receipt_dynamo.sqlite_pages import is_header, log_is_whole, log_of, read_header
from receipt_dynamo.sqlite_schema import has_its_tables, prepare

__all__ = ["LogState", "Reading", "log_bytes", "log_state", "open_writer", "set_patience"]

gate = ForkGate()
"""Around every stay inside SQLite; a writing connection is within for all of its life."""

_EMPTY = "it is empty, and the log beside it is not"
LogState = tuple[int, int, int] | None
_ROOM_BYTES = 1 << 20
_CHECKPOINT_PAGES = 4000  # 16 MB: pages that many batches write again go to the file once


def log_state(database: Path) -> LogState:
    """Return which file the write-ahead log is, its size and its time; None where there is none."""
    try:
        found = log_of(database).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def log_bytes(database: Path) -> int:
    """Return the size of the write-ahead log; 0 where there is none."""
    found = log_state(database)
    return 0 if found is None else found[1]


def _has_room(directory: Path) -> bool:
    disk = os.statvfs(directory)
    return not disk.f_flag & os.ST_RDONLY and disk.f_bavail * disk.f_frsize >= _ROOM_BYTES


def set_patience(connection: sqlite3.Connection, seconds: float) -> None:
    """Let SQLite wait no longer than ``seconds`` for another program that holds the file."""
    connection.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")


def open_writer(database: Path, patience: float, known_log: LogState) -> sqlite3.Connection:
    """Return a connection that writes, to a store of this version. Called within the store's lock.

    ``known_log`` is how the last writer of this process left the log, where it had to leave it:
    that one need not be looked at. Raises DamagedStoreError, sqlite3.Error, OSError, StoreError.
    """
    if not check_private_file(database):
        os.close(create_private_file(database, os.O_RDWR))
    if not _has_room(database.parent):
        raise StoreError(
            f"the store {database} cannot be written: its disk is full or read-only. "
            "Free some space; nothing is lost meanwhile."
        )
    _check_files(database, known_log)
    connection = sqlite3.connect(
        database, timeout=max(0.0, patience), isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        prepare(connection, database)
        if not has_its_tables(connection):
            raise DamagedStoreError("its tables are not those that it was made with")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_files(database: Path, known_log: LogState) -> None:
    """Raise DamagedStoreError for what SQLite would not call damage, or would make worse.

    Of a log it reads what lies before the first damage, and throws the rest away when it closes.
    What lies beside a journal is SQLite's to roll back first.
    """
    if database.with_name(f"{database.name}-journal").exists():
        return
    header = read_header(database)
    log = log_state(database)
    has_log = log is not None and log[1] > 0
    if not header and has_log:
        raise DamagedStoreError(_EMPTY)
    if header and not is_header(header):
        raise DamagedStoreError("it does not begin as a database does")
    if has_log and log != known_log and not log_is_whole(log_of(database)):
        raise DamagedStoreError("the log beside it is damaged")


class Reading:
    """One look at a database: how SQLite may open it, and whether it stayed the same meanwhile.

    Raises StoreError where SQLite cannot read it here, DamagedStoreError, OSError.
    """

    __slots__ = ("_before", "_database", "_immutable")

    def __init__(self, database: Path, *, undisturbed: bool = False) -> None:
        """``undisturbed``: leave no side file where there is none."""
        self._database = database
        has_room, has_log = _has_room(database.parent), log_bytes(database) > 0
        if has_log and database.stat().st_size == 0:  # even a reader would remove the log
            raise DamagedStoreError(_EMPTY)
        self._immutable = not has_room or (undisturbed and not has_log)
        if has_log and not has_room:
            raise StoreError(
                f"the store {database} cannot be read by SQLite: its disk is full or read-only, "
                "and it was left with a log beside it. Free some space."
            )
        self._before = self._state()

    @property
    def inode(self) -> int:
        """Which file was read: a store that was salvaged since is another one."""
        return self._before[0]

    @property
    def uri(self) -> str:
        """How the database is opened."""
        kept = "&immutable=1" if self._immutable else ""
        return f"{self._database.absolute().as_uri()}?mode=ro{kept}"

    def is_stale(self) -> bool:
        """Whether the file was replaced since, or written where nobody was expected to write."""
        try:
            return self._state() != self._before
        except FileNotFoundError:
            return True

    def _state(self) -> tuple[int, ...]:
        found = self._database.stat()
        if not self._immutable:
            return (found.st_ino,)
        return found.st_ino, found.st_size, found.st_mtime_ns, log_bytes(self._database)
