"""A damaged store is set aside, and a salvaged one takes its place.

The store's file and those beside it, in the order in which they come and go:

    usage.db.partial     what a salvage has so far; left by a kill, the next salvage starts again
    usage.db.salvaged    a whole one; from now on the next opening finishes, whoever was killed
    usage.db.corrupt-*   the damaged file, with its log, until somebody has looked and deletes it

All of it happens under the store's lock.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from receipt_dynamo.files import check_private_file, create_private_file

__all__ = ["corrupt_stores", "create_partial", "put_in_place", "remove_partial", "salvaged_of"]

_STORE = "usage.db"
_SIDE_FILES = ("-wal", "-journal", "-shm")
"""What belongs to a database file; the first two hold data, and go where it goes."""


def corrupt_stores(usage_dir: Path) -> list[Path]:
    """Return the damaged stores that were set aside in ``usage_dir``, oldest first."""
    found = usage_dir.glob(f"{_STORE}.corrupt-*")
    return sorted(path for path in found if not path.name.endswith(_SIDE_FILES))


def salvaged_of(store: Path) -> Path:
    """Return where a salvaged store lies until it takes the place of ``store``."""
    return store.with_name(f"{store.name}.salvaged")


def _partial_of(store: Path) -> Path:
    return store.with_name(f"{store.name}.partial")


def create_partial(store: Path) -> Path:
    """Return an empty file for the salvage of ``store``. Raises OSError."""
    remove_partial(store)
    partial = _partial_of(store)
    os.close(create_private_file(partial, os.O_WRONLY | os.O_EXCL))
    return partial


def remove_partial(store: Path) -> None:
    """Remove what a salvage that cannot go on has left. Raises OSError."""
    partial = _partial_of(store)
    for path in (partial, *(partial.with_name(partial.name + end) for end in _SIDE_FILES)):
        path.unlink(missing_ok=True)


def put_in_place(store: Path) -> Path:
    """Set ``store`` aside and put what was salvaged in its place; return where the old one lies.

    What was salvaged lies in ``usage.db.partial``, or already in ``usage.db.salvaged`` where this
    was cut short before. Each step can be repeated, and after each one the next call finishes: the
    time of the salvaged file gives the name, and the salvaged file is moved last. Raises OSError.
    """
    salvaged = salvaged_of(store)
    if not check_private_file(salvaged):
        _sync(_partial_of(store))
        _partial_of(store).rename(salvaged)
    _sync(store.parent)
    time = datetime.fromtimestamp(salvaged.stat().st_mtime, UTC)
    aside = store.with_name(f"{store.name}.corrupt-{time:%Y%m%dT%H%M%S.%fZ}")
    for end in _SIDE_FILES[:-1]:
        with suppress(FileNotFoundError):
            store.with_name(store.name + end).rename(aside.with_name(aside.name + end))
    store.with_name(store.name + _SIDE_FILES[-1]).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        store.rename(aside)
    salvaged.rename(store)
    _sync(store.parent)
    return aside


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
