"""Exporters: bounded labels, types of errors, retries that come after a drop, faults in the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from receipt_dynamo import AIUsageMetric, PutResult, UsageClient
from receipt_label import AIUsageTracker, OpenTelemetryExporter
from receipt_label.exporters.opentelemetry import MAX_ERROR_TYPES, MAX_SERIES
from tests.support import in_fork, make_metric

KEY = "sk-proj-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7"
DURATION = "gen_ai.client.operation.duration"


def attributes(reader: InMemoryMetricReader, name: str) -> list[dict[str, Any]]:
    """Return the attributes of each series of a metric."""
    data: Any = reader.get_metrics_data()
    if data is None:
        return []
    return [
        dict(point.attributes)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def exporter(reader: InMemoryMetricReader) -> OpenTelemetryExporter:
    return OpenTelemetryExporter(MeterProvider([reader]), conventions="deployed")


def test_histograms_have_no_more_series_than_counters(
    reader: InMemoryMetricReader, exporter: OpenTelemetryExporter
) -> None:
    """A program that makes up models fills no collector: what is new is ``other`` in all."""
    for n in range(MAX_SERIES + 200):
        exporter.export(
            make_metric(model=f"model-{n}", latency_ms=1.0, input_tokens=1, output_tokens=1)
        )
    for name, sorts in ((DURATION, 1), ("gen_ai.client.token.usage", 2), ("ai_usage.requests", 1)):
        found = attributes(reader, name)
        assert len(found) == (MAX_SERIES + 1) * sorts, name
        assert "other" in {one["gen_ai.response.model"] for one in found}
    exporter.export(make_metric(model="model-5", latency_ms=1.0))
    exporter.export(make_metric(model="one-more", latency_ms=1.0))
    assert len(attributes(reader, DURATION)) == MAX_SERIES + 1


def test_types_of_errors_are_bounded(
    reader: InMemoryMetricReader, exporter: OpenTelemetryExporter
) -> None:
    """The conventions ask for few: the first hundred, and ``_OTHER``."""
    words = [f"Error{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(MAX_ERROR_TYPES + 50)]
    for word in [*words, words[0]]:
        exporter.export(make_metric(error=word, status="aborted", latency_ms=1.0))
    found = {one["error.type"] for one in attributes(reader, DURATION)}
    assert found == {*words[:MAX_ERROR_TYPES], "_OTHER"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("RateLimitError", "RateLimitError"),
        ("RateLimitError: of a user", "RateLimitError"),
        ("botocore.errorfactory.ThrottlingException", "botocore.errorfactory.ThrottlingException"),
        ("a" * 40 + "." + "B" * 40, "a" * 40 + "." + "B" * 40),
        ("server_certificate_invalid", "server_certificate_invalid"),
        ("500", "500"),
        ("429: too many", "429"),
        ("HTTP2Error", "HTTP2Error"),
        ("the message of somebody", "_OTHER"),
        ("user_1234567: unknown", "_OTHER"),
        ("a3f2c1d0-1234-4abc-9def-0123456789ab", "_OTHER"),
        ("1234567", "_OTHER"),
        ("999", "_OTHER"),
        ("José", "_OTHER"),
        ("x" * 200, "_OTHER"),
    ],
)
def test_the_type_of_an_error_is_a_class_a_code_or_a_status(
    reader: InMemoryMetricReader, exporter: OpenTelemetryExporter, error: str, expected: str
) -> None:
    """As the conventions have it; what may be a message or an id is ``_OTHER``."""
    exporter.export(make_metric(error=error, status="aborted", latency_ms=1.0))
    assert [one["error.type"] for one in attributes(reader, DURATION)] == [expected]


def test_a_call_without_an_error_has_no_type_of_it(
    reader: InMemoryMetricReader, exporter: OpenTelemetryExporter
) -> None:
    """The conventions: not set where an operation succeeded."""
    exporter.export(make_metric(latency_ms=1.0))
    assert "error.type" not in attributes(reader, DURATION)[0]


def test_a_child_shows_no_durations_of_its_parents(
    reader: InMemoryMetricReader, exporter: OpenTelemetryExporter
) -> None:
    """What waits for a collection when a process forks is shown by the parent alone."""
    exporter.export(make_metric(latency_ms=1.0))

    def child() -> None:
        assert attributes(reader, DURATION) == []

    assert in_fork(child) == 0
    assert len(attributes(reader, DURATION)) == 1


class Seen:
    """An exporter that keeps what it is shown."""

    def __init__(self) -> None:
        self.metrics: list[AIUsageMetric] = []

    def bind(self, tracker: AIUsageTracker) -> None: ...

    def export(self, metric: AIUsageMetric) -> None:
        self.metrics.append(metric)


def test_what_is_stored_at_the_second_attempt_is_shown_then_and_once(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop is not shown; the same record kept later is, however often it is made again."""
    seen = Seen()
    tracker = AIUsageTracker(client, exporters=[seen])
    put = client.put_ai_usage_metric
    answers = [PutResult.DROPPED, PutResult.DROPPED]

    def full_at_first(metric: AIUsageMetric) -> PutResult:
        return answers.pop() if answers else put(metric)

    monkeypatch.setattr(client, "put_ai_usage_metric", full_at_first)
    call: dict[str, Any] = {
        "service": "openai", "model": "gpt-4o", "operation": "chat", "request_id": "one",
        "timestamp": datetime(2026, 11, 28, tzinfo=UTC), "input_tokens": 1, "output_tokens": 1,
    }  # fmt: skip
    with tracker.track("batch") as operation:
        results = [tracker.record(**call) for _ in range(4)]
        assert operation.calls == 1
    dropped, stored = PutResult.DROPPED, PutResult.STORED
    assert results == [dropped, dropped, stored, stored]
    assert [metric.request_id for metric in seen.metrics if metric.service == "openai"] == ["one"]


class Leaky:
    """An exporter whose exceptions quote what they should not."""

    def bind(self, tracker: AIUsageTracker) -> None: ...

    def export(self, metric: AIUsageMetric) -> None:
        try:
            raise KeyError(f"the cause has {KEY} too")
        except KeyError as cause:
            raise ValueError(f"401 for {KEY} of ann.lee@example.com " + "x" * 5000) from cause


def test_the_fault_of_an_exporter_is_logged_masked(
    client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Its type, its place, and its message as a mask leaves it: no traceback, which quotes all."""
    tracker = AIUsageTracker(client, strict=True, exporters=[Leaky()])
    tracker.record(service="openai", model="gpt-4o", operation="chat", input_tokens=1)
    (told,) = caplog.records
    line = logging.Formatter("%(message)s").format(told)
    assert line.startswith("Leaky cannot export metrics")
    assert "ValueError: 401 for [secret] of [email] xxx" in line
    assert "test_exporter_bounds.py:" in line
    assert "the cause" not in line
    assert KEY not in line
    assert len(line) < 1000
