"""The ledger of a spool: where every record lies that was entrusted to it.

STORED = delivered + pending + dead + quarantined. What a store can never take and what is damaged
comes out of hand-written segments, and carries a name as records carry an id.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from receipt_dynamo import UsageQuery
from receipt_dynamo.spool.names import NEW_SUFFIX, SEGMENT_SUFFIX
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.store import UsageStore
from tests.support import encode, make_metric

_NAME = re.compile(rb'"(?:request_id|poison|damaged)":"([^"]+)"')


def good_line(name: str) -> bytes:
    """Return the line of a record."""
    return encode_line(encode(make_metric(request_id=name, input_tokens=1, cost_usd="0.01")))


def poison_line(name: str) -> bytes:
    """Return a whole line that is no metric: no store will ever take it."""
    return encode_line(encode({"poison": name}))


def damaged_line(name: str) -> bytes:
    """Return a line whose CRC does not fit."""
    return b"00000000 %b\n" % encode({"damaged": name})


def segment_bytes(lines: Iterable[bytes]) -> bytes:
    """Return a whole segment file."""
    return format_header(HEADER_BYTES) + b"".join(lines)


def plant_segment(directory: Path, name: str, lines: Iterable[bytes]) -> Path:
    """Put a sealed segment into a spool directory, as its writers do; return its path."""
    hidden = directory / f"{name}{NEW_SUFFIX}"
    hidden.write_bytes(segment_bytes(lines))
    hidden.chmod(0o600)
    return hidden.rename(directory / f"{name}{SEGMENT_SUFFIX}")


@dataclass
class Ledger:
    """The names of what lies where."""

    delivered: list[str]
    pending: set[str]
    dead: set[str]
    quarantined: set[str]

    def account(self) -> list[str]:
        """Return every name, as often as it counts: pending is what lies nowhere else yet."""
        settled = [*self.delivered, *self.dead, *self.quarantined]
        return [*settled, *self.pending.difference(settled)]


def read_ledger(directory: Path, store: UsageStore) -> Ledger:
    """Read the ledger of a spool directory while nobody works on it.

    A drainer killed between the store's acknowledgement and its own note of it leaves records both
    delivered and pending, and aside both set aside and pending: they count where they have arrived.
    """
    return Ledger(
        delivered=[metric.request_id for metric in store.query(UsageQuery())],
        pending=set(_pending(directory)),
        dead=set(_aside(directory / "dead")),
        quarantined=set(_aside(directory / "quarantine")),
    )


def _pending(directory: Path) -> Iterable[str]:
    for path in list_segments(directory):
        with SegmentReader(path) as segment:
            lines = segment.read(segment.acked(), 1_000_000)
            assert len(lines.payloads) < 1_000_000
            yield from _names([*lines.payloads, *lines.bad])


def _aside(directory: Path) -> Iterable[str]:
    if directory.exists():
        for path in directory.iterdir():
            lines = path.read_bytes().split(b"\n")
            if directory.name == "dead":  # a torn line was written again
                lines = [json.loads(line)["record"].encode() for line in lines if _is_whole(line)]
            yield from _names(lines)


def _is_whole(line: bytes) -> bool:
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def _names(lines: Iterable[bytes]) -> Iterable[str]:
    for line in lines:
        found = _NAME.search(line)
        if found is not None:
            yield found[1].decode()


def assert_ledger(ledger: Ledger, entrusted: Iterable[str], perhaps: Iterable[str] = ()) -> None:
    """Assert that the equation holds exactly, and that nothing counts twice.

    ``perhaps`` may be there or not: what a writer died over, between its write and its answer.
    """
    held = Counter(ledger.account())
    twice = [name for name, count in held.items() if count > 1]
    wanted = set(entrusted)
    assert twice == [], "a record counts twice"
    assert sorted(wanted.difference(held)) == [], "a record that was STORED is lost"
    assert sorted(set(held) - wanted - set(perhaps)) == [], "a record is there that nobody recorded"
