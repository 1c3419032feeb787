"""How the commands speak: data on standard output, everything else on standard error.

Names come from outside. Nothing of them reaches the terminal that could move its cursor, or a
spreadsheet that could run as a formula.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TextIO

__all__ = [
    "called",
    "clean",
    "counted",
    "csv_writer",
    "note",
    "spreadsheet_safe",
    "write_csv",
    "write_json",
]

_FORMULA = ("=", "+", "-", "@")


def called(arguments: str) -> str:
    """Return a command of this program as it works when it is typed: ``receipt-usage report``.

    ``RECEIPT_USAGE_COMMAND`` is how this program is called where that is not by its name alone.
    """
    command = os.environ.get("RECEIPT_USAGE_COMMAND") or "receipt-usage"
    return f"{clean(command)} {arguments}"


def clean(text: object) -> str:
    """Return ``text`` on one line, with escapes in place of every character that does not print."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown
    )


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 call`` or ``1,000 calls``."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def note(text: str) -> None:
    """Print one line on standard error; who reads no further does not end the work."""
    if sys.stderr is None:  # closed by the shell: 2>&-
        return
    with suppress(OSError, ValueError):  # a pipe that nobody reads any more
        print(clean(text), file=sys.stderr, flush=True)


def write_json(value: Any) -> None:
    """Print a JSON document on standard output, in ASCII: no name in it can steer a terminal."""
    print(json.dumps(value, indent=2))


def spreadsheet_safe(value: object) -> object:
    """Return a cell for CSV: None empty, text printable and never a formula.

    A text that starts with ``=``, ``+``, ``-`` or ``@`` gets an apostrophe in front, as
    spreadsheets take it for text then (OWASP, "CSV Injection").
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_writer(stream: TextIO) -> Any:
    """Return a CSV writer with plain line ends."""
    return csv.writer(stream, lineterminator="\n")


def write_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as CSV on standard output."""
    writer = csv_writer(sys.stdout)
    writer.writerow(header)
    for row in rows:
        writer.writerow([spreadsheet_safe(cell) for cell in row])
