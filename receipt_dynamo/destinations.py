"""The spools beside the one of this environment: records that only another setting can deliver."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.pending import backlog, count_left

__all__ = ["waiting_elsewhere", "way_to"]

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")
_ADDRESS = re.compile(r"([A-Za-z0-9.-]+)_(\d{1,5})")


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
    """Return how the records of another destination are delivered, as one would type it.

    The name of a destination keeps neither the scheme of an endpoint nor its colons and slashes:
    one that cannot be told from it is named as it stands.
    """
    if destination == "local":
        return "unset DYNAMODB_TABLE_NAME and run receipt-usage report"
    table, _, place = destination.rpartition("@")
    address = _ADDRESS.fullmatch(place)
    if _REGION.fullmatch(place):
        where = f"AWS_REGION={place}"
    elif address:
        scheme = "https" if address[2] == "443" else "http"
        where = f"AWS_ENDPOINT_URL_DYNAMODB={scheme}://{address[1]}:{address[2]}"
    else:
        return (
            f"a process with DYNAMODB_TABLE_NAME={table} and its endpoint ({place}) delivers them"
        )
    return f"DYNAMODB_TABLE_NAME={table} {where} receipt-usage ship"
