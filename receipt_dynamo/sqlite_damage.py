"""What tells a damaged store from one that is busy, full, or asked for the impossible."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from receipt_dynamo.errors import StoreBusyError, StoreError

__all__ = ["DamagedStoreError", "damage_in", "store_error"]

_PRIMARY = 0xFF  # of an extended result code: SQLITE_CORRUPT_INDEX is a SQLITE_CORRUPT
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class DamagedStoreError(Exception):
    """The store's file is damaged, or may be. The message says what was found.

    ``proven``: SQLite itself says so. Otherwise something that only damage can explain: salvage
    then replaces the store only if it finds that damage. ``inode`` says which file it was.
    """

    def __init__(self, finding: str, *, proven: bool = True) -> None:
        super().__init__(finding)
        self.proven = proven
        self.inode: int | None = None


def damage_in(error: sqlite3.Error | DamagedStoreError) -> DamagedStoreError | None:
    """Return the damage that ``error`` speaks of, or None.

    The statements are fixed, and their values are checked before they are stored: what SQLite
    calls an error in them (no such table, no integer, no text) comes from the file.
    """
    if isinstance(error, DamagedStoreError):
        return error
    code = getattr(error, "sqlite_errorcode", None)  # the module's own errors have none
    if code is None:
        is_text = isinstance(error, sqlite3.OperationalError) and "UTF-8" in str(error)
        return DamagedStoreError(str(error), proven=False) if is_text else None
    if code & _PRIMARY in _DAMAGE:
        return DamagedStoreError(str(error))
    if code == sqlite3.SQLITE_ERROR:
        return DamagedStoreError(str(error), proven=False)
    return None


def store_error(path: Path, error: Exception) -> StoreError:
    """Return what callers get for an error of SQLite or of the file system."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & _PRIMARY in _LOCKED:
        return StoreBusyError(f"the store {path} is held by another program: {error}. Try again.")
    return StoreError(f"the store {path} cannot be used: {error}")
