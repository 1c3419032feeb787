"""Opening the client that an environment asks for: of a table, or of the embedded store."""

from __future__ import annotations

from receipt_dynamo.file_systems import warn_of_risk
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.settings import Settings
from receipt_dynamo.stores import check_destination, open_store
from receipt_dynamo.usage_client import UsageClient

__all__ = ["open_usage_client"]

_log = safe_logger("receipt_dynamo.client")


def open_usage_client(settings: Settings | None = None) -> UsageClient:
    """Return the client for this environment: of the table ``DYNAMODB_TABLE_NAME``.

    Without one that is the embedded store, except where the environment says production or
    staging: there a missing table is an error. Asks nobody. Raises ConfigurationError.
    """
    chosen = settings or Settings.from_env()
    check_destination(chosen)
    client = _open_embedded(chosen) if chosen.table_name is None else _open_table(chosen)
    if chosen.drain != "manual":  # a command records nothing of its own; doctor warns as well
        warn_of_risk(chosen.usage_dir)
    return client


def _open_table(settings: Settings) -> UsageClient:
    from receipt_dynamo.resilient_dynamo_client import ResilientDynamoClient

    return ResilientDynamoClient(settings.table_name, settings=settings)


def _open_embedded(settings: Settings) -> UsageClient:
    # Records of another destination have a drainer that sends them elsewhere: not beside that.
    foreign = settings.other_spool is not None
    client = UsageClient(settings, open_store(settings), needs_lead=foreign)
    if foreign:
        return client
    _log.info(
        "DYNAMODB_TABLE_NAME is not set: usage is recorded in the embedded store %s. "
        "Read it with: receipt-usage report. Bring it into a table later with: "
        "receipt-usage ship --to-table NAME",
        settings.store_path,
    )
    return client
