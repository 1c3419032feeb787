"""receipt_dynamo: what a usage metric is, where it lies, and how it gets there.

These names are the whole surface; everything else is private and may change. Each is loaded when it
is first used, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receipt_dynamo._version import __version__
    from receipt_dynamo.dead_letter import DeadLetter
    from receipt_dynamo.dead_letters import DeadLetters
    from receipt_dynamo.destinations import place_of, waiting_elsewhere, way_to
    from receipt_dynamo.doctor import Finding, inspect_environment
    from receipt_dynamo.dynamo_admin import TableDescription
    from receipt_dynamo.dynamo_client import DynamoClient
    from receipt_dynamo.entities.ai_usage_metric import (
        PRICE_SOURCES,
        STATUSES,
        UNPRICED_REASONS,
        AIUsageMetric,
    )
    from receipt_dynamo.entities.metric_series import CallFigures, MetricSeries
    from receipt_dynamo.entities.request_id import mint_request_id
    from receipt_dynamo.environment import Environment, detect_environment
    from receipt_dynamo.errors import (
        ConfigurationError,
        DeadLetterError,
        DirectoryRefusedError,
        StoreBusyError,
        StoreError,
        StoreVersionError,
        UsageError,
    )
    from receipt_dynamo.fork_gate import ForkGate
    from receipt_dynamo.health import FlushReport, Health, HealthLevel, HealthReason, PutResult
    from receipt_dynamo.health_check import read_health
    from receipt_dynamo.health_rules import plain_duration
    from receipt_dynamo.logs import safe_logger
    from receipt_dynamo.migration import Migration, MigrationReport, RefusedMetric
    from receipt_dynamo.opening import open_usage_client
    from receipt_dynamo.resilient_dynamo_client import ResilientDynamoClient
    from receipt_dynamo.settings import Settings
    from receipt_dynamo.store import (
        DIMENSIONS,
        DroppedSummary,
        UsageQuery,
        UsageStore,
        UsageSummary,
        load_timezone,
        plain_decimal,
    )
    from receipt_dynamo.usage_client import UsageClient
    from receipt_dynamo.utils.batch_queue import (
        BatchQueue,
        BatchQueueSettings,
        Lease,
        Reentry,
        Settlement,
    )
    from receipt_dynamo.utils.circuit_breaker import (
        CircuitBreaker,
        CircuitBreakerSettings,
        CircuitState,
        CircuitTransition,
        Outcome,
        Permit,
        Rejected,
    )
    from receipt_dynamo.utils.retry_with_backoff import (
        Backoff,
        RetryQuota,
        RetrySettings,
        retry_with_backoff,
    )

__all__ = [
    "DIMENSIONS",
    "PRICE_SOURCES",
    "STATUSES",
    "UNPRICED_REASONS",
    "AIUsageMetric",
    "Backoff",
    "BatchQueue",
    "BatchQueueSettings",
    "CallFigures",
    "CircuitBreaker",
    "CircuitBreakerSettings",
    "CircuitState",
    "CircuitTransition",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetters",
    "DirectoryRefusedError",
    "DroppedSummary",
    "DynamoClient",
    "Environment",
    "Finding",
    "FlushReport",
    "ForkGate",
    "Health",
    "HealthLevel",
    "HealthReason",
    "Lease",
    "MetricSeries",
    "Migration",
    "MigrationReport",
    "Outcome",
    "Permit",
    "PutResult",
    "Reentry",
    "RefusedMetric",
    "Rejected",
    "ResilientDynamoClient",
    "RetryQuota",
    "RetrySettings",
    "Settings",
    "Settlement",
    "StoreBusyError",
    "StoreError",
    "StoreVersionError",
    "TableDescription",
    "UsageClient",
    "UsageError",
    "UsageQuery",
    "UsageStore",
    "UsageSummary",
    "__version__",
    "detect_environment",
    "inspect_environment",
    "load_timezone",
    "mint_request_id",
    "open_usage_client",
    "place_of",
    "plain_decimal",
    "plain_duration",
    "read_health",
    "retry_with_backoff",
    "safe_logger",
    "waiting_elsewhere",
    "way_to",
]

_MODULES = {
    "_version": "__version__",
    "dead_letter": "DeadLetter",
    "dead_letters": "DeadLetters",
    "destinations": "place_of waiting_elsewhere way_to",
    "doctor": "Finding inspect_environment",
    "dynamo_admin": "TableDescription",
    "dynamo_client": "DynamoClient",
    "entities.ai_usage_metric": "AIUsageMetric PRICE_SOURCES STATUSES UNPRICED_REASONS",
    "entities.metric_series": "CallFigures MetricSeries",
    "entities.request_id": "mint_request_id",
    "environment": "Environment detect_environment",
    "errors": "ConfigurationError DeadLetterError DirectoryRefusedError StoreBusyError StoreError "
    "StoreVersionError UsageError",
    "fork_gate": "ForkGate",
    "health": "FlushReport Health HealthLevel HealthReason PutResult",
    "health_check": "read_health",
    "health_rules": "plain_duration",
    "logs": "safe_logger",
    "migration": "Migration MigrationReport RefusedMetric",
    "opening": "open_usage_client",
    "resilient_dynamo_client": "ResilientDynamoClient",
    "settings": "Settings",
    "store": "DIMENSIONS DroppedSummary UsageQuery UsageStore UsageSummary load_timezone "
    "plain_decimal",
    "usage_client": "UsageClient",
    "utils.batch_queue": "BatchQueue BatchQueueSettings Lease Reentry Settlement",
    "utils.circuit_breaker": "CircuitBreaker CircuitBreakerSettings CircuitState "
    "CircuitTransition Outcome Permit Rejected",
    "utils.retry_with_backoff": "Backoff RetryQuota RetrySettings retry_with_backoff",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

if not TYPE_CHECKING:

    def __getattr__(name):
        """Load a public name from its module."""
        if name not in _HOME:
            raise AttributeError(f"module 'receipt_dynamo' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"receipt_dynamo.{_HOME[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        """Name the public surface."""
        return __all__
