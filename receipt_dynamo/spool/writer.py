"""The writing end of a spool: one segment file per process, appended under one lock.

``append`` is what a caller of the library waits for: CRC, one ``os.write``, nothing else. No fsync,
no network, no directory scan.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
import weakref
from pathlib import Path

from receipt_dynamo.files import create_private_file, secure_directory
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header

__all__ = ["SEGMENT_SUFFIX", "SpoolWriter"]

SEGMENT_SUFFIX = ".seg"
NEW_SUFFIX = ".new"
_log = logging.getLogger("receipt_dynamo.spool")


class SpoolWriter:
    """Appends records to this process's segment of one spool directory.

    Thread-safe, and safe to call again from a signal handler or a finaliser that interrupts it (the
    lock is reentrant). After a fork the child goes on with a segment of its own.
    """

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self._directory = secure_directory(directory)
        self._segment_bytes = segment_bytes
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
        self._retired: list[int] = []
        self._newest = 0
        self.records = 0
        """Records this process has stored. Read it freely."""

    @property
    def active_segment(self) -> Path | None:
        """The file that records go to now, or None before the first and after ``seal``."""
        return self._path

    def append(self, payload: bytes, count: int = 1) -> None:
        """Write one record; it adds ``count`` to ``records``.

        When this returns, the record survives the death of the process.

        Raises OSError when the disk refuses; the record is then not stored, and its neighbours are
        not harmed.
        """
        line = encode_line(payload)
        if self._pid != os.getpid():  # a fork in C, which no at-fork hook saw
            self.forget_after_fork()
        with self._lock:
            self._appending += 1
            try:
                self._write(line)
                self.records += count
            finally:
                self._appending -= 1
                if self._retired and not self._appending:
                    self._close_retired()

    def _write(self, line: bytes) -> None:
        """Write a line to the active segment, whole or not at all. Needs ``_lock``."""
        descriptor = self._descriptor
        if descriptor is None or self._size >= self._segment_bytes:
            descriptor = self._open_segment()
        if self._torn:
            line = b"\n\n" + line
        written = os.write(descriptor, line)
        self._size += written
        self._dirty = True
        if written >= len(line) - 1:
            # Without its newline it is still whole: the next record, or the reader of the sealed
            # segment, completes it. Answering DROPPED would count it twice.
            self._torn = written < len(line)
            return
        self._torn = self._torn or written > 0
        raise OSError(errno.ENOSPC, f"short write: {written} of {len(line)} bytes", str(self._path))

    def seal(self) -> None:
        """Close the segment: its lock is free, so any drainer may take all of it. Idempotent.

        Within an append (a signal handler that closes or records) its file stays open until the
        append is done: the number could otherwise be another file's by then.
        """
        with self._lock:
            descriptor, self._descriptor, self._path = self._descriptor, None, None
            self._size, self._torn = 0, False
            if descriptor is not None:
                self._retired.append(descriptor)
            if not self._appending:
                self._close_retired()

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.pop())

    def sync(self) -> None:
        """Bring what was appended to the disk itself. Called off the recording path.

        Raises OSError; the segment is sealed first, for a failed fsync never heals by repetition.
        A segment that somebody has removed is sealed too: nothing more may go where none will look.
        """
        with self._lock:
            if not self._dirty or self._descriptor is None:
                return
            if os.fstat(self._descriptor).st_nlink == 0:
                removed = str(self._path)
                self.seal()
                raise FileNotFoundError(errno.ENOENT, "the spool segment was removed", removed)
            self._dirty = False
            descriptor = os.dup(self._descriptor)
        try:
            os.fdatasync(descriptor)
        except OSError:
            self.seal()
            raise
        finally:
            os.close(descriptor)

    def forget_after_fork(self) -> None:
        """Drop what a child inherited: close the parent's segment, never write to or unlock it."""
        inherited = [*self._retired]
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
        return descriptor

    @staticmethod
    def _create(path: Path) -> int:
        return create_private_file(path, os.O_WRONLY | os.O_APPEND | os.O_EXCL)

    def __repr__(self) -> str:
        return f"<SpoolWriter {self._path or self._directory} bytes={self._size}>"


_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


def _forget_all() -> None:
    for writer in list(_writers):
        writer.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)
