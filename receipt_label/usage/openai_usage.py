"""The ``usage`` block of OpenAI and of everybody who answers in its words.

One table of spellings serves chat completions, responses, embeddings, images, transcriptions and
realtime, because vendors mix them freely. Where a vendor counts differently the rule is named.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from receipt_label.usage.figures import (
    Details,
    InconsistentUsageError,
    Json,
    count,
    first,
    inner,
    money,
    note,
    part,
    quantity,
    settle,
)
from receipt_label.usage.reply import Usage

# xAI: "1 USD = 10,000,000,000 ticks" (docs.x.ai/developers/cost-tracking).
_TICKS_PER_USD: Final = 10**10
_KINDS: Final = {"audio_tokens": "audio", "image_tokens": "image", "video_tokens": "video"}


def openai_usage(
    raw: Json,
    service: str | None,
    *,
    no_output: bool = False,
    output_kind: str | None = None,
    searches: object = None,
) -> Usage | None:
    """Return the usage of an OpenAI-like block, or None where it has no figure.

    ``no_output`` is for calls that make none (embeddings): then the total is the input.
    ``output_kind`` is what all output is where the block does not break it down (``image``).
    ``searches`` are web searches that the reply counts outside the block.
    Raises InconsistentUsageError.
    """
    if raw.get("type") == "duration":  # transcription, billed by the second
        seconds = quantity(raw.get("seconds"))
        details: Details = {"audio_seconds": seconds}
        return settle(input_tokens=None, output_tokens=None, details=details)
    sent = count(first(raw, "prompt_tokens", "input_tokens"))
    made = count(first(raw, "completion_tokens", "output_tokens"))
    total = count(raw.get("total_tokens"))
    into = part(
        raw,
        "prompt_tokens_details",
        "input_tokens_details",
        "input_token_details",
        "prompt_token_details",
    )
    out = part(raw, "completion_tokens_details", "output_tokens_details", "output_token_details")
    inside = out.get("reasoning_tokens")
    reasoning = count(raw.get("reasoning_tokens") if inside is None else inside)
    details = {}
    if no_output:
        sent, made = (total if sent is None else sent), made or 0
    if service == "perplexity" and made is not None and "completion_tokens" in raw:
        made = _perplexity_output(raw, made, details)
    elif sent is not None:
        made, reasoning = _whole_output(raw, service, sent, made, total, reasoning)
    if into or out:
        _kinds(into, out, details)
    if output_kind is not None and made and not out:
        details[f"output_{output_kind}_tokens"] = made
    _searches(raw, searches, details)
    return settle(
        input_tokens=sent,
        output_tokens=made,
        cached=_cached(raw, into),
        written=_written(raw, into),
        reasoning=reasoning,
        details=details,
    )


def _cached(raw: Json, into: Json) -> int | None:
    """Cache reads, a subset of the input for every one of these vendors.

    Mistral writes ``num_cached_tokens`` (older ``prompt_tokens_details``), Together and Moonshot
    ``cached_tokens``, DeepSeek ``prompt_cache_hit_tokens``, xAI once ``cached_prompt_text_tokens``.
    """
    nested = first(into, "cached_tokens", "cache_read_input_tokens")
    if nested is not None:
        return count(nested)
    return count(
        first(
            raw,
            "num_cached_tokens",
            "cached_tokens",
            "prompt_cache_hit_tokens",
            "cached_prompt_text_tokens",
            "cache_read_input_tokens",
        )
    )


def _written(raw: Json, into: Json) -> int | None:
    nested = first(into, "cache_write_tokens", "cache_creation_tokens")
    return count(nested if nested is not None else raw.get("cache_creation_input_tokens"))


def _whole_output(
    raw: Json,
    service: str | None,
    sent: int,
    made: int | None,
    total: int | None,
    reasoning: int | None,
) -> tuple[int | None, int | None]:
    """Return output with its reasoning inside, by the arithmetic that the total proves.

    OpenAI, Groq, OpenRouter, Cerebras, DeepSeek and Z.ai count reasoning inside the completion.
    xAI's chat completions count it beside: "reasoning token consumption will be counted separately
    from completion_tokens, but will be counted in the total_tokens". Gemini's OpenAI-compatible
    endpoint has thoughts in the total alone.
    """
    if made is None:
        return (0 if total == sent else None), reasoning
    if total is None:
        if service == "x-ai" and "completion_tokens" in raw:
            return made + (reasoning or 0), reasoning
        return made, reasoning
    beside = total - sent - made
    if beside == 0:
        return made, reasoning
    if beside > 0 and (beside == reasoning or (service == "google" and not reasoning)):
        return made + beside, beside
    raise InconsistentUsageError("the total is not the sum of its parts")


def _perplexity_output(raw: Json, made: int, details: Details) -> int:
    """Perplexity bills citations and reasoning beside the completion and leaves both out of the
    total (as genai-prices counts them too)."""
    citations = count(raw.get("citation_tokens")) or 0
    note(details, "output_citation_tokens", citations)
    return made + citations + (count(raw.get("reasoning_tokens")) or 0)


def _kinds(into: Json, out: Json, details: Details) -> None:
    for block, name in (
        (into, "input_{}_tokens"),
        (out, "output_{}_tokens"),
        (part(into, "cached_tokens_details"), "cache_{}_read_tokens"),
    ):
        for key, value in block.items():
            if value and key in _KINDS:
                note(details, name.format(_KINDS[key]), value)


def _searches(raw: Json, queries: object, details: Details) -> None:
    """Searches that are billed by the piece: Perplexity's own, OpenRouter's server tools."""
    if queries is None:
        queries = raw.get("num_search_queries")
    if queries is None:
        tools = inner(raw, "server_tool_use_details") or inner(raw, "server_tool_use")
        queries = tools.get("web_search_requests")
    if queries is not None:
        note(details, "web_searches", queries)


def openai_cost(raw: Json, service: str | None) -> Decimal | None:
    """Return what the vendor says the call cost in USD, where it says so; exact.

    OpenRouter: ``cost``, in credits of one USD. With the caller's own key (``is_byok``) that is
    OpenRouter's fee alone, and what the upstream vendor charges comes on top of it. xAI:
    ``cost_in_usd_ticks``. Perplexity: ``cost.total_cost``.
    """
    if service == "openrouter":
        cost = money(raw.get("cost"))
        if cost is None or raw.get("is_byok") is not True:
            return cost
        upstream = money(inner(raw, "cost_details").get("upstream_inference_cost"))
        return None if upstream is None else cost + upstream
    if service == "x-ai":
        ticks = money(raw.get("cost_in_usd_ticks"))
        return None if ticks is None else ticks / _TICKS_PER_USD
    if service == "perplexity":
        return money(inner(raw, "cost").get("total_cost"))
    return None
