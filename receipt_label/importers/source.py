"""A file of replies as a stream of JSON values: JSON lines, one document, or one array.

Line by line, so that memory does not grow with the file; only a file that is one document is read
whole.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO

from receipt_label.importers.exact_json import parse

__all__ = [
    "STANDARD_INPUT",
    "Item",
    "Source",
    "SourceError",
    "open_source",
    "read_items",
    "read_lines",
]

STANDARD_INPUT = "-"
MAX_LINE_BYTES = 256 << 20
MAX_DOCUMENT_BYTES = 64 << 20
_HEAD_BYTES = 8192
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_EVENT_STREAM = (b"data:", b"event:", b"id:", b"retry:", b": ")
_BRACKETS = (b"{", b"[")


class SourceError(Exception):
    """A whole file cannot be imported; the message is one line without the file's name."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value of a file, or why it is none. ``place`` follows the file's name in messages.

    ``unfinished``: the fault is of a last line without its end, which somebody may be writing.
    """

    place: str
    value: object = None
    fault: str | None = None
    unfinished: bool = False


class _Meter(io.RawIOBase):
    """Bytes already taken from a stream, then the stream; it counts what was read of both."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = memoryview(head)
        self._rest = rest
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._head:
            taken = min(len(buffer), len(self._head))
            buffer[:taken] = self._head[:taken]
            self._head = self._head[taken:]
        else:
            data = self._rest.read(len(buffer))
            taken = len(data)
            buffer[:taken] = data
        self.position += taken
        return taken


@dataclass(slots=True)
class Source:
    """An open file of replies. ``modified`` dates lines that carry no time. ``size`` is in bytes;
    None for a pipe, which has no time of change either and is dated now."""

    name: str
    modified: datetime
    size: int | None
    stream: IO[bytes]
    meter: _Meter

    @property
    def position(self) -> int:
        """How many bytes were read so far."""
        return self.meter.position


@contextmanager
def open_source(path: str, now: datetime) -> Iterator[Source]:
    """Open a file, or standard input for ``-``. Raises SourceError, in one line."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise SourceError("is closed")
        yield _source("standard input", sys.stdin.buffer, now, None)
        return
    try:
        found = os.stat(path)  # noqa: PTH116 - the text as the user gave it
        if stat.S_ISDIR(found.st_mode):
            raise SourceError(
                "is a directory: name the files in it. For transcripts of Claude Code below it "
                "add --format claude-code"
            )
        with open(path, "rb") as stream:  # noqa: PTH123
            if stat.S_ISREG(found.st_mode):
                yield _source(path, stream, _changed(found, now), found.st_size)
            else:
                yield _source(path, stream, now, None)
    except FileNotFoundError:
        raise SourceError("no such file") from None
    except PermissionError:
        raise SourceError("permission denied") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"the gzip data is damaged: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the name
        raise SourceError(f"cannot be opened: {error}") from None


def _changed(found: os.stat_result, now: datetime) -> datetime:
    """Return when the file was last changed; now for a time that no calendar has."""
    try:
        return _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000)
    except OverflowError:
        return now


def _source(name: str, stream: IO[bytes], modified: datetime, size: int | None) -> Source:
    head = stream.read(_HEAD_BYTES)
    meter = _Meter(head, stream)
    data: IO[bytes] = io.BufferedReader(meter, 1 << 16)
    if head.startswith(b"\x1f\x8b"):
        unpacked = gzip.GzipFile(fileobj=data)
        head = unpacked.read(_HEAD_BYTES)
        data = io.BufferedReader(_Meter(head, unpacked), 1 << 16)  # type: ignore[arg-type]
    _check_text(head)
    return Source(name, modified, size, data, meter)


def _check_text(head: bytes) -> None:
    if head.startswith(_UTF16):
        raise SourceError("is UTF-16 text: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    if b"\0" in head:
        raise SourceError("is a binary file, not JSON lines")


def read_items(source: Source) -> Iterator[Item]:
    """Yield the values of a file, blank lines left out. Raises SourceError for an empty file.

    A file whose first line is no complete JSON, but which is one as a whole, is one reply or an
    array of replies; so is a file of a single line that holds an array. The text of an event
    stream is one reply.
    """
    stream = source.stream
    number, line = _first_line(stream)
    if not line:
        raise SourceError("is empty")
    try:
        value = parse(line)
    except ValueError as error:
        yield from _not_a_line(stream, number, line, str(error))
        return
    following = _lines(stream, number + 1)
    if isinstance(value, list):
        second = next(following, None)
        if second is None:
            yield from _elements(value)
            return
        yield Item(f":{number}", value)
        yield second
    else:
        yield Item(f":{number}", value)
    yield from following


def read_lines(source: Source) -> Iterator[Item]:
    """Yield the values of a file that is JSON lines and nothing else; an empty one has none."""
    return _lines(source.stream, 1)


def _first_line(stream: IO[bytes]) -> tuple[int, bytes]:
    """Return the first line that is not blank, and its number."""
    number = 0
    while True:
        line = stream.readline(MAX_LINE_BYTES)
        number += 1
        if not line:
            return number, b""
        stripped = line.removeprefix(_BOM) if number == 1 else line
        if stripped.strip():
            return number, stripped


def _not_a_line(stream: IO[bytes], number: int, line: bytes, fault: str) -> Iterator[Item]:
    """Read on where the first line is no JSON: one document, an event stream, or a bad line."""
    start = line.lstrip()
    lone_bracket = line.strip() in _BRACKETS
    if start.startswith(_BRACKETS + _EVENT_STREAM):
        rest = stream.read(MAX_DOCUMENT_BYTES)
        whole = len(rest) < MAX_DOCUMENT_BYTES
        if start.startswith(_EVENT_STREAM):
            yield _event_stream(line + rest) if whole else Item("", fault="is too long a stream")
            return
        document: object = None
        try:
            document = parse(line + rest) if whole else None
        except ValueError as error:
            if lone_bracket:
                yield Item("", fault=str(error))
                return
        if document is not None:
            yield from _elements(document if isinstance(document, list) else [document])
            return
        if lone_bracket:
            yield Item("", fault=f"one document of more than {MAX_DOCUMENT_BYTES >> 20} MiB")
            return
        stream = io.BufferedReader(_Meter(rest, stream), 1 << 16)
    yield Item(f":{number}", fault=fault)
    yield from _lines(stream, number + 1)


def _event_stream(data: bytes) -> Item:
    try:
        return Item("", data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Item("", fault=f"not UTF-8 (byte {error.start + 1})")


def _elements(values: list[object]) -> Iterator[Item]:
    """Yield the replies of an array; the chunks of one streamed reply stay together."""
    if len(values) > 1 and _is_stream(values):
        yield Item("", values)
        return
    for number, value in enumerate(values, 1):
        yield Item(f", item {number}" if len(values) > 1 else "", value)


def _is_stream(values: list[object]) -> bool:
    """Whether these are chunks: Gemini streams a JSON array, each chunk with the counts so far."""
    chunks = [value for value in values if isinstance(value, dict)]
    if len(chunks) != len(values):
        return False
    if all(chunk.get("object") == "chat.completion.chunk" for chunk in chunks):
        return True
    ids = {str(chunk.get("responseId") or "") for chunk in chunks}
    return len(ids) == 1 and ids != {""}


def _lines(stream: IO[bytes], number: int) -> Iterator[Item]:
    while line := stream.readline(MAX_LINE_BYTES + 1):
        place = f":{number}"
        number += 1
        if len(line) > MAX_LINE_BYTES:
            yield Item(place, fault=f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
        elif line.strip():
            try:
                value = parse(line)
            except ValueError as error:
                yield Item(place, fault=str(error), unfinished=not line.endswith(b"\n"))
            else:
                yield Item(place, value)
