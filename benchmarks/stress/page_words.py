"""What the figures of a run are called, mean and look like: one table, one place for formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

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


_OVER = "in the last quarter of the time over that in the second: the first warms up."


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a cell. ``unit``: count, rate, share, us, s, mb or ratio."""

    label: str
    unit: str
    text: str
    better: str = ""


GROUPS: Mapping[str, Mapping[str, Measure]] = {
    "Records": {
        "offered": Measure("offered", "count", "Calls that the pipeline made and wanted recorded."),
        "accepted": Measure(
            "accepted", "count", "Calls that recording took: it raised nothing and dropped nothing."
        ),
        "refused": Measure(
            "refused",
            "count",
            "Calls that recording dropped, or for which it raised into the pipeline.",
            "lower",
        ),
        "stored_at_once": Measure(
            "in the store at once", "count", "Records in the store when the pipeline ended."
        ),
        "stored": Measure(
            "in the store",
            "count",
            "Records in the store when the contender had delivered what it could, read back from"
            " the engine.",
        ),
        "lost": Measure("lost", "count", "Accepted calls that are not in the store.", "lower"),
        "duplicated": Measure(
            "stored twice", "count", "Items in the store beyond the first of a call.", "lower"
        ),
        "dropped": Measure(
            "dropped", "count", "Calls of which the contender itself says that they are lost."
        ),
    },
    "Callers": {
        "throughput": Measure("calls", "rate", "Calls a second that the pipeline made.", "higher"),
        "retention": Measure(
            "pace kept",
            "share",
            "Retention: calls a second in the last quarter of the time over those in the first.",
            "higher",
        ),
        "put_p50_us": Measure(
            "recording, p50", "us", "Half of the calls were kept by recording at most so long."
        ),
        "put_p99_us": Measure(
            "recording, p99",
            "us",
            "99 % of the calls were kept by recording at most so long.",
            "lower",
        ),
        "put_max_us": Measure("recording, longest", "us", "The longest that it kept a call."),
        "put_over_100ms": Measure(
            "recording over 100 ms", "count", "Calls that recording kept for longer.", "lower"
        ),
        "kept_share": Measure(
            "time kept by recording",
            "share",
            "Of the workers' time, what they spent in recording.",
            "lower",
        ),
        "steadiness": Measure(
            "slowest second",
            "share",
            "Calls of the slowest whole second over those of the median one.",
            "higher",
        ),
    },
    "Delivery": {
        "calls_per_metric": Measure(
            "write calls per record",
            "ratio",
            "Write requests to the store, those that failed among them, per record in it.",
            "lower",
        ),
        "failed_calls_share": Measure(
            "write calls that failed",
            "share",
            "Write requests that met a fault of the moment (a throttle is none), of all.",
        ),
        "goodput": Measure(
            "goodput",
            "rate",
            "Records a second that the store took for the first time, while it was judged.",
        ),
        "goodput_share": Measure(
            "goodput of capacity",
            "share",
            "Goodput as a share of what the table would have taken.",
        ),
        "accepted_per_sent": Measure(
            "accepted per sent",
            "share",
            "Records that the store took for the first time, per record sent to it, while judged.",
            "higher",
        ),
        "age_p99_seconds": Measure(
            "age on arrival, p99", "s", "99 % of the records were at most so old on arrival."
        ),
        "recovery_seconds": Measure(
            "recovery",
            "s",
            "From the end of the last fault until all that was accepted by then had arrived.",
        ),
        "retried_share": Measure(
            "saved by retry",
            "share",
            "Of the records that a failed write did not bring in, those that arrived in the end.",
        ),
        "outage_requests": Measure(
            "requests in the outage", "count", "Requests sent during the outage."
        ),
        "outage_requests_share": Measure(
            "outage requests by breaker",
            "share",
            "Requests sent during the outage over those of the same client without its breaker.",
        ),
        "breaker_openings": Measure(
            "breaker opened", "count", "How often the circuit breaker interrupted delivery."
        ),
        "written_again_share": Measure(
            "written again",
            "share",
            "Records that the store took once more under the same key, where they count once, of"
            " all.",
            "lower",
        ),
        "kills": Measure("kills", "count", "Processes killed with SIGKILL."),
    },
    "Cost": {
        "cpu_us_per_item": Measure(
            "CPU per item",
            "us",
            "CPU time of the pipeline's processes per call, the calls included; not where"
            " processes were killed.",
            "lower",
        ),
        "peak_mb": Measure(
            "peak memory", "mb", "The most memory that a process of the pipeline held."
        ),
    },
    "Growth in a long run": {
        key: Measure(f"growth of {what}", "ratio", f"The median of {what} {_OVER}")
        for key, what in (
            ("rss_mb_growth", "memory"),
            ("descriptors_growth", "open files"),
            ("threads_growth", "threads"),
            ("age_growth", "age on arrival"),
        )
    },
}
MEASURES = {key: measure for group in GROUPS.values() for key, measure in group.items()}


def measure_of(name: str) -> Measure:
    """Return the measure of a figure or a check; one that is not known has a plain number.

    A check may say more after the figure's name: ``accepted_per_sent beside full jitter``.
    """
    key, _, more = name.partition(" ")
    known = MEASURES.get(key) or Measure(key.replace("_", " "), "ratio", "")
    return replace(known, label=f"{known.label} {more}") if more else known


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
