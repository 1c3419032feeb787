"""Exporters: what was recorded, as Prometheus and OpenTelemetry show it, each call once."""

from __future__ import annotations

import re
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, MetricExporter, OpenTelemetryExporter, PrometheusExporter
from tests.support import make_metric
from tests.support.exported import OPENAI, record, samples

IDS = {
    "user_id": "secret-user", "job_id": "secret-job", "batch_id": "secret-batch", "github_pr": 4711,
    "conversation_id": "secret-conversation", "session_id": "secret-session",
    "request_id": "secret-request", "metadata": {"secret": "secret"},
}  # fmt: skip


# Prometheus


def test_prometheus_shows_requests_tokens_cost_and_durations(
    client: UsageClient, registry: CollectorRegistry
) -> None:
    """As its own library writes them: base units, counters that end in _total."""
    tracker = AIUsageTracker(client, strict=True, exporters=[PrometheusExporter(registry)])
    record(tracker, latency_ms=15.0, cached_input_tokens=200, reasoning_tokens=50)
    record(tracker, latency_ms=90_000)
    record(tracker, model="unheard-of", input_tokens=7, output_tokens=None)
    record(tracker, status="aborted", error="timeout", input_tokens=None, output_tokens=None)
    failed = ("openai", "gpt-4o", "chat", "aborted", "development")
    unheard = ("openai", "unheard-of", "chat", "complete", "development")
    assert samples(registry, "ai_usage_requests_total") == {OPENAI: 2, unheard: 1, failed: 1}
    tokens = samples(registry, "ai_usage_tokens_total")
    assert tokens == {
        (*OPENAI, "input"): 2000, (*OPENAI, "output"): 200, (*OPENAI, "cached_input"): 200,
        (*OPENAI, "reasoning"): 50, (*unheard, "input"): 7,
    }  # fmt: skip
    costs = samples(registry, "ai_usage_cost_usd_total")
    assert costs == {OPENAI: 0.00675, unheard: 0, failed: 0}
    assert samples(registry, "ai_usage_unpriced_requests_total") == {
        (*unheard, "unknown_model"): 1, (*failed, "failed_call"): 1,
    }  # fmt: skip
    buckets = samples(registry, "ai_usage_request_duration_seconds_bucket")
    assert buckets[(*OPENAI, "0.01")] == 0
    assert buckets[(*OPENAI, "0.02")] == buckets[(*OPENAI, "81.92")] == 1
    assert buckets[(*OPENAI, "+Inf")] == 2
    assert samples(registry, "ai_usage_request_duration_seconds_sum") == {OPENAI: 90.015}
    assert samples(registry, "ai_usage_request_duration_seconds_count") == {OPENAI: 2}


def test_prometheus_shows_how_recording_stands(
    client: UsageClient, registry: CollectorRegistry
) -> None:
    """Recorded, spooled, delivered, dropped, and what waits: losses are counted (trouble 11)."""
    tracker = AIUsageTracker(client, exporters=[PrometheusExporter(registry)])
    record(tracker)
    record(tracker, input_tokens=-1)
    events = samples(registry, "ai_usage_tracker_events_total")
    assert events == {
        ("local", "recorded"): 2, ("local", "spooled"): 1, ("local", "delivered"): 0,
        ("local", "dropped"): 1,
    }  # fmt: skip
    assert samples(registry, "ai_usage_tracker_pending_records") == {("local",): 1}
    assert samples(registry, "ai_usage_tracker_spool_bytes")[("local",)] > 0
    assert samples(registry, "ai_usage_tracker_dead_records") == {("local",): 0}
    assert ("local",) in samples(registry, "ai_usage_tracker_oldest_unsent_seconds")


def test_a_registry_refuses_a_second_exporter_where_it_is_made(
    registry: CollectorRegistry,
) -> None:
    """Before anything is recorded, by the names alone."""
    PrometheusExporter(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusExporter(registry)


# OpenTelemetry


def collected(reader: InMemoryMetricReader) -> dict[str, dict[tuple[str, ...], Any]]:
    """Return what the SDK's own reader collects: values by name and attributes."""
    data: Any = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: {
            tuple(str(value) for _, value in sorted(point.attributes.items())): (
                point.value
                if hasattr(point, "value")
                else (point.count, point.sum, point.explicit_bounds)
            )
            for point in metric.data.data_points
        }
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


USAGE = "gen_ai.client.inference.usage"
CHAT = ("complete", "development", "chat", "openai", "gpt-4o")


def test_opentelemetry_shows_the_deployed_names(client: UsageClient) -> None:
    """Histograms of tokens by type and of durations with the buckets of the conventions."""
    reader = InMemoryMetricReader()
    exporter = OpenTelemetryExporter(MeterProvider([reader]))
    tracker = AIUsageTracker(client, strict=True, exporters=[exporter])
    record(tracker, latency_ms=1500.0)
    record(tracker, latency_ms=500.0, error="RateLimitError: of secret-user")
    found = collected(reader)
    sizes = found["gen_ai.client.token.usage"]
    assert {key[-1]: value[:2] for key, value in sizes.items()} == {
        "input": (2, 2000), "output": (2, 200),
    }  # fmt: skip
    assert next(iter(sizes.values()))[2][:4] == (1, 4, 16, 64)
    durations = found["gen_ai.client.operation.duration"]
    assert durations[CHAT] == (1, 1.5, tuple(0.01 * 2**n for n in range(14)))
    assert durations[(*CHAT[:2], "RateLimitError", *CHAT[2:])][:2] == (1, 0.5)
    assert found["gen_ai.client.operation.cost"] == {CHAT: 0.007}
    assert found["ai_usage.requests"] == {CHAT: 2}
    assert found["ai_usage.unpriced_requests"] == {CHAT: 0}
    record(tracker, latency_ms=500.0)
    assert collected(reader)["ai_usage.requests"] == {CHAT: 3}
    assert collected(reader)["gen_ai.client.operation.duration"][CHAT][:2] == (2, 2.0)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_opentelemetry_shows_the_latest_names_on_demand(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Counters of tokens; the providers as the conventions call them."""
    reader = InMemoryMetricReader()
    if how == "environment":
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    exporter = OpenTelemetryExporter(
        MeterProvider([reader]), conventions="latest" if how == "argument" else None
    )
    tracker = AIUsageTracker(client, strict=True, exporters=[exporter])
    record(tracker, service="google", model="gemini-2.5-flash", cached_input_tokens=10)
    found = collected(reader)
    key = ("complete", "development", "chat", "gcp.gen_ai", "gemini-2.5-flash")
    assert found[f"{USAGE}.input_tokens"] == {key: 1000}
    assert found[f"{USAGE}.output_tokens"] == {key: 100}
    assert found[f"{USAGE}.cache_read.input_tokens"] == {key: 10}
    assert found[f"{USAGE}.cache_write.input_tokens"] == {key: 0}
    assert "gen_ai.client.token.usage" not in found
    assert "gen_ai.client.operation.duration" not in found


def test_opentelemetry_shows_how_recording_stands(client: UsageClient) -> None:
    """By destination and outcome."""
    reader = InMemoryMetricReader()
    tracker = AIUsageTracker(client, exporters=[OpenTelemetryExporter(MeterProvider([reader]))])
    record(tracker)
    record(tracker, input_tokens=-1)
    found = collected(reader)
    assert found["ai_usage.tracker.events"] == {
        ("local", "recorded"): 2, ("local", "spooled"): 1, ("local", "delivered"): 0,
        ("local", "dropped"): 1,
    }  # fmt: skip
    assert found["ai_usage.tracker.pending"] == {("local",): 1}
    assert found["ai_usage.tracker.dead"] == {("local",): 0}
    assert found["ai_usage.tracker.spool.size"][("local",)] > 0
    assert ("local",) in found["ai_usage.tracker.oldest_unsent"]


def test_two_readers_see_the_same(client: UsageClient) -> None:
    """What one collects is not taken from the other."""
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    exporter = OpenTelemetryExporter(MeterProvider(readers))
    tracker = AIUsageTracker(client, strict=True, exporters=[exporter])
    record(tracker, latency_ms=1.0)
    first, second = (collected(reader) for reader in readers)
    assert first == second
    assert first["gen_ai.client.operation.duration"][CHAT][0] == 1


def test_wrong_conventions_are_refused_where_they_are_named() -> None:
    """And a provider that does nothing costs nothing else."""
    with pytest.raises(ValueError, match="conventions='newest' are unknown"):
        OpenTelemetryExporter(NoOpMeterProvider(), conventions="newest")  # type: ignore[arg-type]
    OpenTelemetryExporter(NoOpMeterProvider()).export(make_metric())


# Both


@pytest.mark.parametrize("conventions", ["deployed", "latest"])
def test_the_page_names_what_is_shown(
    client: UsageClient, registry: CollectorRegistry, conventions: Any
) -> None:
    """docs/interop.md has every name, of Prometheus and of OpenTelemetry."""
    page = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")
    reader = InMemoryMetricReader()
    exporters: list[MetricExporter] = [
        PrometheusExporter(registry),
        OpenTelemetryExporter(MeterProvider([reader]), conventions=conventions),
    ]
    tracker = AIUsageTracker(client, strict=True, exporters=exporters)
    record(tracker, latency_ms=1.0)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    names = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    names |= collected(reader).keys()
    assert len(names) >= 20
    for name in names:
        tail = "." + name.removeprefix("ai_usage.tracker.").removeprefix(f"{USAGE}.")
        assert f"`{name}`" in page or f"`{tail}`" in page, name


@pytest.mark.parametrize("kind", ["prometheus", "opentelemetry"])
def test_no_id_and_no_text_is_ever_a_label(
    client: UsageClient, registry: CollectorRegistry, kind: str
) -> None:
    """Users, jobs, batches, conversations, pull requests, messages: none of them."""
    reader = InMemoryMetricReader()
    exporter: MetricExporter = (
        PrometheusExporter(registry)
        if kind == "prometheus"
        else OpenTelemetryExporter(MeterProvider([reader]))
    )
    assert isinstance(exporter, MetricExporter)
    tracker = AIUsageTracker(client, strict=True, exporters=[exporter])
    record(tracker, **IDS, latency_ms=1.0, error="secret message, it is")
    record(tracker, latency_ms=1.0, error="Kind: secret message")
    shown = generate_latest(registry).decode() + repr(collected(reader))
    assert "gpt-4o" in shown
    assert not re.search(r"secret|4711", shown)


def test_a_repeated_record_is_shown_once(client: UsageClient, registry: CollectorRegistry) -> None:
    """A stored reply that is read again is the same call (trouble 27), as in the store."""
    tracker = AIUsageTracker(client, strict=True, exporters=[PrometheusExporter(registry)])
    reply = {
        "id": "chatcmpl-0123456789abcdefghij", "object": "chat.completion", "model": "gpt-4o",
        "created": 1_780_000_000, "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip
    with tracker.track("x") as operation:
        for _ in range(3):
            tracker.record_response(reply)
        assert operation.calls == 1
    requests = samples(registry, "ai_usage_requests_total")
    assert requests[OPENAI] == 1
    assert client.summarize()[0].calls == 1


def test_eight_threads_add_up_exactly(client: UsageClient, registry: CollectorRegistry) -> None:
    """Money too: it is a Decimal until it is shown."""
    tracker = AIUsageTracker(client, strict=True, exporters=[PrometheusExporter(registry)])

    def work() -> None:
        for _ in range(250):
            record(tracker, cost_usd=Decimal("0.1"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(registry, "ai_usage_requests_total") == {OPENAI: 2000}
    assert samples(registry, "ai_usage_cost_usd_total") == {OPENAI: 200.0}
