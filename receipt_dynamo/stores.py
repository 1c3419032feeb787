"""Which store the settings name: the embedded one, or a table."""

from __future__ import annotations

from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.settings import Settings
from receipt_dynamo.store import UsageStore

__all__ = ["check_destination", "check_region", "open_store"]


def check_destination(settings: Settings) -> None:
    """Raise ConfigurationError unless these settings name a place that records can go to."""
    if settings.table_name is None and settings.environment in ("production", "staging"):
        raise ConfigurationError(
            f"DYNAMODB_TABLE_NAME is not set, and {settings.environment_variable} says "
            f"{settings.environment}. Set it, or set ENVIRONMENT=development to use the local "
            "store."
        )


def check_region(settings: Settings) -> None:
    """Raise ConfigurationError where no request could be made. Recording goes on all the same: it
    asks nobody, and a region that is set later finds all of it."""
    if settings.table_name is not None and not (settings.region or settings.endpoint_url):
        raise ConfigurationError(
            f"the table {settings.table_name} is named, but no AWS region is. Set AWS_REGION to "
            "the region of the table."
        )


def open_store(settings: Settings) -> UsageStore:
    """Return the store that ``settings`` name. Asks nobody yet. Raises ConfigurationError."""
    check_destination(settings)
    if settings.table_name is None:
        from receipt_dynamo.sqlite_store import SqliteStore  # sqlite3 loads when it is used

        return SqliteStore(settings.store_path)
    from receipt_dynamo.dynamo_client import DynamoClient

    return DynamoClient(
        settings.table_name,
        region=settings.region,
        endpoint_url=settings.endpoint_url,
        retention_days=settings.retention_days,
    )
