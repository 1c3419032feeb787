"""What all processes of one destination have done since its spool was made, kept over restarts.

    stats/<pid>-<8 hex digits>.json   one process (one client of it), rewritten in place
    stats/total.json                  what the dead have done

A process keeps its figures in a file of its own, which it holds locked for as long as it lives. The
file has a fixed size and is rewritten in place, so a full disk does not stop it; a CRC tells a torn
write. A free lock means that the process has closed its client or died: whoever comes first, as the
leader or on closing, adds such a file to ``total.json`` and removes it.

The merge is safe against a death at any point: ``total.json`` is replaced in one rename, and names
the files that it has taken in until they are gone, so none counts twice.

Figures are for people who look after a pipeline. What was recorded and lost is known exactly by the
store and its gap records; here a killed process may lack its last second.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from receipt_dynamo.errors import DirectoryRefusedError
from receipt_dynamo.figures import Figures
from receipt_dynamo.files import FileLock, create_private_file, secure_directory
from receipt_dynamo.forks import notice_fork, on_fork
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.stats_files import (
    TOTAL,
    Total,
    changed_at,
    decode_total,
    is_free,
    opened,
    process_files,
    read_file,
    read_page,
    write_page,
    write_total,
)
from receipt_dynamo.utils.clock import Clock

__all__ = ["STATS", "StatsFile", "merge_stats", "read_stats"]

STATS = "stats"
"""The directory within that of a spool."""

SAVE_SECONDS = 1.0
MERGE_SECONDS = 60.0
_YOUNG_SECONDS = 60.0  # an empty file of that age has no process that is about to lock it
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_KEEPING = "the figures of this process cannot be kept now"
_MERGING = "the figures of ended processes cannot be added up now"
_log = safe_logger("receipt_dynamo.stats")


class StatsFile:
    """The figures of one process for one destination. Raises nothing: it never disturbs the rest.

    Thread-safe; a signal handler that interrupts a save leaves it to the next. The file is made
    when there is something to keep. After a fork the child starts at zero, with a file of its own.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._descriptor: int | None = None
        self._forget(Figures())
        _files.add(self)

    def _forget(self, before: Figures) -> None:
        """Begin anew: count from ``before``, which is in another file or another process's."""
        self._lock = threading.RLock()
        # Guarded by _lock
        self._busy = False
        self._before = before
        self._seen = Figures()
        self._looked_at = self._clock.now()
        self._said: set[str] = set()
        self._merged_at = self._clock.monotonic()
        self._close_file()

    def _close_file(self) -> None:
        """Close without unlocking: in the child of a fork that would free the parent's lock."""
        descriptor, self._descriptor = self._descriptor, None
        self.name: str | None = None
        self._saved: Figures | None = None
        self._tried_at = float("-inf")
        if descriptor is not None:
            os.close(descriptor)

    def forget_after_fork(self) -> None:
        """Drop what a child inherited. Its own figures begin at zero."""
        self._forget(Figures())

    def current(self, figures: Figures) -> Figures:
        """Return ``figures`` of this process less what another file has, with times of changes."""
        notice_fork()
        with self._lock:
            own, seen, now = figures.minus(self._before), self._seen, self._clock.now()
            last_record = seen.last_record
            if own.recorded() > seen.recorded():  # its own time, if it was put since the last look
                last_record = min(now, max(own.last_record or now, self._looked_at))
            self._looked_at = now
            self._seen = msgspec.structs.replace(
                own,
                last_record=last_record,
                last_drop=now if own.lost() > seen.lost() else seen.last_drop,
                last_corrupt_line=(
                    now if own.corrupt_lines > seen.corrupt_lines else seen.last_corrupt_line
                ),
                last_fsync_error=(
                    now if own.fsync_errors > seen.fsync_errors else seen.last_fsync_error
                ),
                last_error_at=_since(own.last_error, seen, now),
            )
            return self._seen

    def save(self, figures: Figures, *, at_once: bool = False) -> None:
        """Keep ``figures``, once a second at most unless ``at_once``, and only what is new."""
        notice_fork()
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                own, now = self.current(figures), self._clock.monotonic()
                if own != self._saved and (at_once or now - self._tried_at >= SAVE_SECONDS):
                    self._tried_at = now
                    self._save(own)
                    self._said.discard(_KEEPING)
            except (OSError, DirectoryRefusedError) as error:
                self._say(_KEEPING, error)
            finally:
                self._busy = False

    def _save(self, own: Figures) -> None:
        """Write the figures into the file, which is made where missing. Raises as ``_create``."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
            self._close_file()  # somebody has removed it
        if self._descriptor is not None:
            write_page(self._descriptor, own)
        elif own.counts_anything():
            self._create(own)
        if self._descriptor is not None:
            self._saved = own

    def _create(self, own: Figures) -> None:
        """Make the file, lock it, write into it. Raises OSError, DirectoryRefusedError."""
        name = f"{os.getpid()}-{os.urandom(4).hex()}.json"
        path = secure_directory(self._directory) / name
        self.name = name  # before the file is there: ``together`` is not to count it as another's
        descriptor = -1
        try:
            descriptor = create_private_file(path, os.O_RDWR | os.O_EXCL)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_page(descriptor, own)
            self._descriptor = descriptor
        except BlockingIOError:  # somebody is looking whether it is locked: next time
            pass
        finally:
            if self._descriptor is None:
                self.name = None
                path.unlink(missing_ok=True)
                if descriptor >= 0:
                    os.close(descriptor)

    def together(self, figures: Figures) -> Figures:
        """Return what all processes have done since the spool was made. Raises nothing."""
        notice_fork()
        with self._lock:
            own = self.current(figures)
            return read_stats(self._directory, besides=self.name).plus(own)

    def retire(self, figures: Figures) -> None:
        """Save, and give up the file; what is counted later goes into another. Then merge."""
        notice_fork()
        with self._lock:
            self.save(figures, at_once=True)
            descriptor = self._descriptor
            if descriptor is not None and self._saved == self._seen and not self._busy:
                with suppress(OSError):  # by name: a forked child may hold a copy of the lock
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                self._before, self._seen = figures, Figures()
                self._close_file()
        self.merge(at_once=True)

    def merge(self, *, at_once: bool = False) -> None:
        """Take in the files of the dead, once a minute at most unless ``at_once``."""
        now = self._clock.monotonic()
        if at_once or now - self._merged_at >= MERGE_SECONDS:
            self._merged_at = now
            try:
                merge_stats(self._directory, self._clock.now())
                self._said.discard(_MERGING)
            except OSError as error:
                self._say(_MERGING, error)

    def _say(self, what: str, error: Exception) -> None:
        """Say once, for as long as it lasts, what fails; of a full disk others speak louder."""
        if what not in self._said:
            self._said.add(what)
            is_full = isinstance(error, OSError) and error.errno in _FULL
            level = logging.INFO if is_full else logging.WARNING
            _log.log(level, "%s: %s. Recording and delivery go on.", what, error)

    def __repr__(self) -> str:
        return f"<StatsFile {self._directory / (self.name or '-')}>"


def _since(error: str | None, seen: Figures, now: datetime) -> datetime | None:
    if error is None:
        return None
    return seen.last_error_at if error == seen.last_error else now


def read_stats(directory: Path, *, besides: str | None = None) -> Figures:
    """Return the figures of all processes, dead and alive, but that of the file ``besides``.

    Changes nothing. Files that are damaged or cannot be read are passed over. Raises nothing.
    """
    figures = Figures()
    for _ in range(5):  # a merge may come between
        before = _read_quietly(directory / TOTAL)
        total = decode_total(before) or Total()
        figures = total.figures
        for name in process_files(directory):
            if name not in total.merged and name != besides:
                with suppress(OSError), opened(directory / name) as descriptor:
                    page = read_page(descriptor)
                    if page is not None and is_free(descriptor, fcntl.LOCK_SH):
                        page = page.of_the_dead(changed_at(descriptor))
                    figures = figures.plus(page or Figures())
        if _read_quietly(directory / TOTAL) == before:
            break
    return figures


def merge_stats(directory: Path, now: datetime) -> None:
    """Add the files of the dead to ``total.json`` and remove them, unless another does.

    Raises OSError; nothing is lost or counted twice then, nor when the process dies within.
    """
    if not process_files(directory):
        return
    lock = FileLock(directory / "merge.lock")
    if not lock.try_acquire():
        return
    with lock:
        total = _total_to_add_to(directory)
        names = process_files(directory)
        done = [name for name in names if name in total.merged]
        new = [name for name in names if name not in total.merged]
        figures = total.figures
        for name in new:
            with suppress(FileNotFoundError):
                page = _page_of_the_dead(directory / name, now)
                if page is not None:
                    figures = figures.plus(page)
                    done.append(name)
        if set(done) - set(total.merged):
            write_total(directory, Total(figures=figures, merged=done))
        for name in done:
            (directory / name).unlink(missing_ok=True)


def _total_to_add_to(directory: Path) -> Total:
    """Return what is in ``total.json``; a damaged one is kept beside it. Raises OSError."""
    path = directory / TOTAL
    text = read_file(path)
    total = decode_total(text)
    if total is None and text is not None:
        _log.error("%s is damaged: what ended processes had counted is lost", path)
        path.replace(path.with_name(f"{TOTAL}.damaged"))
    return total or Total()


def _page_of_the_dead(path: Path, now: datetime) -> Figures | None:
    """Return the figures of a file whose process has ended, or None while it lives."""
    with opened(path, os.O_RDWR) as descriptor:
        if not is_free(descriptor, fcntl.LOCK_EX):
            return None
        page, changed = read_page(descriptor), changed_at(descriptor)
        if page is None:
            if (now - changed).total_seconds() < _YOUNG_SECONDS:
                return None  # its process is about to lock it
            _log.warning("%s is damaged: the figures of its process are lost", path)
        return (page or Figures()).of_the_dead(changed)


def _read_quietly(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError as error:
        _log.warning("the figures of ended processes cannot be read: %s", error)
        return None


_files: weakref.WeakSet[StatsFile] = weakref.WeakSet()


def _forget_all() -> None:
    for file in list(_files):
        file.forget_after_fork()


on_fork(_forget_all)
