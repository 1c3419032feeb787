"""What the figures of a run are called, mean and look like: one table, one place for formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.stress.page_html import Html, element

__all__ = [
    "DASH",
    "GROUPS",
    "MEASURES",
    "Measure",
    "apart",
    "figure",
    "measure_of",
    "number",
    "span",
    "words",
]

DASH = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"
_SUFFIXES = {"s": f"{_SPACE}s", "mb": f"{_SPACE}MB", "rate": "/s"}
_UNITS = ((1.0, "µs"), (1e3, "ms"), (1e6, "s"))


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a cell. ``unit``: count, rate, share, us, s, mb or ratio."""

    label: str
    unit: str
    text: str
    better: str = ""


GROUPS: Mapping[str, Mapping[str, Measure]] = {
    "Records": {
        "offered": Measure("offered", "count", "Records that the pipeline's calls offered."),
        "accepted": Measure(
            "accepted", "count", "Records of which recording said that they are kept."
        ),
        "refused": Measure(
            "refused",
            "count",
            "Offered and not accepted: an exception reached the pipeline, or recording said no.",
            "lower",
        ),
        "stored_at_once": Measure(
            "in the store at once", "count", "Records in the store when the load ended."
        ),
        "stored": Measure(
            "in the store",
            "count",
            "Records in the store after recovery, read back from the engine itself.",
        ),
        "lost": Measure("lost", "count", "Accepted and not in the store after recovery.", "lower"),
        "duplicated": Measure(
            "stored twice", "count", "Items in the store beyond one for each record.", "lower"
        ),
    },
    "Callers": {
        "throughput": Measure(
            "calls", "rate", "Calls that the pipeline made in a second.", "higher"
        ),
        "retention": Measure(
            "pace kept",
            "share",
            "Calls per second in the last quarter of the load over those in the first (retention).",
            "higher",
        ),
        "put_p50_us": Measure(
            "recording, p50", "us", "Half of the calls that record took at most this.", "lower"
        ),
        "put_p99_us": Measure(
            "recording, p99", "us", "99 % of the calls that record took at most this.", "lower"
        ),
        "put_max_us": Measure("recording, longest", "us", "The longest of them.", "lower"),
    },
    "Delivery": {
        "calls_per_metric": Measure(
            "write calls per record",
            "ratio",
            "Write requests sent, those that failed among them, over records in the store.",
            "lower",
        ),
        "goodput": Measure("goodput", "rate", "Items that the store took in a second."),
        "goodput_share": Measure(
            "goodput over capacity",
            "share",
            "Goodput over what the table takes; above 100 % it spent what it had saved.",
            "higher",
        ),
        "accepted_per_sent": Measure(
            "accepted per sent",
            "share",
            "Items that the store took over items that were sent to it.",
            "higher",
        ),
        "recovery_seconds": Measure(
            "recovery",
            "s",
            "From the end of the last fault until nothing was left to deliver.",
            "lower",
        ),
        "retried_share": Measure(
            "saved by retry",
            "share",
            "Items that failed for a passing reason and came to the store by retry.",
            "higher",
        ),
        "outage_requests_share": Measure(
            "requests in the outage",
            "share",
            "Requests sent during an outage over those sent without the breaker.",
            "lower",
        ),
        "breaker_openings": Measure(
            "breaker opened", "count", "How often the circuit breaker opened."
        ),
    },
    "Cost": {
        "cpu_us_per_item": Measure(
            "CPU per item",
            "us",
            "CPU time of the contender's processes per item in the store.",
            "lower",
        ),
        "peak_mb": Measure("peak memory", "mb", "Peak resident memory of one process."),
    },
}
MEASURES = {key: measure for group in GROUPS.values() for key, measure in group.items()}


def measure_of(key: str) -> Measure:
    """Return the measure of a key; one that is not known has a plain number."""
    return MEASURES.get(key) or Measure(key.replace("_", " "), "ratio", "")


def number(value: object) -> float | int | None:
    """Return a value as a finite number, or None: it was not measured."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def words(value: object, unit: str = "ratio") -> str:
    """Return a figure for people: 1,234; 3.2 ms; 99.8 %. A dash where there is none."""
    found = number(value)
    if found is None:
        return DASH
    if unit == "share":
        return _percent(found)
    if unit == "us":
        return _time(found)
    return _short(found) + _SUFFIXES.get(unit, "")


def figure(value: object, unit: str) -> Html:
    """Return a figure for people that also holds the exact one."""
    if number(value) is None:
        return element("span", DASH, class_="none", title="not measured")
    shown = words(value, unit)
    exact = str(value)
    return element("data", shown, value=exact, title=None if shown == f"{value:,}" else exact)


def span(values: list[float], unit: str) -> str:
    """Return the range of several figures, or the one that they all are."""
    low, high = words(min(values), unit), words(max(values), unit)
    return low if low == high else f"{low} to {high}"


def apart(value: object, limit: object, unit: str) -> tuple[str, str]:
    """Return a figure and its limit, with as many digits as it takes to tell them apart."""
    texts = words(value, unit), words(limit, unit)
    if value == limit or texts[0] != texts[1]:
        return texts
    return f"{value:.10g}", f"{limit:.10g}"


def _short(value: float) -> str:
    """Return a number with three significant digits, all those before the point."""
    size = abs(value)
    if value == int(value) or size >= 99.95:
        return f"{value:,.0f}"
    if size < 0.0001:
        return f"{value:.1e}"
    digits = 2 - math.floor(math.log10(size))
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _time(microseconds: float) -> str:
    size, unit = next(
        ((size, unit) for size, unit in reversed(_UNITS) if abs(microseconds) >= 0.9995 * size),
        _UNITS[0],
    )
    return _short(microseconds / size) + _SPACE + unit


def _percent(share: float) -> str:
    """Return a share in per cent; only what is all of it is 100 %, only nothing is 0 %."""
    if share in (0, 1):
        return f"{share * 100:.0f}{_SPACE}%"
    for digits in range(1, 7):
        text = f"{share * 100:,.{digits}f}"
        if float(text.replace(",", "")) not in (0, 100):
            return text + _SPACE + "%"
    return ("under 0.000001" if share < 0.5 else "nearly 100") + _SPACE + "%"
