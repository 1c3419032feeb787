"""Faults of a price file: each is told in one line that names the thing, the value, the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receipt_label.pricing import Price, PriceBook, PriceFileError, Unpriced
from tests.support import NOON

Load = Callable[[str], PriceBook]
RULE = "[[price]]\nmodel = 'm'\n"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that writes a price file and loads a book with it."""

    def write_and_load(text: str) -> PriceBook:
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return PriceBook.load(path)

    return write_and_load


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[price]", "is not TOML"),
        ("[price]\nmodel = 'm'", "Write [[price]]"),
        ("prices = 1", "unknown key 'prices'; did you mean 'price'?"),
        ("[[price]]\nmodle = 'm'\nfree = true", "unknown key 'modle'; did you mean 'model'?"),
        ("[[price]]\nfree = true", "[[price]] 1: has no 'model'"),
        ("[[price]]\nmodel = ''\nfree = true", "'' is not a name"),
        ("[[price]]\nmodel = []\nfree = true", "has an empty 'model'"),
        ("[[price]]\nmodel = 'm'", "(m): says no price. Add rates"),
        (RULE + "free = 1", "free = 1 is not true or false"),
        (RULE + "free = true\nmultiplier = 1", "contradict each other"),
        (RULE + "rates = {}", "is empty. Give a rate"),
        (RULE + "rates = 3", "3 is not a table"),
        (
            RULE + "rates = { input_token = 1 }",
            "unknown unit 'input_token'; did you mean 'input_tokens'?",
        ),
        (
            RULE + "rates = { cached_input_tokens = 1, cache_read_tokens = 1 }",
            "names cache_read_tokens a second time",
        ),
        (
            RULE + "rates = { input_tokens = '2,50' }",
            "rates input_tokens: '2,50' is not a decimal number. Write it as \"2.50\"",
        ),
        (RULE + "rates = { input_tokens = nan }", "NaN is not a decimal number"),
        (RULE + "rates = { input_tokens = true }", "True is not a decimal number"),
        (RULE + "rates = { input_tokens = -0.5 }", "-0.5 is negative. Write a number of 0"),
        (RULE + "multiplier = 0", "0 is zero. Write a number above 0."),
        (RULE + "multiplier = -1", "-1 is negative. Write a number above 0."),
        (RULE + "multiplier = 0", "Write a number above 0"),
        (RULE + "per = 0\nrates = { requests = 1 }", "per: 0 is not a whole number"),
        (
            RULE + "rates = { input_tokens = { per = 1 } }",
            "input_tokens: has no 'usd'",
        ),
        (
            RULE + "rates = { input_tokens = { usd = 1, teirs = [] } }",
            "unknown key 'teirs'; did you mean 'tiers'?",
        ),
        (
            RULE + "rates = { input_tokens = { usd = 1, tiers = [{ above = 1 }] } }",
            "a tier lacks a key",
        ),
        (
            RULE + "rates = { input_tokens = 1, cache_read_tokens = 1, input_audio_tokens = 1 }",
            "can be the same tokens, and nothing says what those cost. Add cache_audio_read_tokens",
        ),
        (RULE + "free = true\neffective_from = 'soon'", "'soon' is not a date"),
        (RULE + "free = true\neffective_from = 3", "3 is not a date"),
        (
            RULE + "free = true\neffective_from = 2026-02-01\neffective_until = 2026-02-01",
            "effective_from 2026-02-01T00:00:00Z is not before effective_until",
        ),
        (
            "[[price]]\nmodel = ['k', 'M']\nfree = true\neffective_until = 2026-02-02\n"
            + RULE
            + "multiplier = 2\neffective_from = 2026-02-01",
            "[[price]] 1 and [[price]] 2 both price 'm' of service '*' at the same time",
        ),
        ("[units]\ninput_tokens = 3", "'input_tokens' is a unit already"),
        ("[units]\nimages = '3'", "[units] images: '3' is not a whole number"),
        ("[aliases]\nprod = 3", "[aliases] prod: 3 is not a name"),
        (
            RULE + "free = true\nwhen = { service_tier = 'Standard' }",
            "when.service_tier: 'Standard' means the standard price",
        ),
        ("as_of = 'today'", "'today' is not a date"),
    ],
)  # fmt: skip
def test_a_fault_of_a_price_file_is_told_in_one_line(load: Load, text: str, says: str) -> None:
    """One line names the file, the thing, its value and the remedy."""
    with pytest.raises(PriceFileError) as caught:
        load(text)
    message = str(caught.value)
    assert "prices.toml" in message
    assert says in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


def test_a_price_file_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    """A missing file, a directory and a file that is no text are each named, with the remedy."""
    with pytest.raises(PriceFileError, match=r"no such price file\. Create it, or unset"):
        PriceBook.load(tmp_path / "none.toml")
    with pytest.raises(PriceFileError, match=r"is a directory\. Name a TOML file"):
        PriceBook.load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PriceFileError, match=r"is not text \(UTF-8\)"):
        PriceBook.load(tmp_path / "binary.toml")


def test_the_example_of_the_documentation_is_a_price_file(load: Load) -> None:
    """The file shown in docs/prices.md loads."""
    page = (Path(__file__).parents[2] / "docs" / "prices.md").read_text()
    _, _, rest = page.partition("```toml\n")
    example, _, _ = rest.partition("```")
    sources = {entry.source for entry in load(example).models()}
    assert sources == {"override", "declared_free", "per_request", "genai-prices"}


def test_a_deferred_book_is_read_when_it_is_first_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It prices as a loaded one does; a mistake in its file costs the price, never the call."""
    path = tmp_path / "prices.toml"
    book = PriceBook.deferred(path)
    path.write_text("[[price]]\nmodel = 'm'\nservice = 's'\nfree = true\n")
    asked: dict[str, Any] = {"service": "s", "model": "m", "timestamp": NOON, "usage": None}
    assert book.price(**asked) == PriceBook.load(path).price(**asked)
    assert isinstance(book.price(**asked), Price)
    path.write_text("[[price]")
    refused = PriceBook.deferred(path).price(**asked)
    assert isinstance(refused, Unpriced)
    assert refused.reason == "price_error"
    assert "pricing of s m failed" in caplog.text
    with pytest.raises(PriceFileError, match="is not TOML"):
        PriceBook.deferred(path).models()
