"""A segment that this process writes: created, appended to, copied, closed."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from receipt_dynamo.files import create_private_file, secure_directory
from receipt_dynamo.spool.names import NEW_SUFFIX, SEGMENT_SUFFIX
from receipt_dynamo.spool.segment import (
    HEADER_BYTES,
    RESTORABLE_ENDS,
    format_header,
    parse_header,
)

__all__ = ["LINE_OVERHEAD", "ActiveSegment", "create_segment"]

_COPY_BYTES = 1 << 20
_LINE_END = b"\n\n"  # behind a line that was cut short: its newline, and an empty line as a mark
LINE_OVERHEAD = HEADER_BYTES + len(_LINE_END)
"""How many bytes a line may need beside itself."""


@dataclass(slots=True)
class ActiveSegment:
    """A segment, open and locked. One thread at a time.

    ``torn``: its last line was cut short. ``synced``: how much of it a sync has seen.
    """

    descriptor: int
    path: Path
    size: int = 0
    torn: bool = False
    synced: int = 0

    @property
    def dirty(self) -> bool:
        """Whether it holds bytes that no sync has seen."""
        return self.size > self.synced

    def write(self, line: bytes) -> int:
        """Append a line, whole or not at all, by one write; return the bytes that it took.

        Raises OSError; what a short write has left is ended before the next line.
        """
        if self.torn:
            line = _LINE_END + line
        written = os.write(self.descriptor, line)
        self.size += written
        if written == len(line):
            self.torn = False
        else:
            self.note_cut(line, written)
        return written

    def note_cut(self, line: bytes, written: int) -> None:
        """Note that a write took only a part of a line. Raises OSError, unless the record is there
        for every reader: refusing it would count it twice."""
        if line[written:] in RESTORABLE_ENDS:
            self.torn = True
        else:
            self.torn = self.torn or written > 0
            text = f"short write: {written} of {len(line)} bytes"
            raise OSError(errno.ENOSPC, text, str(self.path))

    def end_line(self) -> None:
        """End a line that was cut short, so that a reader sees it. Raises OSError."""
        if self.torn:
            written = os.write(self.descriptor, _LINE_END)
            self.size += written
            self.torn = written < len(_LINE_END)

    def is_removed(self) -> bool:
        """Whether somebody has removed the file. Raises OSError."""
        return os.fstat(self.descriptor).st_nlink == 0

    def copy_to(self, target: ActiveSegment) -> None:
        """Copy what no store has. Raises OSError."""
        start = parse_header(os.pread(self.descriptor, HEADER_BYTES, 0))
        for offset in range(start, os.fstat(self.descriptor).st_size, _COPY_BYTES):
            target.write_whole(os.pread(self.descriptor, _COPY_BYTES, offset))
        target.torn = self.torn

    def write_whole(self, data: bytes) -> None:
        """Append bytes that are no record of their own. Raises OSError."""
        if os.write(self.descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, "no room for a segment", str(self.path))
        self.size += len(data)

    def close(self) -> None:
        """Free the lock: any drainer may take all of it. Raises OSError.

        Unlocked by name: a child forked meanwhile may hold a copy of the descriptor.
        """
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self.descriptor)


def create_segment(
    directory: Path, newest: int, source: ActiveSegment | None = None
) -> tuple[ActiveSegment, int]:
    """Make a segment: locked, with its header and what ``source`` holds, before it is visible.

    Its name sorts behind ``newest`` (nanoseconds since 1970), also when the clock went back; the
    number in its name is returned beside it. Raises OSError; nothing of it stays then.
    """
    newest = max(time.time_ns(), newest + 1)
    name = f"{newest:019d}-{os.getpid()}-{os.urandom(4).hex()}"
    hidden = directory / f"{name}{NEW_SUFFIX}"
    segment = ActiveSegment(_create(hidden), directory / f"{name}{SEGMENT_SUFFIX}")
    try:
        fcntl.flock(segment.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment.write_whole(format_header(HEADER_BYTES))
        if source is not None:
            source.copy_to(segment)
        os.rename(hidden, segment.path)
    except BaseException:
        os.close(segment.descriptor)
        with suppress(OSError):
            os.unlink(hidden)
        raise
    return segment, newest


def _create(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_EXCL
    try:
        return create_private_file(path, flags)
    except FileNotFoundError:  # the directory was removed under us: make it again
        secure_directory(path.parent, sync=False)
        return create_private_file(path, flags)
