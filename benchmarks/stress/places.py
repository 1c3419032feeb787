"""Where the files of a run lie: directories that end with it, or with the next run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["remove_abandoned", "temporary_place"]

_PREFIX = "receipt-usage-stress-"
_LOCK = "lock"


@contextmanager
def temporary_place() -> Iterator[Path]:
    """Make a directory for temporary files, and remove it."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        place = Path(name)
        new = place / f"{_LOCK}.new"
        descriptor = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            new.rename(place / _LOCK)  # now only: nobody finds it without its owner
            yield place
        finally:
            os.close(descriptor)


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
