"""The bytes of a SQLite file, read without SQLite: what is left of a store that it cannot read.

SQLite finds a row by way of the schema, the pages above it and an index: one damaged page hides
all that lies below. Here every page is looked at by itself, in the file and in the write-ahead log
beside it, so that damage costs what it touches and nothing else. The formats are those of
"Database File Format" and "WAL-mode File Format" on sqlite.org.

Every version of a page is read, also what the log or a free page still holds of an earlier one:
which of two rows is the later is for the caller to say.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from receipt_dynamo.cooperation import cooperatively
from receipt_dynamo.sqlite_record import Value, read_values, read_varint
from receipt_dynamo.utils.clock import SystemClock

__all__ = ["PageFile", "Row", "is_header", "log_is_whole", "log_of", "read_header"]

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_FRACTIONS = b"\x40\x20\x20"
_DEFAULT_PAGE_BYTES = 4096
_PAGE_SIZES = frozenset(1 << power for power in range(9, 17))
_LOOKED_AT = 256
"""Pages that are enough to tell which page size a file has, where its header does not."""

_INDEX_INTERIOR, _TABLE_INTERIOR, _INDEX_LEAF, _TABLE_LEAF = 2, 5, 10, 13
_HEADER_OF = {_INDEX_INTERIOR: 12, _TABLE_INTERIOR: 12, _INDEX_LEAF: 8, _TABLE_LEAF: 8}
"""The kinds of pages, and the bytes of their headers."""

_MAX_RECORD_BYTES = 4 << 20

_LOG_MAGIC = (0x377F0682, 0x377F0683)  # checksums of little-endian words, of big-endian ones
_LOG_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_View = dict[int, int]
"""Where the log holds a page: its number, and the offset of its bytes."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of some table: its rowid and its values, in the order of the table's columns."""

    rowid: int
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class _Frame:
    page: int
    commits: bool
    salts: tuple[int, int]
    checksum: tuple[int, int]
    offset: int  # of the page's bytes


def log_of(database: Path) -> Path:
    """Return where the write-ahead log of ``database`` lies."""
    return database.with_name(f"{database.name}-wal")


def read_header(database: Path) -> bytes:
    """Return the first 100 bytes of a file, or all that it has. Raises OSError."""
    descriptor = os.open(database, _FLAGS)
    try:
        return os.read(descriptor, _HEADER_BYTES)
    finally:
        os.close(descriptor)


def is_header(header: bytes) -> bool:
    """Return whether ``header`` begins a database that SQLite reads and writes.

    Magic, read and write version, payload fractions, schema format, encoding (UTF-8, or none yet).
    """
    return (
        len(header) == _HEADER_BYTES
        and header.startswith(_MAGIC)
        and {header[18], header[19]} <= {1, 2}
        and header[21:24] == _FRACTIONS
        and int.from_bytes(header[44:48]) in range(5)
        and int.from_bytes(header[56:60]) in (0, 1)
    )


class PageFile:
    """A database file with its log, open for reading. A context manager; one thread at a time.

    Raises OSError when the file cannot be opened; what cannot be read of it counts as damaged.
    """

    def __init__(self, database: Path) -> None:
        self._file = os.open(database, _FLAGS)
        self._log: int | None = None
        with suppress(OSError):
            self._log = os.open(log_of(database), _FLAGS)
        header = self._read(self._file, 0, _HEADER_BYTES)
        self._page_bytes = self._find_page_size(header)
        # Bytes at the end of each page may be reserved; a header that says so may be damaged.
        self._usable = {self._page_bytes, self._page_bytes - header[20]}
        self._frames = list(_frames(self._log, self._page_bytes)) if self._log is not None else []
        newest = {frame.salts for frame in self._frames[:1]}
        self._newest: _View = {f.page: f.offset for f in self._frames if f.salts in newest}

    def user_version(self) -> int:
        """Return the version that the application wrote into the header; 0 without a header."""
        page = self._page(1, self._newest)
        return int.from_bytes(page[60:64], signed=True) if page.startswith(_MAGIC) else 0

    def rows(self) -> Iterator[Row]:
        """Yield what can be read of every table, in no order; the same row may come repeatedly."""
        for page, start in self._pages(_TABLE_LEAF):
            for pointer in _cell_pointers(page, start, _HEADER_OF[_TABLE_LEAF]):
                with suppress(IndexError, ValueError):
                    size, at = read_varint(page, pointer)
                    rowid, at = read_varint(page, at)
                    rowid -= (rowid >> 63) << 64
                    for values in self._records(page, at, size, in_table=True):
                        yield Row(rowid, values)

    def entries(self) -> Iterator[tuple[Value, ...]]:
        """Yield what can be read of every index: the indexed columns, and behind them the rowid."""
        for kind, child_bytes in ((_INDEX_LEAF, 0), (_INDEX_INTERIOR, 4)):
            for page, start in self._pages(kind):
                for pointer in _cell_pointers(page, start, _HEADER_OF[kind]):
                    with suppress(IndexError, ValueError):
                        size, at = read_varint(page, pointer + child_bytes)
                        yield from self._records(page, at, size, in_table=False)

    def _pages(self, kind: int) -> Iterator[tuple[bytes, int]]:
        """Yield every version of every page of a kind, and where its own header starts in it."""
        size = self._page_bytes
        count = -(-os.fstat(self._file).st_size // size)
        for number in range(count):
            page = self._read(self._file, number * size, size)
            start = 0 if number else _HEADER_BYTES
            if page[start] == kind:
                yield page, start
        for frame in self._frames:
            page = self._read(self._log, frame.offset, size)
            start = 0 if frame.page != 1 else _HEADER_BYTES
            if page[start] == kind:
                yield page, start

    def _records(
        self, page: bytes, at: int, size: int, *, in_table: bool
    ) -> Iterator[tuple[Value, ...]]:
        """Yield the record of ``size`` bytes that begins at ``at``, in every way that it reads.

        There may be several: with the pages of the log and with those of the file, for what does
        not fit the page, and with the bytes that a page reserves. Mostly there is one.
        """
        for payload in dict.fromkeys(self._payloads(page, at, size, in_table=in_table)):
            with suppress(IndexError, ValueError):
                yield read_values(payload)

    def _payloads(self, page: bytes, at: int, size: int, *, in_table: bool) -> Iterator[bytes]:
        if size > _MAX_RECORD_BYTES:
            return
        for usable in self._usable:
            fits = usable - 35 if in_table else (usable - 12) * 64 // 255 - 23
            if size <= fits:
                yield page[at : at + size]
                continue
            least = (usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (usable - 4)
            local = local if local <= fits else least
            first = int.from_bytes(page[at + local : at + local + 4])
            for view in (self._newest, {}):
                rest = self._chain(first, size - local, usable, view)
                if rest is not None:
                    yield page[at : at + local] + rest

    def _chain(self, number: int, size: int, usable: int, view: _View) -> bytes | None:
        """Return ``size`` bytes from a chain of overflow pages; None where it ends too early."""
        parts: list[bytes] = []
        while size > 0:
            if number < 1:
                return None
            page = self._page(number, view)
            parts.append(page[4 : min(usable, 4 + size)])
            size -= len(parts[-1])
            number = int.from_bytes(page[:4])
        return b"".join(parts)

    def _page(self, number: int, view: _View) -> bytes:
        offset = view.get(number)
        if offset is not None:
            return self._read(self._log, offset, self._page_bytes)
        return self._read(self._file, (number - 1) * self._page_bytes, self._page_bytes)

    def _find_page_size(self, header: bytes) -> int:
        """Return the page size; where the header is damaged, the one that the pages speak for."""
        sizes = [int.from_bytes(header[16:18]), _DEFAULT_PAGE_BYTES]
        if self._log is not None:
            sizes.insert(1, int.from_bytes(self._read(self._log, 8, 4)))
        sizes = [65536 if size == 1 else size for size in sizes]
        known = [size for size in dict.fromkeys(sizes) if size in _PAGE_SIZES]
        return max(known, key=self._likelihood) if len(known) > 1 else known[0]

    def _likelihood(self, size: int) -> float:
        """Return the share of the first pages that look like pages, were they of this size."""
        pages = [self._read(self._file, n * size, size) for n in range(1, _LOOKED_AT)]
        pages = [page for page in pages if page.strip(b"\0")]
        return sum(map(_is_plausible, pages)) / max(1, len(pages))

    @staticmethod
    def _read(descriptor: int | None, offset: int, size: int) -> bytes:
        """Return ``size`` bytes; zeros where the file ends or the disk cannot read."""
        data = b""
        if descriptor is not None:
            with suppress(OSError, OverflowError):
                data = os.pread(descriptor, size, offset)
        return data.ljust(size, b"\0")

    def close(self) -> None:
        """Close both files."""
        os.close(self._file)
        if self._log is not None:
            os.close(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cell_pointers(page: bytes, start: int, header_bytes: int) -> list[int]:
    count = int.from_bytes(page[start + 3 : start + 5])
    at = start + header_bytes
    count = min(count, (len(page) - at) // 2)
    return list(struct.unpack_from(f">{count}H", page, at))


def _is_plausible(page: bytes) -> bool:
    """Whether a page looks like one of a table or an index, or of a chain of overflow pages."""
    if page[0] == 0:
        return True
    if page[0] not in _HEADER_OF:
        return False
    header_bytes = _HEADER_OF[page[0]]
    return all(header_bytes <= at < len(page) for at in _cell_pointers(page, 0, header_bytes))


def _frames(log: int, page_bytes: int) -> Iterator[_Frame]:
    """Yield the frames of a log, those of earlier rounds through it included."""
    size = os.fstat(log).st_size
    step = _FRAME_HEADER.size + page_bytes
    for offset in range(_LOG_HEADER.size, size - step + 1, step):
        header = os.pread(log, _FRAME_HEADER.size, offset)
        if len(header) == _FRAME_HEADER.size:
            page, pages_after_commit, *rest = _FRAME_HEADER.unpack(header)
            yield _Frame(
                page,
                pages_after_commit != 0,
                (rest[0], rest[1]),
                (rest[2], rest[3]),
                offset + _FRAME_HEADER.size,
            )


def log_is_whole(log: Path) -> bool:
    """Return whether SQLite will find all that was committed to ``log``.

    It passes over everything behind the first damaged frame, without a word. A last frame that is
    torn is none: whoever wrote it was killed before its commit. Raises OSError.
    """
    descriptor = os.open(log, _FLAGS)
    try:
        data = os.pread(descriptor, _LOG_HEADER.size, 0)
        if len(data) < _LOG_HEADER.size:
            return True
        magic, _, page_bytes, _, *salts, first, second = _LOG_HEADER.unpack(data)
        order = ">" if magic & 1 else "<"
        known = magic in _LOG_MAGIC and page_bytes in _PAGE_SIZES
        checksum = _checksum(data[:24], (0, 0), order)
        if not known or checksum != (first, second):  # nothing in it will be found
            frames = list(_frames(descriptor, _DEFAULT_PAGE_BYTES))
            return not any(f.commits and f.salts == frames[0].salts for f in frames)
        frames = [f for f in _frames(descriptor, page_bytes) if list(f.salts) == salts]
        for position, frame in enumerate(cooperatively(frames, SystemClock())):
            start = frame.offset - _FRAME_HEADER.size
            data = os.pread(descriptor, _FRAME_HEADER.size + page_bytes, start)
            checksum = _checksum(data[:8], checksum, order)
            checksum = _checksum(data[_FRAME_HEADER.size :], checksum, order)
            if checksum != frame.checksum:
                return not any(later.commits for later in frames[position + 1 :])
    finally:
        os.close(descriptor)
    return True


def _checksum(data: bytes, seed: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second
