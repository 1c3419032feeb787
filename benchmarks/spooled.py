"""A backlog: what a spool holds after a day without its store, written in seconds."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from benchmarks.samples import ready_metric
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header

__all__ = ["spool_directory", "write_backlog"]

_SEGMENT_BYTES = 4 << 20
_PER_SECOND = 50
_SEED = 20261121


def spool_directory(usage_directory: Path) -> Path:
    """Return where the embedded store's spool lies, made as the library would."""
    directory = usage_directory / "spool" / "local"
    for path in (usage_directory, directory.parent, directory):
        path.mkdir(mode=0o700, exist_ok=True)
    return directory


def write_backlog(usage_directory: Path, records: int) -> int:
    """Write sealed segments with ``records`` records, 50 for each second; return their bytes.

    Each is a reply's record of about 570 bytes with its own time and a vendor's random id, as
    calls of many pipelines leave it: random ids are the hardest for an index.
    """
    directory = spool_directory(usage_directory)
    lines: list[bytes] = []
    size = total = number = 0
    for line in _lines(records):
        lines.append(line)
        size += len(line)
        if size >= _SEGMENT_BYTES:
            total += _write_segment(directory, number, lines)
            lines, size, number = [], 0, number + 1
    if lines:
        total += _write_segment(directory, number, lines)
    return total


def _lines(records: int) -> Iterator[bytes]:
    """Yield lines as the writer encodes them: one metric, with the time and the id put in."""
    chance = random.Random(_SEED)  # noqa: S311 - ids that look like a vendor's
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=records // _PER_SECOND)
    name = "chatcmpl-" + "0" * 29
    payload = msgspec.json.encode(ready_metric(timestamp=begin, request_id=name, response_id=name))
    before, between = payload.split(b"%b" % _text_of(begin))
    id_parts = between.split(name.encode())
    for index in range(records):
        second, place = divmod(index, _PER_SECOND)
        if place == 0:
            stamp = _text_of(begin + timedelta(seconds=second))[:-1]
        reply = b"chatcmpl-%029x" % chance.getrandbits(116)
        time_text = b"%b.%06dZ" % (stamp, place * (1_000_000 // _PER_SECOND))
        yield encode_line(before + time_text + reply.join(id_parts))


def _text_of(moment: datetime) -> bytes:
    return msgspec.json.encode(moment).strip(b'"')


def _write_segment(directory: Path, number: int, lines: list[bytes]) -> int:
    begun = time.time_ns() - 10**15 + number  # eleven days ago, in order
    path = directory / f"{begun:019d}-{os.getpid()}-{number:08x}.seg"
    data = format_header(HEADER_BYTES) + b"".join(lines)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    return len(data)
