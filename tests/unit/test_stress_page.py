"""The page of the stress harness: whole by itself, complete, honest, and readable for all."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from benchmarks.stress.page import render
from benchmarks.stress.page_words import DASH, MEASURES, words
from tests.support.stress_document import stress_document

_VOID = {"meta", "link"}
_HOSTILE = "\"'><script>alert(1)</script><img src=//evil.example onerror=alert(1)>&amp;"


class _Page(HTMLParser):
    """A page taken apart: elements in order, attributes, text; open elements must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return stress_document()


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> _Page:
    return _Page(render(document))


def _cells(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (cell for profile in document["profiles"] for cell in profile["cells"])


def test_every_element_is_closed_and_every_id_is_there_once(page: _Page) -> None:
    """A browser has nothing to guess, and links within the page lead somewhere."""
    ids = [each["id"] for _, each in page.elements if "id" in each]
    targets = {each["href"] for _, each in page.elements if "href" in each} - {"data:,"}
    assert page.open == []
    assert len(ids) == len(set(ids))
    assert targets <= {f"#{each}" for each in ids}


def test_the_page_needs_nothing_but_itself(document: dict[str, Any], page: _Page) -> None:
    """No network: no address, no import, no file, and a policy that forbids them."""
    assert not re.search(r"https?:|//\w|@import|url\(|fetch|XMLHttp", render(document))
    assert not any({"src", "srcset", "action", "data"} & set(each) for _, each in page.elements)
    (policy,) = (each["content"] for each in page.named("meta") if "http-equiv" in each)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_a_full_run_stays_small(document: dict[str, Any]) -> None:
    """Five profiles, six contenders: below 300 KB, so that it can be sent around."""
    assert len(render(document).encode()) < 300_000


def test_a_long_run_is_no_larger() -> None:
    """An hour's timeline has hardly more points than a minute's."""
    short, long = stress_document(), stress_document()
    for cell in _cells(long):
        timeline = cell["timeline"]
        for name in ("calls", "arrived", "backlog"):
            timeline[name] = [value for value in timeline[name] for _ in range(60)]
    assert len(render(long)) < 1.15 * len(render(short))


def test_text_of_the_document_is_never_markup(document: dict[str, Any], page: _Page) -> None:
    """Whatever stands in a name, a label or a problem, the page has the same elements."""

    def hostile(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {
                name + (_HOSTILE if key == "faults_met" else ""): hostile(part, name)
                for name, part in value.items()
            }
        if isinstance(value, list):
            return [hostile(part, key) for part in value]
        if isinstance(value, str) and not (key == "name" and value in MEASURES):
            return value + _HOSTILE
        return value

    attacked = _Page(render(hostile(document)))
    tags = [tag for tag, _ in page.elements]
    # What stands for a time is shown as it is.
    tags[tags.index("time")] = "span"
    assert [tag for tag, _ in attacked.elements] == tags
    assert not any(name.startswith("on") for _, each in attacked.elements for name in each)
    assert _HOSTILE in attacked.text


def test_text_that_no_file_can_hold_is_replaced(document: dict[str, Any]) -> None:
    """Half a surrogate pair or a NUL in a problem does not cost the page."""
    broken = copy.deepcopy(document)
    broken["profiles"][0]["cells"][0]["problems"] = ["key \ud800\x00 is missing"]
    page = render(broken)
    assert "\x00" not in page
    assert "is missing" in page.encode("utf-8").decode("utf-8")


def test_every_figure_of_the_document_is_on_the_page(document: dict[str, Any]) -> None:
    """Exactly in the markup, rounded for people; also those that nobody has named yet."""
    known = copy.deepcopy(document)
    known["profiles"][0]["cells"][2]["figures"]["breaker_naps"] = 4711
    page = _Page(render(known))
    held = [each["value"] for each in page.named("data")]
    for cell in _cells(known):
        for key, value in (cell["figures"] | cell["faults_met"]).items():
            if value is not None:
                assert str(value) in held, (cell["contender"], key)
                unit = MEASURES[key].unit if key in MEASURES else "count"
                assert words(value, unit) in page.texts, (cell["contender"], key)
        for check in cell["checks"]:
            assert str(check["figure"]) in held
    assert "breaker naps" in page.text


def test_every_text_of_the_document_is_on_the_page(document: dict[str, Any], page: _Page) -> None:
    """Command, machine, engine, profiles, faults, contenders, kinds of faults."""
    expected = [document["command"], document["started"], document["engine"]]
    expected += [str(value) for value in document["machine"].values()]
    for profile in document["profiles"]:
        expected += [profile["name"], profile["text"], profile["workers"]]
        expected += [fault["label"] for fault in profile["faults"]]
        for cell in profile["cells"]:
            expected += [cell["contender"], cell["label"], cell["text"], *cell["faults_met"]]
    assert [text for text in expected if text not in page.text] == []


def test_a_limit_stands_beside_its_figure(page: _Page) -> None:
    """Both in the unit of the measure, and which way it goes."""
    assert "at least 95.0\N{NO-BREAK SPACE}%" in page.text
    assert "at most 0.058" in page.text


def test_what_was_not_measured_is_a_dash(document: dict[str, Any]) -> None:
    """A figure that is null, absent or no number is no zero; a chart without data is left out."""
    bare = copy.deepcopy(document)
    for profile in bare["profiles"][:2]:
        for cell in profile["cells"]:
            for key in ("timeline", "latency", "faults_met", "checks", "problems"):
                del cell[key]
            cell["figures"] = {"offered": 5, "lost": None, "put_p99_us": float("nan")}
        profile["cells"][1]["figures"] = {}
    page = _Page(render(bare))
    assert page.open == []
    assert DASH in page.texts
    assert "no limits" in page.text
    assert "nan" not in page.text.lower()


def test_what_is_unknown_in_one_profile_is_no_part_of_a_whole(document: dict[str, Any]) -> None:
    """The answer over all profiles says nothing of records where one profile does not know."""
    whole = "Of 234,984 records that this library accepted"
    partial = copy.deepcopy(document)
    del partial["profiles"][3]["cells"][0]["figures"]["lost"]
    assert whole in render(document)
    assert "records that this library accepted" not in render(partial)


def test_a_profile_of_nothing_still_has_a_page(document: dict[str, Any]) -> None:
    """No cells, no faults: a run that was broken off is told too."""
    empty = document | {"passed": False, "profiles": [document["profiles"][0] | {"cells": []}]}
    page = _Page(render(empty))
    assert page.open == []
    assert "No limit was checked under 1 profile." in page.text


def test_one_contender_alone(document: dict[str, Any]) -> None:
    """Ours alone has no others beside it, and one of the others alone is not called ours."""
    for index, said in ((0, "Callers made 939 calls"), (1, "Callers made 140 calls")):
        alone = copy.deepcopy(document)
        alone["profiles"] = alone["profiles"][:1]
        alone["profiles"][0]["cells"] = [alone["profiles"][0]["cells"][index]]
        text = _Page(render(alone)).text
        assert said in text
        assert "The others" not in text
        assert ("this library" in text) is (index == 0)


def test_a_failed_run_says_so_first() -> None:
    """In the title, in the first heading, and with what failed before any figure that pleases."""
    page = render(stress_document(passed=False))
    parts = _Page(page)
    assert "<title>failed: " in page
    assert page.index("Failed</span></h1>") < page.index(
        "1 problem came up; 1 of 22 limits did not"
    )
    assert parts.text.index("lost 2, limit at most 0") < parts.text.index("What became of")
    assert "2 accepted records are not in the store: w0-004711" in parts.text
    assert "failed: 3 of 4 limits held, 1 problem" in parts.text
    assert "Passed" not in page


def test_a_run_that_failed_without_a_limit_does_not_pass(document: dict[str, Any]) -> None:
    """What the run says of itself stands, whatever its limits say."""
    page = render(document | {"passed": False})
    assert "Failed</span></h1>" in page
    assert "Passed" not in page


def test_a_document_of_another_version_is_refused(document: dict[str, Any]) -> None:
    """A page of figures that mean something else would be worse than none."""
    with pytest.raises(ValueError, match="version is 2: this page reads documents of version 1"):
        render(document | {"version": 2})


def test_the_same_document_makes_the_same_page(document: dict[str, Any]) -> None:
    """No time, no chance: pages can be compared."""
    assert render(document) == render(copy.deepcopy(document))


def test_every_chart_is_told_in_words(page: _Page) -> None:
    """An image has a title and a description; any other drawing is hidden from readers."""
    images = [each for each in page.named("svg") if each.get("role") == "img"]
    hidden = [each for each in page.named("svg") if each.get("aria-hidden") == "true"]
    assert len(images) == 25 + 5
    assert len(images) + len(hidden) == len(page.named("svg"))
    assert len(page.named("desc")) == len(images)
    assert len(page.named("title")) == len(images) + 1


def test_every_table_scrolls_by_itself(document: dict[str, Any], page: _Page) -> None:
    """The page never scrolls sideways: a wide table does, also by keyboard."""
    tables = page.named("table")
    boxes = [each for each in page.named("div") if "scrolling" in (each.get("class") or "")]
    assert len(tables) == len(boxes) == render(document).count('tabindex="0"><table')


def test_a_peak_between_two_points_is_not_smoothed_away(document: dict[str, Any]) -> None:
    """Of several steps that are drawn as one the highest backlog counts."""
    spiked = copy.deepcopy(document)
    timeline = spiked["profiles"][0]["cells"][0]["timeline"]
    timeline["backlog"] = [0.0] * len(timeline["backlog"])
    timeline["backlog"][31] = 98_765
    assert "backlog at most 98,765" in render(spiked)


def test_a_gap_in_a_timeline_breaks_the_line(document: dict[str, Any]) -> None:
    """Where nothing was measured nothing is drawn."""
    gap = copy.deepcopy(document)
    profile = gap["profiles"][4]
    profile["cells"][0]["timeline"]["calls"][20:30] = [None] * 10
    before, after = (
        [each["d"] or "" for each in _Page(render(one)).named("path")] for one in (document, gap)
    )
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [path.count("M") for path in changed] == [2]


def test_what_was_sampled_in_a_long_run_is_drawn(document: dict[str, Any]) -> None:
    """Memory, open files and threads of a soak, each from zero, with its range in words."""
    soak = copy.deepcopy(document)
    soak["profiles"][4]["cells"][0]["samples"] = {
        "at": [0.0, 900.0, 1800.0, 2700.0],
        "rss_mb": [61.0, 64.5, None, 63.0],
        "descriptors": [23, 23, 23, 23],
        "threads": [],
    }
    page = _Page(render(soak))
    assert "this library: memory, MB over time" in page.texts
    assert "61 to 64.5, 63 at the end" in page.texts
    assert "23 throughout" in page.texts
    assert "this library: threads over time" not in page.texts


def test_a_problem_of_many_is_told_once_with_all_its_places(document: dict[str, Any]) -> None:
    """Nine times the same message hides the one that differs."""
    broken = copy.deepcopy(document) | {"passed": False}
    for profile in broken["profiles"][:2]:
        profile["cells"][3] |= {"problems": ["the engine is gone"], "figures": {}}
    text = _Page(render(broken)).text
    assert "2 problems came up; all 22 limits held" in text
    assert "seed (batch_writer), throttle (batch_writer): the engine is gone" in text
    assert "failed: 5 of 5 limits held, 1 problem" in text


def test_an_exact_figure_is_in_the_markup_once_it_is_rounded(page: _Page) -> None:
    """What was cut off for people can still be seen: under the pointer, and by programs."""
    rounded = [each for each in page.named("data") if "title" in each]
    assert rounded
    assert all(each["title"] == each["value"] for each in rounded)
