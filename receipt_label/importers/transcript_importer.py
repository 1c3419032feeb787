"""Import of transcripts of Claude Code: what their lines tell, recorded once, however often."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from receipt_dynamo import AIUsageMetric, PutResult
from receipt_label.importers.importer import FAULTS, LINES_AT_ONCE, FileTally, Importer
from receipt_label.importers.source import STANDARD_INPUT, Item, Source, read_lines
from receipt_label.importers.transcripts import AgentNames, CallDraft, Transcript, UseDraft
from receipt_label.usage import Reply, Skipped, read_reply
from receipt_label.uses import UNFINISHED

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["TranscriptImporter", "find_transcripts"]

_HELD, _KEPT = 4000, 1000  # drafts: what memory a file may take, and how late a snapshot may come
_AGENT_FILE = "agent-"

Key = tuple[str, str]


class _Seen(NamedTuple):
    """What is known of a record: since when it has its identity, and how complete it is."""

    time: datetime
    rank: tuple[bool, float]
    session_id: str | None


class _Call(NamedTuple):
    """A call that is ready to be recorded."""

    draft: CallDraft
    reply: Reply

    @property
    def key(self) -> Key:
        return self.reply.service, self.draft.request_id

    def put(self, tracker: AIUsageTracker, time: datetime, names: AgentNames) -> PutResult:
        draft = self.draft
        return tracker.record_reply(
            self.reply,
            timestamp=time,
            request_id=draft.request_id,
            session_id=draft.session_id,
            subagent=draft.subagent(names),
            skill=draft.skill,
            status="partial" if draft.is_aborted else None,
            metadata=draft.metadata,
        )

    def add_to(self, tally: FileTally) -> None:
        tally.recorded += 1
        tally.inside += len(self.reply.also)


class _Use(NamedTuple):
    """A use that is ready to be recorded."""

    draft: UseDraft

    @property
    def key(self) -> Key:
        return self.draft.use.kind, self.draft.request_id

    def put(self, tracker: AIUsageTracker, time: datetime, names: AgentNames) -> PutResult:
        return tracker.record(**self.draft.finished(names).fields(), timestamp=time)

    def add_to(self, tally: FileTally) -> None:
        tally.uses[self.draft.use.kind] += 1


class TranscriptImporter(Importer):
    """Reads transcripts.

    A call is (service, first time seen, message id). Where the store or an earlier file has it, the
    more complete snapshot holds, whichever comes first; of two alike that of its first session.
    One importer reads all files of an import: what one of them says of subagents helps the others,
    and the store is asked about the records of many at once. ``finish`` records what is still held.
    """

    def __init__(self, tracker: AIUsageTracker, **options: Any) -> None:
        super().__init__(tracker, **options)
        self._names = AgentNames()
        self._seen: dict[Key, _Seen] = {}
        self._recorded: set[Key] = set()
        self._held: list[tuple[CallDraft | UseDraft, FileTally]] = []

    def run(
        self, source: Source, tally: FileTally, progress: Callable[[int], None] | None = None
    ) -> None:
        """Read one file; what it holds is recorded, and counted in ``tally``, by ``finish`` at the
        latest. Raises SourceError, and StoreError as ``finish``.

        ``progress`` is told now and then how many bytes of the file were read.
        """
        agent_id = self._agent_of(source.name)
        transcript = Transcript(self._names, self._at or source.modified, agent_id)
        try:
            for number, item in enumerate(read_lines(source), 1):
                self._take(transcript, item, tally)
                if number % LINES_AT_ONCE == 0:
                    if progress is not None:
                        progress(source.position)
                    if len(transcript) > _HELD:
                        self._hold(transcript.drain(_KEPT), tally)
        except (OSError, EOFError, zlib.error):  # the file breaks off here; what was read goes in
            self._hold(transcript.drain(), tally)
            raise
        self._hold(transcript.drain(), tally)
        if progress is not None:
            progress(source.position)

    def _take(self, transcript: Transcript, item: Item, tally: FileTally) -> None:
        if item.fault is not None:
            if item.unfinished:  # the agent is writing it: the next import has it
                tally.skipped["unfinished_line"] += 1
            else:
                self._bad(item.place, item.fault, tally)
            return
        if not isinstance(item.value, dict):
            self._bad(item.place, "no entry of a transcript: a line holds one JSON object", tally)
            return
        try:
            reason = transcript.take(item.value, item.place)
        except FAULTS as error:
            self._bad(item.place, str(error) or type(error).__name__, tally)
        else:
            if reason is not None:
                tally.skipped[reason] += 1

    def _agent_of(self, name: str) -> str | None:
        """Return the agent that a whole file is of, and learn its name from the file beside it."""
        path = Path(name)
        if not path.name.startswith(_AGENT_FILE):
            return None
        agent_id = path.name.removeprefix(_AGENT_FILE).partition(".")[0]
        beside = path.with_name(f"{_AGENT_FILE}{agent_id}.meta.json")
        try:
            meta = json.loads(beside.read_bytes())
        except (OSError, ValueError):
            return agent_id
        named = meta.get("agentType") if isinstance(meta, dict) else None
        if isinstance(named, str):
            self._names.learn(_session_of(path), agent_id, named)
        return agent_id

    def _hold(self, drafts: Iterable[CallDraft | UseDraft], tally: FileTally) -> None:
        self._held += [(draft, tally) for draft in drafts]
        if len(self._held) >= _HELD:
            self.finish()

    def finish(self) -> None:
        """Record what is held. Raises StoreError where the store cannot take the records in; they
        wait in the spool then."""
        held, self._held = self._held, []
        ready = [
            (one, tally) for draft, tally in held if (one := self._read(draft, tally)) is not None
        ]
        self._look_up({one.key for one, _ in ready if one.key not in self._seen})
        for one, tally in ready:
            self._record(one, tally)
        self._take_in()

    def _read(self, draft: CallDraft | UseDraft, tally: FileTally) -> _Call | _Use | None:
        if isinstance(draft, UseDraft):
            return _Use(draft)
        try:
            reply = read_reply(draft.message, service=self._service, operation=self._operation)
        except FAULTS as error:
            self._bad(draft.place, str(error) or type(error).__name__, tally)
            return None
        if isinstance(reply, Skipped):
            tally.skipped[reply.reason] += 1
            return None
        return _Call(draft, reply)

    def _look_up(self, keys: Collection[Key]) -> None:
        """Learn what the store has of these records.

        The wrapped client of a pipeline, a hook or an earlier import may have brought them there.
        """
        client = self._tracker.client
        times = client.recorded_times(keys) if keys else {}
        identities = {(service, time, name) for (service, name), time in times.items()}
        for metric in client.recorded(identities).values() if identities else ():
            key = metric.service, metric.request_id
            self._seen[key] = _Seen(metric.timestamp, _rank(metric), metric.session_id)
            self._names.learn_recorded(metric)

    def _record(self, one: _Call | _Use, tally: FileTally) -> None:
        draft, key = one.draft, one.key
        before = self._seen.get(key)
        if before is not None and (
            before.rank > draft.rank
            or (
                before.rank == draft.rank
                and before.session_id not in (None, draft.session_id)  # told again when resumed
            )
        ):
            tally.skipped["seen"] += 1
            return
        time = draft.time if before is None else before.time
        try:
            result = one.put(self._tracker, time, self._names)
        except FAULTS as error:
            self._bad(draft.place, str(error) or type(error).__name__, tally)
            return
        if result is PutResult.DROPPED:
            tally.dropped += 1
            return
        if key not in self._recorded:  # else a more complete snapshot of what was counted
            one.add_to(tally)
        self._recorded.add(key)
        self._seen[key] = _Seen(time, draft.rank, draft.session_id)
        self._waiting += 1


def _rank(metric: AIUsageMetric) -> tuple[bool, float]:
    """Return how complete a recorded metric is, as drafts tell it of themselves."""
    if metric.service == "subagent":
        return True, metric.latency_ms or 0.0
    if metric.service in ("tool", "skill"):
        is_over = metric.metadata.get("outcome") != UNFINISHED
        return is_over, float(metric.latency_ms is not None)
    return "finish_reason" in metric.metadata, metric.output_tokens or 0


def _session_of(path: Path) -> str | None:
    """Return the session of an agent's file: .../<session>/subagents/agent-<id>.jsonl."""
    for parent in path.parents:
        if parent.name == "subagents":
            return parent.parent.name
    return None


def find_transcripts(names: Iterable[str], on_fault: Callable[[str, str], None]) -> list[str]:
    """Return the files of an import: those named, and every ``.jsonl`` (``.jsonl.gz``) below a
    directory. ``on_fault`` is told of each directory that cannot be read, and why.

    Of a directory the sessions come before their subagents, and older files before newer: a resumed
    session repeats what an earlier one said.
    """
    found: list[str] = []
    for name in names:
        if name != STANDARD_INPUT and Path(name).is_dir():
            found += map(str, sorted(_below(name, on_fault), key=_order))
        else:
            found.append(name)
    return found


def _below(directory: str, on_fault: Callable[[str, str], None]) -> Iterator[Path]:
    def tell(error: OSError) -> None:
        on_fault(str(error.filename), f"cannot be read: {error.strerror or error}")

    for parent, _, files in os.walk(directory, onerror=tell):
        for file in files:
            if file.endswith((".jsonl", ".jsonl.gz")):
                yield Path(parent, file)


def _order(path: Path) -> tuple[bool, float, str]:
    try:
        changed = path.stat().st_mtime
    except OSError:  # gone meanwhile: opening it says so
        changed = 0.0
    return path.name.startswith(_AGENT_FILE), changed, str(path)
