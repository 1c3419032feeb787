"""Chat completions, legacy completions and embeddings, of OpenAI and of everybody alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from receipt_label.usage.figures import Json, count, first, inner, items, settle
from receipt_label.usage.openai_usage import openai_cost, openai_usage
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Usage

UNKNOWN_ALIKE: Final = "openai_compatible"

# Names of models that one vendor alone serves. Open weights (gpt-oss, llama, glm) say nothing.
_MODEL_OWNERS: Final = (
    (
        re.compile(
            r"(gpt-(?!oss)|o[134](-|$)|chatgpt-|ft:|text-embedding-(3|ada)|text-(davinci|moderation)"
            r"|davinci-|babbage-|dall-e|whisper-1|tts-1|codex-|computer-use|omni-moderation)"
        ),
        "openai",
    ),
    (re.compile(r"grok-"), "x-ai"),
    (re.compile(r"(sonar|r1-1776)(-|$)"), "perplexity"),
    (re.compile(r"(mistral|codestral|magistral|ministral|pixtral|devstral)-\w+"), "mistral"),
    (re.compile(r"deepseek-(chat|reasoner|v4-\w+)$"), "deepseek"),
    (re.compile(r"voyage-"), "voyageai"),
    (re.compile(r"gemini-"), "google"),
    (re.compile(r"(command-|c4ai-)"), "cohere"),
    (re.compile(r"accounts/fireworks/"), "fireworks"),
)

# Marks that a vendor leaves in its replies, in the order in which they decide.
_MARKS: Final[tuple[tuple[Callable[[Json, Json], bool], str], ...]] = (
    (lambda body, _: isinstance(body.get("provider"), str), "openrouter"),
    (lambda body, _: "x_groq" in body, "groq"),
    (lambda body, _: body.get("object") in ("realtime.response", "response.compaction"), "openai"),
    (lambda body, _: body.get("system_fingerprint") == "fp_ollama", "ollama"),
    (lambda body, _: "time_info" in body, "cerebras"),
    (lambda body, _: "prompt_filter_results" in body or bool(body.get("content_filters")), "azure"),
    (lambda _, usage: "prompt_cache_hit_tokens" in usage, "deepseek"),
    (lambda _, usage: "is_byok" in usage or "cost_details" in usage, "openrouter"),
)


def alike_service(body: Json) -> str:
    """Return which vendor an OpenAI-like reply is from by its own marks.

    ``openai`` only where the model is OpenAI's own; ``openai_compatible`` where nothing tells.
    """
    usage = inner(body, "usage")
    for tells, service in _MARKS:
        if tells(body, usage):
            return service
    return owner_of(body.get("model")) or UNKNOWN_ALIKE


def owner_of(model: object) -> str | None:
    """Return the vendor that alone serves a model of this name, or None."""
    if isinstance(model, str):
        for pattern, owner in _MODEL_OWNERS:
            if pattern.match(model):
                return owner
    return None


def read_chat(body: Json, call: Call) -> Reading:
    """Read a chat completion, or anything else whose usage is written like one."""
    service = call.service or alike_service(body)
    legacy = body.get("object") == "text_completion"
    reading = Reading(
        "text_completion" if legacy else "chat",
        service,
        body.get("model"),
        body.get("id"),
        first(body, "created", "created_at"),
    )
    raw = body.get("usage")
    reading.measure(raw, lambda usage: openai_usage(usage, service))
    if isinstance(raw, Mapping):
        reading.cost = openai_cost(raw, service)
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        reading.finished(choices[0].get("finish_reason"))
    tier = body.get("service_tier")
    if tier is not None:
        reading.tier(tier)
    if service == "openrouter" and isinstance(body.get("provider"), str):
        # A name of a vendor ("Amazon Bedrock"), which may hold blanks.
        reading.metadata["upstream_provider"] = str(body["provider"])[:64]
    return reading


def read_embeddings(body: Json, call: Call) -> Reading:
    """Read embeddings: input alone. Voyage sends ``total_tokens`` and nothing else."""
    service = call.service or alike_service(body)
    reading = Reading("embeddings", service, body.get("model"), body.get("id"), body.get("created"))
    raw = body.get("usage")
    reading.measure(raw, lambda usage: openai_usage(usage, service, no_output=True))
    if isinstance(raw, Mapping):
        reading.cost = openai_cost(raw, service)
    return reading


def read_ocr(body: Json, call: Call) -> Reading:
    """Read Mistral's OCR, billed by the page."""
    reading = Reading("ocr", "mistral", body.get("model"), body.get("id"), body.get("created"))

    def pages(raw: Json) -> Usage | None:
        number = count(raw.get("pages_processed"))
        details = {} if number is None else {"input_document_pages": number}
        return settle(input_tokens=None, output_tokens=None, details=dict(details))

    reading.measure(body.get("usage_info"), pages)
    return reading


def is_embeddings(body: Json) -> bool:
    """Whether a list is one of embeddings: its items say so, or it has usage and no output."""
    data = body.get("data")
    head = next(iter(items(data)), None)
    if head is not None and head.get("object") == "embedding":
        return True
    return data == [] and "usage" in body
