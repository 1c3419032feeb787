"""Exporters: each metric is shown to another system as well, once it is stored.

``MetricExporter`` is what a tracker takes; ``PrometheusExporter`` and ``OpenTelemetryExporter`` are
ready made. Both add up in this process (``totals.py``) and are read when the other system asks, so
a record costs them about a microsecond or two, and none of its ids ever becomes a label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from receipt_dynamo import AIUsageMetric

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["MetricExporter"]


@runtime_checkable
class MetricExporter(Protocol):
    """What ``AIUsageTracker(exporters=[...])`` takes.

    Its methods run on the caller's thread, within the call that records: they must be quick, and
    thread-safe. What they raise is logged once and reaches nobody.
    """

    def bind(self, tracker: AIUsageTracker) -> None:
        """Take note of a tracker whose metrics will come: called once, when it is made."""

    def export(self, metric: AIUsageMetric) -> None:
        """Show one metric that was just recorded, STORED or in MEMORY; each record once."""
