"""What the spool holds and no store has, read without taking anything in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.payload import parse_payloads
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, UnknownFormatError
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.store import Batch
from receipt_dynamo.utils.clock import Clock

__all__ = ["Unsent"]

_AT_ONCE = 500
_MEMORY = "memory"
_log = safe_logger("receipt_dynamo.spool")


class Unsent:
    """The unsent records of a spool directory, and what lies in the memory of this process.

    Each ``read`` goes on where the last one ended. One thread at a time. Nothing is acked, moved or
    buried: that is the drainer's. A damaged line is counted as it will count it.
    """

    def __init__(self, directory: Path, spool: Spool, clock: Clock) -> None:
        self._directory = directory
        self._spool = spool
        self._clock = clock
        self._read: dict[str, int] = {}
        self._unreadable: set[str] = set()

    def read(self, positions: Mapping[str, int] | None) -> Iterator[Batch]:
        """Yield batches. ``positions`` is how far the store has each segment; None: by its acks.

        Memory first: what is written back meanwhile is then found in a segment.
        """
        parsed = parse_payloads(self._spool.ring.peek(), self._clock)
        yield Batch(records=parsed.records, gaps=parsed.gaps, segment=_MEMORY, position=0)
        for path in list_segments(self._directory):
            try:
                with SegmentReader(path, may_ack=False) as segment:
                    yield from self._segment(segment, positions)
            except FileNotFoundError:
                continue  # a drainer has finished it: the store has it all
            except (OSError, UnknownFormatError) as error:
                if path.name not in self._unreadable:
                    self._unreadable.add(path.name)
                    _log.warning("the spool segment %s cannot be read: %s", path, error)

    def _segment(
        self, segment: SegmentReader, positions: Mapping[str, int] | None
    ) -> Iterator[Batch]:
        sealed = segment.is_sealed()
        if positions is None:
            start = segment.acked()
        else:
            segment.acked()  # of a format that is not ours it says so
            start = segment.line_start(positions.get(segment.name, HEADER_BYTES))
        offset = max(start, self._read.get(segment.name, 0))
        now = self._clock.now()
        while (lines := segment.read(offset, _AT_ONCE, sealed=sealed)).end > offset:
            parsed = parse_payloads(lines.payloads, self._clock)
            parsed.gaps += [Gap(f"{segment.name}-{at}", now, "corrupt", 1) for at in lines.damaged]
            offset = lines.end
            yield Batch(
                records=parsed.records, gaps=parsed.gaps, segment=segment.name, position=offset
            )
            self._read[segment.name] = offset
