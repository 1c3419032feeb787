"""A user's own prices: what a price file may say, and which of its rules a call falls under."""

from __future__ import annotations

import decimal
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from receipt_label.pricing import Price, PriceBook, Unpriced
from receipt_label.usage.reply import Usage

NOW = datetime(2026, 11, 20, tzinfo=UTC)
CHAT = Usage(input_tokens=1_000, cached_input_tokens=100, output_tokens=200, reasoning_tokens=50)
NO_CONTEXT: Mapping[str, str] = {}

Load = Callable[[str], PriceBook]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that writes a price file and loads a book with it."""

    def write_and_load(text: str) -> PriceBook:
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return PriceBook.load(path)

    return write_and_load


def ask(
    book: PriceBook,
    model: str = "gpt-4o",
    usage: Usage | None = CHAT,
    *,
    service: str = "openai",
    at: datetime = NOW,
    api_calls: int = 1,
    context: Mapping[str, str] = NO_CONTEXT,
    provider_cost_usd: Decimal | None = None,
    fault: str | None = None,
) -> Price | Unpriced:
    """Price one call."""
    return book.price(
        service=service,
        model=model,
        timestamp=at,
        usage=usage,
        api_calls=api_calls,
        context=context,
        provider_cost_usd=provider_cost_usd,
        fault=fault,
    )


def usd(outcome: Price | Unpriced) -> Decimal:
    """Return the cost of a call that must have a price."""
    assert isinstance(outcome, Price), outcome
    return outcome.cost_usd


def test_own_rates_come_before_everything(load: Load) -> None:
    """A rule's rates beat the vendor's figure and the list; its version is the file's digest."""
    text = """
        [[price]]
        service = "openai"
        model = "gpt-4o"
        rates = { input_tokens = "2.00", cached_input_tokens = 0.5, output_tokens = 8 }
    """
    book = load(text)
    outcome = ask(book, provider_cost_usd=Decimal(99))
    # 900 x 2 + 100 x 0.5 + 200 x 8 = 1,800 + 50 + 1,600 = 3,450 millionths
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert outcome == Price(Decimal("0.00345"), "override", f"sha256:{digest}")


def test_a_part_without_a_rate_costs_what_its_whole_costs(load: Load) -> None:
    """Cached input, cache writes, audio and reasoning fall under the nearest rate given."""
    book = load("""
        [[price]]
        model = "m"
        rates = { input_tokens = "2", cache_write_tokens = "3", output_tokens = "8" }
    """)
    usage = Usage(
        input_tokens=1_000, cached_input_tokens=100, cache_write_tokens=300, output_tokens=100,
        reasoning_tokens=60, details={"cache_write_1h_tokens": 200, "input_audio_tokens": 0},
    )  # fmt: skip
    # 700 x 2 + 300 x 3 + 100 x 8 = 1,400 + 900 + 800
    assert usd(ask(book, "m", usage)) == Decimal("0.0031")


def test_a_unit_without_any_rate_leaves_the_call_unpriced(load: Load) -> None:
    """What a rule has no rate for is not thrown in for nothing."""
    book = load("""
        [[price]]
        model = "m"
        rates = { input_tokens = "2" }
    """)
    assert ask(book, "m", Usage(input_tokens=5, output_tokens=1)) == Unpriced("unknown_unit")
    searched = Usage(input_tokens=5, output_tokens=0, details={"web_searches": 1})
    assert ask(book, "m", searched) == Unpriced("unknown_unit")


def test_rates_are_for_as_many_units_as_is_said(load: Load) -> None:
    """The customary amount, unless the rule or the rate says 'per'; own units say theirs."""
    book = load("""
        [units]
        gpu_seconds = 3600
        [[price]]
        model = "customary"
        rates = { input_tokens = "1", requests = "5", web_searches = "10", gpu_seconds = "2.40" }
        [[price]]
        model = "by the rule"
        per = 1
        rates = { requests = "0.25", gpu_seconds = { usd = "3.60", per = 3600 } }
    """)
    usage = Usage(input_tokens=1_000_000, details={"web_searches": 3, "gpu_seconds": 900})
    # 1 + 2 x 0.005 + 3 x 0.01 + 900 / 3,600 x 2.40
    assert usd(ask(book, "customary", usage, api_calls=2)) == Decimal("1.64")
    assert usd(ask(book, "by the rule", Usage(details={"gpu_seconds": 2}))) == Decimal("0.252")
    assert ask(book, "by the rule", None) == Unpriced("no_usage")


def test_a_tier_holds_for_the_whole_request(load: Load) -> None:
    """Above a tier's threshold every token of the request costs the tier's rate."""
    book = load("""
        [[price]]
        model = "m"
        [price.rates]
        output_tokens = "10"
        [price.rates.input_tokens]
        usd = "1"
        tiers = [{ above = 1000, usd = "2" }, { above = 2000, usd = "4" }]
    """)
    for tokens, cost in ((1_000, "0.001"), (1_001, "0.002002"), (2_001, "0.008004")):
        usage = Usage(input_tokens=tokens, output_tokens=0)
        assert usd(ask(book, "m", usage)) == Decimal(cost)


def test_a_factor_is_taken_off_the_list_price(load: Load) -> None:
    """A multiplier without rates scales the list price, in whatever variant was asked for."""
    plain, deal = (
        PriceBook.load(),
        load('[[price]]\nservice = "openai"\nmodel = "*"\nmultiplier = "0.9"'),
    )
    for context in ({}, {"processing": "batch"}, {"service_tier": "priority"}):
        listed = usd(ask(plain, "gpt-4.1", context=context))
        outcome = ask(deal, "gpt-4.1", context=context)
        assert usd(outcome) == listed * Decimal("0.9")
        assert isinstance(outcome, Price)
        assert outcome.source == "override"
        assert outcome.version.startswith("sha256:")
        assert outcome.version.endswith("genai-prices 0.2.3")
    assert ask(deal, "nope") == Unpriced("unknown_model")
    assert ask(deal, "gpt-4.1", context={"speed": "warp"}) == Unpriced("price_error")
    assert ask(deal, "gpt-4.1", None, fault="failed_call") == Unpriced("failed_call")


def test_a_factor_is_exact_in_any_decimal_context(load: Load) -> None:
    """A program that computes with five digits gets the same discount."""
    book = load('[[price]]\nmodel = "*"\nmultiplier = "0.9123456789"')
    usage = Usage(input_tokens=1_234_567, output_tokens=0)
    with decimal.localcontext() as context:
        context.prec = 5
        cost = usd(ask(book, "gpt-4o", usage))
    # 1,234,567 x 2.5 millionths = 3.0864175, times 0.9123456789
    assert cost == Decimal("3.0864175") * Decimal("0.9123456789")


def test_a_factor_holds_for_prices_per_request_too(load: Load) -> None:
    """A deal on Google Places scales the bundled price; what is free stays free."""
    book = load("""
        [[price]]
        service = "google_places"
        model = "*"
        multiplier = "0.5"
    """)
    outcome = ask(book, "geocoding", None, service="google_places", api_calls=4)
    assert usd(outcome) == Decimal("0.01")
    free = ask(book, "text_search_ids_only", None, service="google_places")
    assert isinstance(free, Price)
    assert free.source == "declared_free"


def test_a_batch_factor_covers_batch_and_nothing_else(load: Load) -> None:
    """Own rates know of batch by batch_multiplier; another variant stays unpriced."""
    book = load("""
        [[price]]
        model = "m"
        rates = { input_tokens = "2", output_tokens = "8" }
        batch_multiplier = "0.5"
        multiplier = "0.9"
        [[price]]
        service = "aws"
        model = "amazon.nova-pro*"
        batch_multiplier = "0.5"
    """)
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    assert usd(ask(book, "m", usage)) == Decimal("1.8")
    assert usd(ask(book, "m", usage, context={"processing": "batch"})) == Decimal("0.9")
    assert ask(book, "m", usage, context={"service_tier": "flex"}) == Unpriced("price_error")
    # The list has no batch price for Nova Pro (0.80 in): half of the standard price now.
    nova = "amazon.nova-pro-v1:0"
    batch = ask(book, nova, usage, service="aws", context={"processing": "batch"})
    assert usd(batch) == Decimal("0.4")


def test_own_rates_do_not_cover_a_variant_that_they_do_not_name(load: Load) -> None:
    """A rule without 'when' prices standard calls only; with '*' it prices them all."""
    book = load("""
        [[price]]
        model = "plain"
        rates = { input_tokens = "2", output_tokens = "8" }
        [[price]]
        model = "any"
        when = { service_tier = "*" }
        rates = { input_tokens = "2", output_tokens = "8" }
        [[price]]
        model = "any"
        when = { service_tier = "flex" }
        rates = { input_tokens = "1", output_tokens = "4" }
    """)
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    flex, fast = {"service_tier": "flex"}, {"service_tier": "fast"}
    assert ask(book, "plain", usage, context=flex) == Unpriced("price_error")
    assert usd(ask(book, "plain", usage, context={"service_tier": "default"})) == 2
    assert usd(ask(book, "any", usage)) == 2
    assert usd(ask(book, "any", usage, context=fast)) == 2
    assert usd(ask(book, "any", usage, context=flex)) == 1


def test_a_period_begins_at_its_instant_and_ends_before_the_next(load: Load) -> None:
    """effective_from is inclusive, effective_until exclusive; dates begin at midnight UTC."""
    book = load("""
        [[price]]
        model = "m"
        effective_until = 2026-03-01
        rates = { input_tokens = "1" }
        [[price]]
        model = "m"
        effective_from = 2026-03-01
        effective_until = 2026-03-01T12:00:00+01:00
        rates = { input_tokens = "2" }
        [[price]]
        model = "m"
        effective_from = "2026-03-01T11:00:00Z"
        rates = { input_tokens = "3" }
    """)
    usage = Usage(input_tokens=1_000_000)
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    tick = timedelta(microseconds=1)
    eleven = midnight + timedelta(hours=11)
    for at, cost in ((midnight - tick, 1), (midnight, 2), (eleven - tick, 2), (eleven, 3)):
        assert usd(ask(book, "m", usage, at=at)) == cost


def test_outside_its_period_a_rule_gives_way(load: Load) -> None:
    """Before a rule is in force the next source prices the call."""
    book = load("""
        [[price]]
        model = "gpt-4o"
        effective_from = 2027-01-01
        rates = { input_tokens = "1", output_tokens = "1" }
    """)
    outcome = ask(book)
    assert isinstance(outcome, Price)
    assert outcome.source == "genai-prices"


def test_the_closest_rule_wins(load: Load) -> None:
    """A name beats a pattern, more letters fewer, a named service any, whatever the order."""
    book = load("""
        [[price]]
        model = "*"
        rates = { input_tokens = "1", output_tokens = "0" }
        [[price]]
        model = "gpt-*"
        rates = { input_tokens = "2", output_tokens = "0" }
        [[price]]
        model = "GPT-4o-mini"
        rates = { input_tokens = "3", output_tokens = "0" }
        [[price]]
        service = "azure"
        model = "gpt-4o-mini"
        rates = { input_tokens = "4", output_tokens = "0" }
        [[price]]
        model = "gpt-4*"
        rates = { input_tokens = "5", output_tokens = "0" }
    """)
    usage = Usage(input_tokens=1_000_000, output_tokens=9)
    assert usd(ask(book, "o3", usage)) == 1
    assert usd(ask(book, "gpt-5", usage)) == 2
    assert usd(ask(book, "gpt-4o-mini", usage)) == 3
    assert usd(ask(book, "gpt-4o-mini", usage, service="azure")) == 4
    assert usd(ask(book, "gpt-4.1", usage)) == 5


def test_a_rule_for_a_model_holds_for_its_dated_names(load: Load) -> None:
    """A rule for gpt-4o prices gpt-4o-2024-08-06, which is what OpenAI answers with."""
    book = load("""
        [[price]]
        service = "openai"
        model = "gpt-4o"
        rates = { input_tokens = "1", output_tokens = "1" }
    """)
    assert usd(ask(book, "gpt-4o-2024-08-06")) == Decimal("0.0012")
    outcome = ask(book, "gpt-4o-mini")
    assert isinstance(outcome, Price)
    assert outcome.source == "genai-prices"


def test_a_deployment_stands_for_a_model(load: Load) -> None:
    """Aliases name the model of a deployment, for one service or for all, in prices and rules."""
    book = load("""
        [aliases]
        "prod-chat" = "gpt-4o"
        "batch-*" = "gpt-4.1"
        [aliases.azure]
        "prod-chat" = "gpt-4o-mini"
        [[price]]
        service = "openai"
        model = "gpt-4.1"
        rates = { input_tokens = "1", output_tokens = "1" }
    """)
    bare = PriceBook.load()
    assert ask(book, "prod-chat") == ask(bare, "gpt-4o")
    assert ask(book, "Prod-Chat", service="azure") == ask(bare, "gpt-4o-mini", service="azure")
    assert usd(ask(book, "batch-17")) == Decimal("0.0012")


def test_a_rule_for_the_name_given_beats_one_for_what_it_stands_for(load: Load) -> None:
    """The deployment's own rule comes before its model's, however short its name."""
    book = load("""
        [aliases]
        "x" = "gpt-4o-mini"
        [[price]]
        model = "gpt-4o-mini"
        rates = { input_tokens = "1", output_tokens = "1" }
        [[price]]
        model = "x"
        rates = { input_tokens = "2", output_tokens = "2" }
    """)
    assert usd(ask(book, "x")) == Decimal("0.0024")
    assert usd(ask(book, "gpt-4o-mini")) == Decimal("0.0012")


def test_what_is_declared_free_costs_nothing(load: Load) -> None:
    """free = true prices every call at 0, whatever it used; rates of 0 are a price of 0."""
    book = load("""
        [[price]]
        service = "ollama"
        model = "*"
        free = true
        [[price]]
        model = "own"
        rates = { input_tokens = "0", output_tokens = "0" }
    """)
    for usage in (CHAT, None, Usage(details={"anything": 3})):
        outcome = ask(book, "llama3", usage, service="ollama")
        assert isinstance(outcome, Price)
        assert (outcome.cost_usd, outcome.source) == (0, "declared_free")
    zero = ask(book, "own")
    assert isinstance(zero, Price)
    assert (zero.cost_usd, zero.source) == (0, "override")


def test_a_rule_with_rates_needs_usage(load: Load) -> None:
    """Own token rates without usage leave the call unpriced, for the reply's own reason."""
    book = load("""
        [[price]]
        model = "m"
        rates = { input_tokens = "1", requests = "1" }
    """)
    assert ask(book, "m", None) == Unpriced("no_usage")
    assert ask(book, "m", None, fault="failed_call") == Unpriced("failed_call")
    assert ask(book, "m", CHAT, fault="inconsistent_usage") == Unpriced("inconsistent_usage")
