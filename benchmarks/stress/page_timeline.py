"""What happened over time: a panel for each contender, all on the same scales.

The windows of faults are shaded and carry letters, so they can be read without colours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.stress.page_html import Html, element, join
from benchmarks.stress.page_svg import (
    Cell,
    Look,
    cut,
    label,
    line,
    name_of,
    nice_step,
    nice_top,
    path,
    tick,
)
from benchmarks.stress.page_words import DASH, number, words

__all__ = ["fault_list", "over_time", "thinned_step"]

_POINTS = 100
"""At most so many points in a line: more cannot be seen, and the page stays small."""

_WIDTH, _LEFT, _RIGHT = 360, 42, 10
_PLOT = _WIDTH - _LEFT - _RIGHT
_TOP, _BOTTOM, _HEIGHT = 18, 230, 250


@dataclass(frozen=True, slots=True)
class _Strip:
    """One of the three plots of a panel. ``highest``: of several steps the highest is drawn."""

    key: str
    title: str
    top: int
    base: int
    highest: bool = False


_STRIPS = (
    _Strip("calls", "calls the pipeline made, per second", 34, 96),
    _Strip("arrived", "records that reached the store, per second", 117, 163),
    _Strip("backlog", "backlog: accepted, not yet in the store", 184, _BOTTOM, highest=True),
)


def over_time(
    cells: Sequence[tuple[Look, Cell]], faults: Sequence[Mapping[str, Any]], name: str
) -> Html | None:
    """Return the panels of those that have a timeline; None if nobody has.

    ``name`` is of this profile alone: the first panel's ground has it, the others refer to it.
    """
    shown = [(look, cell, _thinned(cell["timeline"])) for look, cell in cells if _has_one(cell)]
    if not shown:
        return None
    seconds = max(_seconds(cell) for _, cell, _ in shown)
    tops = {
        strip.key: nice_top(max((max(_known(one, strip), default=0) for *_, one in shown)))
        for strip in _STRIPS
    }
    first = _ground(faults, tops, seconds, f"{name}-ground")
    again = element("use", href=f"#{name}-ground")
    return element(
        "div",
        *(
            _panel(look, cell, one, tops, seconds, again if index else first)
            for index, (look, cell, one) in enumerate(shown)
        ),
        class_="panels over-time",
        data_left=_LEFT / _WIDTH,
        data_width=_PLOT / _WIDTH,
        data_seconds=round(seconds, 3),
    )


def thinned_step(cells: Sequence[Cell]) -> float | None:
    """Return the seconds that a point of the panels stands for; None if there are none."""
    timelines = [cell["timeline"] for cell in cells if _has_one(cell)]
    return max((_thinned(timeline)["step"] for timeline in timelines), default=None)


def fault_list(faults: Sequence[Mapping[str, Any]]) -> Html | None:
    """Return what the letters over the shaded windows mean; None if there are none."""
    entries = []
    for name, letter in _letters(faults).items():
        when = ", ".join(_when(fault) for fault in faults if _name(fault) == name)
        about = element("span", f" {when}", class_="quiet")
        entries.append(element("li", element("b", letter, class_="letter"), " ", name, about))
    if not entries:
        return None
    return element("ul", *entries, class_="faults", aria_label="Faults and when they were on")


def _when(fault: Mapping[str, Any]) -> str:
    start, end = fault["start"], fault["end"]
    return f"at {words(start, 's')}" if start == end else f"{start:g}{DASH}{words(end, 's')}"


def _letters(faults: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a letter for each kind of fault: A, B, ... Z, A1, B1, ..."""
    names = dict.fromkeys(_name(fault) for fault in faults)
    return {
        name: chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")
        for index, name in enumerate(names)
    }


def _name(fault: Mapping[str, Any]) -> str:
    return str(fault["label"]) or "faults"


def _has_one(cell: Cell) -> bool:
    return bool((cell.get("timeline") or {}).get("calls"))


def _seconds(cell: Cell) -> float:
    timeline = cell["timeline"]
    return float(timeline["step"] * len(timeline["calls"]))


def _thinned(timeline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the timeline in at most _POINTS steps: the mean of rates, the highest backlog."""
    width = math.ceil(len(timeline["calls"]) / _POINTS)
    thinned: dict[str, Any] = {"step": round(timeline["step"] * width, 6)}
    for strip in _STRIPS:
        values = [number(value) for value in timeline.get(strip.key) or []]
        groups = (values[start : start + width] for start in range(0, len(values), width))
        known = ([value for value in group if value is not None] for group in groups)
        thinned[strip.key] = [
            _rounded(max(group) if strip.highest else sum(group) / len(group)) if group else None
            for group in known
        ]
    return thinned


def _rounded(value: float) -> float:
    short = float(f"{value:.3g}")
    return round(value) if abs(value) >= 100 or short == int(short) else short


def _known(series: Mapping[str, Any], strip: _Strip) -> list[float]:
    return [value for value in series[strip.key] if value is not None]


def _panel(
    look: Look,
    cell: Cell,
    series: Mapping[str, Any],
    tops: Mapping[str, float],
    seconds: float,
    ground: Html,
) -> Html:
    picture = element(
        "svg",
        element("title", f"{cell['label']}: calls, arrivals and backlog over time"),
        element("desc", _told(series)),
        ground,
        *(_drawn(strip, series, tops[strip.key], seconds) for strip in _STRIPS),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    highest = words(max(_known(series, _STRIPS[-1]), default=None), "count")
    return element(
        "figure",
        element(
            "figcaption",
            name_of(cell),
            element("output", f"backlog at most {highest}", class_="readout"),
        ),
        picture,
        class_=f"panel {look.style}",
        tabindex=0,
        data_series=json.dumps(series, separators=(",", ":")),
    )


def _told(series: Mapping[str, Any]) -> str:
    """Return what a panel shows, for those who do not see it."""
    parts = []
    for strip in _STRIPS:
        values = _known(series, strip)
        if values:
            low, high, last = (words(value) for value in (min(values), max(values), values[-1]))
            parts.append(f"{strip.title}: {low} to {high}, {last} at the end")
    return "; ".join(parts) + "."


def _across(at: float, seconds: float) -> float:
    return _LEFT + _PLOT * at / seconds


def _drawn(strip: _Strip, series: Mapping[str, Any], top: float, seconds: float) -> Html:
    """Return the line of one contender in one plot."""
    step, height = series["step"], strip.base - strip.top
    points = [
        None
        if value is None
        else (
            _across((index + 0.5) * step, seconds),
            strip.base - height * max(0.0, value) / top,
        )
        for index, value in enumerate(series[strip.key])
    ]
    drawn = path(points, strip.base if strip.highest else None)
    return element("path", d=drawn, class_="line area" if strip.highest else "line")


def _ground(
    faults: Sequence[Mapping[str, Any]], tops: Mapping[str, float], seconds: float, name: str
) -> Html:
    """Return what all panels of a profile have: windows of faults, axes, titles."""
    return element(
        "g",
        _windows(faults, seconds),
        *(_axes(strip, tops[strip.key]) for strip in _STRIPS),
        _seconds_axis(seconds),
        id=name,
    )


def _windows(faults: Sequence[Mapping[str, Any]], seconds: float) -> Html:
    """Return the shaded windows with their letters; a moment is a line."""
    letters = _letters(faults)
    drawn = []
    for fault in faults:
        start, end = (
            _across(min(max(fault[side], 0.0), seconds), seconds) for side in ("start", "end")
        )
        if fault["start"] == fault["end"]:
            drawn.append(line(start, _TOP, start, _BOTTOM, "moment"))
        else:
            drawn.append(_window(start, max(end, start + 1)))
        drawn.append(label((start + end) / 2, 12, letters[_name(fault)], "middle key"))
    return join(drawn)


def _window(left: float, right: float) -> Html:
    return element(
        "rect",
        x=cut(left),
        y=_TOP,
        width=cut(right - left),
        height=_BOTTOM - _TOP,
        class_="window",
    )


def _axes(strip: _Strip, top: float) -> Html:
    return join(
        [
            label(_LEFT, strip.top - 4, strip.title, "what"),
            line(_LEFT, strip.top, _WIDTH - _RIGHT, strip.top, "grid"),
            line(_LEFT, strip.base, _WIDTH - _RIGHT, strip.base, "base"),
            label(_LEFT - 5, strip.top + 8, tick(top), "end"),
            label(_LEFT - 5, strip.base + 1, "0", "end"),
        ]
    )


def _seconds_axis(seconds: float) -> Html:
    step = nice_step(seconds / 4)
    ticks = [step * index for index in range(int(seconds / step + 1e-9) + 1)]
    return join(
        label(_across(at, seconds), _BOTTOM + 15, tick(at) + " s" * (at == ticks[-1]), "middle")
        for at in ticks
    )
