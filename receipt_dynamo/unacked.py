"""A segment on its way to a table: what was read of it, and how far all of that is settled.

Senders finish in any order, and the ack is one offset. So records are held in chunks, and
a chunk is acked when all of it, and of those before it, has left: into the table, or into
``dead/``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.spool.reader import SegmentReader
from receipt_dynamo.spool.segment import CRC_BYTES, Lines
from receipt_dynamo.table import BATCH_ITEMS

__all__ = ["Chunk", "OpenSegment", "Unsent"]


@dataclass(slots=True, eq=False)
class Chunk:
    """Some lines of a segment. ``left`` of its records have not left the queue."""

    segment: OpenSegment | None
    start: int
    lines: Lines
    left: int = 0
    delivered: int = 0  # metrics; gaps do not count
    acked: list[bytes] = field(default_factory=list)
    dead: list[tuple[bytes, str]] = field(default_factory=list)

    def acknowledge(self, put: Put) -> None:
        """The table has this record, or a later one of its identity."""
        self.left -= 1
        self.delivered += put.service is not None
        self.acked.append(put.payload)

    def bury(self, put: Put, reason: str) -> None:
        """This record goes to ``dead/``."""
        self.left -= 1
        self.dead.append((put.payload, reason))


@dataclass(slots=True, eq=False)
class Unsent:
    """A record on its way."""

    put: Put
    chunk: Chunk


@dataclass(slots=True, eq=False)
class OpenSegment:
    """A segment being read. ``goal`` is its size when it was opened: more may follow in it."""

    reader: SegmentReader
    offset: int
    sealed: bool
    goal: int
    chunks: deque[Chunk] = field(default_factory=deque)  # read and not acked, in order
    failed: bool = False

    @property
    def path(self) -> Path:
        """The file."""
        return self.reader.path

    @property
    def read_to_goal(self) -> bool:
        """Whether this round wants no more of it."""
        return self.failed or self.offset >= self.goal

    def read(self, limit: int) -> list[Chunk]:
        """Return the next ``limit`` lines; none where no whole one follows. Raises OSError."""
        lines = self.reader.read(self.offset, limit, sealed=self.sealed)
        if lines.end <= self.offset:
            self.goal = self.offset
            return []
        chunks = [Chunk(self, start, part) for start, part in _split(self.offset, lines)]
        self.offset = lines.end
        self.chunks.extend(chunks)
        return chunks

    def close(self) -> None:
        """Close the file and free its lock."""
        self.reader.close()


def _split(start: int, lines: Lines) -> Iterator[tuple[int, Lines]]:
    """Yield lines in parts of a batch, each with its offset; those with damage among them whole."""
    lengths = [CRC_BYTES + len(payload) + len(b"\n") for payload in lines.payloads]
    if lines.bad or start + sum(lengths) != lines.end:
        yield start, lines
        return
    for first in range(0, len(lengths), BATCH_ITEMS):
        end = start + sum(lengths[first : first + BATCH_ITEMS])
        yield start, Lines(lines.payloads[first : first + BATCH_ITEMS], [], end)
        start = end
