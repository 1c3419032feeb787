"""The writing end of a spool: one segment file per process, appended under one lock.

``append`` is what a caller of the library waits for: CRC, one ``os.write``, nothing else. No
network, no directory scan; no fsync either, unless ``durability="fsync"`` asks for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
import time
import weakref
from pathlib import Path

from receipt_dynamo.files import create_private_file, secure_directory
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.spool.bounds import SpoolBounds, SpoolFullError
from receipt_dynamo.spool.names import NEW_SUFFIX, SEGMENT_SUFFIX
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header, parse_header

__all__ = ["SpoolWriter"]

_COPY_BYTES = 1 << 20
_LINE_END = b"\n\n"  # behind a line that was cut short: its newline, and an empty line as a mark
_MAX_UNSYNCED = 8  # sealed segments that may wait for a sync; without a thread none ever comes
_REFUSED_SECONDS = 1.0  # how long a refusal of the bounds is believed without asking again
_log = safe_logger("receipt_dynamo.spool")


class SpoolWriter:
    """Appends records to this process's segment of one spool directory.

    Thread-safe, and safe to call again from a signal handler or a finaliser that interrupts it (the
    lock is reentrant). After a fork the child goes on with a segment of its own.

    ``bounds`` limits what may be appended; None does not. With ``fsync`` an append returns only
    when its record is
    on the disk; callers that wait at the same time share one ``fdatasync``.
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
        self._pid = os.getpid()
        self._lock = threading.RLock()
        # Guarded by _lock
        self._descriptor: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._torn = False
        self._dirty = False
        self._appending = 0
        self._retired: list[tuple[int, bool]] = []  # sealed: the descriptor, and whether to sync it
        self._unsynced: list[int] = []
        self._named = False  # a segment got its name since the last sync
        self._newest = 0
        self._granted = 0
        self._refusal: tuple[float, SpoolFullError] | None = None
        self._written = 0
        self.records = 0
        """Records this process has stored. Read it freely."""
        # Guarded by _sync_lock
        self._sync_lock = threading.RLock()
        self._synced = 0
        self.fsync_errors = 0

    @property
    def active_segment(self) -> Path | None:
        """The file that records go to now, or None before the first and after ``seal``."""
        return self._path

    def append(self, payload: bytes, count: int = 1) -> None:
        """Write one record; it adds ``count`` to ``records``.

        When this returns, the record survives the death of the process.

        Raises OSError when the disk refuses, SpoolFullError when the bounds do; the record is then
        not stored, and its neighbours are not harmed. After a failed fdatasync it may be there all
        the same: to store it again under its identity does no harm.
        """
        line = encode_line(payload)
        if self._pid != os.getpid():  # a fork in C, which no at-fork hook saw
            self.forget_after_fork()
        with self._lock:
            self._appending += 1
            try:
                self._write(line)
                self.records += count
                self._written += 1
                ticket = self._written
            finally:
                self._appending -= 1
                if self._retired and not self._appending:
                    self._settle_retired()
        if self._fsync:
            self._wait_for_disk(ticket)

    def _write(self, line: bytes) -> None:
        """Write a line to the active segment, whole or not at all. Needs ``_lock``."""
        if self._granted < len(line):
            self._take_grant()
        descriptor = self._descriptor
        if descriptor is None or self._size >= self._segment_bytes:
            descriptor = self._open_segment()
        if self._torn:
            line = _LINE_END + line
        written = os.write(descriptor, line)
        self._size += written
        self._granted -= written
        self._dirty = True
        if written >= len(line) - 1:
            # Without its newline it is still whole: the next record, or the reader of the sealed
            # segment, completes it. Answering DROPPED would count it twice.
            self._torn = written < len(line)
            return
        self._torn = self._torn or written > 0
        raise OSError(errno.ENOSPC, f"short write: {written} of {len(line)} bytes", str(self._path))

    def _take_grant(self) -> None:
        """Ask the bounds for more; a refusal is believed for a while. Raises SpoolFullError."""
        if self._bounds is None:
            self._granted = sys.maxsize
            return
        now = time.monotonic()
        if self._refusal is not None and now - self._refusal[0] < _REFUSED_SECONDS:
            raise self._refusal[1]
        try:
            self._granted = self._bounds.grant()
        except SpoolFullError as refusal:
            self._refusal = now, refusal
            raise
        except FileNotFoundError:  # the directory was removed under us: make it again
            secure_directory(self._directory)
            self._granted = self._bounds.grant()
        self._refusal = None

    def refill(self) -> None:
        """Renew the grant off the recording path. Raises SpoolFullError, OSError."""
        if self._bounds is None or (
            self._refusal is None and self._granted >= self._segment_bytes // 2
        ):
            return
        try:
            granted = self._bounds.grant()
        except SpoolFullError as refusal:
            with self._lock:
                self._granted, self._refusal = 0, (time.monotonic(), refusal)
            raise
        with self._lock:
            self._granted, self._refusal = granted, None

    def _wait_for_disk(self, ticket: int) -> None:
        """Return when the record of ``ticket`` is on the disk, together with all that wait."""
        with self._sync_lock:
            if self._synced < ticket:
                self.sync()

    def seal(self) -> None:
        """Close the segment: its lock is free, so any drainer may take all of it. Idempotent.

        What is not on the disk itself yet is brought there by the next ``sync``. Within an append
        (a signal handler that closes or records) the file stays open and locked until the append is
        done: its number could otherwise be another file's, and a drainer could remove it.
        """
        with self._lock:
            descriptor, self._descriptor, self._path = self._descriptor, None, None
            self._size, self._torn = 0, False
            if descriptor is not None:
                self._retired.append((descriptor, self._dirty))
                self._dirty = False
            if not self._appending:
                self._settle_retired()

    def _settle_retired(self) -> None:
        """Free the locks of sealed segments; keep open what a sync has yet to see."""
        while self._retired:
            descriptor, unsynced = self._retired.pop()
            if unsynced and len(self._unsynced) < _MAX_UNSYNCED:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                self._unsynced.append(descriptor)
            else:
                os.close(descriptor)

    def end_line(self) -> None:
        """End a line that the disk cut short, so that a reader sees it. Raises OSError."""
        with self._lock:
            if self._torn and self._descriptor is not None and not self._appending:
                self._torn = os.write(self._descriptor, _LINE_END) < len(_LINE_END)
                self._size += len(_LINE_END)

    def close(self) -> None:
        """Seal, and bring everything to the disk as far as it lets us. Raises nothing."""
        self.seal()
        try:
            self.sync()
        except OSError as error:
            _log.warning("the spool %s could not be synced: %s", self._directory, error)

    def sync(self) -> None:
        """Bring what was appended to the disk itself. Called off the recording path.

        Raises OSError; the segment is sealed first, for a failed fdatasync never heals by
        repetition. A segment that somebody has removed is written anew.
        """
        with self._sync_lock:
            with self._lock:
                self._rescue_removed()
                target, named = self._written, self._named
                pending, self._unsynced = self._unsynced, []
                if self._dirty and self._descriptor is not None:
                    pending.append(os.dup(self._descriptor))
                self._dirty = self._named = False
                if named:
                    pending.append(os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC))
            failure = _sync_and_close(pending)
            if failure is not None:
                self.fsync_errors += 1
                self.seal()
                raise failure
            self._synced = target

    def _rescue_removed(self) -> None:
        """Copy a segment that somebody removed under us into a new one. Needs ``_lock``.

        A drainer removes sealed segments only, so these records are nowhere else. Raises OSError;
        it is then tried again at the next sync.
        """
        lost = self._descriptor
        if lost is None or self._appending or os.fstat(lost).st_nlink > 0:
            return
        _log.error("the spool segment %s was removed; its records are written anew", self._path)
        state = self._descriptor, self._path, self._size, self._torn
        self._descriptor = None
        try:
            rescued = self._open_segment()
            start, size = parse_header(os.pread(lost, HEADER_BYTES, 0)), os.fstat(lost).st_size
            for offset in range(start, size, _COPY_BYTES):
                data = os.pread(lost, _COPY_BYTES, offset)
                if os.write(rescued, data) < len(data):
                    raise OSError(errno.ENOSPC, "no room to write removed records anew")
                self._size += len(data)
        except OSError:
            self.seal()
            self._descriptor, self._path, self._size, self._torn = state
            raise
        self._dirty = True
        os.close(lost)

    def forget_after_fork(self) -> None:
        """Drop what a child inherited: close the parent's segment, never write to or unlock it."""
        inherited = [*self._unsynced, *(descriptor for descriptor, _ in self._retired)]
        if self._descriptor is not None:
            inherited.append(self._descriptor)
        self._reset()
        for descriptor in inherited:
            os.close(descriptor)

    def _open_segment(self) -> int:
        """Open the next segment: locked and with its header before it becomes visible."""
        self.seal()
        self._newest = max(time.time_ns(), self._newest + 1)  # in order, also if the clock is not
        name = f"{self._newest:019d}-{os.getpid()}-{os.urandom(4).hex()}"
        hidden = self._directory / f"{name}{NEW_SUFFIX}"
        visible = self._directory / f"{name}{SEGMENT_SUFFIX}"
        try:
            descriptor = self._create(hidden)
        except FileNotFoundError:  # the directory was removed under us: make it again
            secure_directory(self._directory)
            descriptor = self._create(hidden)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header = format_header(HEADER_BYTES)
            if os.write(descriptor, header) != len(header):
                raise OSError(errno.ENOSPC, "no room for a segment header", str(hidden))
            os.rename(hidden, visible)  # noqa: PTH104 - on the path that callers wait for
        except BaseException:
            os.close(descriptor)
            hidden.unlink(missing_ok=True)
            raise
        self._descriptor, self._path, self._size = descriptor, visible, HEADER_BYTES
        self._named = True
        return descriptor

    @staticmethod
    def _create(path: Path) -> int:
        return create_private_file(path, os.O_RDWR | os.O_APPEND | os.O_EXCL)

    def __repr__(self) -> str:
        return f"<SpoolWriter {self._path or self._directory} bytes={self._size}>"


def _sync_and_close(descriptors: list[int]) -> OSError | None:
    """Bring files and directories to the disk and close them; return the last failure."""
    failure: OSError | None = None
    for descriptor in descriptors:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            failure = error
        finally:
            os.close(descriptor)
    return failure


_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


def _forget_all() -> None:
    for writer in list(_writers):
        writer.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)
