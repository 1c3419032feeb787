"""Every method of the vendors' SDKs that makes a call, as one function for sync and async clients.

What a method returns is looked at whole: iterated, entered, parsed, as its type asks for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tests.support.vendor_server import Answer, recorded, reply

__all__ = ["ANTHROPIC_CALLS", "OPENAI_CALLS", "SAY", "Method", "look", "look_async"]

SAY: list[Any] = [{"role": "user", "content": "What is the total?"}]


class Total(BaseModel):
    """What structured outputs are parsed into."""

    total: int


@dataclass(frozen=True)
class Method:
    """One method. ``used`` is what its record says, None where nothing is to be recorded.

    (operation, model, input tokens, output tokens, cost as text or why there is none)
    """

    call: Callable[[Any], Any]
    used: tuple[str, str, int | None, int | None, str] | None
    answer: Answer | None = None


def look(value: Any) -> Any:
    """Return all that a caller can see of a result of a sync client."""
    if hasattr(value, "__enter__") and not hasattr(value, "__next__"):
        with value as inner:
            return [_name(value), look(inner)]
    if hasattr(value, "__next__"):
        return [_name(value), [_plain(item) for item in value], *_finals(value)]
    if hasattr(value, "parse") and hasattr(value, "http_response"):
        return [_name(value), value.status_code, look(value.parse())]
    return _plain(value)


async def look_async(value: Any) -> Any:
    """Return all that a caller can see of a result of an async client."""
    if hasattr(value, "__await__"):
        value = await value
    if hasattr(value, "__aenter__") and not hasattr(value, "__anext__"):
        async with value as inner:
            return [_name(value), await look_async(inner)]
    if hasattr(value, "__anext__"):
        items = [_plain(item) async for item in value]
        return [_name(value), items, *[await final for final in _finals(value)]]
    if hasattr(value, "parse") and hasattr(value, "http_response"):
        parsed = value.parse()
        if hasattr(parsed, "__await__"):
            parsed = await parsed
        return [_name(value), value.status_code, await look_async(parsed)]
    return _plain(value)


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _finals(stream: Any) -> list[Any]:
    """Return what a helper has put together of its stream."""
    names = ("get_final_message", "get_final_completion", "get_final_response")
    return [getattr(stream, name)() for name in names if hasattr(stream, name)]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return [_name(value), value.model_dump(warnings=False)]
    if hasattr(value, "read") and hasattr(value, "response"):  # binary content
        return [_name(value), value.content]
    return value


def _parsable(path: str, model: str) -> Answer:
    """Return a recorded reply whose text is what ``Total`` is parsed from."""
    found = recorded(path, model=model)
    assert found is not None
    return reply(json.loads(found.body.replace(b'"total "', b'"{\\"total\\": 3}"')))


CHAT = ("chat", "gpt-4o-2024-08-06", 14, 8, "0.000115")
STREAM = ("chat", "gpt-4o-mini-2024-07-18", 78, 9, "0.0000171")
RESPONSE = ("chat", "gpt-5-2025-08-07", 304, 371, "0.00409")
RESPONSE_STREAM = ("chat", "gpt-5-2025-08-07", 9463, 582, "0.00828875")

_AS_EVENTS = {"stream_format": "sse"}
_SPEECH_EVENTS = (
    b'data: {"type":"speech.audio.delta","audio":"aGVsbG8="}\n\n'
    b'data: {"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,'
    b'"total_tokens":115}}\n\n'
)

OPENAI_CALLS: dict[str, Method] = {
    "chat": Method(lambda c: c.chat.completions.create(model="gpt-4o", messages=SAY), CHAT),
    "chat stream": Method(
        lambda c: c.chat.completions.create(
            model="gpt-4o-mini",
            messages=SAY,
            stream=True,
            stream_options={"include_usage": True},
        ),
        STREAM,
    ),
    "chat stream helper": Method(
        lambda c: c.chat.completions.stream(
            model="gpt-4o-mini", messages=SAY, stream_options={"include_usage": True}
        ),
        STREAM,
    ),
    "chat parse": Method(
        lambda c: c.chat.completions.parse(model="gpt-4o", messages=SAY, response_format=Total),
        CHAT,
        _parsable("/v1/chat/completions", "gpt-4o"),
    ),
    "beta chat parse": Method(
        lambda c: c.beta.chat.completions.parse(
            model="gpt-4o", messages=SAY, response_format=Total
        ),
        CHAT,
        _parsable("/v1/chat/completions", "gpt-4o"),
    ),
    "chat raw": Method(
        lambda c: c.chat.completions.with_raw_response.create(model="gpt-4o", messages=SAY), CHAT
    ),
    "chat raw stream": Method(
        lambda c: c.chat.completions.with_raw_response.create(
            model="gpt-4o-mini",
            messages=SAY,
            stream=True,
            stream_options={"include_usage": True},
        ),
        STREAM,
    ),
    "chat streaming response": Method(
        lambda c: c.chat.completions.with_streaming_response.create(model="gpt-4o", messages=SAY),
        CHAT,
    ),
    "chat streaming response of a stream": Method(
        lambda c: c.chat.completions.with_streaming_response.create(
            model="gpt-4o-mini",
            messages=SAY,
            stream=True,
            stream_options={"include_usage": True},
        ),
        STREAM,
    ),
    "chat of a copy": Method(
        lambda c: c.with_options(timeout=7).chat.completions.create(model="gpt-4o", messages=SAY),
        CHAT,
    ),
    "responses": Method(lambda c: c.responses.create(model="gpt-5", input="total?"), RESPONSE),
    "responses stream": Method(
        lambda c: c.responses.create(model="gpt-5", input="total?", stream=True), RESPONSE_STREAM
    ),
    "responses stream helper": Method(
        lambda c: c.responses.stream(model="gpt-5", input="total?"), RESPONSE_STREAM
    ),
    "responses parse": Method(
        lambda c: c.responses.parse(model="gpt-5", input="total?", text_format=Total),
        RESPONSE,
        _parsable("/v1/responses", "gpt-5"),
    ),
    "responses raw": Method(
        lambda c: c.responses.with_raw_response.create(model="gpt-5", input="total?"), RESPONSE
    ),
    "responses compact": Method(
        lambda c: c.responses.compact(model="gpt-4.1", input="total?"),
        ("compaction", "gpt-4.1", 117, 193, "0.001778"),
    ),
    "responses count": Method(
        lambda c: c.responses.input_tokens.count(model="gpt-4.1-mini", input="total?"), None
    ),
    "embeddings": Method(
        lambda c: c.embeddings.create(model="text-embedding-3-small", input="total"),
        ("embeddings", "text-embedding-3-small", 4, 0, "0.00000008"),
    ),
    "completions": Method(
        lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="total"),
        ("text_completion", "gpt-3.5-turbo-instruct:20230824-v2", 5, 7, "0.0000215"),
    ),
    "images": Method(
        lambda c: c.images.generate(model="gpt-image-1", prompt="a receipt"),
        ("image_generation", "gpt-image-1", 50, 1056, "0.04249"),
    ),
    "images edit": Method(
        lambda c: c.images.edit(model="gpt-image-1", image=b"png", prompt="a receipt"),
        ("image_generation", "gpt-image-1", 50, 1056, "0.04249"),
    ),
    "transcriptions": Method(
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=b"wave"),
        ("transcription", "gpt-4o-transcribe", 14, 101, "0.001059"),
    ),
    "transcriptions stream": Method(
        lambda c: c.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=b"wave", stream=True
        ),
        ("transcription", "gpt-4o-transcribe", 14, 101, "0.001059"),
    ),
    "translations": Method(
        lambda c: c.audio.translations.create(model="whisper-1", file=b"wave"),
        ("transcription", "whisper-1", None, None, "no_usage"),
    ),
    "speech": Method(
        lambda c: c.audio.speech.create(model="tts-1", voice="alloy", input="total"),
        ("speech", "tts-1", None, None, "no_usage"),
    ),
    "speech events": Method(
        lambda c: c.audio.speech.create(
            model="gpt-4o-mini-tts", voice="alloy", input="total", extra_body=_AS_EVENTS
        ),
        ("speech", "gpt-4o-mini-tts", 14, 101, "0.0012204"),
        Answer(_SPEECH_EVENTS, content_type="text/event-stream"),
    ),
    "speech streaming response": Method(
        lambda c: c.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input="total"
        ),
        ("speech", "tts-1", None, None, "no_usage"),
    ),
    "post": Method(
        lambda c: c.post(
            "/chat/completions", cast_to=object, body={"model": "gpt-4o", "messages": SAY}
        ),
        CHAT,
    ),
    "models": Method(lambda c: c.models.with_raw_response.list(), None),
    "moderations": Method(lambda c: c.moderations.create(input="total"), None),
}

MESSAGE = ("chat", "claude-sonnet-4-5-20250929", 107, 31, "0.000786")
MESSAGE_STREAM = ("chat", "claude-sonnet-4-6", 7621, 384, "0.028623")
_ASK: dict[str, Any] = {"max_tokens": 64, "messages": SAY}

ANTHROPIC_CALLS: dict[str, Method] = {
    "messages": Method(lambda c: c.messages.create(model="claude-sonnet-4-5", **_ASK), MESSAGE),
    "messages stream": Method(
        lambda c: c.messages.create(model="claude-sonnet-4-6", stream=True, **_ASK),
        MESSAGE_STREAM,
    ),
    "messages stream helper": Method(
        lambda c: c.messages.stream(model="claude-sonnet-4-6", **_ASK), MESSAGE_STREAM
    ),
    "messages raw": Method(
        lambda c: c.messages.with_raw_response.create(model="claude-sonnet-4-5", **_ASK), MESSAGE
    ),
    "messages streaming response": Method(
        lambda c: c.messages.with_streaming_response.create(model="claude-sonnet-4-5", **_ASK),
        MESSAGE,
    ),
    "messages of a copy": Method(
        lambda c: c.with_options(timeout=7).messages.create(model="claude-sonnet-4-5", **_ASK),
        MESSAGE,
    ),
    "beta messages": Method(
        lambda c: c.beta.messages.create(model="claude-sonnet-4-5", **_ASK), MESSAGE
    ),
    "beta messages stream helper": Method(
        lambda c: c.beta.messages.stream(model="claude-sonnet-4-6", **_ASK), MESSAGE_STREAM
    ),
    "count_tokens": Method(
        lambda c: c.messages.count_tokens(model="claude-sonnet-4-5", messages=SAY), None
    ),
    "models": Method(lambda c: c.models.with_raw_response.list(), None),
}
