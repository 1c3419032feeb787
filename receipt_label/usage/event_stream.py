"""Streams: from the chunks of a call to the one object that the call would have returned.

The last snapshot wins, whatever a vendor calls it. A stream without its end is interrupted: what
it reported so far is kept, and nothing is invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from receipt_label.usage.figures import Json, first, inner, items

DONE: Final = "[DONE]"


class Folded(NamedTuple):
    """One object for a whole stream. ``ended``: the vendor said that it was all."""

    body: Json
    ended: bool


def fold(chunks: list[Json]) -> Folded:
    """Return the object that the chunks add up to, in the shape of its vendor's plain reply."""
    opened = [_open(chunk) for chunk in chunks]
    for chunk in opened:
        for tells, folder in _FOLDERS:
            if tells(chunk):
                return _with_error(folder(opened), opened)
    return _with_error(_fold_last(opened), opened)


def _open(chunk: Json) -> Json:
    """Take a chunk out of the envelope that Bedrock's event stream puts around it."""
    data = inner(chunk, "chunk").get("bytes")
    if isinstance(data, bytes):
        try:
            opened = json.loads(data, parse_float=Decimal)
        except ValueError:
            return {}
        return opened if isinstance(opened, Mapping) else {}
    return chunk


def _with_error(folded: Folded, chunks: list[Json]) -> Folded:
    """Carry over an error that ended the stream, from wherever its vendor puts it."""
    for chunk in chunks:
        if chunk.get("type") == "error" or chunk.get("error"):
            error = chunk.get("error") or {"type": first(chunk, "code") or "error"}
            return Folded({**folded.body, "error": error}, ended=False)
        for name in chunk:
            if isinstance(name, str) and name.endswith("Exception"):
                return Folded({**folded.body, "error": {"type": name}}, ended=False)
    return folded


def _type(chunk: Json) -> str:
    kind = first(chunk, "type", "event_type")
    return kind if isinstance(kind, str) else ""


def _known(block: Json) -> dict[str, object]:
    return {key: value for key, value in block.items() if value is not None}


def _fold_anthropic(chunks: list[Json]) -> Folded:
    """Merge message_start with each message_delta: its usage is cumulative and replaces.

    What a delta leaves out keeps the start's figure. Until the first delta the start's
    output_tokens is a placeholder, which the status says (``partial``).
    """
    body: dict[str, object] = {"type": "message"}
    usage: dict[str, object] = {}
    ended = False
    for chunk in chunks:
        kind = _type(chunk)
        if kind == "message_start":
            body.update(inner(chunk, "message"))
            usage.update(_known(inner(body, "usage")))
        elif kind == "message_delta":
            later = _known(inner(chunk, "usage"))
            written = later.get("cache_creation_input_tokens")
            if written is not None and written != usage.get("cache_creation_input_tokens"):
                usage.pop("cache_creation", None)  # the start's breakdown is of another sum
            usage.update(later)
            body.update(_known(inner(chunk, "delta")))
            ended = ended or inner(chunk, "delta").get("stop_reason") is not None
        elif kind == "message_stop":
            ended = True
        body.update({key: chunk[key] for key in chunk if key.startswith("amazon-bedrock-")})
    body["usage"] = usage or None
    return Folded(body, ended)


_ENDS: Final = ("completed", "incomplete", "failed", "cancelled", "done")


def _fold_responses(chunks: list[Json]) -> Folded:
    """Take the last snapshot of the response."""
    body: Json = {"object": "response"}
    for chunk in chunks:
        snapshot = chunk.get("response")
        if isinstance(snapshot, Mapping):
            body = {"object": "response", **snapshot}
            if _type(chunk).removeprefix("response.") in _ENDS:
                return Folded(body, ended=True)
    return Folded(body, ended=False)


_CHAT_FACTS: Final = ("id", "model", "provider", "system_fingerprint", "service_tier", "x_groq")


def _fold_chat(chunks: list[Json]) -> Folded:
    """Take the last usage of a chat stream, in whichever chunk it is.

    OpenAI sends it in a last chunk without choices, others with choices; Groq also in ``x_groq``,
    Moonshot in the choice.
    """
    body: dict[str, object] = {"object": "chat.completion", "usage": None}
    reason: object = None
    ended = False
    for chunk in chunks:
        if DONE in chunk:
            ended = True
            continue
        for name in _CHAT_FACTS:
            if chunk.get(name) not in (None, ""):
                body[name] = chunk[name]
        for name in ("created", "prompt_filter_results", "object"):
            if name in chunk and body.get(name) in (None, 0, "chat.completion"):
                body[name] = chunk[name]
        usage = chunk.get("usage") or inner(chunk, "x_groq").get("usage")
        for choice in items(chunk.get("choices")):
            reason = choice.get("finish_reason") or reason
            usage = usage or choice.get("usage")
        body["usage"] = usage or body["usage"]
    if reason is not None:
        body["choices"] = [{"finish_reason": reason}]
    return Folded(body, ended or reason is not None)


def _fold_google(chunks: list[Json]) -> Folded:
    """Take the last snapshot of the usage, which is cumulative.

    A chunk with a total is a whole snapshot: what it leaves out is zero (proto), so a count of an
    earlier chunk must not be mixed into it. Without any total each figure's last value counts.
    """
    body: dict[str, object] = {}
    usage: dict[str, object] = {}
    reason: object = None
    for chunk in chunks:
        snapshot = _known(inner(chunk, "usageMetadata"))
        if "totalTokenCount" in snapshot:
            usage = {key: it for key, it in usage.items() if isinstance(it, str)}
        usage.update(snapshot)
        for name in ("modelVersion", "responseId", "createTime"):
            if chunk.get(name) and (name != "createTime" or name not in body):
                body[name] = chunk[name]
        for candidate in items(chunk.get("candidates")):
            reason = candidate.get("finishReason") or reason
        if inner(chunk, "promptFeedback").get("blockReason"):
            reason = reason or "BLOCKED"
    body["usageMetadata"] = usage or None
    body["candidates"] = [{"finishReason": reason}]
    return Folded(body, reason is not None)


def _fold_converse(chunks: list[Json]) -> Folded:
    """Add up the events of a Converse stream: ``messageStop`` and then ``metadata``."""
    body: dict[str, object] = {"output": {}}
    ended = False
    for chunk in chunks:
        stop = inner(chunk, "messageStop").get("stopReason")
        if stop is not None:
            body["stopReason"], ended = stop, True
        body.update(_known(inner(chunk, "metadata")))
        if "ResponseMetadata" in chunk:
            body["ResponseMetadata"] = chunk["ResponseMetadata"]
    return Folded(body, ended or "usage" in body)


def _fold_cohere(chunks: list[Json]) -> Folded:
    """Take the id from the start of a Cohere stream and the usage from its end (v2, v1)."""
    body: dict[str, object] = {}
    ended = False
    for chunk in chunks:
        kind = _type(chunk)
        if chunk.get("id"):
            body["id"] = chunk["id"]
        if kind == "message-end":
            body.update(_known(inner(chunk, "delta")))
            ended = True
        elif kind == "stream-end":
            body.update(_known(inner(chunk, "response")))
            ended = True
    body.setdefault("usage", body.get("meta"))
    body.setdefault("message", {})
    return Folded(body, ended)


def _fold_ollama(chunks: list[Json]) -> Folded:
    """Take the line that says ``done``: it alone has the counts."""
    last = chunks[-1]
    created = next((chunk["created_at"] for chunk in chunks if chunk.get("created_at")), None)
    return Folded({**last, "created_at": created}, last.get("done") is True)


def _fold_interaction(chunks: list[Json]) -> Folded:
    """Take the last snapshot of an interaction."""
    body: Json = {"object": "interaction"}
    ended = False
    for chunk in chunks:
        if isinstance(chunk.get("interaction"), Mapping):
            body = {**body, **_known(inner(chunk, "interaction")), "object": "interaction"}
            ended = _type(chunk) in ("interaction.complete", "interaction.completed")
    return Folded(body, ended)


_MEDIA_ENDS: Final = (
    "image_generation.completed",
    "image_edit.completed",
    "transcript.text.done",
    "speech.audio.done",
)


def _fold_media(chunks: list[Json]) -> Folded:
    """Take the event that completes an image, a transcription or speech."""
    for chunk in chunks:
        if _type(chunk) in _MEDIA_ENDS:
            return Folded(chunk, ended=True)
    return Folded(chunks[-1], ended=False)


def _fold_last(chunks: list[Json]) -> Folded:
    """Take the last chunk with a usage of a stream that is of no known kind."""
    bodies = [chunk for chunk in chunks if DONE not in chunk] or [{}]
    body = next((chunk for chunk in reversed(bodies) if chunk.get("usage")), bodies[-1])
    return Folded(body, len(bodies) < len(chunks) or bool(body.get("usage")))


def _starts(*prefixes: str) -> Callable[[Json], bool]:
    return lambda chunk: _type(chunk).startswith(prefixes)


_CONVERSE_EVENTS: Final = frozenset(
    {"messageStart", "contentBlockStart", "contentBlockDelta", "messageStop"}
)

# The first chunk that one of these knows decides for the whole stream.
_FOLDERS: Final[tuple[tuple[Callable[[Json], bool], Callable[[list[Json]], Folded]], ...]] = (
    (lambda chunk: "choices" in chunk or "x_groq" in chunk, _fold_chat),
    (_starts("message_", "content_block_"), _fold_anthropic),
    (_starts("response."), _fold_responses),
    (
        lambda chunk: (
            "candidates" in chunk or "usageMetadata" in chunk or "promptFeedback" in chunk
        ),
        _fold_google,
    ),
    (
        lambda chunk: not _CONVERSE_EVENTS.isdisjoint(chunk) or "usage" in inner(chunk, "metadata"),
        _fold_converse,
    ),
    (_starts("message-", "content-", "stream-start", "stream-end", "tool-plan"), _fold_cohere),
    (_starts("interaction."), _fold_interaction),
    (_starts("image_generation.", "image_edit.", "transcript.", "speech."), _fold_media),
    (lambda chunk: "done" in chunk and "model" in chunk, _fold_ollama),
)
