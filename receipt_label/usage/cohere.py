"""Cohere: chat (v1 and v2), embed, rerank."""

from __future__ import annotations

from collections.abc import Mapping

from receipt_label.usage.figures import (
    Details,
    InconsistentUsageError,
    Json,
    count,
    first,
    inner,
    note,
    part,
    settle,
)
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Usage


def read_cohere(body: Json, call: Call) -> Reading:
    """Read a chat, an embedding or a rerank of Cohere."""
    raw = first(body, "usage", "meta")
    if "embeddings" in body:
        operation = "embeddings"
    elif "results" in body:
        operation = "rerank"
    else:
        operation = "chat"
    reading = Reading(
        operation,
        "cohere",
        body.get("model"),
        first(body, "id", "generation_id", "response_id"),
    )
    no_output = operation != "chat"
    if isinstance(raw, Mapping) and ("billed_units" in raw or "tokens" in raw):
        reading.measure(raw, lambda usage: cohere_usage(usage, no_output=no_output))
    reading.finished(first(body, "finish_reason", "stop_reason"))
    return reading


def cohere_usage(raw: Json, *, no_output: bool = False) -> Usage | None:
    """Return what is billed, which is fewer tokens than the model saw.

    Cohere: billed tokens are the ones that users are charged for; ``tokens`` also counts what
    Cohere itself put into the prompt, and ``cached_tokens`` is a part of that, not of the billed
    ones, so it is not kept. OpenTelemetry's GenAI conventions choose the billed count too.
    """
    billed = part(raw, "billed_units")
    source = billed or part(raw, "tokens")
    sent = count(source.get("input_tokens"))
    made = count(source.get("output_tokens"))
    if raw.get("cached_tokens") is not None:
        seen = count(inner(raw, "tokens").get("input_tokens"))
        if seen is not None and (count(raw.get("cached_tokens")) or 0) > seen:
            raise InconsistentUsageError("more tokens cached than sent")
    details: Details = {}
    images = count(source.get("image_tokens"))
    if images:
        sent = (sent or 0) + images
        note(details, "input_image_tokens", images)
    note(details, "rerank_searches", source.get("search_units"))
    if no_output and sent is not None:
        made = made or 0
    return settle(input_tokens=sent, output_tokens=made, details=details)
