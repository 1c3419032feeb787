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
from datetime import UTC, datetime
from functools import partial
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

_FIRST: Final = datetime(2015, 1, 1, tzinfo=UTC).timestamp()
_DAY: Final = 86_400
_ID_CHARACTERS: Final = 128  # 512 bytes at most

_REASONS: Final = frozenset("stop length tool_calls end_turn tool_use max_tokens".split())
"""The words for it that most replies have; any other is looked at by a regular expression."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
_Zero = Literal[0] | None
_Absent = Annotated[str, msgspec.Meta(min_length=1, max_length=0)]
"""The type of a key that must not be there: no value fits."""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Sent(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    text_tokens: _Count | None = None
    audio_tokens: _Zero = None
    image_tokens: _Zero = None
    video_tokens: _Zero = None


class _Made(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Count | None = None
    text_tokens: _Count | None = None
    accepted_prediction_tokens: _Count | None = None
    rejected_prediction_tokens: _Count | None = None
    audio_tokens: _Zero = None
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


_NAMES: Final = {"upper_error": "Error", "record_id": "recordId", "expire_time": "expireTime"}


class _Body(msgspec.Struct, kw_only=True, rename=_NAMES):
    """What any reply has; and the keys of envelopes, errors and other vendors, which it has not."""

    id: str
    model: str
    error: None = None
    upper_error: _Absent = ""
    custom_id: _Absent = ""
    record_id: _Absent = ""
    response: _Absent = ""
    success: _Absent = ""
    usage_metadata: _Absent = ""
    model_version: _Absent = ""


class _Chat(_Body):
    object: Literal["chat.completion"]
    created: int
    usage: _ChatUsage
    choices: list[_Choice] = []
    service_tier: str | None = None


class _Searches(msgspec.Struct):
    num_requests: _Zero = None


class _Tools(msgspec.Struct):
    web_search: _Searches | None = None


class _Response(_Body, rename=_NAMES):
    object: Literal["response"]
    status: Literal["completed"]
    created_at: int
    usage: _ResponseUsage
    service_tier: str | None = None
    tool_usage: _Tools | None = None
    token_strings: _Absent = ""
    client_secret: _Absent = ""
    session: _Absent = ""
    expire_time: _Absent = ""


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


class _Message(_Body):
    type: Literal["message"]
    usage: _MessageUsage
    stop_reason: str | None = None
    object: _Absent = ""
    created_at: _Absent = ""


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
    reads = {
        ("openai", "completions"): _read_chat,
        ("openai", "responses"): _read_response,
        ("anthropic", "messages"): _read_message,
    }.get((service or where.service or "", path.rpartition("/")[2]))
    return None if reads is None else partial(_guarded, reads)


def _guarded(reads: QuickReader, content: bytes, request_model: str | None) -> Reply | None:
    try:
        return reads(content, request_model)
    except (ValueError, OverflowError, OSError, RecursionError):
        return None


def _read_chat(content: bytes, request_model: str | None) -> Reply | None:
    body = _decode_chat(content)
    usage = body.usage
    counts = _counts(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.prompt_tokens_details or _NO_SENT,
        usage.completion_tokens_details or _NO_MADE,
    )
    reason = body.choices[0].finish_reason if body.choices else None
    return _reply("openai", body, request_model, counts, body.created, body.service_tier, reason)


def _read_response(content: bytes, request_model: str | None) -> Reply | None:
    body = _decode_response(content)
    usage = body.usage
    counts = _counts(
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        usage.input_tokens_details or _NO_SENT,
        usage.output_tokens_details or _NO_MADE,
    )
    if body.id.startswith("modr-"):
        return None
    return _reply("openai", body, request_model, counts, body.created_at, body.service_tier, None)


def _counts(sent: int, made: int, total: int, into: _Sent, out: _Made) -> Usage | None:
    """Return the usage of OpenAI's block, or None where its figures do not add up."""
    cached, written, reasoning = into.cached_tokens, into.cache_write_tokens, out.reasoning_tokens
    if (
        total != sent + made
        or (cached or 0) + (written or 0) > sent
        or (reasoning is not None and reasoning > made)
    ):
        return None
    return Usage(
        input_tokens=sent,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=made,
        reasoning_tokens=reasoning,
    )


def _read_message(content: bytes, request_model: str | None) -> Reply | None:
    body = _decode_message(content)
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
    counts = Usage(
        input_tokens=sent,
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=usage.output_tokens,
        reasoning_tokens=reasoning,
        details=details,
    )
    return _reply(
        "anthropic", body, request_model, counts, None, usage.service_tier, body.stop_reason
    )


def _reply(
    service: str,
    body: _Body,
    request_model: str | None,
    usage: Usage | None,
    created: int | None,
    tier: str | None,
    reason: str | None,
) -> Reply | None:
    """Return the reply of a body, or None where something in it needs a closer look."""
    model, name = body.model, body.id
    if (
        usage is None
        or not model
        or "/" in model
        or not 0 < len(name) <= _ID_CHARACTERS
        or not (tier is None or tier in ORDINARY_TIERS)
        or not (created is None or _FIRST <= created <= time.time() + _DAY)
    ):
        return None
    finish = reason if reason is None or reason in _REASONS else word(reason)
    return Reply(
        service=service,
        model=model,
        operation="chat",
        request_model=request_model,
        response_id=name,
        created=None if created is None else datetime.fromtimestamp(created, UTC),
        usage=usage,
        metadata={} if finish is None else {"finish_reason": finish},
    )
