"""Import of recorded replies: every line under an identity that a second import repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from receipt_dynamo import PutResult
from receipt_label.importers.exact_json import line_id
from receipt_label.importers.shapes import entry_of
from receipt_label.importers.source import Item, Source, read_items
from receipt_label.reply_metric import request_id_of
from receipt_label.usage import Reply, Skipped, read_reply

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["FileTally", "ReplyImporter"]

_TAKE_IN_EVERY = 5000  # records: bounds what waits in the spool, however long the file is
_PROGRESS_EVERY = 64  # lines


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
        self._recorded: Callable[[str, str], datetime | None] = lambda _service, _id: None
        self._times: dict[tuple[str, str], datetime] = {}  # given since the last take_in

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
        with self._tracker.client.lookup() as recorded:
            self._recorded = recorded
            for number, item in enumerate(read_items(source), 1):
                self._take(item, tally, repeats)
                if progress is not None and number % _PROGRESS_EVERY == 0:
                    progress(source.position)
        if progress is not None:
            progress(source.position)

    def _take(self, item: Item, tally: FileTally, repeats: Counter[str]) -> None:
        reason = item.fault
        if reason is None:
            try:
                self._record(item.value, tally, repeats)
            except RecursionError:
                reason = "the JSON is nested too deeply"
            except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
                reason = str(error) or type(error).__name__
        if reason is not None:
            tally.bad += 1
            self._on_bad(f"{tally.file}{item.place}", reason)
        if self._waiting >= _TAKE_IN_EVERY:
            self._waiting = 0
            self._times.clear()
            self._tracker.client.take_in()

    def _record(self, value: object, tally: FileTally, repeats: Counter[str]) -> None:
        entry = entry_of(value)
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
            return
        known = self._known_time(reply)
        undated = known is None and reply.created is None and (entry.timestamp or self._at) is None
        time = known or entry.timestamp or self._at or tally.file_time
        result = self._tracker.record_reply(
            reply,
            fallback_request_id=_fallback_id(reply, value, repeats),
            fallback_timestamp=time,
        )
        if result is PutResult.DROPPED:
            tally.dropped += 1
            return
        tally.recorded += 1
        tally.inside += len(reply.also)
        tally.dated_by_file += undated
        tally.told_apart_by_time += undated and request_id_of(reply) is None
        self._waiting += 1
        if time is not None and (request_id := request_id_of(reply)):
            self._times[reply.service, request_id] = time

    def _known_time(self, reply: Reply) -> datetime | None:
        """Return the time under which a reply without one is recorded already, else None.

        The vendor's own id says that it is the same call: it must not count again because its file
        was touched or has grown, or because a pipeline recorded it before.
        """
        request_id = request_id_of(reply)
        if reply.created is not None or request_id is None:
            return None
        key = (reply.service, request_id)
        return self._times.get(key) or self._recorded(*key)


def _fallback_id(reply: Reply, value: object, repeats: Counter[str]) -> str | None:
    """Return the id of a line whose reply has none that is unique; None where it has one.

    Lines that are alike in one file are different calls: the second is ``-2``, the third ``-3``.
    """
    if request_id_of(reply) is not None:
        return None
    name = line_id(value)
    repeats[name] += 1
    return name if repeats[name] == 1 else f"{name}-{repeats[name]}"
