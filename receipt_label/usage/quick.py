"""The short way from the bytes of a reply to what it used, for what most calls bring.

A whole reply of OpenAI's or Anthropic's own service, finished, with plain counts: its bytes are
decoded into exactly the fields that matter, by types that admit nothing else. Whatever is not as
plain (a unit of its own price, an error, a field that changes the meaning of another, a key of the
usage that is not known here) does not fit, and :func:`~receipt_label.usage.read_reply` reads it.
Where both can read a reply they say the same (tests/unit/test_usage_quick.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from receipt_label.usage.address import locate
from receipt_label.usage.figures import MAX_TOKENS, word
from receipt_label.usage.reading import ORDINARY_TIERS
from receipt_label.usage.reply import Reply, Usage

__all__ = ["QuickReader", "quick_reader"]

QuickReader = Callable[[bytes, str | None], Reply | None]
"""From the bytes of a reply, and the model that was asked for, to the reply; None where the long
way has to read it. Thread-safe. Raises nothing."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
_DAY: Final = 86_400
_ID_CHARACTERS: Final = 128  # 512 bytes at most
_UNREADABLE: Final = (ValueError, OverflowError, RecursionError)

_REASONS: Final = frozenset("stop length tool_calls end_turn tool_use max_tokens".split())
"""The words for it that most replies have; any other is looked at by a regular expression."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
_Zero = Literal[0] | None
_Never = Annotated[str, msgspec.Meta(min_length=1, max_length=0)]
"""The type of a key that must not be there: no value fits."""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


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


class _ChatUsage(msgspec.Struct, forbid_unknown_fields=True):
    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: _Sent | None = None
    completion_tokens_details: _Made | None = None


class _ResponseUsage(msgspec.Struct, forbid_unknown_fields=True):
    input_tokens: _Count
    output_tokens: _Count
    total_tokens: _Count
    input_tokens_details: _Sent | None = None
    output_tokens_details: _Made | None = None


# What no reply has: the keys of envelopes, errors and other vendors. Each stands in each of the
# three, for what is inherited would come first.
_NAMES: Final = {"upper_error": "Error", "record_id": "recordId", "expire_time": "expireTime"}


class _Chat(msgspec.Struct, kw_only=True, rename=_NAMES):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice] = []
    usage: _ChatUsage
    service_tier: str | None = None
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


class _Response(msgspec.Struct, kw_only=True, rename=_NAMES):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed"]
    error: None = None
    model: str
    service_tier: str | None = None
    tool_usage: _Tools | None = None
    usage: _ResponseUsage
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
    service_tier: str | None = None
    inference_geo: Literal["", "global", "not_available"] | None = None


class _Message(msgspec.Struct, kw_only=True, rename=_NAMES):
    model: str
    id: str
    type: Literal["message"]
    stop_reason: str | None = None
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


_decode_chat: Final = msgspec.json.Decoder(_Chat).decode
_decode_response: Final = msgspec.json.Decoder(_Response).decode
_decode_message: Final = msgspec.json.Decoder(_Message).decode


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


# Few functions, with what is common in line: code that runs once a call is in no cache, and each
# function more is as slow as ten of its lines.


def _read_chat(content: bytes, request_model: str | None) -> Reply | None:
    try:
        body = _decode_chat(content)
        usage, choices = body.usage, body.choices
        return _counted(
            body,
            request_model,
            (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
            usage.prompt_tokens_details or _NO_SENT,
            usage.completion_tokens_details or _NO_MADE,
            body.created,
            choices[0].finish_reason if choices else None,
        )
    except _UNREADABLE:
        return None


def _read_response(content: bytes, request_model: str | None) -> Reply | None:
    try:
        body = _decode_response(content)
        if body.id.startswith("modr-"):
            return None
        usage = body.usage
        return _counted(
            body,
            request_model,
            (usage.input_tokens, usage.output_tokens, usage.total_tokens),
            usage.input_tokens_details or _NO_SENT,
            usage.output_tokens_details or _NO_MADE,
            body.created_at,
            None,
        )
    except _UNREADABLE:
        return None


def _counted(
    body: _Chat | _Response,
    request_model: str | None,
    tokens: tuple[int, int, int],
    into: _Sent,
    out: _Made,
    created: int,
    reason: str | None,
) -> Reply | None:
    """Return the reply of a body of OpenAI's, or None where its figures do not add up, or something
    in it needs a closer look."""
    sent, made, total = tokens
    cached, written, reasoning = into.cached_tokens, into.cache_write_tokens, out.reasoning_tokens
    model, name, tier = body.model, body.id, body.service_tier
    if (
        total != sent + made
        or (cached or 0) + (written or 0) > sent
        or (reasoning is not None and reasoning > made)
        or not _FIRST <= created <= time.time() + _DAY
        or not model
        or "/" in model
        or not 0 < len(name) <= _ID_CHARACTERS
        or not (tier is None or tier in ORDINARY_TIERS)
    ):
        return None
    finish = reason if reason is None or reason in _REASONS else word(reason)
    return Reply(
        service="openai",
        model=model,
        operation="chat",
        request_model=request_model,
        response_id=name,
        created=_EPOCH + timedelta(0, created),
        usage=Usage(
            input_tokens=sent,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=made,
            reasoning_tokens=reasoning,
        ),
        metadata={} if finish is None else {"finish_reason": finish},
    )


def _read_message(content: bytes, request_model: str | None) -> Reply | None:
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
    model, name, tier, reason = body.model, body.id, usage.service_tier, body.stop_reason
    if (
        not model
        or "/" in model
        or not 0 < len(name) <= _ID_CHARACTERS
        or not (tier is None or tier in ORDINARY_TIERS)
    ):
        return None
    finish = reason if reason is None or reason in _REASONS else word(reason)
    return Reply(
        service="anthropic",
        model=model,
        operation="chat",
        request_model=request_model,
        response_id=name,
        usage=Usage(
            input_tokens=sent,
            cached_input_tokens=read,
            cache_write_tokens=written,
            output_tokens=usage.output_tokens,
            reasoning_tokens=reasoning,
            details=details,
        ),
        metadata={} if finish is None else {"finish_reason": finish},
    )
