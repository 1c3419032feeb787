"""A run of the stress harness as one page: ``render`` makes HTML of the document of a run.

The page needs nothing but itself: no network, no library. It reads without its script, which only
tells figures under the pointer. page_words.py says what the figures are called and mean,
page_answers.py what was found; page_timeline.py, page_samples.py and page_latency.py draw,
page_tables.py has the tables and bars, page_style.py the look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.stress.page_answers import answer, held, shortfalls, verdict, whole
from benchmarks.stress.page_html import Html, element
from benchmarks.stress.page_latency import latencies
from benchmarks.stress.page_samples import samples
from benchmarks.stress.page_style import SCRIPT, STYLE
from benchmarks.stress.page_svg import Cell, Look, name_of, sample_once
from benchmarks.stress.page_tables import Cells, bars, checks_table, figures_table, mark, summary
from benchmarks.stress.page_timeline import fault_list, over_time, thinned_step
from benchmarks.stress.page_words import GROUPS, words

__all__ = ["render"]

VERSION = 1
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def render(document: Mapping[str, Any]) -> str:
    """Return the page of a run: a whole HTML document that refers to nothing outside itself.

    Raises ValueError for a document of another version, KeyError for one without its bones.
    """
    if document["version"] != VERSION:
        raise ValueError(
            f"version is {document['version']!r}: this page reads documents of version {VERSION}"
        )
    looks = _looks(document)
    main = element(
        "main",
        _found(document, looks),
        *(_profile(index, profile, looks) for index, profile in enumerate(document["profiles"])),
        _glossary(),
    )
    body = element(
        "body",
        sample_once(),
        _head(document),
        main,
        _origin(document),
        element("script", Html(SCRIPT)),
    )
    page = element("html", _metadata(document), body, lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _metadata(document: Mapping[str, Any]) -> Html:
    outcome = "passed" if document["passed"] else "failed"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{outcome}: receipt-usage stress, {document['started'][:10]}"),
        element("link", rel="icon", href="data:,"),
        element("style", Html(STYLE)),
    )


def _looks(document: Mapping[str, Any]) -> dict[str, Look]:
    """Return each contender's look for the whole page: ours first, then as they come."""
    found: dict[str, bool] = {}
    for profile in document["profiles"]:
        for cell in profile["cells"]:
            found.setdefault(cell["contender"], bool(cell.get("ours")))
    ordered = sorted(found, key=lambda name: not found[name])
    return {name: Look(index, found[name]) for index, name in enumerate(ordered)}


def _cells(profile: Mapping[str, Any], looks: Mapping[str, Look]) -> Cells:
    cells = [(looks[cell["contender"]], cell) for cell in profile["cells"]]
    return sorted(cells, key=lambda one: one[0].index)


def _head(document: Mapping[str, Any]) -> Html:
    passed = bool(document["passed"])
    about = [
        _moment(document["started"]),
        f"took {_duration(document['seconds'])}",
        document["engine"],
        f"seed {document['seed']}",
    ]
    return element(
        "header",
        element("p", "receipt-usage ", element("b", "stress"), class_="what"),
        element("h1", mark(passed, "Passed" if passed else "Failed"), class_="verdict"),
        element("p", verdict(document), " ", whole(document), class_="lead"),
        shortfalls(document),
        element("ul", *(element("li", each) for each in about), class_="about"),
        class_="passed" if passed else "failed",
    )


def _found(document: Mapping[str, Any], looks: Mapping[str, Look]) -> Html:
    """Return the answer in words, the table to look at first, and who the contenders are."""
    profiles = document["profiles"]
    cells: dict[str, Cell] = {}
    ways: dict[str, list[str]] = {}
    for profile in profiles:
        for cell in profile["cells"]:
            cells.setdefault(cell["contender"], cell)
            texts = ways.setdefault(cell["contender"], [])
            if cell.get("text") and cell["text"] not in texts:
                texts.append(cell["text"])
    note = (
        "Pace: calls per second in the last quarter of a profile over those in the first."
        " Calls per second: the mean of it all. Lost, refused and twice: records."
    )
    answers = [
        element("li", element("b", element("a", profile["name"], href=f"#p{index}")), " ",
                answer(profile))
        for index, profile in enumerate(profiles)
    ]  # fmt: skip
    contenders = [
        element(
            "div",
            element("dt", name_of(cells[name]), " ", element("code", name)),
            *(element("dd", text) for text in ways[name]),
            class_=look.style,
        )
        for name, look in looks.items()
    ]
    return element(
        "section",
        element("h2", "What became of the calls and the numbers", id="found"),
        element("p", note, class_="note"),
        summary(profiles, looks, cells),
        element("ul", *answers, class_="answers"),
        element("h3", "Contenders"),
        element("dl", *contenders, class_="contenders"),
        aria_labelledby="found",
    )


def _profile(index: int, profile: Mapping[str, Any], looks: Mapping[str, Look]) -> Html:
    cells = _cells(profile, looks)
    load = f"{words(profile['seconds'], 's')} of load, {profile['workers']}."
    name = f"p{index}"
    return element(
        "section",
        element("h2", profile["name"], " ", held(profile), id=name),
        element("p", profile["text"], " ", element("span", load, class_="quiet")),
        _problems(cells),
        *_over_time(cells, profile.get("faults") or (), name),
        *_headed("Memory, files, threads", samples(cells)),
        *_headed("How long recording took", latencies(cells)),
        *_headed("Side by side", bars(cells)),
        *_headed("Limits", checks_table(cells)),
        *_headed("All figures", figures_table(profile["name"], cells)),
        class_="profile",
        aria_labelledby=name,
    )


def _problems(cells: Cells) -> Html | None:
    entries = [
        element("li", name_of(cell), f": {text}", class_=look.style)
        for look, cell in cells
        for text in cell.get("problems") or ()
    ]
    if not entries:
        return None
    return element("div", element("h3", "Problems"), element("ul", *entries), class_="problems")


def _over_time(cells: Cells, faults: Sequence[Mapping[str, Any]], name: str) -> list[Html | None]:
    panels, step = over_time(cells, faults, name), thinned_step([cell for _, cell in cells])
    if panels is None or step is None:
        return [fault_list(faults)]
    note = (
        f"All panels have the same scales. A point stands for {words(step, 's')}: the mean of"
        " rates, the highest backlog. Shaded: faults."
    )
    return [
        element("h3", "Over time"),
        fault_list(faults),
        panels,
        element("p", note, class_="note"),
    ]


def _headed(head: str, part: Html | None) -> list[Html]:
    return [] if part is None else [element("h3", head), part]


def _glossary() -> Html:
    entries = [
        element("div", element("dt", measure.label, id=f"m-{key}"), element("dd", measure.text))
        for group in GROUPS.values()
        for key, measure in group.items()
    ]
    note = "A dash: not measured, or there is no such thing. It is never a zero."
    return element(
        "section",
        element("h2", "How the figures are defined", id="defined"),
        element("dl", *entries, class_="glossary"),
        element("p", note, class_="note"),
        aria_labelledby="defined",
    )


def _origin(document: Mapping[str, Any]) -> Html:
    """Return where the figures come from, and how to get them again."""
    facts = {
        "command": element("code", document["command"]),
        "started": document["started"],
        "took": _duration(document["seconds"]),
        "seed": document["seed"],
        "engine": document["engine"],
        **{str(key): value for key, value in document["machine"].items()},
        "document": f"version {document['version']}",
    }
    return element(
        "footer",
        element("h2", "Where and how", id="origin"),
        element(
            "dl",
            *(
                element("div", element("dt", name), element("dd", value))
                for name, value in facts.items()
            ),
            class_="origin",
        ),
        element("p", "Absolute times differ from machine to machine.", class_="note"),
    )


def _moment(started: str) -> Html:
    """Return when the run began, in UTC; what is no time stands as it is."""
    try:
        at = datetime.fromisoformat(started).astimezone(UTC)
    except ValueError:
        return element("span", started)
    return element("time", f"{at.day} {at:%B %Y, %H:%M} UTC", datetime=started)


def _duration(seconds: float) -> str:
    """Return a time span in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else words(seconds, "s")
