"""The writing end of a spool: one segment file per process, appended under one lock.

``append`` is what a caller of the library waits for: CRC, one ``os.write``, nothing else. No
network, no directory scan; no fsync either, unless ``durability="fsync"`` asks for it.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

from receipt_dynamo.files import secure_directory, sync_directory
from receipt_dynamo.forks import notice_fork, on_fork
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.process_mark import process_mark
from receipt_dynamo.spool.active import LINE_OVERHEAD, ActiveSegment, create_segment
from receipt_dynamo.spool.bounds import Allowance, SpoolBounds
from receipt_dynamo.spool.segment import HEADER_BYTES

__all__ = ["SpoolWriter"]

_MAX_UNSYNCED = 1024  # sealed segments that wait for a sync; where nothing ever syncs, no more
_log = safe_logger("receipt_dynamo.spool")


class _Commit:
    """The records that one sync brings to the disk together, and how that went."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: OSError | None = None


class SpoolWriter:
    """Appends records to this process's segment of one spool directory.

    Thread-safe, and safe to call again from a signal handler or a finaliser that interrupts it (the
    locks are reentrant). After a fork the child goes on with a segment of its own.

    ``bounds`` limits what may be appended; None does not. With ``fsync`` an append returns only
    when its record is on the disk; callers that wait at the same time share one ``fdatasync``.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        bounds: SpoolBounds | None = None,
        *,
        fsync: bool = False,
    ) -> None:
        self._directory = secure_directory(directory)
        self._segment_bytes = segment_bytes
        self._bounds = bounds
        self._fsync = fsync
        self._reset()
        _writers.add(self)

    def _reset(self) -> None:
        self._mark = process_mark()
        self._lock = threading.RLock()
        # Guarded by _lock
        self._busy = 0  # how deep a thread is within: handlers that interrupt it come in as well
        self._active: ActiveSegment | None = None
        self._retired: list[ActiveSegment] = []  # sealed, to be closed when nobody is within
        self._allowance = Allowance(self._directory, self._bounds, self._segment_bytes, self._lock)
        self._newest = 0
        self._named = False  # a segment got its name since the last sync
        self._unsynced: deque[Path] = deque(maxlen=_MAX_UNSYNCED)  # sealed and closed
        self._commit = _Commit()
        self.records = 0
        """Records this process has stored. Read it freely."""
        self._sync_lock = threading.RLock()  # taken before _lock, never within
        self.fsync_errors = 0

    @property
    def active_segment(self) -> Path | None:
        """The file that records go to now, or None before the first and after ``seal``."""
        active = self._active
        return None if active is None else active.path

    def append(self, payload: bytes, count: int = 1) -> None:
        """Write one record; it adds ``count`` to ``records``, 0 for a gap.

        When this returns, the record survives the death of the process. With ``fsync`` it is on the
        disk as well; only a gap is not waited for.

        Raises OSError when the disk refuses, SpoolFullError when the bounds do; the record is then
        not stored, and its neighbours are not harmed. After a failed fdatasync it may be there all
        the same: to store it again under its identity does no harm.
        """
        line = b"%08x " % crc32(payload) + payload + b"\n"  # what encode_line says, in place
        needed = len(line) + LINE_OVERHEAD
        if not self._mark[0]:  # a fork in C, which no at-fork hook saw
            notice_fork()
        with self._lock:
            self._busy += 1
            try:
                allowance = self._allowance
                if allowance.bytes < needed:
                    allowance.renew(needed)
                segment = self._active
                if segment is None or segment.size >= self._segment_bytes:
                    segment = self._open_segment()
                if segment.torn:
                    written = segment.write(line)
                else:  # what that does, in place
                    written = os.write(segment.descriptor, line)
                    segment.size += written
                    if written != len(line):
                        segment.note_cut(line, written)
                allowance.bytes -= written
                self.records += count
                commit = self._commit
            finally:
                self._busy -= 1
                if self._retired and not self._busy:
                    self._close_retired()
        if self._fsync and count:
            self._wait_for_disk(commit, count)

    def refill(self) -> None:
        """Renew the grant off the recording path. Raises SpoolFullError, OSError."""
        notice_fork()
        self._allowance.refill()

    def _wait_for_disk(self, commit: _Commit, count: int) -> None:
        """Return when ``commit`` is on the disk, with all that wait for it. Raises OSError."""
        try:
            if self._holds_lock():
                # A handler, within this thread's own append: who syncs now may wait for our lock.
                self._sync_within()
                return
            with self._sync_lock:
                if not commit.done:
                    self.sync()
            if commit.error is not None:
                raise commit.error
        except OSError:
            with self._lock:
                self.records -= count
            raise

    def _holds_lock(self) -> bool:
        """Whether this thread is within ``_lock``, further up its stack."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001

    def _sync_within(self) -> None:
        """Bring what is open to the disk without a lock that others may hold. Raises OSError."""
        try:
            for segment in (*self._retired, self._active):
                if segment is not None:
                    os.fdatasync(segment.descriptor)
            if self._named:
                sync_directory(self._directory)
        except OSError as error:
            self._give_up(self._commit, error)
            raise

    def _give_up(self, commit: _Commit, error: OSError) -> None:
        """Note that a sync failed. To repeat it proves nothing: go on in another segment."""
        self.fsync_errors += 1
        commit.error = error
        commit.done = True
        self.seal()

    def seal(self) -> None:
        """Close the segment: its lock is free, so any drainer may take all of it. Idempotent.

        What is not on the disk itself yet is brought there by the next ``sync``. Within an append
        (a signal handler that closes or records) the file stays open and locked until the append is
        done: its number could otherwise be another file's, and a drainer could remove it.
        """
        with self._held():
            self._retire()

    def _retire(self) -> None:
        segment = self._active
        if segment is not None:
            self._retired.append(segment)
            self._active = None

    def _close_retired(self) -> None:
        """End the last lines of sealed segments, and free their locks; note what needs a sync."""
        while self._retired:
            segment = self._retired.pop()
            with suppress(OSError):
                segment.end_line()
            if segment.dirty:
                self._unsynced.append(segment.path)
            segment.close()

    def end_line(self) -> None:
        """End a line that the disk cut short, so that a reader sees it. Raises OSError."""
        with self._held():
            if self._active is not None and self._busy == 1:
                self._active.end_line()

    def close(self) -> None:
        """Seal, and bring everything to the disk as far as it lets us. Raises nothing."""
        self.seal()
        try:
            self.sync()
        except OSError as error:
            _log.warning("the spool %s could not be synced: %s", self._directory, error)

    def sync(self) -> None:
        """Bring what was appended to the disk itself. Called off the recording path.

        Raises OSError; after a failed fdatasync the segment is sealed. A segment that somebody has
        removed is written anew. A handler within an append of its own thread leaves it to others.
        """
        notice_fork()
        if self._holds_lock():
            return
        with self._sync_lock:
            with self._held():
                self._rescue_removed()
                active = self._active
                descriptor = None
                if active is not None and active.dirty:
                    descriptor = os.dup(active.descriptor)
                    active.synced = active.size
                commit, self._commit = self._commit, _Commit()
                named, self._named = self._named, False
                sealed = [self._unsynced.popleft() for _ in range(len(self._unsynced))]
            try:
                if descriptor is not None:
                    _sync_and_close(descriptor)
                while sealed:
                    _sync_file(sealed.pop())
                if named:
                    with suppress(FileNotFoundError):
                        sync_directory(self._directory)
                    named = False
            except BaseException as error:
                self._unsynced.extend(sealed)
                self._named = self._named or named
                interrupted = OSError(errno.EINTR, "a sync was interrupted", str(self._directory))
                self._give_up(commit, error if isinstance(error, OSError) else interrupted)
                raise
            commit.done = True

    def _rescue_removed(self) -> None:
        """Copy a segment that somebody removed under us into a new one. Needs ``_lock``.

        A drainer removes sealed segments only, so these records are nowhere else. Raises OSError;
        it is then tried again at the next sync.
        """
        lost = self._active
        if lost is None or not lost.is_removed():
            return
        _log.error("the spool segment %s was removed; its records are written anew", lost.path)
        self._active = None  # a handler that records meanwhile opens one of its own
        try:
            rescued, self._newest = create_segment(self._directory, self._newest, lost)
        except BaseException:
            self._retire()
            self._active = lost
            raise
        self._named = True
        self._retire()
        self._active = rescued
        lost.synced = lost.size
        self._retired.append(lost)

    def _open_segment(self) -> ActiveSegment:
        """Go on in a new segment. Needs ``_lock``. Raises OSError; the old one is sealed anyway."""
        self._retire()
        segment, self._newest = create_segment(self._directory, self._newest)
        self._retire()  # one that a handler opened meanwhile
        self._active = segment
        self._named = True
        self._allowance.bytes -= HEADER_BYTES
        return segment

    def forget_after_fork(self) -> None:
        """Drop what a child inherited: close the parent's segment, never write to or unlock it."""
        inherited = [segment.descriptor for segment in self._retired]
        if self._active is not None:
            inherited.append(self._active.descriptor)
        self._reset()
        for descriptor in inherited:
            with suppress(OSError):
                os.close(descriptor)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock; what was sealed is closed when the outermost holder of it is done."""
        notice_fork()
        with self._lock:
            self._busy += 1
            try:
                yield
            finally:
                self._busy -= 1
                if self._retired and not self._busy:
                    self._close_retired()

    def __repr__(self) -> str:
        return f"<SpoolWriter {self.active_segment or self._directory} records={self.records}>"


def _sync_file(path: Path) -> None:
    """Bring a sealed segment to the disk, unless it is gone: all of it is in the store."""
    with suppress(FileNotFoundError):
        _sync_and_close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


def _forget_all() -> None:
    for writer in list(_writers):
        writer.forget_after_fork()


on_fork(_forget_all, last=True)
