"""A call as reports are asked about."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from receipt_dynamo import AIUsageMetric

__all__ = ["metric"]


def metric(**changes: Any) -> AIUsageMetric:
    """Return a call of 1,000 tokens in and 10 out that cost 10 cents, with ``changes``."""
    fields: dict[str, Any] = {
        "service": "openai",
        "model": "gpt-4o",
        "operation": "chat",
        "timestamp": datetime(2026, 11, 21, 23, 30, tzinfo=UTC),
        "input_tokens": 1000,
        "output_tokens": 10,
        "cost_usd": Decimal("0.10"),
    }
    fields.update(changes)
    return AIUsageMetric(**fields)
