"""What people are shown of the price book: which price applies, and what there is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path

import pytest

from receipt_label.pricing import PriceBook

NOW = datetime(2026, 11, 20, tzinfo=UTC)
Load = Callable[[str], PriceBook]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that writes a price file and loads a book with it."""

    def write_and_load(text: str) -> PriceBook:
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return PriceBook.load(path)

    return write_and_load


def test_explain_tells_which_price_applies_first(load: Load) -> None:
    """The closest rule comes first, then the list price, then its variants, with their periods."""
    book = load("""
        [[price]]
        model = "*"
        multiplier = "0.9"
        [[price]]
        model = "gpt-4.1"
        effective_from = 2026-01-01
        rates = { input_tokens = { usd = "1", tiers = [{ above = 9, usd = "2" }] }, requests = 5 }
        note = "our contract"
    """)
    own, deal, listed, *variants = book.explain("gpt-4.1", "openai", NOW)
    assert (own.source, own.note, own.model) == ("override", "our contract", "gpt-4.1")
    assert own.effective_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert [(rate.unit, rate.usd, rate.per, rate.tiers) for rate in own.rates] == [
        ("input_tokens", 1, 1_000_000, ((9, Decimal(2)),)),
        ("requests", 5, 1_000, ()),
    ]
    assert (deal.multiplier, deal.rates) == (Decimal("0.9"), ())
    assert (listed.source, listed.version) == ("genai-prices", "genai-prices 0.2.3")
    assert {tuple(variant.when.items()) for variant in variants} == {
        (("service_tier", "priority"),),
        (("service_tier", "fast"),),
        (("processing", "batch"),),
    }
    before = book.explain("gpt-4.1", "openai", datetime(2025, 12, 31, tzinfo=UTC))
    assert [entry.source for entry in before] == ["override", "genai-prices"]


def test_explain_tells_the_period_and_the_part_of_the_day() -> None:
    """Dated prices carry their dates, prices by the hour their hours."""
    book = PriceBook.load()
    (o3,) = book.explain("o3", "openai", datetime(2025, 1, 1, tzinfo=UTC))
    cut = datetime(2025, 6, 10, tzinfo=UTC)
    assert (o3.effective_from, o3.effective_until) == (None, cut)
    (night,) = book.explain("deepseek-chat", "deepseek", datetime(2025, 3, 15, 20, tzinfo=UTC))
    assert night.daily == (time(16, 30), time(0, 30))
    with pytest.raises(ValueError, match="naive"):
        book.explain("o3", at=datetime(2025, 1, 1))  # noqa: DTZ001  # the point of it


def test_explain_without_a_service_asks_them_all() -> None:
    """Every service that sells a model is listed, and an unknown model has no entry."""
    book = PriceBook.load()
    assert {"openai", "azure"} <= {entry.service for entry in book.explain("gpt-4o")}
    assert [entry.service for entry in book.explain("find_place")] == ["google_places"]
    assert book.explain("no such model") == ()


def test_models_lists_every_source(load: Load) -> None:
    """The listing holds the user's rules, the bundled ones and the price list's models."""
    book = load('[[price]]\nservice = "ollama"\nmodel = "llama3"\nfree = true')
    everything = book.models()
    assert {entry.source for entry in everything} == {
        "declared_free", "per_request", "genai-prices",
    }  # fmt: skip
    assert len(everything) > 2_000
    assert [entry.model for entry in book.models("ollama")] == ["llama3"]
    assert all(entry.service == "openai" for entry in book.models("openai"))
    assert {entry.service for entry in book.models("xai")} == {"x-ai"}
