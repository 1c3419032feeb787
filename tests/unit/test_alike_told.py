"""Calls that are alike: who learns of them, and what is remembered of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from receipt_dynamo import AIUsageMetric, MetricSeries, UsageClient
from receipt_label import AIUsageTracker, PriceBook
from receipt_label import alike as alike_module
from receipt_label.reply_metric import REMEMBERED_REPLIES
from receipt_label.usage.quick import QuickReply
from tests.support import NOON

BOOK = PriceBook.load()
FIRST = QuickReply(
    ("openai", "gpt-4o-2024-08-06", "gpt-4o", "stop"),
    "chatcmpl-Dyln92ILj4hwfpf8pkB29u5SE8WQb",
    NOON,
    (10, None, None, 5, None),
)


class Exporter:
    """What is told of each metric."""

    def __init__(self) -> None:
        self.told: list[AIUsageMetric] = []

    def bind(self, tracker: AIUsageTracker) -> None: ...

    def export(self, metric: AIUsageMetric) -> None:
        self.told.append(metric)


def ask(tracker: AIUsageTracker, number: int, latency_ms: float = 1.0) -> None:
    reply = msgspec.structs.replace(FIRST, response_id=f"chatcmpl-{number:030}")
    tracker.record_quick_reply(reply, latency_ms)


@pytest.mark.parametrize("in_operation", [True, False])
@pytest.mark.parametrize("is_exported", [True, False])
def test_operations_and_exporters_learn_of_calls_that_are_alike(
    client: UsageClient, in_operation: bool, is_exported: bool
) -> None:
    """Each is told once, as of any other call, whether the other is there or not."""
    exporter = Exporter()
    exporters = [exporter] if is_exported else []
    tracker = AIUsageTracker(client, strict=True, prices=BOOK, exporters=exporters)
    if in_operation:
        with tracker.track("label") as operation:
            for number in range(3):
                ask(tracker, number)
        assert operation.calls == 3
        assert operation.cost_usd == 3 * Decimal("0.000075")
    else:
        for number in range(3):
            ask(tracker, number)
    own = int(in_operation)  # the operation itself is the last
    assert len(exporter.told) == (3 + own if is_exported else 0)


def test_what_is_known_of_them_is_bounded_and_serves_who_records_again(
    client: UsageClient,
) -> None:
    """Their service and latency, of the newest 4,096 at least and twice as many at most."""
    tracker = AIUsageTracker(client, strict=True, prices=BOOK)
    for number in range(2 * REMEMBERED_REPLIES + 10):
        ask(tracker, number, float(number))
        assert len(tracker.known.calls) < REMEMBERED_REPLIES
    last = msgspec.structs.replace(FIRST, response_id=f"chatcmpl-{number:030}").reply()
    assert tracker.known.latency_of(last) == float(number)
    assert tracker.known.service_of(last) == "openai"


def series_made(patch: pytest.MonkeyPatch) -> list[MetricSeries]:
    made: list[MetricSeries] = []

    def make(like: AIUsageMetric) -> MetricSeries:
        made.append(MetricSeries(like))
        return made[-1]

    patch.setattr(alike_module, "MetricSeries", make)
    return made


def test_what_they_share_is_encoded_once(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not at all where there is but one of a kind."""
    made = series_made(monkeypatch)
    tracker = AIUsageTracker(client, strict=True, prices=BOOK)
    ask(tracker, 0)
    assert not made
    for number in range(1, 4):
        ask(tracker, number)
    assert len(made) == 1


def test_what_would_be_much_is_kept_by_nobody(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata of megabytes in a context that stays is not held in every kind of its calls."""
    made = series_made(monkeypatch)
    tracker = AIUsageTracker(client, strict=True, prices=BOOK)
    context: dict[str, Any] = {"metadata": {"page": "x" * 20_000}}
    with tracker.context(**context):
        for number in range(4):
            ask(tracker, number)
    assert len(made) == 1
    alike = tracker._alike
    assert alike is not None
    (kind,) = alike._kinds.values()
    assert (kind.first, kind.series) == (None, None)
    assert [len(metric.metadata["page"]) for metric in client.query()] == [20_000] * 4
