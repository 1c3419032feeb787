"""receipt_label: what an AI call is and what it costs.

    from receipt_label import AIUsageTracker

    with AIUsageTracker() as tracker, tracker.context(job_id="labels-2026-11"):
        reply = openai.chat.completions.create(...)
        tracker.record_response(reply)

Each name is loaded when it is first used, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receipt_dynamo import (
        AIUsageMetric,
        Environment,
        FlushReport,
        PutResult,
        UsageQuery,
        __version__,
        detect_environment,
        open_usage_client,
    )
    from receipt_label.aws_lambda import flush_after_invocation
    from receipt_label.batch_output import BatchOutput
    from receipt_label.carry import context_environment, wrap_context
    from receipt_label.client_manager import ClientConfig, ClientManager, get_client_manager
    from receipt_label.context import CONTEXT_FIELDS
    from receipt_label.executor import ContextThreadPoolExecutor
    from receipt_label.exporters import MetricExporter
    from receipt_label.exporters.opentelemetry import OpenTelemetryExporter
    from receipt_label.exporters.prometheus import PrometheusExporter
    from receipt_label.operations import Operation
    from receipt_label.pricing import PriceBook, PriceFileError
    from receipt_label.process_executor import ContextProcessPoolExecutor
    from receipt_label.scopes import (
        PartialFailures,
        ai_usage_context,
        ai_usage_tracked,
        batch_ai_usage_context,
        partial_failure_context,
    )
    from receipt_label.tracker import AIUsageTracker, TrackerClosedError

__all__ = [
    "CONTEXT_FIELDS",
    "AIUsageMetric",
    "AIUsageTracker",
    "BatchOutput",
    "ClientConfig",
    "ClientManager",
    "ContextProcessPoolExecutor",
    "ContextThreadPoolExecutor",
    "Environment",
    "FlushReport",
    "MetricExporter",
    "OpenTelemetryExporter",
    "Operation",
    "PartialFailures",
    "PriceBook",
    "PriceFileError",
    "PrometheusExporter",
    "PutResult",
    "TrackerClosedError",
    "UsageQuery",
    "__version__",
    "ai_usage_context",
    "ai_usage_tracked",
    "batch_ai_usage_context",
    "context_environment",
    "detect_environment",
    "flush_after_invocation",
    "get_client_manager",
    "open_usage_client",
    "partial_failure_context",
    "wrap_context",
]

_MODULES = {
    "receipt_dynamo": "AIUsageMetric Environment FlushReport PutResult UsageQuery __version__ "
    "detect_environment open_usage_client",
    "receipt_label.aws_lambda": "flush_after_invocation",
    "receipt_label.batch_output": "BatchOutput",
    "receipt_label.carry": "context_environment wrap_context",
    "receipt_label.client_manager": "ClientConfig ClientManager get_client_manager",
    "receipt_label.context": "CONTEXT_FIELDS",
    "receipt_label.executor": "ContextThreadPoolExecutor",
    "receipt_label.exporters": "MetricExporter",
    "receipt_label.exporters.opentelemetry": "OpenTelemetryExporter",
    "receipt_label.exporters.prometheus": "PrometheusExporter",
    "receipt_label.operations": "Operation",
    "receipt_label.pricing": "PriceBook PriceFileError",
    "receipt_label.process_executor": "ContextProcessPoolExecutor",
    "receipt_label.scopes": "PartialFailures ai_usage_context ai_usage_tracked "
    "batch_ai_usage_context partial_failure_context",
    "receipt_label.tracker": "AIUsageTracker TrackerClosedError",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

if not TYPE_CHECKING:

    def __getattr__(name):
        """Load a public name from its module."""
        if name not in _HOME:
            raise AttributeError(f"module 'receipt_label' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        """Name the public surface."""
        return __all__
