"""The reading end of a spool: the segments of a directory, and one of them at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from receipt_dynamo.files import READ_FLAGS
from receipt_dynamo.spool.names import NEW_SUFFIX, SEGMENT_SUFFIX
from receipt_dynamo.spool.segment import (
    HEADER_BYTES,
    Lines,
    read_ack,
    split_lines,
    write_ack,
)

__all__ = ["SegmentReader", "list_segments", "settle_unborn", "spool_bytes"]

CHUNK_BYTES = 1 << 20


def list_segments(directory: Path) -> list[Path]:
    """Return the segments of ``directory``, oldest first; none where there is no directory.

    A name that is not ASCII is none of ours, and might not even be text.
    """
    try:
        with os.scandir(directory) as entries:
            names = [e.name for e in entries if e.name.endswith(SEGMENT_SUFFIX)]
    except FileNotFoundError:
        return []
    return [directory / name for name in sorted(names) if name.isascii()]


def settle_unborn(directory: Path, before_ns: int) -> None:
    """Remove segments whose writer died before they got their name. Raises nothing.

    One that holds records gets its name: a power cut took it, or its writer died while it saved
    what somebody had removed. Only those begun before ``before_ns`` (nanoseconds since 1970): to
    look at a younger one could keep its writer from locking it.
    """
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            begun = entry.name.split("-", 1)[0]
            if entry.name.endswith(NEW_SUFFIX) and begun.isdecimal() and int(begun) < before_ns:
                path = Path(entry.path)
                with suppress(OSError), SegmentReader(path) as segment:
                    if not segment.is_sealed():
                        continue
                    if segment.size() > HEADER_BYTES:
                        os.rename(path, path.with_suffix(SEGMENT_SUFFIX))
                    else:
                        segment.remove()


def spool_bytes(directory: Path) -> int:
    """Return the bytes that the segments of ``directory`` hold; 0 where there is no directory.

    One that was just removed counts as nothing. No order, no paths: a caller may wait for this.
    """
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(SEGMENT_SUFFIX):
                    with suppress(FileNotFoundError):
                        total += os.stat(entry.path).st_size
    except FileNotFoundError:
        return 0
    return total


class SegmentReader:
    """One segment, open for reading and for its ack. A context manager; one thread at a time.

    Without ``may_ack`` it is opened for reading alone, also on a disk that is read-only. Raises
    FileNotFoundError when the segment is gone: another drainer has finished it.
    """

    def __init__(self, path: Path, *, may_ack: bool = True) -> None:
        self.path = path
        access = os.O_RDWR if may_ack else os.O_RDONLY
        self._descriptor = os.open(path, READ_FLAGS | access)

    @property
    def name(self) -> str:
        """The file's name, unique over all processes."""
        return self.path.name

    def is_gone(self) -> bool:
        """Return whether the file was removed since it was opened."""
        return os.fstat(self._descriptor).st_nlink == 0

    def is_sealed(self) -> bool:
        """Return whether the writer has closed the segment, or died: its lock is free."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def size(self) -> int:
        """Return the size in bytes. Ask after ``is_sealed``, never before."""
        return os.fstat(self._descriptor).st_size

    def acked(self) -> int:
        """Return the ack offset of the header; see ``read_ack``. Raises UnknownFormatError."""
        return read_ack(self._descriptor)

    def ack(self, offset: int) -> None:
        """Note that every record before ``offset`` is in the store."""
        write_ack(self._descriptor, offset)

    def read(self, offset: int, limit: int, *, sealed: bool = False) -> Lines:
        """Return at most ``limit`` records from ``offset``.

        A stretch longer than any record without a newline is damage; it comes back as one bad line.
        What lies behind the last newline is read when the segment is ``sealed``: a writer killed
        within its write leaves a torn record, which was never answered STORED; a whole one that
        lacks only its end is kept.
        """
        data = os.pread(self._descriptor, CHUNK_BYTES, offset)
        lines = split_lines(data, offset, limit)
        if len(data) == CHUNK_BYTES and lines.bad and lines.end == offset + len(data):
            lines = split_lines(data[:-1], offset, limit)  # what follows says whether it was torn
        if lines.end == offset and len(data) == CHUNK_BYTES:
            return Lines([], [data], offset + len(data), [offset])
        if lines.end == offset and sealed and data:
            tail = split_lines(data + b"\n\n", offset, 1)
            return Lines(tail.payloads, tail.bad, offset + len(data), tail.damaged)
        return lines

    def line_start(self, offset: int) -> int:
        """Return ``offset``, or that of the first record when no line begins at ``offset``.

        The file was cut short then, or the offset is no true one: everything is sent again.
        """
        ends = offset == self.size() or os.pread(self._descriptor, 1, max(0, offset - 1)) == b"\n"
        return offset if ends and offset >= HEADER_BYTES else HEADER_BYTES

    def remove(self) -> None:
        """Unlink the file: all of it is in the store."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Close the file and free the lock that ``is_sealed`` took.

        Unlocked by name: a child forked meanwhile holds a copy of the descriptor, and with it the
        lock, for as long as it lives.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
