"""The tables at the end of a run: a row for each figure, a column for each contender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.stress.page_words import MEASURES, apart, measure_of, words

__all__ = ["print_document"]

_WIDTH = 120


def print_document(document: Mapping[str, Any]) -> None:
    """Print a table for each profile, what was checked, and the verdict."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    for profile in document["profiles"]:
        console.print(f"{profile['name']}: {profile['text']}", style="bold", markup=False)
        console.print(f"{profile['workers']}, {profile['seconds']:g} s", style="dim")
        console.print(_table(profile["cells"]))
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


def _table(cells: list[Mapping[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for cell in cells:
        table.add_column(cell["label"], justify="right", style="bold" if cell["ours"] else None)
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
