"""Transcripts of Claude Code: which calls, tools, skills and subagents the lines of a file tell of.

A message is written down several times while it streams, once a block, and again in the transcript
of a resumed session: its most complete snapshot counts, under the message's id. What was said is
content, and none of it is kept. Pure: nothing here reads a file or knows a store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from receipt_dynamo import AIUsageMetric
from receipt_label.importers.claude_hook import clean_name, skill_of, subagent_request_id
from receipt_label.importers.exact_json import line_id
from receipt_label.usage.reply import MIN_ID_CHARACTERS
from receipt_label.uses import UNFINISHED, Use

__all__ = ["AgentNames", "CallDraft", "Draft", "Transcript", "UseDraft"]

_SYNTHETIC = "<synthetic>"
_NAMELESS = "unknown"
_INTERNAL_AGENT = re.compile(r"a([a-z_]{3,})-")  # acompact-..., aprompt_suggestion-...
_DELEGATES = ("Task", "Agent")
_INPUT_SIDE = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_DURATIONS = ("durationMs", "totalDurationMs")

MAX_OPEN = 20_000
"""Uses without an end yet that are kept while others are handed out, some 1 KB each: a result may
come any number of entries later."""

Json = Mapping[str, Any]


class AgentNames:
    """What the subagents of sessions are called, from whichever file says so."""

    def __init__(self) -> None:
        self._names: dict[tuple[str | None, str], str] = {}

    def learn(self, session_id: str | None, agent_id: str | None, name: str | None) -> None:
        """Remember a name; the first one holds."""
        if agent_id and name:
            self._names.setdefault((session_id, agent_id), name)

    def learn_recorded(self, metric: AIUsageMetric) -> None:
        """Remember the name under which a record of an agent was stored."""
        agent_id = metric.metadata.get("agent_id")
        if isinstance(agent_id, str) and metric.subagent != _NAMELESS:
            self.learn(metric.session_id, agent_id, metric.subagent)

    def of(self, session_id: str | None, agent_id: str | None) -> str:
        """Return the name of an agent; Claude Code's own are told by their id."""
        if agent_id is None:
            return _NAMELESS
        known = self._names.get((session_id, agent_id)) or self._names.get((None, agent_id))
        internal = _INTERNAL_AGENT.match(agent_id)
        return known or (internal[1] if internal else _NAMELESS)


@dataclass(slots=True, kw_only=True)
class Draft:
    """Something that is to be recorded, as far as it was read. ``time`` is when it began.

    ``agent_id`` None with ``in_subagent``: a sidechain whose agent nothing names.
    """

    place: str
    request_id: str
    time: datetime
    session_id: str | None = None
    in_subagent: bool = False
    agent_id: str | None = None
    skill: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def subagent(self, names: AgentNames) -> str | None:
        """Return the subagent that did it, None for the main agent."""
        return names.of(self.session_id, self.agent_id) if self.in_subagent else None


@dataclass(slots=True, kw_only=True)
class CallDraft(Draft):
    """A call of a model: the message without its content, in its most complete snapshot."""

    message: Json
    is_aborted: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """How complete the snapshot is."""
        usage = self.message.get("usage")
        made = usage.get("output_tokens") if isinstance(usage, Mapping) else None
        return bool(self.message.get("stop_reason")), made if type(made) is int else 0


@dataclass(slots=True, kw_only=True)
class UseDraft(Draft):
    """A use of a tool or skill, or the run of a subagent (``use.kind``)."""

    use: Use

    @property
    def rank(self) -> tuple[bool, float]:
        """How much is known of how it ended."""
        if self.use.kind == "subagent":
            return True, self.use.duration_ms or 0.0
        return self.use.outcome != UNFINISHED, float(self.use.duration_ms is not None)

    def finished(self, names: AgentNames) -> Use:
        """Return the use with all that is known by now."""
        subagent = self.subagent(names)
        name = self.use.name if self.use.kind != "subagent" else subagent or _NAMELESS
        return replace(
            self.use,
            name=name,
            session_id=self.session_id,
            request_id=self.request_id,
            skill=self.use.skill or self.skill,
            subagent=subagent,
            metadata={**self.metadata, **self.use.metadata},
        )


class Transcript:
    """Reads the entries of one file into drafts, and hands those out.

    ``file_time`` dates what comes before the first time in the file; ``agent_id`` is that of a file
    that is a subagent's as a whole.
    """

    def __init__(self, names: AgentNames, file_time: datetime, agent_id: str | None = None) -> None:
        self._names = names
        self._time = file_time
        self._agent_id = agent_id
        self._drafts: dict[str, CallDraft | UseDraft] = {}
        self._open: dict[str, UseDraft] = {}
        self._runs: dict[str, UseDraft] = {}
        self._delegated: dict[str, str] = {}  # by tool use: the name of the subagent asked for
        self._use_ids: dict[str, str] = {}  # by an id too short to be unique: what stands for it

    def __len__(self) -> int:
        """Return how many drafts are held that may be handed out."""
        return len(self._drafts)

    def take(self, entry: Json, place: str) -> str | None:
        """Read one entry; return why it is no call, where it looks like one.

        Raises ValueError for an entry that should be a call and cannot be read.
        """
        inner = _embedded(entry)
        if inner is not None:
            entry = inner
        kind = entry.get("type")
        if kind not in ("assistant", "user"):
            return None
        message = entry.get("message")
        if not isinstance(message, Mapping):
            if kind == "user":
                return None
            raise ValueError("an assistant's entry without a message: it may have been a call")
        self._note_time(entry)
        self._note_agent(entry, place, is_own=inner is None)
        if kind == "user":
            self._take_results(entry, message)
            return None
        if entry.get("isApiErrorMessage") is True or message.get("model") == _SYNTHETIC:
            return "not_billed"
        self._take_call(entry, message, place)
        self._take_uses(entry, message, place)
        return None

    def drain(self, keep: int = 0) -> Iterator[CallDraft | UseDraft]:
        """Yield the drafts, but the last ``keep``, and forget them.

        Of the others, uses that are not over yet wait for their results, the last ``MAX_OPEN`` of
        them. With 0 the file is at its end: all are handed out, the runs of its subagents too.
        """
        if not keep:
            yield from self._open.values()
            self._open = {}
        count = max(0, len(self._drafts) - keep)
        for request_id in list(self._drafts)[:count]:
            draft = self._drafts.pop(request_id)
            if keep and isinstance(draft, UseDraft) and draft.use.outcome == UNFINISHED:
                self._open[request_id] = draft
            else:
                yield draft
        while len(self._open) > MAX_OPEN:
            yield self._open.pop(next(iter(self._open)))
        if not keep:
            yield from self._runs.values()
            self._runs = {}

    def _note_time(self, entry: Json) -> None:
        text = entry.get("timestamp")
        if isinstance(text, str):
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return
            self._time = moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _draft_fields(self, entry: Json) -> dict[str, Any]:
        agent_id = clean_name(entry.get("agentId")) or self._agent_id
        in_subagent = entry.get("isSidechain") is True or self._agent_id is not None
        named = {
            "cwd": entry.get("cwd"),
            "git_branch": entry.get("gitBranch"),
            "agent_version": entry.get("version"),
            "agent_id": agent_id if in_subagent else None,
        }
        known = {key: word for key, value in named.items() if (word := clean_name(value))}
        return {
            "time": self._time,
            "session_id": clean_name(entry.get("sessionId")),
            "in_subagent": in_subagent,
            "agent_id": agent_id if in_subagent else None,
            "skill": clean_name(entry.get("attributionSkill")),
            "metadata": {"agent": "claude-code", **known},
        }

    def _note_agent(self, entry: Json, place: str, *, is_own: bool) -> None:
        """Learn the name of a subagent and, from its own entries, until when it ran."""
        fields = self._draft_fields(entry)
        session_id, agent_id = fields["session_id"], fields["agent_id"]
        self._names.learn(session_id, agent_id, clean_name(entry.get("attributionAgent")))
        request_id = subagent_request_id(session_id, agent_id)
        if request_id is None or not is_own:
            return
        run = self._runs.get(request_id)
        if run is None:
            fields["skill"] = None
            use = Use(kind="subagent", name=_NAMELESS, duration_ms=0.0)
            run = UseDraft(place=place, request_id=request_id, use=use, **fields)
            self._runs[request_id] = run
        lasted = (self._time - run.time).total_seconds() * 1000
        if lasted > (run.use.duration_ms or 0.0):
            run.use = replace(run.use, duration_ms=lasted)

    def _take_call(self, entry: Json, message: Json, place: str) -> None:
        request_id = _call_id(entry, message)
        bare = {key: value for key, value in message.items() if key != "content"}
        draft = CallDraft(
            place=place,
            request_id=request_id,
            message={"type": "message", "role": "assistant", **bare},
            is_aborted=entry.get("isAbortedMidStream") is True,
            **self._draft_fields(entry),
        )
        vendor_id = clean_name(entry.get("requestId"))
        if vendor_id is not None:
            draft.metadata["vendor_request_id"] = vendor_id
        before = self._drafts.get(request_id)
        if isinstance(before, CallDraft):
            if before.rank > draft.rank:
                return
            draft.time = min(before.time, draft.time)
        self._drafts[request_id] = draft

    def _take_uses(self, entry: Json, message: Json, place: str) -> None:
        for number, block in enumerate(_blocks(message)):
            if block.get("type") != "tool_use":
                continue
            tool = clean_name(block.get("name"))
            if tool is None:
                continue
            given = block.get("input")
            skill = skill_of(tool, given)
            own_id = clean_name(block.get("id"))
            use_id = own_id or ""
            if len(use_id) < MIN_ID_CHARACTERS:
                use_id = line_id([entry.get("sessionId"), entry.get("uuid"), use_id or number])
                if own_id is not None:
                    self._use_ids[own_id] = use_id
            if tool in _DELEGATES and isinstance(given, Mapping):
                self._delegated[use_id] = clean_name(given.get("subagent_type")) or ""
            if use_id not in self._drafts and use_id not in self._open:
                use = Use(
                    kind="tool" if skill is None else "skill",
                    name=skill or tool,
                    outcome=UNFINISHED,
                    tool=tool,
                    skill=skill,
                )
                self._drafts[use_id] = UseDraft(
                    place=place, request_id=use_id, use=use, **self._draft_fields(entry)
                )

    def _take_results(self, entry: Json, message: Json) -> None:
        """Note how tools ended, and which agent ran for which of them."""
        result = entry.get("toolUseResult")
        told: Json = result if isinstance(result, Mapping) else {}
        for block in _blocks(message):
            use_id = clean_name(block.get("tool_use_id"))
            if block.get("type") != "tool_result" or use_id is None:
                continue
            use_id = self._use_ids.get(use_id, use_id)
            self._names.learn(
                clean_name(entry.get("sessionId")),
                clean_name(told.get("agentId")),
                self._delegated.get(use_id),
            )
            if use_id in self._open:
                self._drafts[use_id] = self._open.pop(use_id)
            draft = self._drafts.get(use_id)
            if isinstance(draft, UseDraft):
                error = None
                if told.get("interrupted") is True:
                    error = "interrupted"
                elif block.get("is_error") is True:
                    error = "tool_error"
                draft.use = replace(
                    draft.use,
                    outcome=None,
                    error=error,
                    duration_ms=_duration(told),
                )


def _embedded(entry: Json) -> Json | None:
    """Return what a subagent said, where an entry of progress in its parent's file repeats it."""
    data = entry.get("data")
    if entry.get("type") != "progress" or not isinstance(data, Mapping):
        return None
    said = data.get("message")
    if data.get("type") != "agent_progress" or not isinstance(said, Mapping):
        return None
    around = {key: value for key, value in entry.items() if key not in ("type", "data", "message")}
    return {**around, **said, "agentId": data.get("agentId"), "isSidechain": True}


def _blocks(message: Json) -> list[Json]:
    content = message.get("content")
    if not isinstance(content, list):
        return []
    return [block for block in content if isinstance(block, Mapping)]


def _call_id(entry: Json, message: Json) -> str:
    """Return what all snapshots of one call share and no other call has.

    The message's own id where it is long enough to be unique. Else the vendor's request id; else
    the short id together with the session and what was sent, which every snapshot repeats while
    the output grows; without any id the line itself.
    """
    message_id, vendor_id = clean_name(message.get("id")), clean_name(entry.get("requestId"))
    for name in (message_id, vendor_id):
        if name is not None and len(name) >= MIN_ID_CHARACTERS:
            return name
    session_id = entry.get("sessionId")
    if message_id is None and vendor_id is None:
        own = clean_name(entry.get("uuid"))
        return line_id([session_id, own] if own else dict(entry))
    usage = message.get("usage")
    sent = [usage.get(key) for key in _INPUT_SIDE] if isinstance(usage, Mapping) else []
    return line_id([session_id, message_id, vendor_id, sent])


def _duration(told: Json) -> float | None:
    for key in _DURATIONS:
        value = told.get(key)
        if type(value) is int and value >= 0:
            return float(value)
    return None
