"""Calls at a time when batches have prices of their own, and what was recorded of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import AIUsageTracker

AFTER_BATCH_PRICES = datetime(2026, 11, 1, tzinfo=UTC)


def record(tracker: AIUsageTracker, **fields: Any) -> None:
    call = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    tracker.record(**{**call, "input_tokens": 1_000_000, "output_tokens": 0, **fields})


def chat(**changes: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-0123456789abcdefghij",
        "object": "chat.completion",
        "created": int(AFTER_BATCH_PRICES.timestamp()),
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000},
        **changes,
    }


def by_id(client: UsageClient) -> dict[str, AIUsageMetric]:
    return {metric.request_id: metric for metric in client.query()}
