"""The tables at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["print_document", "shown"]

_COLUMNS = {
    "offered": "offered",
    "lost": "lost",
    "duplicated": "twice",
    "refused": "refused",
    "retention": "retention",
    "put_p50_us": "p50 µs",
    "put_p99_us": "p99 µs",
    "put_max_us": "max ms",
    "goodput": "goodput/s",
    "goodput_share": "of the table",
    "accepted_per_sent": "taken/sent",
    "calls_per_metric": "calls/record",
    "recovery_seconds": "recovery s",
    "cpu_us_per_item": "CPU µs",
    "peak_mb": "MB",
}
_SHARES = frozenset(
    {"retention", "goodput_share", "accepted_per_sent", "retried_share", "outage_requests_share"}
)
_WIDTH = 150


def shown(name: str, value: float | int | None) -> str:
    """Return a figure as people read it."""
    if value is None:
        return "-"
    if name.split(" ", maxsplit=1)[0] in _SHARES:
        return f"{value:.1%}"
    if name == "put_max_us":
        return f"{value / 1000:,.1f}"
    if name == "calls_per_metric":
        return f"{value:.4f}"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}"


def print_document(document: Mapping[str, Any]) -> None:
    """Print a table for each profile, what was checked, and the verdict."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    for profile in document["profiles"]:
        console.print(f"{profile['name']}: {profile['text']}", style="bold")
        console.print(f"  {profile['workers']}, {profile['seconds']:g} s", style="dim")
        console.print(_table(profile))
        for cell in profile["cells"]:
            _print_checks(console, cell)
        console.print()
    verdict = "passed" if document["passed"] else "FAILED"
    console.print(
        f"{verdict}: {document['engine']}, {document['seconds']:.0f} s, seed {document['seed']}, "
        f"Python {document['machine']['python']}, {document['machine']['cpus']} CPUs"
    )


def _table(profile: Mapping[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    columns = [
        name
        for name in _COLUMNS
        if any(cell["figures"].get(name) is not None for cell in profile["cells"])
    ]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("contender", no_wrap=True)
    for name in columns:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    for cell in profile["cells"]:
        figures = [shown(name, cell["figures"].get(name)) for name in columns]
        table.add_row(cell["label"], *figures, style="bold" if cell["ours"] else None)
    return table


def _print_checks(console: Any, cell: Mapping[str, Any]) -> None:
    for problem in cell["problems"]:
        console.print(f"  {cell['label']}: {problem}", style="red", markup=False)
    if cell["checks"]:
        told = [
            f"{check['name']} {shown(check['name'], check['figure'])} "
            f"({'at least' if check['at_least'] else 'at most'} "
            f"{shown(check['name'], check['limit'])})" + ("" if check["passed"] else " FAILED")
            for check in cell["checks"]
        ]
        console.print(f"  {cell['label']}: {'; '.join(told)}", markup=False)
