"""The format of a segment file, version 1.

    #spool1 ack=1205000000001234\\n        fixed width; rewritten in place
    <crc32 of the json, 8 hex> {json}\\n   one line a record, written by one os.write

The JSON holds no raw newline, so a reader finds its way again after any damage at the next
newline. A write that the disk cut short is ended by an empty line: it was never answered STORED,
and so it is no loss. Where only the newline is missing, or the last brace and the newline, the
record is whole for every reader, and was answered STORED.

The ack is the offset of the first byte that no store has acknowledged yet. It lies in the segment
itself: one file, one unlink, and rewriting it needs no room on the disk. Four check digits stand
before its twelve, so that a damaged one skips nothing: (ack - 29) modulo 9973, which no change of a
single digit leaves as it was.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from zlib import crc32

__all__ = [
    "CRC_BYTES",
    "HEADER_BYTES",
    "RESTORABLE_ENDS",
    "Lines",
    "UnknownFormatError",
    "encode_line",
    "format_header",
    "parse_header",
    "read_ack",
    "split_lines",
    "write_ack",
]

_MAGIC = b"#spool1 ack="
_FAMILY = b"#spool"
_CHECK_DIGITS, _ACK_DIGITS = 4, 12
_CHECK_MODULUS = 9973  # the largest prime of four digits
HEADER_BYTES = len(_MAGIC) + _CHECK_DIGITS + _ACK_DIGITS + 1
_CRC_DIGITS = 8
CRC_BYTES = _CRC_DIGITS + 1
"""What stands before the JSON of a line: the CRC and a space."""

_LAST = b"}"  # of every record
RESTORABLE_ENDS = frozenset({b"\n", _LAST + b"\n"})
"""What a line may lack and still be read."""

_INNER_STARTS = 8
_RECORD_START = re.compile(rb"[0-9a-f]{8} \{")


class UnknownFormatError(Exception):
    """The segment was written in a format that this version does not read."""


def format_header(ack: int) -> bytes:
    """Return the header line for an ack offset."""
    return b"%s%04d%012d\n" % (_MAGIC, _check(ack), ack)


def _check(ack: int) -> int:
    return (ack - HEADER_BYTES) % _CHECK_MODULUS


def parse_header(header: bytes) -> int:
    """Return the ack offset. A damaged header means: send again from the start.

    Raises UnknownFormatError for a header of another version of this format.
    """
    digits = header[len(_MAGIC) : -1]
    if header.startswith(_MAGIC) and len(header) == HEADER_BYTES and digits.isdigit():
        ack = int(digits[_CHECK_DIGITS:])
        is_sound = int(digits[:_CHECK_DIGITS]) == _check(ack)
        return max(ack, HEADER_BYTES) if is_sound else HEADER_BYTES
    version = header[len(_FAMILY) : len(_FAMILY) + 4].split(b" ")[0]
    if header.startswith(_FAMILY) and version.isdigit() and version != b"1":
        raise UnknownFormatError(header[:HEADER_BYTES].decode("ascii", "replace"))
    return HEADER_BYTES


def read_ack(descriptor: int) -> int:
    """Return the ack offset of an open segment. Raises UnknownFormatError, OSError.

    An offset that no record ends at comes from a damaged header: everything is sent again.
    """
    ack = parse_header(os.pread(descriptor, HEADER_BYTES, 0))
    return ack if os.pread(descriptor, 1, ack - 1) == b"\n" else HEADER_BYTES


def write_ack(descriptor: int, ack: int) -> None:
    """Rewrite the header in place. Works on a full disk: the bytes are already there."""
    os.pwrite(descriptor, format_header(ack), 0)


def encode_line(payload: bytes) -> bytes:
    """Return the line of one record. ``payload`` is JSON without raw newlines."""
    return b"%08x %b\n" % (crc32(payload), payload)


@dataclass(frozen=True, slots=True)
class Lines:
    """What a stretch of a segment holds: whole records, bad lines, and where it ends.

    ``damaged`` are the offsets of what was a record once, in the bad lines. The others are writes
    that the disk cut short: they were never answered STORED.
    """

    payloads: list[bytes]
    bad: list[bytes]
    end: int
    damaged: list[int] = field(default_factory=list)


def split_lines(data: bytes, start: int, limit: int) -> Lines:
    """Split ``data``, read from offset ``start``, into at most ``limit`` records.

    ``end`` is the offset behind the last complete line taken. An empty line is what a writer puts
    behind a torn one. Records that a damaged newline has joined are told apart again.
    """
    payloads: list[bytes] = []
    bad: list[bytes] = []
    damaged: list[int] = []
    position = 0
    while len(payloads) < limit:
        newline = data.find(b"\n", position)
        if newline < 0:
            break
        begin, line = position, data[position:newline]
        position = newline + 1
        if not line:
            continue
        payload = _payload(line)
        if payload is not None:
            payloads.append(payload)
            continue
        whole, pieces = _take_apart(line)
        payloads += whole
        bad += [line[slice(*piece)] for piece in pieces]
        if pieces and pieces[-1][1] == len(line) and data[position : position + 1] == b"\n":
            pieces.pop()  # cut short
        damaged += [start + begin + piece[0] for piece in pieces]
    return Lines(payloads, bad, start + position, damaged)


def _payload(line: bytes) -> bytes | None:
    """Return the record of a line, or None for a bad one."""
    payload = line[CRC_BYTES:]
    crc = crc32(payload)
    if line[:CRC_BYTES] == b"%08x " % crc:
        return payload
    restored = b"%08x " % crc32(_LAST, crc)
    return payload + _LAST if line[:CRC_BYTES] == restored else None


def _take_apart(line: bytes) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Return the whole records in a bad line, and from where to where something else lies.

    A record is whole if it lies between two places where one begins, but for one byte at its end:
    what its newline became, or its last brace. What looks like the beginning of one may stand in a
    record's own text; that is followed a few times only, or a line full of it would take hours.
    """
    starts = [0, *(found.start() for found in _RECORD_START.finditer(line, 1))]
    whole: list[bytes] = []
    bad: list[tuple[int, int]] = []
    done = 0
    for number, begin in enumerate(starts):
        if begin < done:
            continue
        ends = starts[number + 1 : number + 1 + _INNER_STARTS]
        if len(ends) < _INNER_STARTS:
            ends += len(line), len(line) + 1
        for end in ends:
            payload = _payload(line[begin : end - 1])
            if payload is not None:
                whole.append(payload)
                done = end
                break
        else:
            done = starts[number + 1] if begin < starts[-1] else len(line)
            bad.append((begin, done))
    return whole, bad
