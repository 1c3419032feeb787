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
    from receipt_label.context import CONTEXT_FIELDS, wrap_context
    from receipt_label.executor import ContextThreadPoolExecutor
    from receipt_label.masking import mask
    from receipt_label.pricing import PriceBook, PriceFileError
    from receipt_label.tracker import AIUsageTracker, TrackerClosedError

__all__ = [
    "CONTEXT_FIELDS",
    "AIUsageMetric",
    "AIUsageTracker",
    "BatchOutput",
    "ContextThreadPoolExecutor",
    "Environment",
    "FlushReport",
    "PriceBook",
    "PriceFileError",
    "PutResult",
    "TrackerClosedError",
    "UsageQuery",
    "__version__",
    "detect_environment",
    "flush_after_invocation",
    "mask",
    "open_usage_client",
    "wrap_context",
]

_MODULES = {
    "receipt_dynamo": "AIUsageMetric Environment FlushReport PutResult UsageQuery __version__ "
    "detect_environment open_usage_client",
    "receipt_label.aws_lambda": "flush_after_invocation",
    "receipt_label.batch_output": "BatchOutput",
    "receipt_label.context": "CONTEXT_FIELDS wrap_context",
    "receipt_label.executor": "ContextThreadPoolExecutor",
    "receipt_label.masking": "mask",
    "receipt_label.pricing": "PriceBook PriceFileError",
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
