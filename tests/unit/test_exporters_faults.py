"""Exporters beside drops, faults, signals and forks: bounded, and in nobody's way."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from receipt_dynamo import AIUsageMetric, ConfigurationError, UsageClient
from receipt_label import AIUsageTracker, OpenTelemetryExporter, PrometheusExporter
from receipt_label.exporters.totals import Totals, Trackers
from receipt_label.observers import Recent
from tests.support import FakeClock, in_fork, make_metric
from tests.support.exported import OPENAI, record, samples

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def test_repeats_are_known_among_the_last_thousands_in_bounded_memory() -> None:
    """A program that runs for months keeps two generations of them (trouble 51)."""
    recent = Recent()
    assert not any(recent.has(n) for n in range(20_000))
    assert all(recent.has(n) for n in range(20_000 - 4096, 20_000))
    assert not recent.has(0)
    assert len(recent._new) + len(recent._old) <= 2 * 4096


def test_what_is_dropped_is_not_shown_as_recorded(
    client: UsageClient, registry: CollectorRegistry
) -> None:
    """An exporter sees what was stored."""
    tracker = AIUsageTracker(client, exporters=[PrometheusExporter(registry)])
    client.close()
    record(tracker)
    assert samples(registry, "ai_usage_requests_total") == {}


class Broken:
    """An exporter that fails in every way."""

    def bind(self, tracker: AIUsageTracker) -> None:
        raise RuntimeError("bind fails")

    def export(self, metric: AIUsageMetric) -> None:
        raise ValueError("export fails")


def test_a_failing_exporter_is_logged_once_and_disturbs_nobody(
    client: UsageClient, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the caller, not the record, not the exporter beside it."""
    tracker = AIUsageTracker(
        client, strict=True, exporters=[Broken(), PrometheusExporter(registry)]
    )
    for _ in range(5):
        record(tracker)
    assert samples(registry, "ai_usage_requests_total") == {OPENAI: 5}
    assert len(list(client.query())) == 5
    assert [one.message.split()[0] for one in caplog.records] == ["Broken", "Broken"]


def test_one_look_at_health_serves_a_second(client: UsageClient) -> None:
    """A collection asks for each of its instruments; a new tracker is seen at once."""
    clock = FakeClock()
    trackers = Trackers(clock.monotonic)
    tracker = AIUsageTracker(client)
    assert trackers.health() == []
    trackers.add(tracker)
    first = trackers.health()
    record(tracker)
    clock.advance(0.9)
    assert trackers.health() is first
    clock.advance(0.2)
    assert [health.recorded for health in trackers.health()] == [1]


def test_labels_without_end_are_added_up_under_other() -> None:
    """A program that makes up names fills no memory (trouble 51)."""
    totals = Totals(max_series=10)
    for n in range(100):
        totals.add(make_metric(model=f"model-{n}"))
    found = {one.labels.model: one.requests for one in totals.read()}
    assert len(found) == 11
    assert found["other"] == 90


def test_a_signal_handler_may_record_while_its_thread_adds_up() -> None:
    """The lock is reentrant: a handler that waited for it would wait for ever."""
    totals = Totals()
    previous = signal.signal(signal.SIGUSR1, lambda *_: totals.add(make_metric()))
    try:
        with totals._lock:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert totals.read()[0].requests == 1


def test_a_child_of_a_fork_starts_at_zero_whoever_held_the_lock() -> None:
    """What the parent added up is not shown by each of its children again."""
    totals = Totals()
    totals.add(make_metric())

    def child() -> None:
        assert totals.read() == []
        totals.add(make_metric())
        assert totals.read()[0].requests == 1

    codes: list[int] = []
    with totals._lock:
        thread = threading.Thread(target=lambda: codes.append(in_fork(child)))
        thread.start()
        thread.join()
    assert codes == [0]
    assert totals.read()[0].requests == 1


@pytest.mark.parametrize(
    ("exporter", "module", "extra"),
    [
        (PrometheusExporter, "prometheus_client", "prometheus"),
        (OpenTelemetryExporter, "opentelemetry.metrics", "otel"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, exporter: type, module: str, extra: str
) -> None:
    """Where the exporter is made, never in a record."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"receipt-usage\[{extra}\]"):
        exporter()
