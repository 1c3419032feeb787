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
    from rich.console import Console
    from rich.table import Table

__all__ = ["Column", "print_table"]

_NARROWEST_NAME = 12
_PADDING = (0, 1, 0, 0)
_GAP = 2  # the padding, and the space that the box draws between columns
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

    What is piped has the width that it needs. A narrower terminal gets the names of a row on a line
    above its figures; one that has no room for those, a block for each row. Nothing is cut.
    """
    from rich.console import Console

    lines = [*rows, total] if total is not None else list(rows)
    texts = [
        _figures([line[i] for line in lines], column.title)
        if column.figures
        else [_name(line[i]) for line in lines]
        for i, column in enumerate(columns)
    ]
    cells = [list(line) for line in zip(*texts, strict=True)]
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    needed = _width(columns, texts)
    if not console.is_terminal:
        console.width = needed
    if needed - _shrinkable(columns, texts) <= console.width:
        _print_rich(console, _table(columns, cells, has_total=total is not None))
    elif _figures_width(columns, texts) <= console.width:
        _print_two_lines(columns, cells)
    else:
        _print_blocks(columns, cells)


def _print_rich(console: Console, table: Table) -> None:
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _table(columns: Sequence[Column], cells: Sequence[Sequence[str]], *, has_total: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=_PADDING, header_style="bold"
    )
    for index, column in enumerate(columns):
        if column.figures:
            width = len(cells[0][index]) if cells else 0
            table.add_column(Text(column.title.rjust(width)), no_wrap=True)
        else:
            table.add_column(Text(column.title), overflow="fold")
    for number, line in enumerate(cells, 1):
        last = has_total and number == len(cells)
        if last:
            table.add_section()
        table.add_row(*(Text(cell) for cell in line), style="bold" if last else "")
    return table


def _width(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> int:
    """Return the width of the table as it is."""
    from rich.cells import cell_len

    widths = (
        max([cell_len(column.title), *map(cell_len, column_texts)])
        for column, column_texts in zip(columns, texts, strict=True)
    )
    return sum(widths) + _GAP * len(columns)


def _figures_width(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> int:
    figures = [t for column, t in zip(columns, texts, strict=True) if column.figures]
    return _width([column for column in columns if column.figures], figures)


def _shrinkable(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> int:
    """Return by how many characters the columns of names can be narrowed."""
    widths = (
        max((len(text) for text in column_texts), default=0)
        for column, column_texts in zip(columns, texts, strict=True)
        if not column.figures
    )
    return sum(max(0, width - _NARROWEST_NAME) for width in widths)


def _print_two_lines(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    """Print the names of each row on a line of their own, its figures below."""
    figures = [index for index, column in enumerate(columns) if column.figures]
    names = [index for index, column in enumerate(columns) if not column.figures]
    widths = [len(cells[0][index]) for index in figures]
    headings = (columns[i].title.rjust(w) for i, w in zip(figures, widths, strict=True))
    print(", ".join(columns[index].title for index in names))
    print("  ".join(headings))
    for line in cells:
        print()
        print(", ".join(line[index] for index in names if line[index]))
        print("  ".join(line[index] for index in figures).rstrip())


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
