"""receipt_dynamo: what a usage metric is, where it lies, and how it gets there.

These names are the whole surface; everything else is private and may change.
"""

from receipt_dynamo._version import __version__
from receipt_dynamo.entities.ai_usage_metric import (
    PRICE_SOURCES,
    STATUSES,
    UNPRICED_REASONS,
    AIUsageMetric,
)
from receipt_dynamo.entities.request_id import mint_request_id
from receipt_dynamo.environment import Environment, detect_environment
from receipt_dynamo.errors import (
    ConfigurationError,
    DirectoryRefusedError,
    StoreBusyError,
    StoreError,
    StoreVersionError,
    UsageError,
)
from receipt_dynamo.health import FlushReport, Health, PutResult
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
from receipt_dynamo.usage_client import UsageClient, open_usage_client

__all__ = [
    "DIMENSIONS",
    "PRICE_SOURCES",
    "STATUSES",
    "UNPRICED_REASONS",
    "AIUsageMetric",
    "ConfigurationError",
    "DirectoryRefusedError",
    "DroppedSummary",
    "Environment",
    "FlushReport",
    "Health",
    "PutResult",
    "Settings",
    "StoreBusyError",
    "StoreError",
    "StoreVersionError",
    "UsageClient",
    "UsageError",
    "UsageQuery",
    "UsageStore",
    "UsageSummary",
    "__version__",
    "detect_environment",
    "load_timezone",
    "mint_request_id",
    "open_usage_client",
    "plain_decimal",
]
