"""Anthropic's messages: direct, on Bedrock, on Vertex and on Azure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from receipt_label.usage.figures import (
    Details,
    InconsistentUsageError,
    Json,
    count,
    inner,
    items,
    note,
    part,
    settle,
    word,
)
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Reply, Usage

_COUNTS: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)
_TTLS: Final = (
    ("ephemeral_5m_input_tokens", "cache_write_5m_tokens"),
    ("ephemeral_1h_input_tokens", "cache_write_1h_tokens"),
)
# Regions that are the ordinary price list; one that a caller asks for has a price of its own.
_ANY_REGION: Final = frozenset({"global", "not_available"})
# The cloud that served a message marks its id.
_ID_MARKS: Final = (("msg_bdrk_", "aws"), ("msg_vrtx_", "google"))


def message_service(message_id: object) -> str:
    """Return who served a message, as its id tells."""
    if isinstance(message_id, str):
        for mark, service in _ID_MARKS:
            if message_id.startswith(mark):
                return service
    return "anthropic"


def read_message(body: Json, call: Call) -> Reading:
    """Read a message, with what its hidden iterations used."""
    service = call.service or message_service(body.get("id"))
    reading = Reading("chat", service, body.get("model"), body.get("id"), body.get("created_at"))
    reading.finished(body.get("stop_reason"))
    raw = body.get("usage")
    reading.measure(raw, message_usage)
    if reading.usage is None:
        return reading
    usage = inner(body, "usage")
    tier = usage.get("service_tier")
    if tier == "batch":
        reading.price_context["processing"] = "batch"
    elif tier is not None:
        reading.tier(tier)
    if usage.get("speed") == "fast":
        reading.price_context["speed"] = "fast"
    region = word(usage.get("inference_geo"))
    if region and region.lower() not in _ANY_REGION:
        reading.price_context["inference_geo"] = region.lower()
    reading.also = tuple(_advisors(usage, reading))
    return reading


def message_usage(raw: Json) -> Usage | None:
    """Return the usage of a message; Anthropic's input excludes cache reads and writes.

    ``iterations``: "A `compaction` entry's tokens are not included in the top-level `usage`
    fields" (anthropic.types.beta.BetaUsage), and they are billed at the message's own model, so
    they are added here. Entries of type ``message`` are inside the top level (they sum up to it in
    every recording), and an advisor's belong to another model: see :func:`_advisors`.
    """
    figures = _sum([raw, *(it for it in _iterations(raw) if it.get("type") == "compaction")])
    fresh, read, written, made = figures
    sent = None if fresh is None else fresh + (read or 0) + (written or 0)
    if sent is None and (read or written):
        raise InconsistentUsageError("cached tokens without input tokens")
    details: Details = {}
    for block in (raw, *(it for it in _iterations(raw) if it.get("type") == "compaction")):
        creation = part(block, "cache_creation")
        for key, name in _TTLS:
            note(details, name, creation.get(key))
    note(details, "web_searches", part(raw, "server_tool_use").get("web_search_requests"))
    return settle(
        input_tokens=sent,
        output_tokens=made,
        cached=read,
        written=written,
        reasoning=count(part(raw, "output_tokens_details").get("thinking_tokens")),
        details=details,
    )


def _iterations(raw: Json) -> Iterator[Json]:
    return iter(items(raw.get("iterations")))


def _sum(blocks: list[Json]) -> list[int | None]:
    """Add up each of the four counts over the blocks; None where no block has it."""
    sums: list[int | None] = []
    for key in _COUNTS:
        known = [number for block in blocks if (number := count(block.get(key))) is not None]
        sums.append(sum(known) if known else None)
    return sums


def _advisors(raw: Json, reading: Reading) -> Iterator[Reply]:
    """Yield what advisor models used inside this message, each as a reply of its own.

    An advisor's tokens are in no top-level figure and are billed at the advisor's rates, so they
    can be neither added to the message nor left out.
    """
    for number, entry in enumerate(
        (it for it in _iterations(raw) if it.get("type") == "advisor_message"), 1
    ):
        try:
            usage = message_usage(entry)
        except InconsistentUsageError:
            usage = None
        parent = reading.response_id
        yield Reply(
            service=reading.service or "anthropic",
            model=str(entry.get("model") or "unknown"),
            operation="chat",
            response_id=f"{parent}-advisor-{number}" if isinstance(parent, str) else None,
            usage=usage,
            price_context=dict(reading.price_context),
            fault=None if usage is not None else "inconsistent_usage",
            metadata={"iteration": "advisor_message"},
        )
