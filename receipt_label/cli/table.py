"""``receipt-usage table``: make the DynamoDB table, and tell whether one is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from receipt_label.cli.output import clean, counted, note, write_json

if TYPE_CHECKING:
    from receipt_dynamo import DynamoClient, TableDescription

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@click.group(name="table")
def command() -> None:
    """Create, describe or check the DynamoDB table of this environment.

    It is the one that DYNAMODB_TABLE_NAME names, in the region AWS_REGION.
    """


def _which(function: F) -> F:
    """Add the options that name a table."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--endpoint-url", metavar="URL", help="[default: AWS_ENDPOINT_URL_DYNAMODB]"),
        click.option("--region", help="[default: AWS_REGION]"),
        click.option("--table", "name", metavar="NAME", help="[default: DYNAMODB_TABLE_NAME]"),
    ):
        function = option(function)
    return function


@command.command(name="create")
@_which
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Spread each service and hour over so many partitions. For good.",
)
@click.option("--tries", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--wait",
    type=click.FloatRange(min=0.0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two tries.",
)
def create(shards: int, tries: int, wait: float, as_json: bool, **which: str | None) -> int:
    """Create the table with its indexes, unless it is there, and wait until it is ready.

    Whatever is there already stays as it is. Exit code 1 when a table of that name is another one.
    """
    with _client(**which) as client:
        made = client.create_table(shards, tries, wait)
    if as_json:
        write_json(_as_json(made))
    note(f"the table {made.name} is ready, with {counted(made.shards or 1, 'shard')}")
    return 0


@command.command(name="describe")
@_which
def describe(as_json: bool, **which: str | None) -> int:
    """Show what the table is: state, size, indexes, shards, services."""
    with _client(**which) as client:
        found = client.describe_table()
    if as_json:
        write_json(_as_json(found))
        return 0
    indexes = ", ".join(f"{name} {state}" for name, state in sorted(found.indexes.items()))
    rows = {
        "table": found.arn or found.name,
        "status": found.status,
        "billing": found.billing,
        "items": f"{found.items:,} ({_size(found.size_bytes)}; up to six hours old)",
        "indexes": indexes or "none",
        "TTL": found.ttl_attribute or "off",
        "shards": "1, until somebody writes" if found.shards is None else str(found.shards),
        "services": ", ".join(found.services) or "none yet",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name.ljust(width)}  {clean(value)}")
    for difference in found.differences:
        note(f"warning: {difference}")
    return 0


@command.command(name="check")
@_which
def check(as_json: bool, **which: str | None) -> int:
    """Say how the table differs from what this version needs. Exit code 1 if it does."""
    with _client(**which) as client:
        found = client.describe_table()
    problems = list(found.differences)
    if found.status != "ACTIVE":
        problems.insert(0, f"the table is {found.status}, not ACTIVE")
    if as_json:
        write_json({"table": found.name, "problems": problems})
    else:
        for problem in problems:
            print(clean(problem))
    if problems:
        note(f"the table {found.name} is not as it should be: {counted(len(problems), 'problem')}")
        return 1
    note(f"the table {found.name} is as it should be")
    return 0


def _client(name: str | None, region: str | None, endpoint_url: str | None) -> DynamoClient:
    from receipt_dynamo import DynamoClient
    from receipt_label.cli.opening import read_settings

    settings = read_settings()
    table = name or settings.table_name
    if table is None:
        raise click.UsageError("no table is named: pass --table, or set DYNAMODB_TABLE_NAME")
    return DynamoClient(
        table,
        region=region or settings.region,
        endpoint_url=endpoint_url or settings.endpoint_url,
    )


def _as_json(found: TableDescription) -> dict[str, Any]:
    return asdict(found)


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:  # noqa: PLR2004
            break
        count /= 1024
    return f"{count:,.0f} {unit}" if unit == _UNITS[0] else f"{count:,.1f} {unit}"
