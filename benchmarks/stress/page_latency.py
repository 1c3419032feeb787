"""How long recording took: the cumulative distributions of all contenders in one chart.

The axis of times is logarithmic, the axis of shares counts nines: 90 %, 99 % and 99.9 % are as far
apart as they feel. On a plain axis all that matters would lie in the last pixel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from benchmarks.stress.page_html import Html, element, join
from benchmarks.stress.page_svg import Cell, Look, label, line, name_of, path
from benchmarks.stress.page_words import number, words

__all__ = ["latencies"]

_WIDTH, _HEIGHT = 520, 310
_LEFT, _RIGHT, _TOP, _BASE = 70, 24, 14, 262
_SHARES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
_NINES = -math.log10(1 - _SHARES[-1])
_TICKS = 7

Curve = list[tuple[float, float]]


def latencies(cells: Sequence[tuple[Look, Cell]]) -> Html | None:
    """Return the chart of those that have a distribution; None if nobody has."""
    curves = [(look, cell, _curve(cell)) for look, cell in cells]
    shown = [(look, cell, curve) for look, cell, curve in curves if curve]
    if not shown:
        return None
    low = math.floor(math.log10(min(curve[0][0] for *_, curve in shown)))
    high = math.ceil(math.log10(max(curve[-1][0] for *_, curve in shown)))
    high = max(high, low + 1)
    # Ours comes last: it lies above the others.
    layers = sorted(shown, key=lambda one: one[0].ours)
    picture = element(
        "svg",
        element("title", "Share of the calls that recorded within a time"),
        element("desc", "; ".join(_told(cell) for _, cell, _ in shown) + "."),
        _axes(low, high),
        *(_line_of(look, curve, low, high) for look, _, curve in layers),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    resting = "Share of the calls that took at most a time. Further left is faster."
    legend = element(
        "figcaption",
        element("output", resting, class_="readout"),
        element("ul", *(_legend(look, cell, curve) for look, cell, curve in shown)),
    )
    return element(
        "figure",
        picture,
        legend,
        class_="latency",
        tabindex=0,
        data_left=_LEFT / _WIDTH,
        data_width=(_WIDTH - _LEFT - _RIGHT) / _WIDTH,
        data_low=low,
        data_high=high,
    )


def _curve(cell: Cell) -> Curve:
    """Return (microseconds, share) from where nobody was done to where all were."""
    latency = cell.get("latency") or {}
    bounds, shares = latency.get("us") or (), latency.get("share") or ()
    pairs = [
        (float(bound), float(share))
        for bound, share in zip(bounds, shares, strict=False)
        if number(bound) is not None and number(share) is not None and bound > 0
    ]
    first = next((index for index, (_, share) in enumerate(pairs) if share > 0), len(pairs))
    last = next((index for index, (_, share) in enumerate(pairs) if share >= 1), len(pairs))
    return pairs[max(0, first - 1) : last + 1] if first < len(pairs) else []


def _across(us: float, low: int, high: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(us) - low) / (high - low)


def _up(share: float) -> float:
    nines = -math.log10(1 - share) if share < _SHARES[-1] else _NINES
    return _BASE - (_BASE - _TOP) * max(0.0, nines) / _NINES


def _axes(low: int, high: int) -> Html:
    step = math.ceil((high - low) / _TICKS)
    drawn = []
    for share in _SHARES:
        drawn.append(line(_LEFT, _up(share), _WIDTH - _RIGHT, _up(share), "grid"))
        drawn.append(label(_LEFT - 7, _up(share) + 4, f"{share * 100:g}\N{NO-BREAK SPACE}%", "end"))
    for power in range(low, high + 1):
        at = _across(10.0**power, low, high)
        drawn.append(line(at, _TOP, at, _BASE, "grid"))
        if (power - low) % step == 0:
            style = "middle odd" if (power - low) // step % 2 else "middle"
            drawn.append(label(at, _BASE + 19, words(10.0**power, "us"), style))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    drawn.append(label(middle, _HEIGHT - 6, "time that recording took", "middle what"))
    return join(drawn)


def _line_of(look: Look, curve: Curve, low: int, high: int) -> Html:
    points = [(_across(us, low, high), _up(share)) for us, share in curve]
    return element("path", d=path(points), class_=f"line {look.style}")


def _told(cell: Cell) -> str:
    return f"{cell['label']}: {_percentiles(cell)}"


def _percentiles(cell: Cell) -> str:
    figures = cell.get("figures") or {}
    middle, slow = (words(figures.get(f"put_{name}_us"), "us") for name in ("p50", "p99"))
    return f"half within {middle}, 99 % within {slow}"


def _legend(look: Look, cell: Cell, curve: Curve) -> Html:
    return element(
        "li",
        name_of(cell),
        element("span", _percentiles(cell), class_="quiet reading"),
        class_=look.style,
        data_curve=json.dumps(
            [[us, round(share, 6)] for us, share in curve], separators=(",", ":")
        ),
    )
