"""What passes of an HTTP body, kept as far as it tells usage; bytes, so that any SDK can read them.

The events of a stream are told apart, not parsed: a chunk of text is searched for a few keys and
forgotten. What is kept is read once, when the stream is over.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Protocol

import msgspec

from receipt_label.instrumentation.streams import Kept

__all__ = [
    "BodyLog",
    "EventLog",
    "FrameLog",
    "Log",
    "SilentLog",
    "body_of",
    "has_events",
    "hide_usage_of",
    "is_event_stream",
    "log_for",
]

# A blank line; the two halves of a CRLF may come in two pieces.
_BOUNDARY: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_EDGE: Final = 3  # bytes of a boundary that may have come before its last

# Keys that tell once they have a value. Inside a JSON string their quotes would be escaped, so text
# of the model's never matches. Looked for one by one, which is faster than one expression for all.
_KEYS: Final = (
    b'"usage"',
    b'"finish_reason"',
    b'"stop_reason"',
    b'"error"',
    b'"usageMetadata"',
    b'"finishReason"',
)
_VALUE: Final = 16  # bytes after a key, in which its value begins
_ENDING: Final = re.compile(
    rb'"type"\s*+:\s*+"(?:message_stop|(?:response|image_generation|image_edit|transcript\.text'
    rb'|speech\.audio)\.(?:completed|incomplete|failed|cancelled|done))"'
)
# Content of the model's: text, reasoning, arguments of a tool; never empty.
_CONTENT: Final = re.compile(
    rb'"(?:content|text|delta|thinking|partial_json|arguments|refusal|reasoning\w*|b64_json|audio)"'
    rb'\s*:\s*"[^"]'
)
_NO_CONTENT: Final = re.compile(
    rb'"type"\s*:\s*"(?:message_start|ping|response\.(?:created|queued|in_progress))"'
)


class Log(Protocol):
    """What a body is shown to, piece by piece."""

    content: bool
    """Whether the last piece held the first content of the model's."""
    telling: bool
    """Whether a body of this kind says what the call used."""

    def feed(self, data: bytes) -> bytes:
        """Look at a piece of the body; return what its owner gets of it."""
        ...

    def rest(self) -> bytes:
        """Return what was held back, once the body is over."""
        ...

    def reply(self) -> object:
        """Return what ``read_reply`` makes one reply of, or None for nothing."""
        ...


class EventLog:
    """A stream of server-sent events, of which the telling ones are kept.

    With ``hide_usage`` OpenAI's extra chunk (usage, and no choices) is kept from the owner; nothing
    else of the stream is changed.
    """

    telling = True

    def __init__(self, *, hide_usage: bool = False) -> None:
        self.content = False
        self._hide = hide_usage
        self._kept = Kept()
        self._tail: list[bytes] = []  # joined once a boundary is found: events may be large
        self._edge = b""  # the end of the tail, in which a boundary may have begun
        self._none_yet = True
        self._awaits_content = True

    def feed(self, data: bytes) -> bytes:
        """Look at the events that this piece completes; hidden ones are cut out."""
        self.content = False
        self._tail.append(data)
        edge = self._edge + data
        if b"\n\n" not in edge and (b"\r" not in edge or _BOUNDARY.search(edge) is None):
            self._edge = edge[-_EDGE:]
            return b"" if self._hide else data
        text = b"".join(self._tail)
        if self._hide:
            data, rest = self._shown(text)
            self._tail, self._edge = [rest], rest[-_EDGE:]
            return data
        *events, rest = _BOUNDARY.split(text) if b"\r" in text else text.split(b"\n\n")
        self._tail, self._edge = [rest], rest[-_EDGE:]
        for event in events:
            self._look_at(event)
        return data

    def _shown(self, text: bytes) -> tuple[bytes, bytes]:
        """Look at whole events; return them without hidden ones, and what is left after them."""
        shown, start = [], 0
        for boundary in _BOUNDARY.finditer(text):
            event = text[start : boundary.start()]
            self._look_at(event)
            if not _is_usage_only(event):
                shown.append(text[start : boundary.end()])
            start = boundary.end()
        return b"".join(shown), text[start:]

    def rest(self) -> bytes:
        """Return the last, unfinished event, which only a stream with hidden ones holds back."""
        tail = b"".join(self._tail)
        self._tail, self._edge = [], b""
        if not tail:
            return b""
        self._look_at(tail)
        return tail if self._hide and not _is_usage_only(tail) else b""

    def _look_at(self, event: bytes) -> None:
        if self._none_yet or _tells(event):
            self._none_yet = self._none_yet and b"data:" not in event
            self._kept.add(event)
        if self._awaits_content and _CONTENT.search(event) and not _NO_CONTENT.search(event):
            self.content, self._awaits_content = True, False

    def reply(self) -> object:
        """Return the events that were kept, as the text of a stream."""
        self.rest()
        events = self._kept.all()
        return b"\n\n".join([*events, b""]) if events else None


def _tells(event: bytes) -> bool:
    """Whether an event says what was used, or how it ended."""
    for key in _KEYS:
        at = event.find(key)
        while at >= 0:
            at += len(key)
            if not event[at : at + _VALUE].lstrip(b" \t:").startswith(b"null"):
                return True
            at = event.find(key, at)
    return b"[DONE]" in event or (b'"type"' in event and _ENDING.search(event) is not None)


def _is_usage_only(event: bytes) -> bool:
    """Whether an event is the one that ``stream_options.include_usage`` adds."""
    if b'"choices"' not in event or not _tells(event):
        return False
    lines = event.splitlines()
    data = b"".join(line[5:] for line in lines if line.startswith(b"data:"))
    try:
        chunk = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(chunk, Mapping) and chunk.get("choices") == [] and bool(chunk.get("usage"))


class FrameLog(EventLog):
    """A stream in AWS's binary frames (Anthropic's SDK on Bedrock), each around one event.

    A frame, as botocore.eventstream reads it: the length of all and of its headers, a checksum,
    headers, payload, a checksum. The payload is JSON with the event in base64.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []  # joined once they make a frame: frames may be large
        self._missing = _PRELUDE  # bytes until there is more to be known

    def feed(self, data: bytes) -> bytes:
        """Look at the events of the frames that this piece completes."""
        self.content = False
        self._pieces.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return data
        frames, start, needed = b"".join(self._pieces), 0, _PRELUDE
        while len(frames) - start >= needed:
            total, headers = _LENGTHS.unpack_from(frames, start)
            if not _PRELUDE + _CHECKSUM <= total <= _LARGEST_FRAME:
                start, needed = len(frames), _PRELUDE  # no frames at all
            elif len(frames) - start < total:
                needed = total
            else:
                end = start + total
                self._unpack(frames[start + _PRELUDE + headers : end - _CHECKSUM])
                start, needed = end, _PRELUDE
        self._pieces = [frames[start:]]
        self._missing = needed - (len(frames) - start)
        return data

    def _unpack(self, payload: bytes) -> None:
        try:
            event = msgspec.json.decode(payload, type=dict[str, object]).get("bytes")
            if isinstance(event, str):
                self._look_at(b"data: " + base64.b64decode(event))
        except ValueError:
            pass


_LENGTHS: Final = struct.Struct(">II")
_PRELUDE: Final = 12
_CHECKSUM: Final = 4
_LARGEST_FRAME: Final = 24 << 20


class BodyLog:
    """A JSON body that its owner reads bit by bit."""

    content = False
    telling = True

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Keep the piece."""
        self._pieces.append(data)
        return data

    def rest(self) -> bytes:
        """Hold nothing back."""
        return b""

    def reply(self) -> object:
        """Return the body, or None for one that was not read to its end."""
        return body_of(b"".join(self._pieces))


class SilentLog:
    """A body that tells no usage (speech, a file): nothing of it is kept."""

    content = False
    telling = False

    def feed(self, data: bytes) -> bytes:
        """Keep nothing."""
        return data

    def rest(self) -> bytes:
        """Hold nothing back."""
        return b""

    def reply(self) -> object:
        """Tell nothing."""
        return None


def body_of(content: bytes) -> object:
    """Return a JSON body as ``read_reply`` takes it, or None where it is none.

    Numbers with a point are Decimal. Of a large body the vectors or images are left out, unread:
    100 embeddings would take longer to parse than all else that recording does.
    """
    try:
        if len(content) < _LARGE:
            return _exact.decode(content)
        parts = _parts.decode(content)
        return {
            name: [] if name == "data" and len(part) > _LARGE // 2 else _exact.decode(part)
            for name, part in parts.items()
        }
    except ValueError:
        return None


_LARGE: Final = 65_536
_exact: Final = msgspec.json.Decoder(float_hook=Decimal)
_parts: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def log_for(content_type: str, *, hide_usage: bool = False) -> Log:
    """Return what looks at a body of this content type."""
    if is_event_stream(content_type):
        return EventLog(hide_usage=hide_usage)
    kind = _kind_of(content_type)
    if kind == "application/vnd.amazon.eventstream":
        return FrameLog()
    return BodyLog() if kind.endswith("json") else SilentLog()


def is_event_stream(content_type: str) -> bool:
    """Return whether a body of this content type is a stream of server-sent events."""
    return _kind_of(content_type) == "text/event-stream"


def _kind_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


_EVENT_STARTS = (b"data:", b"event:")


def has_events(response: Any, content: bytes) -> bool:
    """Return whether a body is a stream of events, if need be one that is not said to be."""
    told = response.headers.get("content-type", "")
    return is_event_stream(told) or content.startswith(_EVENT_STARTS)


def hide_usage_of(response: Any) -> None:
    """Leave OpenAI's extra chunk out of a stream that a hook, a cache or a mock read already."""
    log = EventLog(hide_usage=True)
    response._content = log.feed(response.content) + log.rest()  # noqa: SLF001 - where httpx keeps it
    response.__dict__.pop("_text", None)  # made of the content, on demand
