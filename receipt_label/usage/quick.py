"""The short way from the bytes of a reply to what it used, for what most calls bring.

A whole reply of OpenAI's or Anthropic's own service, finished, with plain counts: its bytes are
decoded into exactly the fields that matter, by types that admit nothing else. Whatever is not as
plain (a unit of its own price, an error, a field that changes the meaning of another, a key of the
usage that is not known here) does not fit, and :func:`~receipt_label.usage.read_reply` reads it.
Where both can read a reply they say the same (tests/unit/test_usage_quick.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Final, Literal, cast
from urllib.parse import urlsplit

import msgspec

from receipt_label.usage.address import locate
from receipt_label.usage.figures import MAX_TOKENS
from receipt_label.usage.reply import MIN_ID_CHARACTERS, Reply, Usage

__all__ = ["QuickReader", "QuickReply", "quick_reader"]


class QuickReply(msgspec.Struct, frozen=True):
    """What a ``QuickReader`` reads: some facts of a Reply, in the form in which most metrics are
    made of them. All others are a Reply's defaults.

    ``kind`` is what many replies have in common: the service, the model, the one that was asked
    for, the reason to stop. ``response_id`` is ASCII of 20 to 128 characters. ``tokens`` are the
    input, cached reads, cache writes, output and reasoning, as in ``Usage``: they add up.
    """

    kind: tuple[str, str, str | None, str | None]
    response_id: str
    created: datetime | None
    tokens: Tokens
    details: Mapping[str, int | float] | None = None

    def reply(self) -> Reply:
        """Return the same as any other reply."""
        service, model, request_model, reason = self.kind
        sent, read, written, made, reasoning = self.tokens
        return Reply(
            service=service,
            model=model,
            operation="chat",
            request_model=request_model,
            response_id=self.response_id,
            created=self.created,
            usage=Usage(
                input_tokens=sent,
                cached_input_tokens=read,
                cache_write_tokens=written,
                output_tokens=made,
                reasoning_tokens=reasoning,
                details=self.details or {},
            ),
            metadata={} if reason is None else {"finish_reason": reason},
        )


Tokens = tuple[int, int | None, int | None, int, int | None]

QuickReader = Callable[[bytes, str | None], QuickReply | None]
"""From the bytes of a reply, and the model that was asked for, to the reply; None where the long
way has to read it. Thread-safe. Raises nothing."""

# Of the class itself, though what freezes time in tests has put another in its place.
_from_seconds: Final = cast("type[datetime]", datetime.__mro__[-3]).fromtimestamp
_FIRST: Final = int(datetime(2015, 1, 1, tzinfo=UTC).timestamp())
_DAY: Final = 86_400
_UNREADABLE: Final = (ValueError, OverflowError, RecursionError)

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
_Zero = Literal[0] | None
_Never = Annotated[str, msgspec.Meta(min_length=1, max_length=0)]
"""The type of a key that must not be there: no value fits."""


_Model = Annotated[str, msgspec.Meta(min_length=1)]
_Id = Annotated[str, msgspec.Meta(min_length=MIN_ID_CHARACTERS, max_length=128)]
_Created = Annotated[int, msgspec.Meta(ge=_FIRST)]
_Tier = Literal[None, "default", "standard", "auto", "standard_only"]
_Reason = Literal[
    None,
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "function_call",
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
]


class _Choice(msgspec.Struct):
    finish_reason: _Reason = None


# Fields stand in the order in which vendors write them: each is then found without a search.


class _Sent(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: _Count | None = None
    audio_tokens: _Zero = None
    cache_write_tokens: _Count | None = None
    text_tokens: _Count | None = None
    image_tokens: _Zero = None
    video_tokens: _Zero = None


class _Made(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Zero = None
    accepted_prediction_tokens: _Count | None = None
    rejected_prediction_tokens: _Count | None = None
    text_tokens: _Count | None = None
    image_tokens: _Zero = None
    video_tokens: _Zero = None


_NO_SENT: Final = _Sent()
_NO_MADE: Final = _Made()


class _Usage(msgspec.Struct, forbid_unknown_fields=True):
    input_tokens: _Count
    output_tokens: _Count
    total_tokens: _Count
    input_tokens_details: _Sent | None = None
    output_tokens_details: _Made | None = None


class _ChatUsage(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename={
        "input_tokens": "prompt_tokens",
        "output_tokens": "completion_tokens",
        "input_tokens_details": "prompt_tokens_details",
        "output_tokens_details": "completion_tokens_details",
    },
):
    input_tokens: _Count
    output_tokens: _Count
    total_tokens: _Count
    input_tokens_details: _Sent | None = None
    output_tokens_details: _Made | None = None


# What no reply has: the keys of envelopes, errors and other vendors. Each stands in each of the
# three, for what is inherited would come first.
_NAMES: Final = {"upper_error": "Error", "record_id": "recordId", "expire_time": "expireTime"}


class _Chat(msgspec.Struct, kw_only=True, rename=_NAMES):
    id: _Id
    object: Literal["chat.completion"]
    created: _Created
    model: _Model
    choices: list[_Choice] = []
    usage: _ChatUsage
    service_tier: _Tier = None
    system_fingerprint: str | None = None
    error: None = None
    upper_error: _Never = ""
    custom_id: _Never = ""
    record_id: _Never = ""
    response: _Never = ""
    success: _Never = ""
    usage_metadata: _Never = ""
    model_version: _Never = ""


class _Searches(msgspec.Struct):
    num_requests: _Zero = None


class _Tools(msgspec.Struct):
    web_search: _Searches | None = None


class _Response(msgspec.Struct, kw_only=True, rename={**_NAMES, "created": "created_at"}):
    id: _Id
    object: Literal["response"]
    created: _Created
    status: Literal["completed"]
    error: None = None
    model: _Model
    choices: ClassVar[list[_Choice]] = []
    service_tier: _Tier = None
    tool_usage: _Tools | None = None
    usage: _Usage
    upper_error: _Never = ""
    custom_id: _Never = ""
    record_id: _Never = ""
    response: _Never = ""
    success: _Never = ""
    usage_metadata: _Never = ""
    model_version: _Never = ""
    token_strings: _Never = ""
    client_secret: _Never = ""
    session: _Never = ""
    expire_time: _Never = ""


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class _Thought(msgspec.Struct, forbid_unknown_fields=True):
    thinking_tokens: _Count | None = None


class _ServerTools(msgspec.Struct, forbid_unknown_fields=True):
    web_search_requests: _Zero = None
    web_fetch_requests: _Count | None = None


class _MessageUsage(msgspec.Struct, forbid_unknown_fields=True):
    input_tokens: _Count
    output_tokens: _Count
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _Written | None = None
    output_tokens_details: _Thought | None = None
    server_tool_use: _ServerTools | None = None
    service_tier: _Tier = None
    inference_geo: Literal["", "global", "not_available"] | None = None


class _Message(msgspec.Struct, kw_only=True, rename=_NAMES):
    model: _Model
    id: _Id
    type: Literal["message"]
    stop_reason: _Reason = None
    usage: _MessageUsage
    error: None = None
    upper_error: _Never = ""
    custom_id: _Never = ""
    record_id: _Never = ""
    response: _Never = ""
    success: _Never = ""
    usage_metadata: _Never = ""
    model_version: _Never = ""
    object: _Never = ""
    created_at: _Never = ""


def quick_reader(url: str, service: str | None = None) -> QuickReader | None:
    """Return what reads the replies of an address the short way, or None where nothing does.

    ``service`` wins over what the address says. Raises nothing.
    """
    where = locate(url)
    if where.resource is not None or where.never_billed is not None or where.operation != "chat":
        return None
    try:
        path = urlsplit(url).path.rstrip("/")
    except ValueError:
        return None
    return {
        ("openai", "completions"): _read_chat,
        ("openai", "responses"): _read_response,
        ("anthropic", "messages"): _read_message,
    }.get((service or where.service or "", path.rpartition("/")[2]))


# One function for each, with all in line: code that runs once a call is in no cache, and a function
# more is as slow as ten of its lines.


def _reader_of(kind: type[_Chat] | type[_Response]) -> QuickReader:
    """Return what reads bodies of OpenAI's."""
    decode: Callable[[bytes], _Chat | _Response] = msgspec.json.Decoder(kind).decode
    earliest = latest = 0.0  # a day around the time when it was asked for

    def read(content: bytes, request_model: str | None) -> QuickReply | None:
        nonlocal earliest, latest
        try:
            body = decode(content)
            usage, choices, model, name = body.usage, body.choices, body.model, body.id
            sent, made = usage.input_tokens, usage.output_tokens
            cached = written = reasoning = None
            into, out = usage.input_tokens_details, usage.output_tokens_details
            if into is not None:
                cached, written = into.cached_tokens, into.cache_write_tokens
            if out is not None:
                reasoning = out.reasoning_tokens
            if (
                usage.total_tokens != sent + made
                or (cached or 0) + (written or 0) > sent
                or (reasoning or 0) > made
                or "/" in model
                or name[:5] == "modr-"
                or not name.isascii()
            ):
                return None
            created = body.created
            if not earliest <= created <= latest:
                earliest, latest = time.time() - _DAY, time.time() + _DAY
                if created > latest:  # no reply is of the day after tomorrow
                    return None
            return QuickReply(
                ("openai", model, request_model, choices[0].finish_reason if choices else None),
                name,
                _from_seconds(created, UTC),
                (sent, cached, written, made, reasoning),
            )
        except _UNREADABLE:
            return None

    return read


_read_chat: Final = _reader_of(_Chat)
_read_response: Final = _reader_of(_Response)
_decode_message: Final = msgspec.json.Decoder(_Message).decode


def _read_message(content: bytes, request_model: str | None) -> QuickReply | None:
    """Read a body of Anthropic's."""
    try:
        body = _decode_message(content)
    except _UNREADABLE:
        return None
    usage = body.usage
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    thought = usage.output_tokens_details
    reasoning = None if thought is None else thought.thinking_tokens
    if reasoning is not None and reasoning > usage.output_tokens:
        return None
    sent = usage.input_tokens + (read or 0) + (written or 0)
    details: dict[str, int | float] = {}
    kinds = usage.cache_creation
    if written and kinds is not None:
        short, long = kinds.ephemeral_5m_input_tokens or 0, kinds.ephemeral_1h_input_tokens or 0
        if short + long > written:
            return None
        if short:
            details["cache_write_5m_tokens"] = short
        if long:
            details["cache_write_1h_tokens"] = long
    elif kinds is not None and (kinds.ephemeral_5m_input_tokens or kinds.ephemeral_1h_input_tokens):
        return None
    model, name = body.model, body.id
    if sent > MAX_TOKENS or "/" in model or not name.isascii():
        return None
    return QuickReply(
        ("anthropic", model, request_model, body.stop_reason),
        name,
        None,
        (sent, read, written, usage.output_tokens, reasoning),
        details,
    )
