"""What the charts draw with: coordinates, lines, labels, scales; no library, no pixel measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.stress.page_html import Html, element

__all__ = [
    "Cell",
    "Look",
    "cut",
    "label",
    "line",
    "name_of",
    "nice_step",
    "nice_top",
    "path",
    "sample_once",
    "tick",
]

Cell = Mapping[str, Any]
Point = tuple[float, float]

_COLOURS = 9


@dataclass(frozen=True, slots=True)
class Look:
    """How one contender is told from the others on the whole page."""

    index: int
    ours: bool

    @property
    def style(self) -> str:
        """The classes that set its colour, its dashes, and whether it is ours."""
        return f"look k{self.index % _COLOURS}{' ours' if self.ours else ''}"


def name_of(cell: Cell) -> Html:
    """Return a contender's name with a piece of its line before it."""
    sample = element("svg", element("use", href="#sample"), class_="sample", aria_hidden="true")
    return element("span", sample, str(cell["label"]), class_="name")


def sample_once() -> Html:
    """Return the line that every sample on the page refers to."""
    piece = element("path", d="M1 5H27", class_="line", id="sample")
    return element("svg", element("defs", piece), class_="defined", aria_hidden="true")


def cut(value: float) -> str:
    """Return a coordinate with one digit after the point, as short as it can be written."""
    text = f"{value:.1f}".removesuffix(".0")
    if text in ("-0", "0"):
        return "0"
    return text.replace("-0.", "-.") if text[0] == "-" else text.removeprefix("0")


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Html:
    """Return a straight line."""
    return element("line", x1=cut(x1), y1=cut(y1), x2=cut(x2), y2=cut(y2), class_=style)


def label(x: float, y: float, text: str, style: str) -> Html:
    """Return a text at a point; ``middle`` and ``end`` in the style say on which side of it."""
    return element("text", text, x=cut(x), y=cut(y), class_=style)


def path(points: Sequence[Point | None], base: float | None = None) -> str:
    """Return a path through the points, broken where one is missing.

    With ``base`` each piece is closed down to that height.
    """
    pieces: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append((round(point[0], 1), round(point[1], 1)))
    return "".join(_piece(piece, base) for piece in pieces if piece)


def _piece(piece: Sequence[Point], base: float | None) -> str:
    """Return one unbroken line in relative steps; what is level is one step."""
    begun, down = piece[0]
    parts = [f"M{cut(begun)} {cut(down if base is None else base)}"]
    if base is not None:
        parts.append(f"V{cut(down)}")
    across = begun
    for index, (x, y) in enumerate(piece[1:], 1):
        level = y == down
        if level and index + 1 < len(piece) and piece[index + 1][1] == down:
            continue
        step = cut(y - down)
        parts.append(
            f"h{cut(x - across)}"
            if level
            else f"l{cut(x - across)}{'' if step[0] == '-' else ' '}{step}"
        )
        across, down = x, y
    if base is not None:
        parts.append(f"V{cut(base)}H{cut(begun)}z")
    return "".join(parts)


def nice_step(about: float) -> float:
    """Return the first of 1, 2, 5, 10, ... times a power of ten that is not below ``about``."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(power * part for part in (1, 2, 5, 10) if power * part >= about * 0.999)


def nice_top(highest: float) -> float:
    """Return a round number that is not below ``highest``, for the top of a scale from 0."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    parts = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(power * part for part in parts if power * part >= highest * 0.999)


def tick(value: float) -> str:
    """Return the short form of a number at an axis."""
    return f"{value / 1000:,.6g}k" if value >= 10_000 else f"{value:,.6g}"
