"""The tables of the page and its bars: what became of calls and numbers, limits, all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stress.page_html import Html, element, join
from benchmarks.stress.page_svg import Cell, Look, name_of
from benchmarks.stress.page_words import (
    GROUPS,
    MEASURES,
    apart,
    figure,
    measure_of,
    number,
    words,
)

__all__ = ["bars", "checks_of", "checks_table", "figures_table", "limit_of", "mark", "summary"]

Cells = Sequence[tuple[Look, Cell]]

_BARS = (
    "throughput",
    "retention",
    "put_p99_us",
    "lost",
    "refused",
    "duplicated",
    "calls_per_metric",
    "accepted_per_sent",
    "cpu_us_per_item",
)


def mark(passed: bool, word: str = "") -> Html:
    """Return whether a limit held: a sign and a word, not a colour alone."""
    sign = "M2 7l4 4 6-8" if passed else "M3 3l8 8M11 3l-8 8"
    drawn = element(
        "svg", element("path", d=sign), viewBox="0 0 14 14", class_="sign", aria_hidden="true"
    )
    told = word or ("passed" if passed else "failed")
    return element("span", drawn, told, class_="good" if passed else "bad")


def summary(
    profiles: Sequence[Mapping[str, Any]], looks: Mapping[str, Look], labels: Mapping[str, Cell]
) -> Html:
    """Return the one table to look at first: a row for a contender, a column for a profile."""
    heads = [
        element("th", element("a", profile["name"], href=f"#p{index}"), scope="col")
        for index, profile in enumerate(profiles)
    ]
    rows = []
    for name, look in looks.items():
        cells = [
            next((cell for cell in profile["cells"] if cell["contender"] == name), None)
            for profile in profiles
        ]
        head = element("th", name_of(labels[name]), scope="row")
        rows.append(element("tr", head, *(_became(cell) for cell in cells), class_=look.style))
    table = element(
        "table",
        element("thead", element("tr", element("th", "contender", scope="col"), *heads)),
        element("tbody", *rows),
        class_="summary",
    )
    return _scrolling(table, "What became of calls and numbers", "scrolling wide")


def _became(cell: Cell | None) -> Html:
    """Return what became of a contender's calls and numbers under one profile."""
    if cell is None:
        return element("td", element("span", "not run", class_="none"))
    figures = cell.get("figures") or {}
    broken = element("div", "problem", class_="bad numbers") if cell.get("problems") else None
    if not figures:
        return element("td", broken, element("span", "no figures", class_="quiet"))
    kept = number(figures.get("retention"))
    pace = element("div", figure(kept, "share"), " pace", class_="pace")
    bar = None if kept is None else _bar(kept)
    made = figures.get("throughput")
    calls = None if number(made) is None else f"{words(made)} calls/s"
    return element(
        "td", pace, bar, element("div", calls, class_="quiet"), _numbers(figures), broken
    )


def _numbers(figures: Mapping[str, Any]) -> Html:
    """Return what is wrong with the numbers, or that nothing is."""
    wrong = [
        element("b", figure(figures[key], "count"), f" {word}", class_="bad")
        for key, word in (("lost", "lost"), ("refused", "refused"), ("duplicated", "twice"))
        if number(figures.get(key))
    ]
    if wrong:
        return element("div", *wrong, class_="numbers")
    known = number(figures.get("lost")) is not None
    return element("div", "none lost" if known else figure(None, "count"), class_="numbers quiet")


def _bar(share: float) -> Html:
    """Return a bar for a share of the width, to its end at most; what is not 0 can be seen."""
    width = f"{100 * min(1.0, max(0.005 if share else 0.0, share)):.4g}%"
    return element(
        "svg",
        element("rect", width=width, height="100%", class_="filled"),
        class_="bar",
        aria_hidden="true",
    )


def bars(cells: Cells) -> Html | None:
    """Return bars for each measure that matters; None where there is nobody to compare with."""
    if len(cells) < 2:
        return None
    groups = [
        _group(key, cells)
        for key in _BARS
        if any(number((cell.get("figures") or {}).get(key)) is not None for _, cell in cells)
    ]
    return element("div", *groups, class_="bars")


def _group(key: str, cells: Cells) -> Html:
    measure = MEASURES[key]
    values = {look.index: number((cell.get("figures") or {}).get(key)) for look, cell in cells}
    top = max((value for value in values.values() if value is not None), default=0) or 1
    rows = [
        element(
            "li",
            element("span", cell["label"], class_="name"),
            _bar((values[look.index] or 0) / top),
            figure(values[look.index], measure.unit),
            class_=look.style,
        )
        for look, cell in cells
    ]
    hint = element("span", f"{measure.better} is better", class_="quiet")
    limits = [
        element("p", f"limit for {cell['label']}: {limit_of(check)}", class_="quiet limit")
        for _, cell in cells
        for check in cell.get("checks") or ()
        if check["name"] == key
    ]
    return element(
        "section", element("h4", measure.label, " ", hint), element("ul", *rows), *limits[:1]
    )


def limit_of(check: Mapping[str, Any]) -> str:
    """Return the limit of a check in words."""
    _, limit = apart(check["figure"], check["limit"], measure_of(check["name"]).unit)
    return f"at {'least' if check['at_least'] else 'most'} {limit}"


def checks_of(cells: Cells) -> list[tuple[Look, Cell, Mapping[str, Any]]]:
    """Return all checks of a profile, those first that failed."""
    found = [(look, cell, check) for look, cell in cells for check in cell.get("checks") or ()]
    return sorted(found, key=lambda one: bool(one[2]["passed"]))


def checks_table(cells: Cells) -> Html | None:
    """Return the checks with their limits; None if the profile has none."""
    rows = []
    for look, cell, check in checks_of(cells):
        measure = measure_of(check["name"])
        shown, _ = apart(check["figure"], check["limit"], measure.unit)
        exact = number(check["figure"])
        rows.append(
            element(
                "tr",
                element("td", mark(bool(check["passed"]))),
                element("th", measure.label, scope="row"),
                element("td", element("data", shown, value=exact, title=exact), class_="figure"),
                element("td", limit_of(check), class_="figure"),
                element("td", name_of(cell)),
                class_=look.style,
            )
        )
    if not rows:
        return None
    heads = {"": None, "check": None, "figure": "figure", "limit": "figure", "contender": None}
    columns = [element("th", head, scope="col", class_=style) for head, style in heads.items()]
    table = element(
        "table",
        element("thead", element("tr", *columns)),
        element("tbody", *rows),
        class_="checks",
    )
    return _scrolling(table, "Checks")


def figures_table(profile: str, cells: Cells) -> Html:
    """Return every figure of a profile: a row for a measure, a column for a contender."""
    heads = [element("th", name_of(cell), scope="col", class_=look.style) for look, cell in cells]
    all_figures = [(look, cell.get("figures") or {}) for look, cell in cells]
    known = {key for _, figures in all_figures for key in figures if key not in MEASURES}
    groups = {name: list(group) for name, group in GROUPS.items()} | {"Others": sorted(known)}
    bodies = [
        _body(name, [_figures_row(key, all_figures) for key in keys], len(cells))
        for name, keys in groups.items()
    ]
    faults = [(look, cell.get("faults_met") or {}) for look, cell in cells]
    kinds = dict.fromkeys(kind for _, met in faults for kind in met)
    met = [_row(kind, [(look, found.get(kind)) for look, found in faults]) for kind in kinds]
    table = element(
        "table",
        element("thead", element("tr", element("th", "figure", scope="col"), *heads)),
        *bodies,
        _body("Faults met", met, len(cells)),
        class_="figures",
    )
    return _scrolling(table, f"All figures of {profile}")


def _figures_row(key: str, cells: Sequence[tuple[Look, Mapping[str, Any]]]) -> Html | None:
    """Return one measure of all contenders; None if it was measured for nobody."""
    values = [(look, figures.get(key)) for look, figures in cells]
    if all(value is None for _, value in values):
        return None
    measure = measure_of(key)
    head: object = measure.label
    if key in MEASURES:
        head = element("a", measure.label, href=f"#m-{key}")
    return _row(head, values, measure.unit)


def _row(head: object, values: Sequence[tuple[Look, object]], unit: str = "count") -> Html:
    return element(
        "tr",
        element("th", head, scope="row"),
        *(
            element("td", _value(value, unit), class_="ours" if look.ours else None)
            for look, value in values
        ),
    )


def _value(value: object, unit: str) -> Html:
    """Return a figure; what is no number stands as it is."""
    if value is None or number(value) is not None or isinstance(value, float):
        return figure(value, unit)
    return join([str(value)])


def _body(name: str, rows: Sequence[Html | None], cells: int) -> Html | None:
    if not any(rows):
        return None
    head = element("tr", element("th", name, scope="rowgroup", colspan=cells + 1), class_="group")
    return element("tbody", head, *rows)


def _scrolling(table: Html, name: str, style: str = "scrolling") -> Html:
    """Return a table in a container that scrolls by itself, also by keyboard."""
    return element("div", table, class_=style, role="region", aria_label=name, tabindex=0)
