"""What waits in a spool, counted without taking anything in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import UnknownFormatError

__all__ = ["oldest_age", "pending_records"]

_COUNT_AT_ONCE = 5000


def pending_records(directory: Path) -> int:
    """Return how many whole records lie behind the acks of all segments. Raises nothing."""
    return sum(count for _, count in _unsent(directory))


def oldest_age(directory: Path, now: datetime) -> float | None:
    """Return the age in seconds of the oldest segment with unsent records, or None."""
    for path, count in _unsent(directory):
        if count:
            return max(0.0, now.timestamp() - _created(path).timestamp())
    return None


def _unsent(directory: Path) -> Iterator[tuple[Path, int]]:
    try:
        segments = list_segments(directory)
    except OSError:
        return
    for path in segments:
        try:
            with SegmentReader(path) as segment:
                offset, count = segment.acked(), 0
                while True:
                    lines = segment.read(offset, _COUNT_AT_ONCE)
                    count += len(lines.payloads)
                    if lines.end == offset:
                        break
                    offset = lines.end
                yield path, count
        except (OSError, UnknownFormatError):
            continue


def _created(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(int(path.name.split("-", 1)[0]) / 1e9, UTC)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
