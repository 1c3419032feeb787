"""Where the files of a run lie: directories that end with it, or with the next run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["remove_abandoned", "temporary_place"]

_PREFIX = "receipt-usage-stress-"
_LOCK = "lock"
_TRIES, _PAUSE_SECONDS = 50, 0.1


@contextmanager
def temporary_place() -> Iterator[Path]:
    """Make a directory for temporary files, and remove it."""
    place = Path(tempfile.mkdtemp(prefix=_PREFIX))
    new = place / f"{_LOCK}.new"
    descriptor = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        new.rename(place / _LOCK)  # now only: nobody finds it without its owner
        yield place
    finally:
        os.close(descriptor)
        _remove(place)


def _remove(place: Path) -> None:
    """Remove a directory into which a process that is being killed may still write."""
    for _ in range(_TRIES):
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return
        time.sleep(_PAUSE_SECONDS)


def remove_abandoned() -> None:
    """Remove the directories of runs that were killed: nobody holds their locks. Raises nothing."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # somebody else's, in use, or just gone
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(descriptor)
