"""A metric that is plain at a glance is the metric that all checks would have made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo.entities import ai_usage_metric as module
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_label.pricing import PriceBook
from receipt_label.reply_metric import metrics_of_reply
from receipt_label.usage import Skipped, read_reply

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
NOON = datetime(2026, 8, 31, 12, tzinfo=UTC)


class Text(str):
    """A text that the JSON encoder would not know."""


class Number(IntEnum):
    THREE = 3


PLAIN: dict[str, Any] = {
    "service": "openai",
    "model": "gpt-4o",
    "operation": "chat",
    "timestamp": NOON,
    "request_id": "request-1",
    "api_calls": 1,
    "input_tokens": 1200,
    "output_tokens": 300,
    "cached_input_tokens": 1024,
    "cache_write_tokens": 0,
    "reasoning_tokens": 3,
    "cost_usd": Decimal("0.00588"),
    "price_source": "genai-prices",
    "latency_ms": 812.5,
    "job_id": "labels",
    "metadata": {"a": 1},
}
ODD: list[Any] = [
    *(None, "", " ", "OpenAI", "a#b", "x" * 256, "x" * 257, "x" * 512, "x" * 513, "ä" * 200),
    *("\ud800", Text("chat"), "partial", "provider", "not_priced", b"chat"),
    *(True, 0, -1, 1, 3, 176, 177, 300, 301, 1024, 1200, 1201, 10**12, 10**12 + 1, Number.THREE),
    *(0.0, -1.0, 1e12, 1e13, float("nan"), float("inf")),
    *map(Decimal, ("0", "-0", "-1", "NaN", "Infinity", "1E-7", "1E+3", "1.10", "1" * 38, "1" * 39)),
    *(NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=2)))),
    *({}, {"a": {"b": [1]}}, {"audio_tokens": 2}, {"": 1}, [1]),
]
NAMES = AIUsageMetric.__struct_fields__


def made(fields: dict[str, Any]) -> Any:
    """Return the metric of these fields, with the types of what it keeps, or the refusal."""
    try:
        metric = AIUsageMetric(**fields)
    except ValueError as error:
        return str(error)
    values = {name: getattr(metric, name) for name in AIUsageMetric.__struct_fields__}
    return {name: (type(value), repr(value)) for name, value in values.items()}


def made_by_all_checks(fields: dict[str, Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_is_plain", lambda _metric: False)
        return made(fields)


def same_either_way(fields: dict[str, Any]) -> bool:
    if fields["request_id"] in (None, ""):  # minted, and never twice alike
        return isinstance(made(fields), type(made_by_all_checks(fields)))
    return bool(made(fields) == made_by_all_checks(fields))


@pytest.mark.parametrize("name", NAMES)
def test_a_glance_at_a_field_sees_what_the_checks_see(name: str) -> None:
    """Whatever one field holds: the same metric, or the same refusal."""
    for value in ODD:
        assert same_either_way({**PLAIN, name: value}), value


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD), min_size=2, max_size=4))
def test_a_glance_at_some_fields_sees_what_the_checks_see(changes: dict[str, Any]) -> None:
    """Whatever several of them hold together."""
    assert same_either_way({**PLAIN, **changes})


def test_the_metrics_of_recorded_replies_are_the_same_either_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of every recorded reply; and a glance is enough for most of those with a price."""
    metrics = list(recorded_metrics())
    glances: list[bool] = []
    glance = module._is_plain

    def noted(metric: AIUsageMetric) -> bool:
        glances.append(glance(metric))
        return glances[-1]

    monkeypatch.setattr(module, "_is_plain", noted)
    for metric in metrics:
        fields = {name: getattr(metric, name) for name in AIUsageMetric.__struct_fields__}
        del fields["total_tokens"]
        assert made(fields) == made_by_all_checks(fields)
    priced = sum(metric.cost_usd is not None for metric in metrics)
    assert priced > 90
    assert sum(glances) >= 0.6 * priced


def recorded_metrics() -> Iterator[AIUsageMetric]:
    book = PriceBook.load()
    for line in map(json.loads, SAMPLE.read_text().splitlines()):
        body, url, status = line.get("stream", line.get("body")), line["url"], line["status"]
        reply = read_reply(body, url=url, http_status=status)
        if not isinstance(reply, Skipped):
            yield from metrics_of_reply(
                reply, book, timestamp=NOON, request_id="r", fields={}, mask=lambda _: None
            )
