"""``receipt-usage export``: every recorded call, one a line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

import click

from receipt_label.cli.output import counted, csv_writer, note, spreadsheet_safe
from receipt_label.cli.selection import Selection, selection_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from receipt_dynamo import AIUsageMetric

__all__ = ["command"]


@click.command(name="export")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON lines are exact; CSV is made safe for spreadsheets.",
)
@click.option("--output", "-o", metavar="FILE", help="Write to this file. [default: stdout]")
@selection_options
def command(form: str, output: str | None, **chosen: Any) -> None:
    """Print every recorded call, by time, with all its fields; unknown ones are null.

    Money is a decimal string, the timestamp ISO 8601 in UTC.
    """
    selection = Selection.of(datetime.now(UTC), **chosen)
    from receipt_label.cli.opening import open_client
    from receipt_label.cli.progress import take_in_for_report

    with open_client() as client:
        take_in_for_report(client)
        metrics = client.query(selection.query)
        write = _write_jsonl if form == "jsonl" else _write_csv
        with _opened(output) as stream:
            count = write(metrics, stream)
    if output is not None:
        note(f"{counted(count, 'call')} exported to {output}")


@contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    if output is None or output == "-":
        # Surrogates cannot occur; whatever the locale is, the data is UTF-8.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        yield sys.stdout
        return
    with open(output, "w", encoding="utf-8", newline="\n") as stream:  # noqa: PTH123
        yield stream


def _write_jsonl(metrics: Iterable[AIUsageMetric], stream: TextIO) -> int:
    """Write one JSON object a line, in ASCII: no name in it can steer a terminal."""
    encode = json.JSONEncoder(separators=(",", ":")).encode
    count = 0
    for count, metric in enumerate(metrics, 1):  # noqa: B007 - the number of the last one
        stream.write(encode(_fields(metric)) + "\n")
    return count


def _write_csv(metrics: Iterable[AIUsageMetric], stream: TextIO) -> int:
    from receipt_dynamo import AIUsageMetric

    writer = csv_writer(stream)
    writer.writerow(AIUsageMetric.__struct_fields__)
    count = 0
    for count, metric in enumerate(metrics, 1):  # noqa: B007
        writer.writerow([_cell(value) for value in _fields(metric).values()])
    return count


def _cell(value: Any) -> object:
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":")) if value else ""
    return spreadsheet_safe(value)


def _fields(metric: AIUsageMetric) -> dict[str, Any]:
    return {name: _plain(getattr(metric, name)) for name in metric.__struct_fields__}


def _plain(value: Any) -> Any:
    from receipt_dynamo import plain_decimal

    if isinstance(value, Decimal):
        return plain_decimal(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value
