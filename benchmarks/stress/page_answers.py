"""What a run found, in sentences: the verdict first, then each profile's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stress.page_html import Html, element, join
from benchmarks.stress.page_svg import Cell
from benchmarks.stress.page_tables import limit_of, mark
from benchmarks.stress.page_words import apart, measure_of, number, span, words

__all__ = ["answer", "held", "shortfalls", "verdict", "whole"]

Profile = Mapping[str, Any]


def verdict(document: Mapping[str, Any]) -> str:
    """Return the counts behind the verdict in one sentence, what is bad before what is good."""
    profiles = document["profiles"]
    checks = [check for profile in profiles for _, check in _checks(profile)]
    failed = sum(not check["passed"] for check in checks)
    problems = sum(_problems(profile) for profile in profiles)
    under = f"under {_count(len(profiles), 'profile')}"
    if not checks:
        found = f"no limit was checked {under}"
    elif failed:
        found = f"{failed:,} of {_count(len(checks), 'limit')} did not hold {under}"
    else:
        every = "the only limit" if len(checks) == 1 else f"all {len(checks):,} limits"
        found = f"{every} held {under}"
    if problems:
        return f"{_count(problems, 'problem')} came up; {found}."
    return f"{found[0].upper()}{found[1:]}."


def whole(document: Mapping[str, Any]) -> str:
    """Return what became of our calls and records over all profiles; empty without ours."""
    cells = [_ours(profile) for profile in document["profiles"]]
    ours = [cell for cell in cells if cell is not None]
    accepted, lost, twice = (_sum(ours, key) for key in ("accepted", "lost", "duplicated"))
    kept = _figures(ours, "retention")
    told = []
    if accepted is not None and lost is not None:
        records = f"{words(accepted, 'count')} records that {ours[0]['label']} accepted"
        also = "" if twice is None else f" and {_none_or(twice)} in the store twice"
        told.append(f"Of {records}, {_none_or(lost)} missing{also}.")
    if kept and len(kept) == len(ours):
        told.append(f"With it callers kept at least {words(min(kept), 'share')} of their pace.")
    return " ".join(told)


def shortfalls(document: Mapping[str, Any]) -> Html | None:
    """Return what failed and where, the same problem once; None if nothing failed."""
    failed = []
    places: dict[str, list[Html]] = {}
    for index, profile in enumerate(document["profiles"]):
        place = element("a", profile["name"], href=f"#p{index}")
        for cell, check in _checks(profile):
            if not check["passed"]:
                measure = measure_of(check["name"])
                shown, _ = apart(check["figure"], check["limit"], measure.unit)
                told = f": {measure.label} {shown}, limit {limit_of(check)} ({cell['label']})"
                failed.append(element("li", mark(passed=False), " ", place, told))
        for cell in profile["cells"]:
            for problem in cell.get("problems") or ():
                places.setdefault(problem, []).append(join([place, f" ({cell['label']})"]))
    problems = [
        element("li", element("b", "problem", class_="bad"), " ", join(where, ", "), f": {text}")
        for text, where in places.items()
    ]
    return element("ul", *failed, *problems, class_="shortfalls") if failed or problems else None


def held(profile: Profile) -> Html:
    """Return whether a profile passed, and how many of its limits held."""
    checks = [check for _, check in _checks(profile)]
    good, problems = sum(bool(check["passed"]) for check in checks), _problems(profile)
    told = [f"{good} of {_count(len(checks), 'limit')} held"] if checks else ["no limits"]
    if problems:
        told.append(_count(problems, "problem"))
    if not checks and not problems:
        return element("span", *told, class_="quiet held")
    passed = good == len(checks) and not problems
    return element("span", mark(passed), f": {', '.join(told)}", class_="held")


def answer(profile: Profile) -> str:
    """Return what became of the pipeline's calls and of its numbers, ours before the others."""
    ours = _ours(profile)
    others = [cell for cell in profile["cells"] if not cell.get("ours")]
    sentences = [] if ours is None else _ours_told(ours)
    if others:
        sentences.append(_others(others, alone=ours is None))
    return " ".join(sentence for sentence in sentences if sentence)


def _ours_told(cell: Cell) -> list[str]:
    if not cell.get("figures"):
        return [f"There are no figures of {cell['label']}."]
    return [_calls(cell), _numbers(cell), _recovery(cell)]


def _calls(cell: Cell) -> str:
    made, kept = _figure(cell, "throughput"), _figure(cell, "retention")
    told = []
    if made is not None:
        told.append(f"made {words(made)} calls a second")
    if kept is not None:
        told.append(f"kept {words(kept, 'share')} of their pace")
    return f"Callers {' and '.join(told)}." if told else ""


def _numbers(cell: Cell) -> str:
    accepted, lost, twice, refused = (
        _figure(cell, key) for key in ("accepted", "lost", "duplicated", "refused")
    )
    if accepted is None or lost is None:
        return ""
    text = f"Of {words(accepted, 'count')} records accepted, {_none_or(lost)} missing"
    if twice is not None:
        text += f" and {_none_or(twice)} in the store twice"
    return text + (f"; {words(refused, 'count')} more were refused." if refused else ".")


def _none_or(count: float) -> str:
    return "none is" if not count else f"{words(count, 'count')} {'is' if count == 1 else 'are'}"


def _recovery(cell: Cell) -> str:
    seconds = _figure(cell, "recovery_seconds")
    if seconds is None:
        return ""
    return f"All was delivered {words(seconds, 's')} after the last fault."


def _others(cells: Sequence[Cell], *, alone: bool) -> str:
    """Return the range of the other contenders."""
    many = len(cells) > 1
    who = ("The contenders" if many else "Callers") if alone else (
        "The others" if many else f"With {cells[0]['label']}, callers"
    )  # fmt: skip
    told = []
    made, kept = _figures(cells, "throughput"), _figures(cells, "retention")
    if made:
        told.append(f"made {span(made, 'ratio')} calls a second")
    if kept:
        told.append(f"kept {span(kept, 'share')} of their pace")
    for key, word in (("lost", "lost"), ("refused", "refused"), ("duplicated", "stored twice")):
        counts = _figures(cells, key)
        if counts and (key == "lost" or any(counts)):
            told.append(f"{word} {span(counts, 'count') + ' records' if any(counts) else 'none'}")
    if not told:
        return ""
    last = f" and {told.pop()}" if len(told) > 1 else ""
    return f"{who} {', '.join(told)}{last}."


def _problems(profile: Profile) -> int:
    return sum(len(cell.get("problems") or ()) for cell in profile["cells"])


def _ours(profile: Profile) -> Cell | None:
    return next((cell for cell in profile["cells"] if cell.get("ours")), None)


def _checks(profile: Profile) -> list[tuple[Cell, Mapping[str, Any]]]:
    return [(cell, check) for cell in profile["cells"] for check in cell.get("checks") or ()]


def _figure(cell: Cell, key: str) -> float | int | None:
    return number((cell.get("figures") or {}).get(key))


def _figures(cells: Sequence[Cell], key: str) -> list[float]:
    return [value for cell in cells if (value := _figure(cell, key)) is not None]


def _sum(cells: Sequence[Cell], key: str) -> float | None:
    """Return the sum of a figure; None where one is unknown: a part is no whole."""
    known = _figures(cells, key)
    return sum(known) if known and len(known) == len(cells) else None


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
