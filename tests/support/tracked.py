"""What the tests of tracker.track share: a reply, a call, and a function of every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import (
    AIUsageTracker,
)


def chat(response_id: str = "chatcmpl-0123456789abcdefghij", **changes: Any) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": 1_780_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        **changes,
    }


def only(client: UsageClient) -> AIUsageMetric:
    (metric,) = client.query()
    return metric


def record(tracker: AIUsageTracker, **fields: Any) -> None:
    call = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    tracker.record(**{**call, "input_tokens": 10, "output_tokens": 1, **fields})


def plain(a: int, /, b: str = "x", *, c: float) -> str:
    """Say what it does."""
    return f"{a}{b}{c}"


async def coroutine(a: int) -> int:
    return a


def generator(a: int) -> Iterator[int]:
    yield a


async def asynchronous(a: int) -> AsyncIterator[int]:
    yield a
