"""Tables for people: aligned to the decimal point, never cut, readable in any width."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TYPE_CHECKING

from receipt_dynamo import plain_decimal
from receipt_label.cli.output import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Column", "aligned", "print_table"]

_NARROWEST_STACK = 50  # columns; below it each row is a block
_INDENT = "  "
_EXACT = Context(prec=400, rounding=ROUND_HALF_EVEN)
_PADDING = (0, 1, 0, 0)
_GAP = 2  # the padding, and the space that the box draws between columns
Cell = str | int | Decimal | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and whether it holds figures; those are shown to ``decimals``."""

    title: str
    figures: bool = False
    decimals: int | None = None


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    total: Sequence[Cell] | None = None,
) -> bool:
    """Print a table on standard output, with a line of totals. Return whether figures are rounded.

    What is piped has the width that it needs. A narrower terminal gets the names of a row on a line
    above its figures, so that no name is broken; a very narrow one, a block for each row. Nothing
    is cut.
    """
    from rich.console import Console

    exact = [*rows, total] if total is not None else list(rows)
    lines = [
        [_rounded(cell, column) for cell, column in zip(line, columns, strict=True)]
        for line in exact
    ]
    texts = [
        aligned([line[i] for line in lines], column.title)
        if column.figures
        else [_name(line[i]) for line in lines]
        for i, column in enumerate(columns)
    ]
    cells = [list(line) for line in zip(*texts, strict=True)]
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    needed = _width(columns, texts)
    width = console.width if console.is_terminal else needed
    figures = [len(texts[i][0]) for i, column in enumerate(columns) if column.figures]
    gap = _stack_gap(figures, width)
    if needed <= width:
        console.width = needed + _GAP
        _print_rich(console, _table(columns, cells, has_total=total is not None))
    elif gap is not None:
        _print_stack(columns, cells, gap, has_total=total is not None)
    else:
        _print_blocks(columns, cells)
    return any(
        shown != cell
        for line, exact_line in zip(lines, exact, strict=True)
        for shown, cell in zip(line, exact_line, strict=True)
    )


def _rounded(cell: Cell, column: Column) -> Cell:
    """Return money rounded half-even, where it has more decimals than its column shows.

    What is not zero keeps its decimals, so that it does not look like a known zero.
    """
    if not isinstance(cell, Decimal):
        return cell
    if not cell:
        return Decimal(0)
    if column.decimals is None:
        return cell
    rounded = cell.quantize(Decimal(1).scaleb(-column.decimals), context=_EXACT)
    return cell if rounded == cell else rounded


def _stack_gap(figures: Sequence[int], width: int) -> int | None:
    """Return how far apart the figures of a stacked row stand, or None where they do not fit."""
    if width < _NARROWEST_STACK:
        return None
    for gap in (2, 1):
        if len(_INDENT) + sum(figures) + gap * (len(figures) - 1) <= width:
            return gap
    return None


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
    return sum(widths) + _GAP * (len(columns) - 1)


def _print_stack(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], gap: int, *, has_total: bool
) -> None:
    """Print the names of each row on a line of their own, its figures below, indented."""
    figures = [index for index, column in enumerate(columns) if column.figures]
    names = [index for index, column in enumerate(columns) if not column.figures]
    between = " " * gap
    headings = [columns[index].title.rjust(len(cells[0][index])) for index in figures]
    stack = [(", ".join(columns[index].title for index in names), headings)]
    stack += [
        (", ".join(line[index] for index in names if line[index]), [line[i] for i in figures])
        for line in cells
    ]
    rule = "─" * max(len(_INDENT + between.join(headings)), len(stack[0][0]))
    for number, (name, shown) in enumerate(stack):
        if number == 1 or (has_total and number == len(stack) - 1):
            print(rule)
        print(name)
        if figures:
            print(_INDENT + between.join(shown).rstrip())


def _print_blocks(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    width = max(len(column.title) for column in columns)
    for number, line in enumerate(cells):
        if number:
            print()
        for column, cell in zip(columns, line, strict=True):
            print(f"{column.title.ljust(width)}  {cell.strip()}".rstrip())


def _name(value: Cell) -> str:
    return "-" if value is None else clean(value)


def aligned(values: Sequence[Cell], title: str = "") -> list[str]:
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
        plain = plain_decimal(value) if value else format(value, "f")
        whole, point, digits = plain.partition(".")
        return f"{int(whole):,}{point}{digits}"
    return f"{value:,}" if isinstance(value, int) else clean(value)
