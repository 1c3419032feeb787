"""What waits in a spool, counted without taking anything in and without changing a byte.

Lines are counted, their CRCs are not: 1 GiB takes half a second instead of many. A line
counts that lies behind the ack, except

- gap records: they say what was lost, and are no calls;
- a line that the disk cut short, which an empty line marks, unless its CRC says that only its
  newline was missing;
- what has no newline at the end of a segment, unless its CRC is right.

So a damaged line counts until the drainer finds it and puts it into ``quarantine/``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from operator import itemgetter
from pathlib import Path

import msgspec

from receipt_dynamo.entities.gap import GAP_PREFIX
from receipt_dynamo.files import READ_FLAGS
from receipt_dynamo.spool.reader import CHUNK_BYTES, list_segments
from receipt_dynamo.spool.segment import (
    CRC_BYTES,
    HEADER_BYTES,
    UnknownFormatError,
    read_ack,
    split_lines,
)

__all__ = [
    "Extent",
    "PendingCount",
    "backlog",
    "count_left",
    "left_of",
    "oldest_age",
    "pending_records",
]

_TYPICAL_RECORD_BYTES = 600.0  # where nothing could be counted to tell
_head = itemgetter(slice(CRC_BYTES, CRC_BYTES + 3))  # of a line: where its JSON begins
_ODD_HEADS = frozenset({b"", GAP_PREFIX[:3]})
"""Of an empty line (and of one cut short there), and of a gap: each of these is looked at."""
_OPENED = 500  # segments whose header is read, however late it is
_LOOK_AHEAD = 100  # lines that are looked at for one that says its time


@dataclass(frozen=True, slots=True)
class Extent:
    """A segment as far as it reached at one moment. ``size`` in bytes, the header included."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class PendingCount:
    """Records that wait. ``estimated``: time was up, and the rest was told from its bytes."""

    records: int
    estimated: bool = False


class _Stamp(msgspec.Struct):
    """The only field of a record that its age needs."""

    timestamp: datetime


def pending_records(directory: Path) -> int:
    """Return how many records lie behind the acks of all segments. Raises nothing."""
    return left_of(backlog(directory))


def backlog(directory: Path) -> list[Extent]:
    """Return what the spool holds at this moment, oldest first: a mark for ``left_of``.

    Raises nothing. What is recorded later, into the same segments or others, is not part of it.
    """
    extents = []
    with suppress(OSError):
        for path in list_segments(directory):
            with suppress(OSError):  # a drainer has just finished it
                extents.append(Extent(path, os.stat(path).st_size))
    return extents


def left_of(extents: Iterable[Extent]) -> int:
    """Return how many records of a backlog still wait. Raises nothing; see ``count_left``."""
    return count_left(extents).records


def count_left(
    extents: Iterable[Extent], is_late: Callable[[], bool] | None = None
) -> PendingCount:
    """Return how many records of ``extents`` still wait: neither acked nor unlinked.

    Once ``is_late()`` says so, what is left is told from its bytes; one chunk is counted all the
    same. A segment that is gone, or that cannot be read, holds nothing; of very many only the first
    are opened then, and the others count in full. Raises nothing.
    """
    records = counted_bytes = uncounted_bytes = 0
    for number, extent in enumerate(extents):
        if number >= _OPENED and counted_bytes and is_late is not None and is_late():
            uncounted_bytes += max(0, extent.size - HEADER_BYTES)
            continue
        with suppress(OSError, UnknownFormatError), _opened(extent.path) as descriptor:
            start = read_ack(descriptor)
            end = min(extent.size, os.fstat(descriptor).st_size)
            offset = start
            while offset < end and not (counted_bytes and is_late is not None and is_late()):
                found, reached = _count_chunk(descriptor, start, offset, end)
                records += found
                counted_bytes += reached - offset
                offset = reached
            uncounted_bytes += max(0, end - offset)
    if not uncounted_bytes:
        return PendingCount(records)
    each = counted_bytes / records if records else _TYPICAL_RECORD_BYTES
    return PendingCount(records + round(uncounted_bytes / each), estimated=True)


def oldest_age(directory: Path, now: datetime) -> float | None:
    """Return for how many seconds the oldest unsent record has waited, or None. Raises nothing.

    A record is as old as its time says, and never older than the segment it lies in: the calls of
    an imported log may be years old.
    """
    oldest: float | None = None
    for extent in backlog(directory):
        with suppress(OSError, UnknownFormatError):
            begun = _begun(extent.path)
            if oldest is not None and begun >= oldest:
                break  # neither this segment nor a later one holds an older record
            since = _first_unsent(extent, begun)
            if since is not None:
                oldest = since if oldest is None else min(oldest, since)
    return None if oldest is None else max(0.0, now.timestamp() - oldest)


def _count_chunk(descriptor: int, start: int, offset: int, end: int) -> tuple[int, int]:
    """Count the records from ``offset``; return how many, and the offset behind the last line.

    Everything before ``start`` is acked. Returns ``end`` when nothing is left to count.
    """
    data = os.pread(descriptor, min(CHUNK_BYTES, end - offset), offset)
    behind = data.rfind(b"\n") + 1
    heads = list(map(_head, BytesIO(data)))  # the lines are found in C, not one by one
    if behind < len(data):
        heads.pop()  # of a line that goes on in the next chunk
    if _ODD_HEADS.isdisjoint(heads):
        count = len(heads)
    else:
        count = _count_lines(descriptor, start, offset, data)
    if offset + len(data) >= end or not data:
        return count + _is_record(data[behind:]), end
    return count, offset + (behind or len(data))  # longer than any record: damage


def _count_lines(descriptor: int, start: int, offset: int, data: bytes) -> int:
    """Count the records among the lines of ``data``, some of which are none."""
    count, line = 0, 0
    while (newline := data.find(b"\n", line)) >= 0:
        if newline == line:
            count -= _ends_torn_line(descriptor, start, offset + line)
        else:
            count += not data.startswith(GAP_PREFIX, line + CRC_BYTES)
        line = newline + 1
    return count


def _ends_torn_line(descriptor: int, start: int, empty: int) -> bool:
    """Return whether the empty line at ``empty`` marks a torn line that was counted."""
    for window in (4096, CHUNK_BYTES):
        begin = max(start, empty - window)
        before = os.pread(descriptor, empty - begin, begin)
        _, newline, line = before[:-1].rpartition(b"\n")
        if newline or begin == start:
            is_gap = line.startswith(GAP_PREFIX, CRC_BYTES)
            return bool(line) and not is_gap and not _is_record(line)
    return False


def _is_record(line: bytes) -> bool:
    """Return whether ``line`` is a whole record that only lacks its newline."""
    payloads = split_lines(line + b"\n", 0, 1).payloads
    return bool(payloads) and not payloads[0].startswith(GAP_PREFIX)


def _first_unsent(extent: Extent, begun: float) -> float | None:
    """Return since when the first unsent record of a segment waits (seconds since 1970)."""
    with _opened(extent.path) as descriptor:
        for payload in _whole_lines(descriptor, read_ack(descriptor), extent.size):
            if not payload.startswith(GAP_PREFIX):
                return max(begun, _stamped(payload))
    return begun if left_of([extent]) else None  # damage: nothing in it says a time


def _whole_lines(descriptor: int, offset: int, end: int) -> Iterator[bytes]:
    while offset < end:
        data = os.pread(descriptor, CHUNK_BYTES, offset)
        lines = split_lines(data, offset, _LOOK_AHEAD)
        yield from lines.payloads
        offset = lines.end if lines.end > offset else offset + max(len(data), 1)


def _stamped(payload: bytes) -> float:
    """Return the time of a record; minus infinity where it says none."""
    try:
        return msgspec.json.decode(payload, type=_Stamp).timestamp.timestamp()
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return float("-inf")


def _begun(path: Path) -> float:
    """Return when a segment was begun: its name says so, else its last change is the best guess."""
    nanoseconds = path.name.split("-", 1)[0]
    return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else os.stat(path).st_mtime


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a segment for reading only, so that a look needs no right to write and no lock."""
    descriptor = os.open(path, READ_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
