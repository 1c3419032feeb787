"""The tables at the end of a run: a row for each figure, a column for each contender."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.stress.page_words import MEASURES, apart, measure_of, words

__all__ = ["print_document"]

_WIDTH = 100  # where the output is no terminal
_LABEL_WIDTH, _COLUMN_WIDTH = 28, 12


def print_document(document: Mapping[str, Any]) -> None:
    """Print a table for each profile, what was checked, and the verdict."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    for profile in document["profiles"]:
        console.print(f"{profile['name']}: {profile['text']}", style="bold", markup=False)
        console.print(f"{profile['workers']}, {profile['seconds']:g} s", style="dim")
        for cells in _side_by_side(profile["cells"], console.width):
            console.print(_table(cells))
        for cell in profile["cells"]:
            _print_checks(console, cell)
        console.print()
    verdict = "passed" if document["passed"] else "FAILED"
    console.print(
        f"{verdict}: {document['engine']}, {document['seconds']:.0f} s, seed {document['seed']}, "
        f"Python {document['machine']['python']}, {document['machine']['cpus']} CPUs",
        style="bold",
        markup=False,
    )


def _side_by_side(cells: list[Mapping[str, Any]], width: int) -> Iterator[list[Mapping[str, Any]]]:
    """Yield as many contenders at a time as there is room for."""
    room, columns = width - _LABEL_WIDTH, 0
    group: list[Mapping[str, Any]] = []
    for cell in cells:
        needed = max(_COLUMN_WIDTH, len(cell["label"]) + 3)
        if group and columns + needed > room:
            yield group
            group, columns = [], 0
        group.append(cell)
        columns += needed
    if group:
        yield group


def _table(cells: list[Mapping[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for cell in cells:
        table.add_column(
            cell["label"], justify="right", no_wrap=True, style="bold" if cell["ours"] else None
        )
    for name, measure in MEASURES.items():
        values = [cell["figures"].get(name) for cell in cells]
        if any(value is not None for value in values):
            table.add_row(measure.label, *(words(value, measure.unit) for value in values))
    return table


def _print_checks(console: Any, cell: Mapping[str, Any]) -> None:
    for problem in cell["problems"]:
        console.print(f"FAILED {cell['label']}: {problem}", style="red", markup=False)
    for check in cell["checks"]:
        measure = measure_of(check["name"])
        figure, limit = apart(check["figure"], check["limit"], measure.unit)
        bound = "at least" if check["at_least"] else "at most"
        console.print(
            f"{'ok    ' if check['passed'] else 'FAILED'} {cell['label']}: {measure.label} "
            f"{figure}, {bound} {limit}",
            style=None if check["passed"] else "red",
            markup=False,
        )
