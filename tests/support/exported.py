"""A call that is exported, and what a scrape of Prometheus reads of it."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from receipt_label import AIUsageTracker


def record(tracker: AIUsageTracker, **fields: Any) -> None:
    call = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    tracker.record(**{**call, "input_tokens": 1000, "output_tokens": 100, **fields})


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a name by the values of their labels, as a scrape reads them."""
    text = generate_latest(registry).decode()
    return {
        tuple(sample.labels[label] for label in ORDER if label in sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


ORDER = "provider model operation status environment type reason le destination outcome".split()
OPENAI = ("openai", "gpt-4o", "chat", "complete", "development")
