"""The Responses API, its compaction, and the responses of the realtime API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from receipt_label.usage.figures import Json, first, inner, word
from receipt_label.usage.openai_chat import alike_service
from receipt_label.usage.openai_usage import openai_cost, openai_usage
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Status

UNFINISHED: Final = frozenset({"queued", "in_progress"})

# DeepSeek and some recordings write "complete" for "completed".
_STATUS: Final[dict[object, Status]] = {
    "incomplete": "partial",
    "cancelled": "aborted",
    "canceled": "aborted",
    "failed": "aborted",
}


def read_response(body: Json, call: Call) -> Reading:
    """Read a response object: finished, incomplete, cancelled or failed."""
    service = call.service or alike_service(body)
    reading = Reading(
        "compaction" if body.get("object") == "response.compaction" else "chat",
        service,
        body.get("model"),
        body.get("id"),
        first(body, "created_at", "created"),
    )
    searches = inner(inner(body, "tool_usage"), "web_search").get("num_requests")

    raw = body.get("usage")
    reading.measure(raw, lambda usage: openai_usage(usage, service, searches=searches))
    if isinstance(raw, Mapping):
        reading.cost = openai_cost(raw, service)
    status = body.get("status")
    reading.status = _STATUS.get(status, "complete") if isinstance(status, str) else "complete"
    if status == "failed":
        reading.error = word(inner(body, "error").get("code")) or "failed"
    if status == "incomplete":
        reading.finished(inner(body, "incomplete_details").get("reason"))
    tier = body.get("service_tier")
    if tier is not None:
        reading.tier(tier)
    return reading
