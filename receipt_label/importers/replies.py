"""Import of recorded replies: every line under an identity that a second import repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from receipt_dynamo import PutResult
from receipt_label.importers.exact_json import line_id
from receipt_label.importers.importer import FAULTS, LINES_AT_ONCE, FileTally, Importer
from receipt_label.importers.known_calls import known_before
from receipt_label.importers.shapes import entry_of
from receipt_label.importers.source import Item, Source, SourceError, read_items
from receipt_label.reply_metric import request_id_of
from receipt_label.usage import Reply, Skipped, read_reply

__all__ = ["ReplyImporter"]

_MARKS_OF_A_TRANSCRIPT = ("sessionId", "type", "uuid")


class ReplyImporter(Importer):
    """Reads files of replies."""

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
        while some := list(islice(items, LINES_AT_ONCE)):
            if any(_is_of_a_transcript(item.value) for item in some):
                raise SourceError(
                    "is a transcript of Claude Code, not replies: add --format claude-code"
                )
            lines = [line for item in some if (line := self._read(item, tally, repeats))]
            self._record_all(lines, tally)
            if progress is not None:
                progress(source.position)
        if progress is not None:
            progress(source.position)

    def _read(self, item: Item, tally: FileTally, repeats: Counter[str]) -> _Line | None:
        """Return what a line holds; None for one that is bad or no call."""
        if item.fault is not None:
            self._bad(item.place, item.fault, tally)
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
            self._bad(item.place, "the JSON is nested too deeply", tally)
        except FAULTS as error:
            self._bad(item.place, str(error) or type(error).__name__, tally)
        else:
            return _Line(item, reply, name, entry.timestamp or self._at)
        return None

    def _record_all(self, lines: list[_Line], tally: FileTally) -> None:
        """Record lines, those without a time under the one that the store has for their id.

        The vendor's own id says that it is the same call: it must not count again because its file
        was touched or has grown, or because a pipeline recorded it before. What the pipeline knew
        of it, and its line does not say, stays.
        """
        client = self._tracker.client
        keys = {key for line in lines if (key := line.undated_key) is not None}
        times = client.recorded_times(keys) if keys else {}
        identities = [line.identity(times, tally.file_time) for line in lines]
        wanted = {identity for identity in identities if identity is not None}
        recorded = client.recorded(wanted) if wanted else {}
        for line, identity in zip(lines, identities, strict=True):
            key = line.undated_key
            time = times.get(key) if key is not None else None
            by_file = time is None and line.time is None and line.reply.created is None
            time = time or line.time or tally.file_time
            earlier = recorded.get(identity) if identity is not None else None
            try:
                result = self._tracker.record_reply(
                    line.reply,
                    fallback_request_id=line.fallback_id,
                    fallback_timestamp=time,
                    **(known_before(earlier, line.reply) if earlier is not None else {}),
                )
            except FAULTS as error:
                self._bad(line.item.place, str(error) or type(error).__name__, tally)
                continue
            if result is PutResult.DROPPED:
                tally.dropped += 1
                continue
            if key is not None and time is not None:
                times.setdefault(key, time)
            tally.recorded += 1
            tally.inside += len(line.reply.also)
            tally.dated_by_file += by_file
            tally.told_apart_by_time += by_file and key is None
            self._waiting += 1
        self._take_in()


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

    def identity(
        self, times: Mapping[tuple[str, str], datetime], file_time: datetime | None
    ) -> tuple[str, datetime, str] | None:
        """Return what a store that has this call already has it under; None where it has no id."""
        request_id, key = request_id_of(self.reply), self.undated_key
        time = self.reply.created or (times.get(key) if key else None) or self.time or file_time
        if request_id is None or time is None:
            return None
        return self.reply.service.lower(), time, request_id


def _is_of_a_transcript(value: object) -> bool:
    """Return whether a line is one of Claude Code's: it would pass for a call that failed."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), str) for name in _MARKS_OF_A_TRANSCRIPT
    )


def _fallback_id(reply: Reply, value: object, repeats: Counter[str]) -> str | None:
    """Return the id of a line whose reply has none that is unique; None where it has one.

    Lines that are alike in one file are different calls: the second is ``-2``, the third ``-3``.
    """
    if request_id_of(reply) is not None:
        return None
    name = line_id(value)
    repeats[name] += 1
    return name if repeats[name] == 1 else f"{name}-{repeats[name]}"
