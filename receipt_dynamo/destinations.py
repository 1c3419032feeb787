"""The spools beside the one of this environment: records that only another setting can deliver."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping

from receipt_dynamo.settings import DEPRECATED_TABLE_VARIABLE, Settings
from receipt_dynamo.spool.pending import backlog, count_left

__all__ = ["place_of", "waiting_elsewhere", "way_to"]

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")
_ENDPOINTS = ("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL")
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


def place_of(destination: str) -> str:
    """Return what a destination is, in words, where its name is that of a directory."""
    if destination == "local":
        return "the embedded store"
    table, place, endpoint = _parts(destination)
    return f"the table {table} {'in' if endpoint is None else 'at'} {endpoint or place}"


def way_to(destination: str, environ: Mapping[str, str] | None = None) -> str:
    """Return how the records of another destination are delivered, as one would type it.

    Where ``environ`` (default: this process's) would lead the command elsewhere, it unsets what
    does. An endpoint that cannot be told from the name of the destination is named as it stands.
    """
    variables = os.environ if environ is None else environ
    if destination == "local":
        return _way_to_the_embedded_store(variables)
    there = _way_to_a_table(destination, variables)
    here = f"receipt-usage ship --from {shlex.quote(destination)}"  # where its name was wrong
    return f"{there}. To here instead: {here}"


def _way_to_a_table(destination: str, variables: Mapping[str, str]) -> str:
    table, place, endpoint = _parts(destination)
    if endpoint is None:
        unset = " ".join(f"-u {name}" for name in _ENDPOINTS if variables.get(name))
        prefix = f"env {unset} " if unset else ""
        return f"{prefix}DYNAMODB_TABLE_NAME={table} AWS_REGION={place} receipt-usage ship"
    if "://" in endpoint:
        return (
            f"DYNAMODB_TABLE_NAME={table} AWS_ENDPOINT_URL_DYNAMODB={endpoint} receipt-usage ship"
        )
    return f"a process with DYNAMODB_TABLE_NAME={table} and its endpoint ({place}) delivers them"


def _way_to_the_embedded_store(variables: Mapping[str, str]) -> str:
    """Return the line that reads the embedded store, and the one that empties it into a table."""
    tables = ("DYNAMODB_TABLE_NAME", DEPRECATED_TABLE_VARIABLE)
    unset = " ".join(f"-u {name}" for name in tables)
    line = f"env {unset} ENVIRONMENT=development receipt-usage report"
    table = next((variables[name] for name in tables if variables.get(name, "").strip()), None)
    if table is None:
        return line
    return f"{line}. Into the table: receipt-usage ship --to-table {shlex.quote(table)}"


def _parts(destination: str) -> tuple[str, str, str | None]:
    """Return the table, the region or address, and the endpoint: None where it is a region.

    The name keeps neither the scheme of an endpoint nor its colons and slashes.
    """
    table, _, place = destination.rpartition("@")
    if _REGION.fullmatch(place):
        return table, place, None
    address = _ADDRESS.fullmatch(place)
    if address is None:
        return table, place, place
    scheme = "https" if address[2] == "443" else "http"
    return table, place, f"{scheme}://{address[1]}:{address[2]}"
