"""A damaged store is replaced by what can be salvaged of it, within the store's lock."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from receipt_dynamo.errors import StoreError
from receipt_dynamo.files import check_private_file
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.sqlite_aside import create_partial, put_in_place, remove_partial, salvaged_of
from receipt_dynamo.sqlite_connect import log_bytes
from receipt_dynamo.sqlite_damage import DamagedStoreError
from receipt_dynamo.sqlite_salvage import Salvage, salvage
from receipt_dynamo.sqlite_schema import prepare

__all__ = ["finish_repair", "repair"]

_CACHE_KIB = 64 << 10
_log = safe_logger("receipt_dynamo.store")


def repair(store: Path, damage: DamagedStoreError) -> bool:
    """Replace ``store`` by a new one with all that can be read of it; return whether it was done.

    Not done where the damage is not proven and none is found. A kill at any moment is harmless: the
    store stays where it is until all of it is salvaged, and then the next opening finishes. Raises
    StoreError where there is no room for it or the store is of a newer version, sqlite3.Error,
    OSError; the store is then as it was.
    """
    _check_room(store)
    partial = create_partial(store)
    try:
        found = _salvaged_into(partial, store)
        if not (damage.proven or found.lost or found.contradictions):
            remove_partial(store)
            return False
    except BaseException:
        remove_partial(store)
        raise
    aside = put_in_place(store)
    _log.error(
        "the store %s was damaged (%s): %d records were salvaged, %d are known to be lost. "
        "The damaged file is %s; delete it when nobody needs it.",
        store,
        damage,
        found.records,
        found.lost,
        aside,
    )
    return True


def finish_repair(store: Path) -> None:
    """Finish a repair that was cut short when all was salvaged. Raises UsageError, OSError."""
    if check_private_file(salvaged_of(store)):
        aside = put_in_place(store)
        _log.error("the store %s was damaged and is salvaged; the damaged file is %s", store, aside)


def _salvaged_into(partial: Path, store: Path) -> Salvage:
    with closing(sqlite3.connect(partial, isolation_level=None)) as target:
        # Until it is whole it may be lost at any time, so nothing is written twice.
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        target.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        prepare(target, partial)
        return salvage(store, target)


def _check_room(store: Path) -> None:
    """Raise StoreError unless a second store has room: to try would fill the disk for everybody."""
    needed = store.stat().st_size + log_bytes(store)
    disk = os.statvfs(store.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        raise StoreError(
            f"the store {store} is damaged. To be salvaged it needs {needed} bytes of free disk, "
            f"and {free} are left. Free some space; nothing is lost meanwhile."
        )
