"""Import of recorded replies: every line under an identity that a second import repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from receipt_dynamo import PutResult
from receipt_label.importers.exact_json import line_id
from receipt_label.importers.shapes import entry_of
from receipt_label.importers.source import Item, Source, read_items
from receipt_label.reply_metric import request_id_of
from receipt_label.usage import Reply, Skipped, read_reply

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["TAKE_IN_EVERY", "FileTally", "ReplyImporter"]

TAKE_IN_EVERY = 5000  # records: bounds what waits in the spool, however long the file is
_LINES_AT_ONCE = 256  # looked up together
_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


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


class ReplyImporter:
    """Reads files of replies into a tracker. The tracker must be ``strict``: what it refuses is a
    bad line, which stays in its file, not a loss to be counted.

    ``service`` and ``operation`` win over what the replies say; ``at`` dates lines without a time.
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

    def run(
        self, source: Source, tally: FileTally, progress: Callable[[int], None] | None = None
    ) -> None:
        """Import one file into ``tally``. Raises SourceError, and StoreError where the store
        cannot take the records in; they wait in the spool then.

        ``progress`` is told now and then how many bytes of the file were read.
        """
        tally.file_time = source.modified
        tally.is_piped = source.size is None
        repeats: Counter[str] = Counter()
        items = read_items(source)
        while some := list(islice(items, _LINES_AT_ONCE)):
            lines = [line for item in some if (line := self._read(item, tally, repeats))]
            self._record_all(lines, tally)
            if progress is not None:
                progress(source.position)
        if progress is not None:
            progress(source.position)

    def _read(self, item: Item, tally: FileTally, repeats: Counter[str]) -> _Line | None:
        """Return what a line holds; None for one that is bad or no call."""
        if item.fault is not None:
            self._bad(item, item.fault, tally)
            return None
        try:
            entry = entry_of(item.value)
            reply = read_reply(
                entry.response,
                url=entry.url,
                http_status=entry.http_status,
                request_model=entry.request_model,
                service=self._service,
                operation=self._operation,
            )
            if isinstance(reply, Skipped):
                tally.skipped[reply.reason] += 1
                return None
            name = _fallback_id(reply, item.value, repeats)
        except RecursionError:
            self._bad(item, "the JSON is nested too deeply", tally)
        except _FAULTS as error:
            self._bad(item, str(error) or type(error).__name__, tally)
        else:
            return _Line(item, reply, name, entry.timestamp or self._at)
        return None

    def _record_all(self, lines: list[_Line], tally: FileTally) -> None:
        """Record lines, those without a time under the one that the store has for their id.

        The vendor's own id says that it is the same call: it must not count again because its file
        was touched or has grown, or because a pipeline recorded it before.
        """
        keys = {key for line in lines if (key := line.undated_key) is not None}
        known = self._tracker.client.recorded_times(keys) if keys else {}
        for line in lines:
            key = line.undated_key
            time = known.get(key) if key is not None else None
            by_file = time is None and line.time is None and line.reply.created is None
            time = time or line.time or tally.file_time
            try:
                result = self._tracker.record_reply(
                    line.reply, fallback_request_id=line.fallback_id, fallback_timestamp=time
                )
            except _FAULTS as error:
                self._bad(line.item, str(error) or type(error).__name__, tally)
                continue
            if result is PutResult.DROPPED:
                tally.dropped += 1
                continue
            if key is not None and time is not None:
                known.setdefault(key, time)
            tally.recorded += 1
            tally.inside += len(line.reply.also)
            tally.dated_by_file += by_file
            tally.told_apart_by_time += by_file and key is None
            self._waiting += 1
        if self._waiting >= TAKE_IN_EVERY:
            self._waiting = 0
            self._tracker.client.take_in()

    def _bad(self, item: Item, reason: str, tally: FileTally) -> None:
        tally.bad += 1
        self._on_bad(f"{tally.file}{item.place}", reason)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that holds a call. ``time`` is the line's own, or the one given for all."""

    item: Item
    reply: Reply
    fallback_id: str | None
    time: datetime | None

    @property
    def undated_key(self) -> tuple[str, str] | None:
        """What finds a reply in the store that carries an id of the vendor's, but no time."""
        request_id = request_id_of(self.reply)
        if self.reply.created is not None or request_id is None:
            return None
        return self.reply.service, request_id


def _fallback_id(reply: Reply, value: object, repeats: Counter[str]) -> str | None:
    """Return the id of a line whose reply has none that is unique; None where it has one.

    Lines that are alike in one file are different calls: the second is ``-2``, the third ``-3``.
    """
    if request_id_of(reply) is not None:
        return None
    name = line_id(value)
    repeats[name] += 1
    return name if repeats[name] == 1 else f"{name}-{repeats[name]}"
