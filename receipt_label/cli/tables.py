"""Tables for people: aligned to the decimal point, never cut, readable in any width."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from receipt_dynamo import plain_decimal
from receipt_label.cli.output import clean

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Column", "print_table"]

_NARROWEST_NAME = 12
Cell = str | int | Decimal | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and whether it holds figures (which are never wrapped)."""

    title: str
    figures: bool = False


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    total: Sequence[Cell] | None = None,
) -> None:
    """Print a table on standard output, with a line of totals.

    A terminal that is too narrow gets one block for each row instead. What is piped has the width
    that it needs.
    """
    from rich.console import Console
    from rich.measure import Measurement

    lines = [*rows, total] if total is not None else list(rows)
    texts = [
        _figures([line[i] for line in lines], column.title)
        if column.figures
        else [_name(line[i]) for line in lines]
        for i, column in enumerate(columns)
    ]
    cells = [list(line) for line in zip(*texts, strict=True)]
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=False)
    wide = console.options.update(width=10**6)
    table = _table(columns, cells, has_total=total is not None)
    needed = Measurement.get(console, wide, table).maximum
    if not console.is_terminal:
        console.width = needed
    elif needed - _shrinkable(columns, texts) > console.width:
        _print_blocks(columns, cells)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _table(columns: Sequence[Column], cells: Sequence[Sequence[str]], *, has_total: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        title = column.title
        if column.figures:
            width = max((len(line[index]) for line in cells), default=0)
            table.add_column(Text(title.rjust(width)), no_wrap=True)
        else:
            table.add_column(Text(title), overflow="fold")
    for number, line in enumerate(cells, 1):
        last = has_total and number == len(cells)
        if last:
            table.add_section()
        table.add_row(*(Text(cell) for cell in line), style="bold" if last else "")
    return table


def _shrinkable(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> int:
    """Return by how many characters the columns of names can be narrowed."""
    widths = (
        max((len(text) for text in column_texts), default=0)
        for column, column_texts in zip(columns, texts, strict=True)
        if not column.figures
    )
    return sum(max(0, width - _NARROWEST_NAME) for width in widths)


def _print_blocks(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    width = max(len(column.title) for column in columns)
    for number, line in enumerate(cells):
        if number:
            print()
        for column, cell in zip(columns, line, strict=True):
            print(f"{column.title.ljust(width)}  {cell.strip()}".rstrip())


def _name(value: Cell) -> str:
    return "-" if value is None else clean(value)


def _figures(values: Sequence[Cell], title: str) -> list[str]:
    """Return figures of one width, with thousands separators, decimal points below each other."""
    shown = [_figure(value) for value in values]
    fraction = max((len(_fraction(text)) for text in shown), default=0)
    padded = [text + " " * (fraction - len(_fraction(text))) for text in shown]
    width = max([len(title), *(len(text) for text in padded)])
    return [text.rjust(width) for text in padded]


def _fraction(text: str) -> str:
    _, point, digits = text.partition(".")
    return point + digits


def _figure(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, Decimal):
        whole, point, digits = plain_decimal(value).partition(".")
        return f"{int(whole):,}{point}{digits}"
    return f"{value:,}" if isinstance(value, int) else clean(value)
