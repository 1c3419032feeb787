"""Which family a reply is of, by its own shape; and which objects are no replies at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from receipt_label.usage import anthropic, bedrock, cohere, google, ollama
from receipt_label.usage.figures import Json, first, inner
from receipt_label.usage.openai_chat import is_embeddings, read_chat, read_embeddings, read_ocr
from receipt_label.usage.openai_media import read_images, read_transcription, read_video
from receipt_label.usage.openai_responses import UNFINISHED, read_response
from receipt_label.usage.reading import Adapter
from receipt_label.usage.reply import Skipped

# `object` of OpenAI and alike that settles it.
_OBJECTS: Final[dict[object, Adapter]] = {
    "chat.completion": read_chat,
    "chat.completion.chunk": read_chat,
    "text_completion": read_chat,
    "thread.run": read_chat,
    "response": read_response,
    "response.compaction": read_response,
    "realtime.response": read_response,
    "interaction": google.read_interaction,
    "video": read_video,
}

_NATIVE: Final[dict[str | None, Adapter]] = {
    "aws": bedrock.read_invoke,
    "anthropic": anthropic.read_message,
    "cohere": cohere.read_cohere,
}
_BY_OPERATION: Final[dict[str | None, Adapter | None]] = {
    "embeddings": read_embeddings,
    "image_generation": read_images,
    "transcription": read_transcription,
}

# What is a finished reply whenever it is there.
_REPLIES: Final = frozenset({"chat.completion", "text_completion", "message"})
# What is there before it is finished.
_JOBS: Final = frozenset({"response", "realtime.response", "video", "thread.run", "interaction"})
# Kept things that carry the usage of other replies: counting them would count those twice.
_AGGREGATES: Final = frozenset(
    {"batch", "message_batch", "vector_store", "organization.usage.completions.result", "page"}
)

_COUNTS: Final = frozenset({"input_tokens", "inputTokens", "totalTokens"})
_KEYS_OF_COUNTS: Final = frozenset(
    {
        "input_tokens",
        "inputTokens",
        "totalTokens",
        "totalBillableCharacters",
        "cachedContentTokenCount",
        "promptTokensDetails",
        "cacheTokensDetails",
        "context_management",
        "object",
        "ResponseMetadata",
    }
)
_Tells = Callable[[Json], bool]
_NO_REPLIES: Final[tuple[tuple[_Tells, str], ...]] = (
    (lambda b: "token_strings" in b, "tokenize"),
    (lambda b: "client_secret" in b or ("session" in b and "value" in b), "session"),
    # A cache that Gemini keeps: only its size, in an object with a lifetime.
    (lambda b: "expireTime" in b and "candidates" not in b, "cachedContents"),
    (lambda b: str(b.get("id", "")).startswith("modr-"), "moderation"),
)


def _is_anthropic(usage: Json) -> bool:
    """Whether cached tokens stand beside the input, as nobody else writes them."""
    return "input_tokens" in usage and (
        "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage
    )


# Keys that only one family has, in the order in which they decide.
_SHAPES: Final[tuple[tuple[_Tells, Adapter], ...]] = (
    (
        lambda b: b.get("type") == "message" or _is_anthropic(inner(b, "usage")),
        anthropic.read_message,
    ),
    (lambda b: "candidates" in b or "promptFeedback" in b, google.read_content),
    (
        lambda b: ("embeddings" in b or "embedding" in b) and "usageMetadata" in b,
        google.read_embeddings,
    ),
    (lambda b: "predictions" in b and "usage" not in b, google.read_embeddings),
    (
        lambda b: "total_input_tokens" in inner(b, "usage"),
        google.read_interaction,
    ),
    (
        lambda b: "usageMetadata" in b and ("modelVersion" in b or "responseId" in b),
        google.read_content,
    ),
    (
        lambda b: "stopReason" in b or "inputTokens" in inner(b, "usage"),
        bedrock.read_converse,
    ),
    (bedrock.is_invoke, bedrock.read_invoke),
    (ollama.is_ollama, ollama.read_ollama),
    (
        lambda b: (
            "billed_units" in inner(b, "usage")
            or "billed_units" in inner(b, "meta")
            or "response_type" in b
            or (isinstance(b.get("message"), Mapping) and "finish_reason" in b)
        ),
        cohere.read_cohere,
    ),
    (lambda b: isinstance(b.get("choices"), list), read_chat),
    (lambda b: b.get("object") == "list" and is_embeddings(b), read_embeddings),
    (lambda b: "usage_info" in b, read_ocr),
    (
        lambda b: (
            "transcript" in b or ("text" in b and ("duration" in b or "type" in inner(b, "usage")))
        ),
        read_transcription,
    ),
    (
        lambda b: (
            str(b.get("type", "")).startswith(("image_generation.", "image_edit."))
            or ("data" in b and "created" in b and b.get("object") != "list")
        ),
        read_images,
    ),
    (
        lambda b: "input_tokens" in inner(b, "usage") and b.get("role") == "assistant",
        anthropic.read_message,
    ),
)


def adapter_of(body: Json) -> Adapter | None:
    """Return who can read this reply, or None where its shape tells nothing."""
    adapter = _OBJECTS.get(_text(body.get("object")))
    if adapter is not None:
        return adapter
    for tells, adapter in _SHAPES:
        if tells(body):
            return adapter
    return read_chat if "usage" in body else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def adapter_for(body: Json, operation: str | None, service: str | None) -> Adapter | None:
    """Return who reads a reply that only its address explains (Vertex embeddings, invoke)."""
    if service == "google":
        embeds = operation == "embeddings" or "embeddings" in body or "embedding" in body
        return google.read_embeddings if embeds else google.read_content
    native = _NATIVE.get(service)
    if native is not None:
        return native
    return _BY_OPERATION.get(operation, read_chat if service or operation else None)


def no_usage(body: Json) -> Skipped | None:
    """Return why this object is no finished reply, or None where it may be one."""
    kind = first(body, "object", "type")
    if not isinstance(kind, str):
        kind = ""
    if kind in _REPLIES:
        return None
    if kind in _AGGREGATES:
        return Skipped("not_usage", kind)
    if kind in _JOBS:
        status = body.get("status")
        if isinstance(status, str) and status in UNFINISHED:
            return Skipped("not_finished", status)
    keys = body.keys()
    if keys & _COUNTS and keys <= _KEYS_OF_COUNTS:
        return Skipped("not_usage", "token count")
    return next((Skipped("not_usage", what) for tells, what in _NO_REPLIES if tells(body)), None)


def unknown(body: Json) -> Skipped | None:
    """Return why an object that no adapter knows is no reply, or None where it may be one."""
    kind = first(body, "object", "type")
    if isinstance(kind, str):
        return Skipped("not_usage", kind[:64])
    if not body or body.get("deleted") is True or "has_more" in body:
        return Skipped("not_usage", "listing" if body else "empty")
    for key in (
        "ResponseMetadata",
        "models",
        "files",
        "cachedContents",
        "batches",
        "operations",
        "nextPageToken",
    ):
        if key in body:
            return Skipped("not_usage", key)
    return None
