"""What every import has: a tracker to read into, somebody who is told of bad lines, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["FAULTS", "LINES_AT_ONCE", "FileTally", "Importer"]

FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What a line raises that is no call: it is a bad line, and the next one is read."""

LINES_AT_ONCE = 256
_TAKE_IN_EVERY = 5000  # records: bounds what waits in the spool, however long the file is


@dataclass(slots=True)
class FileTally:
    """What became of the lines of one file. ``fault``: why the file as a whole could not be read.

    ``inside`` counts calls that a vendor made inside those recorded. ``dated_by_file`` counts
    records whose time is that of the file, for want of any other; ``told_apart_by_time`` those
    among them without an id of the vendor's, so that another time would make another record.
    """

    file: str
    recorded: int = 0
    inside: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    dropped: int = 0
    dated_by_file: int = 0
    told_apart_by_time: int = 0
    uses: Counter[str] = field(default_factory=Counter)
    file_time: datetime | None = None
    is_piped: bool = False
    fault: str | None = None

    @property
    def is_fine(self) -> bool:
        """Whether everything in the file was read and kept."""
        return not (self.bad or self.dropped or self.fault)


class Importer:
    """Reads into a tracker, which must be ``strict``: what it refuses is a bad line, which stays in
    its file, not a loss to be counted.

    ``service`` and ``operation`` win over what the lines say; ``at`` dates lines without a time.
    ``on_bad`` is told of each line that does not go in: its place, and why.
    """

    def __init__(
        self,
        tracker: AIUsageTracker,
        *,
        service: str | None = None,
        operation: str | None = None,
        at: datetime | None = None,
        on_bad: Callable[[str, str], None] = lambda _place, _reason: None,
    ) -> None:
        self._tracker = tracker
        self._service = service
        self._operation = operation
        self._at = at
        self._on_bad = on_bad
        self._waiting = 0

    def _bad(self, place: str, reason: str, tally: FileTally) -> None:
        tally.bad += 1
        self._on_bad(f"{tally.file}{place}", reason)

    def _take_in(self) -> None:
        """Bring what was recorded into the store, where it is enough. Raises StoreError."""
        if self._waiting >= _TAKE_IN_EVERY:
            self._waiting = 0
            self._tracker.client.take_in()
