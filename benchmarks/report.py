"""How the benchmark shows what it measured: one kind of table, one JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Part", "Row", "machine", "median_of", "print_parts", "timings"]

_PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_WIDTH = 110  # where the output is no terminal, or a narrow one: nothing is cut


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one operation. ``goal``: what a figure should not exceed."""

    name: str
    figures: Mapping[str, float]
    yardstick: bool = False
    goal: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """One table. ``title`` says what was done and in which unit; ``note`` how to read it."""

    name: str
    title: str
    rows: Sequence[Row]
    note: str = ""


def timings(nanoseconds: Sequence[int], suffix: str = "") -> dict[str, float]:
    """Return percentiles in microseconds, the share of calls that did not take longer."""
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        f"{name}{suffix}": ordered[min(last, int(len(ordered) * share))] / 1000
        for name, share in _PERCENTILES.items()
    }


def median_of(runs: Sequence[Part]) -> Part:
    """Return one part whose figures are the medians of the same part's runs."""
    first = runs[0]
    rows = [
        Row(
            row.name,
            {
                name: statistics.median(run.rows[index].figures[name] for run in runs)
                for name in row.figures
            },
            row.yardstick,
            row.goal,
        )
        for index, row in enumerate(first.rows)
    ]
    return Part(first.name, first.title, rows, first.note)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def as_json(parts: Sequence[Part], **about: Any) -> dict[str, Any]:
    """Return everything as JSON can hold it."""
    return {"machine": machine(), **about, "parts": [asdict(part) for part in parts]}


def print_parts(parts: Sequence[Part]) -> None:
    """Print a table for each part. A figure that exceeds its goal is marked with ``!``."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    for part in parts:
        console.print(part.title, style="bold")
        console.print(_table(part))
        for text in (*_goals(part), part.note):
            if text:
                console.print(f"  {text}")
        console.print()
    found = machine()
    console.print(
        f"Python {found['python']}, {found['system']}, {found['cpus']} CPUs, load {found['load']}"
    )


def _goals(part: Part) -> list[str]:
    return [
        f"goal of {row.name}: "
        + ", ".join(f"{name} at most {limit:g}" for name, limit in row.goal.items())
        for row in part.rows
        if row.goal
    ]


def _table(part: Part) -> Any:
    from rich import box
    from rich.table import Table

    fullest = sorted(part.rows, key=lambda row: -len(row.figures))
    columns = list(dict.fromkeys(name for row in fullest for name in row.figures))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("operation", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in part.rows:
        figures = [_figure(row, column) for column in columns]
        table.add_row(row.name, *figures, style="dim" if row.yardstick else None)
    return table


def _figure(row: Row, column: str) -> str:
    value = row.figures.get(column)
    if value is None:
        return ""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{text}!" if value > row.goal.get(column, value) else text
