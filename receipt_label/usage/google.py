"""Gemini: generateContent, embeddings and interactions, of the Gemini API and of Vertex AI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from receipt_label.usage.figures import (
    Details,
    InconsistentUsageError,
    Json,
    count,
    first,
    inner,
    items,
    note,
    settle,
)
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Status, Usage

# Modalities that are priced apart; a document is read as images (genai-prices counts it so).
_KINDS: Final = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video"}

# Vertex' trafficType ("ON_DEMAND_FLEX", ...) and the Gemini API's serviceTier, as price words.
_TRAFFIC: Final = {
    "on_demand": "standard",
    "on_demand_flex": "flex",
    "on_demand_priority": "priority",
    "provisioned_throughput": "provisioned",
}
_INTERACTION_STATUS: Final[dict[object, Status]] = {
    "incomplete": "partial",
    "cancelled": "aborted",
    "failed": "aborted",
    "budget_exceeded": "partial",
}


def read_content(body: Json, call: Call) -> Reading:
    """Read generated content, whole or the last snapshot of a stream."""
    reading = _start("generate_content", body)
    raw = body.get("usageMetadata")
    reading.measure(raw, content_usage)
    if isinstance(raw, Mapping):
        tier = first(raw, "trafficType", "serviceTier")
        if isinstance(tier, str):
            reading.tier(_TRAFFIC.get(tier.lower(), tier))
    candidate = next(iter(items(body.get("candidates"))), None)
    if candidate is not None:
        reading.finished(candidate.get("finishReason"))
    return reading


def read_embeddings(body: Json, call: Call) -> Reading:
    """Read embeddings of embedContent, batchEmbedContents, or Vertex' older predict."""
    reading = _start("embeddings", body)
    raw = body.get("usageMetadata")
    if raw is None:
        raw = _counted_vectors(body)
    reading.measure(raw, lambda usage: content_usage(usage, no_output=True))
    return reading


def _start(operation: str, body: Json) -> Reading:
    return Reading(
        operation,
        "google",
        body.get("modelVersion"),
        body.get("responseId"),
        first(body, "createTime", "created_at"),
    )


def content_usage(raw: Json, *, no_output: bool = False) -> Usage | None:
    """Return the usage of a usageMetadata block.

    promptTokenCount includes the cached content; prompts of tools are more input
    (toolUsePromptTokenCount) and thoughts are more output, and totalTokenCount is the sum of the
    four. The counts are proto numbers, so a zero is left out: a block with any count is complete.
    """
    prompt = count(raw.get("promptTokenCount"))
    answer = count(raw.get("candidatesTokenCount"))
    tools = count(raw.get("toolUsePromptTokenCount"))
    thoughts = count(raw.get("thoughtsTokenCount"))
    total = count(raw.get("totalTokenCount"))
    if prompt is None and answer is None and tools is None and thoughts is None:
        if total:
            raise InconsistentUsageError("a total without its parts")
        return settle(input_tokens=total, output_tokens=total)
    sent = (prompt or 0) + (tools or 0)
    made = (answer or 0) + (thoughts or 0)
    if total is not None and total != sent + made:
        raise InconsistentUsageError("the total is not the sum of its parts")
    details: Details = {}
    _kinds(raw, ("promptTokensDetails", "promptTokenDetails"), "input_{}_tokens", details)
    _kinds(raw, ("toolUsePromptTokensDetails",), "input_{}_tokens", details)
    _kinds(raw, ("candidatesTokensDetails",), "output_{}_tokens", details)
    _kinds(raw, ("cacheTokensDetails",), "cache_{}_read_tokens", details)
    cached = count(raw.get("cachedContentTokenCount"))
    return settle(
        input_tokens=sent,
        output_tokens=0 if no_output and not made else made,
        cached=cached,
        reasoning=thoughts,
        details=details,
    )


def _kinds(raw: Json, keys: tuple[str, ...], name: str, details: Details) -> None:
    listed = first(raw, *keys)
    if listed is None:
        return
    if not isinstance(listed, (list, tuple)):
        raise InconsistentUsageError("a breakdown of token counts is not a list")
    for entry in listed:
        if not isinstance(entry, Mapping):
            raise InconsistentUsageError("a breakdown of token counts holds no objects")
        modality = entry.get("modality")
        kind = _KINDS.get(modality.upper()) if isinstance(modality, str) else None
        number = count(entry.get("tokenCount"))
        if kind is not None:
            note(details, name.format(kind), number)


def _counted_vectors(body: Json) -> object:
    """The token counts that Vertex' text-embedding models put beside each vector."""
    vectors = [inner(entry, "embeddings") for entry in items(body.get("predictions"))]
    vectors = vectors or list(items(body.get("embeddings")))
    counts = [first(inner(it, "statistics"), "token_count", "tokenCount") for it in vectors]
    known = [number for number in counts if isinstance(number, (int, float))]
    return {"promptTokenCount": sum(known)} if known and len(known) == len(counts) else None


def read_interaction(body: Json, call: Call) -> Reading:
    """Read an interaction (the Gemini API's stateful successor of generateContent)."""
    reading = Reading(
        "generate_content", "google", body.get("model"), body.get("id"), body.get("created")
    )
    reading.measure(body.get("usage"), interaction_usage)
    status = body.get("status")
    if isinstance(status, str):
        reading.status = _INTERACTION_STATUS.get(status, "complete")
        reading.error = "failed" if status == "failed" else None
    return reading


def interaction_usage(raw: Json) -> Usage | None:
    """Return the usage of an interaction: the same four parts under other names."""
    renamed: dict[str, object] = {
        new: raw.get(old)
        for old, new in (
            ("total_input_tokens", "promptTokenCount"),
            ("total_output_tokens", "candidatesTokenCount"),
            ("total_thought_tokens", "thoughtsTokenCount"),
            ("total_tool_use_tokens", "toolUsePromptTokenCount"),
            ("total_cached_tokens", "cachedContentTokenCount"),
            ("total_tokens", "totalTokenCount"),
        )
    }
    return content_usage(renamed)


def camel(body: Json) -> Json:
    """Return a google-genai dump in snake case with the names that its API uses."""
    if "usage_metadata" not in body and "model_version" not in body:
        return body
    renamed = {_camel(key): value for key, value in body.items()}
    usage = renamed.get("usageMetadata")
    if isinstance(usage, Mapping):
        renamed["usageMetadata"] = {_camel(key): _tokens(value) for key, value in usage.items()}
    renamed["candidates"] = [
        {_camel(key): value for key, value in entry.items()}
        for entry in items(renamed.get("candidates"))
    ]
    return renamed


def _tokens(value: object) -> object:
    if isinstance(value, list):
        return [{_camel(k): v for k, v in entry.items()} for entry in items(value)]
    return value


def _camel(name: object) -> str:
    head, *rest = str(name).split("_")
    return head + "".join(piece.capitalize() for piece in rest)
