"""The spools beside the one of this environment: records that only another setting can deliver."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.pending import backlog, count_left

__all__ = ["waiting_elsewhere", "way_to"]


def waiting_elsewhere(
    settings: Settings, is_late: Callable[[], bool] | None = None
) -> Mapping[str, int]:
    """Return how many records wait for each destination but that of ``settings``. Raises nothing.

    A process drains only its own destination: without this, records of a table that is no longer
    configured would wait unseen. Once ``is_late()`` says so, the counts are estimated.
    """
    try:
        names = sorted(path.name for path in settings.spool_dir.parent.iterdir() if path.is_dir())
    except OSError:
        return {}
    waiting: dict[str, int] = {}
    for name in names:
        if name == settings.destination:
            continue
        count = count_left(backlog(settings.spool_dir.parent / name), is_late).records
        if count:
            waiting[name] = count
    return waiting


def way_to(destination: str) -> str:
    """Return how the records of another destination are delivered."""
    if destination == "local":
        return "unset DYNAMODB_TABLE_NAME and run receipt-usage report"
    table, _, place = destination.rpartition("@")
    return f"a process with DYNAMODB_TABLE_NAME={table} at {place} delivers them"
