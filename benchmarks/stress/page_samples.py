"""What a long run looked at now and then: memory, open files, threads. Flat is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stress.page_html import Html, element
from benchmarks.stress.page_svg import (
    Cell,
    Look,
    label,
    line,
    name_of,
    nice_step,
    nice_top,
    path,
    tick,
)
from benchmarks.stress.page_words import number, words

__all__ = ["samples"]

_TITLES = {"rss_mb": "memory, MB", "descriptors": "open files", "threads": "threads"}
_WIDTH, _HEIGHT = 360, 120
_LEFT, _RIGHT, _TOP, _BASE = 42, 10, 22, 96
_POINTS = 240


def samples(cells: Sequence[tuple[Look, Cell]]) -> Html | None:
    """Return a panel for each series that was sampled; None if none was."""
    panels = [
        panel
        for look, cell in cells
        for name, values in (cell.get("samples") or {}).items()
        if name != "at" and (panel := _panel(look, cell, name, values)) is not None
    ]
    return element("div", *panels, class_="panels") if panels else None


def _panel(look: Look, cell: Cell, name: str, values: Sequence[Any]) -> Html | None:
    title = _TITLES.get(name, name.replace("_", " "))
    pairs = _pairs(cell["samples"], values)
    if not pairs:
        return None
    known = [value for _, value in pairs]
    seconds, top = max(at for at, _ in pairs) or 1.0, nice_top(max(known))
    points = [
        (_across(at, seconds), _BASE - (_BASE - _TOP) * max(0.0, value) / top)
        for at, value in pairs
    ]
    low, high, last = (words(value) for value in (min(known), max(known), known[-1]))
    told = f"{low} throughout" if low == high else f"{low} to {high}, {last} at the end"
    step = nice_step(seconds / 4)
    ticks = [step * index for index in range(int(seconds / step + 1e-9) + 1)]
    picture = element(
        "svg",
        element("title", f"{cell['label']}: {title} over time"),
        element("desc", told),
        line(_LEFT, _TOP, _WIDTH - _RIGHT, _TOP, "grid"),
        line(_LEFT, _BASE, _WIDTH - _RIGHT, _BASE, "base"),
        label(_LEFT, _TOP - 6, title, "what"),
        label(_LEFT - 5, _TOP + 8, tick(top), "end"),
        label(_LEFT - 5, _BASE + 1, "0", "end"),
        *(
            label(_across(at, seconds), _BASE + 17, tick(at) + " s" * (at == ticks[-1]), "middle")
            for at in ticks
        ),
        element("path", d=path(points), class_="line"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    caption = element("figcaption", name_of(cell), element("span", told, class_="readout"))
    return element("figure", caption, picture, class_=f"panel {look.style}")


def _pairs(sampled: Mapping[str, Any], values: Sequence[Any]) -> list[tuple[float, float]]:
    """Return (seconds, value) of at most _POINTS samples, evenly chosen; gaps are left out."""
    pairs = [
        (float(at), float(value))
        for at, value in zip(sampled["at"], values, strict=False)
        if number(at) is not None and number(value) is not None
    ]
    return pairs[:: max(1, -(-len(pairs) // _POINTS))]


def _across(at: float, seconds: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / seconds
