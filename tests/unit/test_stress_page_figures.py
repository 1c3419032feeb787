"""The page of a stress run: its figures, lines and colours can be read."""

from __future__ import annotations

import re

import pytest

from benchmarks.stress.page_style import SCRIPT, STYLE
from benchmarks.stress.page_svg import path
from benchmarks.stress.page_words import DASH, apart, measure_of, words


def test_a_check_may_say_more_than_its_figure() -> None:
    """What follows the name of a figure is kept, and the unit is the figure's."""
    measure = measure_of("accepted_per_sent beside full jitter")
    assert measure.label == "accepted per sent beside full jitter"
    assert measure.unit == "share"


def test_a_path_is_short_and_broken_where_nothing_is() -> None:
    """What is level is one step; an area is closed down to its base, piece by piece."""
    points = [(0, 5), (1, 5), (2, 5), (3, 4.25), None, (6, 1), (7, 1.5)]
    assert path(points) == "M0 5h2l1-.8M6 1l1 .5"
    assert path(points[:2], 9) == "M0 9V5h1V9H0z"
    assert path([None]) == ""


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1234, "count", "1,234"),
        (12.3456, "ratio", "12.3"),
        (0.0421666, "ratio", "0.0422"),
        (0, "ratio", "0"),
        (9.9999, "us", "10 µs"),
        (3.214, "us", "3.21 µs"),
        (999.9, "us", "1 ms"),
        (3204.0, "us", "3.2 ms"),
        (4_350_000, "us", "4.35 s"),
        (940.37, "rate", "940/s"),
        (61.54, "mb", "61.5 MB"),
        (0.998, "share", "99.8 %"),
        (1.0, "share", "100 %"),
        (1.0138, "share", "101.4 %"),
        (0.99997, "share", "99.997 %"),
        (0.0000004, "share", "0.00004 %"),
        (0, "share", "0 %"),
        (None, "count", DASH),
        (True, "count", DASH),
        (float("inf"), "us", DASH),
        ("12", "us", DASH),
    ],
)
def test_figures_are_written_for_people(value: object, unit: str, shown: str) -> None:
    """Three digits that count and a unit; what is not all is never 100 %, nothing alone is 0 %."""
    assert words(value, unit).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_a_figure_just_beside_its_limit_does_not_look_like_it() -> None:
    """As many digits as tell them apart."""
    assert apart(0.94996, 0.95, "share") == ("0.94996", "0.95")
    assert apart(0.95, 0.95, "share")[0] == apart(0.95, 0.95, "share")[1]
    assert apart(None, 0.95, "share")[0] == DASH


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(scheme: str) -> None:
    """WCAG AA against every ground: 4.5 to 1 for text, 3 to 1 for lines."""
    colours = _colours(scheme)
    for ground in ("ground", "raised", "tint"):
        for text in ("ink", "quiet", "good", "bad", "key"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for shape in ("focus", *(f"c{index}" for index in range(9))):
            assert _contrast(colours[shape], colours[ground]) >= 3, (shape, ground)


def test_lines_differ_without_colours() -> None:
    """Nine contenders have nine kinds of dashes."""
    dashes = re.findall(r"--d:([^}]+)", STYLE)
    assert len(dashes) == len(set(dashes)) == 9


def test_the_script_cannot_end_early() -> None:
    """Style and script stand in the page as they are, so neither may hold an end tag."""
    assert "</" not in SCRIPT
    assert "</" not in STYLE


def _colours(scheme: str) -> dict[str, str]:
    (block,) = re.findall(rf"color-scheme:{scheme};(.*?)}}", STYLE, re.DOTALL)
    return dict(re.findall(r"--(\w+):#([0-9a-f]{3,6});", block))


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    digits = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
