"""The traps of price data: each of these calls would get a plausible wrong price."""

from __future__ import annotations

import decimal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from receipt_label.pricing import Price, PriceBook, Unpriced
from receipt_label.pricing import book as book_module
from receipt_label.pricing.tariff import Rate, compile_tariff
from receipt_label.pricing.units import vocabulary
from receipt_label.usage.reply import Usage

NOW = datetime(2026, 11, 20, tzinfo=UTC)
CHAT = Usage(input_tokens=1_000, cached_input_tokens=100, output_tokens=200, reasoning_tokens=50)
BEFORE_BATCH = datetime(2026, 10, 13, 23, 59, 59, 999999, tzinfo=UTC)
NO_CONTEXT: Mapping[str, str] = {}


@cache
def book() -> PriceBook:
    """Return one book for all tests."""
    return PriceBook.load()


def ask(
    service: str,
    model: str,
    usage: Usage | None = CHAT,
    *,
    at: datetime = NOW,
    api_calls: int = 1,
    context: Mapping[str, str] = NO_CONTEXT,
    provider_cost_usd: Decimal | None = None,
    fault: str | None = None,
) -> Price | Unpriced:
    """Price one call with the bundled prices."""
    return book().price(
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


@pytest.mark.parametrize("model", ["whisper-1", "tts-1"])
def test_tokens_of_a_model_charged_otherwise_are_not_free(model: str) -> None:
    """Token usage of a model priced by the second or character is unpriced, not 0."""
    assert ask("openai", model) == Unpriced("unknown_unit")


@pytest.mark.parametrize(
    ("service", "model"),
    [
        ("openrouter", "deepseek/deepseek-r1:free"),
        ("google", "gemma-3"),
        ("mistral", "mistral-nemo:free"),
    ],
)
def test_a_model_listed_without_a_price_is_not_taken_for_free(service: str, model: str) -> None:
    """A list entry without rates is no declaration that the model is free."""
    assert ask(service, model) == Unpriced("unknown_unit")


def test_a_listed_rate_of_zero_alone_makes_no_call_free() -> None:
    """A call that used only what a list prices at 0 is unpriced, unless a user wrote the 0."""
    rate = Rate(vocabulary()["input_tokens"], Decimal(0))
    used = Usage(input_tokens=10)
    assert compile_tariff([rate]).charge(used, 1) == "unknown_unit"
    assert compile_tariff([rate], free_of_charge=True).charge(used, 1) == 0


def test_a_vendors_own_figure_of_zero_is_believed() -> None:
    """OpenRouter's cost of 0 for a free model is a figure, and is shown as one."""
    outcome = ask("openrouter", "deepseek/deepseek-r1:free", provider_cost_usd=Decimal(0))
    assert outcome == Price(Decimal(0), "provider", "reply")


def test_a_vendors_own_figure_comes_before_the_list() -> None:
    """What the vendor says it charged beats what the list would give, even without usage."""
    cost = Decimal("0.00123456789012345")
    outcome = ask("openrouter", "openai/gpt-4o", None, provider_cost_usd=cost, fault="failed_call")
    assert outcome == Price(cost, "provider", "reply")


@pytest.mark.parametrize("figure", ["-1", "NaN", "Infinity"])
def test_an_impossible_figure_of_a_vendor_is_passed_over(figure: str) -> None:
    """A vendor's figure that is no amount falls through to the list price."""
    outcome = ask("openai", "gpt-4o", provider_cost_usd=Decimal(figure))
    assert outcome == ask("openai", "gpt-4o")


@pytest.mark.parametrize(
    ("service", "model", "context", "at"),
    [
        ("openai", "gpt-4.1", {"procesing": "batch"}, NOW),  # a typing error
        ("openai", "gpt-4.1", {"processing": "bulk"}, NOW),
        ("openai", "gpt-4.1", {"processing": "batch"}, BEFORE_BATCH),
        ("azure", "gpt-4.1", {"processing": "batch"}, NOW),  # a fallback's variants do not hold
        ("aws", "amazon.nova-pro-v1:0", {"processing": "batch"}, NOW),
        ("anthropic", "claude-haiku-4-5", {"service_tier": "priority"}, NOW),
        ("openai", "gpt-4.1", {"service_tier": "scale"}, NOW),
        ("openai", "gpt-4.1", {"service_tier": "priority", "processing": "batch"}, NOW),
        ("openai", "gpt-4.1", {"service_tier": "priority", "inference_geo": "us"}, NOW),
    ],
)  # fmt: skip
def test_a_variant_that_is_not_listed_is_not_charged_at_the_standard_rate(
    service: str, model: str, context: dict[str, str], at: datetime
) -> None:
    """A context that no price in force answers leaves the call unpriced."""
    assert ask(service, model, context=context, at=at) == Unpriced("price_error")


@pytest.mark.parametrize(
    "context",
    [
        {"service_tier": "default"},
        {"service_tier": "standard"},
        {"service_tier": "AUTO"},
        {"service_tier": "on_demand"},
        {"service_tier": ""},
        {"processing": "standard", "speed": "normal", "inference_geo": "global"},
    ],
)
def test_words_for_standard_mean_the_list_price(context: dict[str, str]) -> None:
    """Contexts that ask for nothing special cost the list price, for any vendor."""
    for service, model in (("openai", "gpt-4.1"), ("groq", "llama-3.3-70b-versatile")):
        plain = Usage(input_tokens=10, output_tokens=1)
        assert ask(service, model, plain, context=context) == ask(service, model, plain)


def test_anthropics_batch_tier_is_batch_processing() -> None:
    """Anthropic reports batch as a service tier; it selects the batch price."""
    tier = ask("anthropic", "claude-haiku-4-5", context={"service_tier": "batch"})
    assert tier == ask("anthropic", "claude-haiku-4-5", context={"processing": "batch"})
    assert usd(tier) < usd(ask("anthropic", "claude-haiku-4-5"))


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=10, cached_input_tokens=11, output_tokens=1),
        Usage(input_tokens=10, cached_input_tokens=6, cache_write_tokens=5, output_tokens=1),
        Usage(input_tokens=10, output_tokens=5, reasoning_tokens=6),
        Usage(input_tokens=-1, output_tokens=5),
        Usage(input_tokens=1, output_tokens=-5),
        Usage(input_tokens=10, cached_input_tokens=-1, output_tokens=5),
        Usage(cached_input_tokens=10, output_tokens=5),
        Usage(input_tokens=10, output_tokens=5, details={"input_audio_tokens": 11}),
        Usage(input_tokens=10, output_tokens=5, details={"input_tokens": 11}),
        Usage(input_tokens=10, output_tokens=5, details={"web_searches": float("nan")}),
        Usage(input_tokens=10, cache_write_tokens=4, output_tokens=5,
              details={"cache_write_1h_tokens": 5}),
    ],
)  # fmt: skip
def test_figures_that_contradict_each_other_are_not_charged(usage: Usage) -> None:
    """A part above its whole, a negative count, two values for one unit: unpriced."""
    assert ask("anthropic", "claude-haiku-4-5", usage) == Unpriced("inconsistent_usage")


@pytest.mark.parametrize("name", ["web_serches", "images", "storage_searches", "audio_seconds"])
def test_a_unit_without_a_rate_is_never_charged_at_zero(name: str) -> None:
    """A unit that is unknown, or that the model has no rate for, leaves the call unpriced."""
    usage = Usage(input_tokens=10, output_tokens=5, details={name: 1})
    assert ask("anthropic", "claude-haiku-4-5", usage) == Unpriced("unknown_unit")
    nothing = Usage(input_tokens=10, output_tokens=5, details={name: 0})
    assert usd(ask("anthropic", "claude-haiku-4-5", nothing)) == Decimal("0.000035")


def test_audio_is_not_charged_at_the_text_rate_where_it_has_its_own() -> None:
    """gpt-4o-audio-preview is listed with text rates only; its audio costs 16 times as much."""
    audio = Usage(input_tokens=100, output_tokens=5, details={"input_audio_tokens": 50})
    assert ask("openai", "gpt-4o-audio-preview", audio) == Unpriced("unknown_unit")
    text = Usage(input_tokens=100, output_tokens=5)
    assert usd(ask("openai", "gpt-4o-audio-preview", text)) == Decimal("0.0003")


def test_cached_audio_needs_to_be_told_apart_where_it_has_a_rate() -> None:
    """Cached tokens of an audio call are charged once it is known of which kind they are."""
    counts = {"input_tokens": 100, "cached_input_tokens": 40, "output_tokens": 0}
    vague = Usage(**counts, details={"input_audio_tokens": 50})
    assert ask("google", "gemini-2.5-flash", vague) == Unpriced("inconsistent_usage")
    told = Usage(**counts, details={"input_audio_tokens": 50, "cache_text_read_tokens": 40})
    # 10 text x 0.3 + 50 audio x 1 + 40 cached text x 0.03 = 3 + 50 + 1.2
    assert usd(ask("google", "gemini-2.5-flash", told)) == Decimal("0.0000542")


def test_the_size_of_each_request_decides_the_tier() -> None:
    """Above 200,000 tokens the whole request costs more; a sum over requests is refused."""
    half = Usage(input_tokens=150_000, output_tokens=0)
    both = Usage(input_tokens=300_000, output_tokens=0)
    assert usd(ask("anthropic", "claude-sonnet-4-5", half)) == Decimal("0.45")
    assert usd(ask("anthropic", "claude-sonnet-4-5", both)) == Decimal("1.8")
    assert ask("anthropic", "claude-sonnet-4-5", both, api_calls=2) == Unpriced("price_error")
    assert usd(ask("anthropic", "claude-sonnet-4-5", half, api_calls=2)) == Decimal("0.45")


def test_a_minimum_per_request_is_not_guessed_for_several() -> None:
    """Groq bills 10 seconds at least a request, which a sum over requests does not tell."""
    usage = Usage(details={"audio_seconds": 30})
    assert ask("groq", "whisper-large-v3", usage, api_calls=3) == Unpriced("price_error")


def test_fees_per_request_count_requests_and_tokens_do_not() -> None:
    """Perplexity's request fee is charged for each request, its tokens as they stand."""
    usage = Usage(input_tokens=1_000, output_tokens=1_000)
    assert usd(ask("perplexity", "sonar", usage)) == Decimal("0.014")
    assert usd(ask("perplexity", "sonar", usage, api_calls=3)) == Decimal("0.038")


@pytest.mark.parametrize("service", ["ollama", "heroku", "google_maps_grounding", "", "my-openai"])
def test_a_service_is_never_matched_by_a_part_of_its_name(service: str) -> None:
    """Services that the list does not have are unknown, however they sound."""
    assert ask(service, "gpt-4o") == Unpriced("unknown_model")


@pytest.mark.parametrize(
    ("service", "model"),
    [
        ("google", "models/gemini-2.5-flash"),
        ("google", "publishers/google/models/gemini-2.5-flash"),
        ("vertex", "gemini-2.5-flash"),
        (
            "aws",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-micro-v1:0",
        ),
        ("bedrock", "us.amazon.nova-micro-v1:0"),
        ("groq", "openai/gpt-oss-120b"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        ("OpenAI", "GPT-4o-2024-08-06"),
        ("xai", "grok-3"),
    ],
)
def test_the_ways_to_write_a_model_are_understood(service: str, model: str) -> None:
    """Paths, ARNs, dated names, upper case and other names of a service find the price."""
    assert usd(ask(service, model)) > 0


@pytest.mark.parametrize("model", ["dall-e-3", "my-deployment", ""])
def test_a_model_that_is_not_listed_is_unknown(model: str) -> None:
    """An unknown model is unpriced, and is still when it is asked for again."""
    assert ask("azure", model) == Unpriced("unknown_model")
    assert ask("azure", model) == Unpriced("unknown_model")


def test_what_is_not_known_is_not_zero() -> None:
    """Without usage, or with half of it, there is no price; known zeros cost nothing, honestly."""
    assert ask("openai", "gpt-4o", None) == Unpriced("no_usage")
    assert ask("openai", "gpt-4o", Usage()) == Unpriced("no_usage")
    assert ask("openai", "gpt-4o", Usage(input_tokens=10)) == Unpriced("no_usage")
    assert ask("openai", "gpt-4o", Usage(output_tokens=10)) == Unpriced("no_usage")
    assert usd(ask("openai", "gpt-4o", Usage(input_tokens=0, output_tokens=0))) == 0
    assert usd(ask("openai", "gpt-4o", Usage(input_tokens=10, output_tokens=0))) > 0


def test_the_fault_of_a_reply_is_the_reason() -> None:
    """A failed call without usage says so; one with usage was billed and is priced."""
    assert ask("openai", "gpt-4o", None, fault="failed_call") == Unpriced("failed_call")
    assert ask("openai", "gpt-4o", None, fault="inconsistent_usage") == Unpriced(
        "inconsistent_usage"
    )
    assert ask("openai", "gpt-4o", fault="inconsistent_usage") == Unpriced("inconsistent_usage")
    assert ask("openai", "nope", None, fault="failed_call") == Unpriced("failed_call")
    assert ask("openai", "gpt-4o", fault="failed_call") == ask("openai", "gpt-4o")


def test_requests_are_charged_without_usage_unless_the_call_failed() -> None:
    """A search that used no tokens is charged; one that failed is not."""
    assert usd(ask("google_places", "find_place", None, fault="no_usage")) == Decimal("0.017")
    assert ask("google_places", "find_place", None, fault="failed_call") == Unpriced("failed_call")
    assert ask("google_places", "no such SKU", None) == Unpriced("unknown_model")
    assert ask("google_places", "find_place", CHAT) == Unpriced("unknown_unit")


def test_places_new_skus_have_no_price_before_they_existed() -> None:
    """The SKUs of March 2025 are not applied to a call before it."""
    before = datetime(2025, 2, 28, 23, 59, 59, 999999, tzinfo=UTC)
    first = datetime(2025, 3, 1, tzinfo=UTC)
    assert ask("google_places", "Place Details Pro", None, at=before) == Unpriced("unknown_model")
    assert usd(ask("google_places", "Place Details Pro", None, at=first)) == Decimal("0.017")


def test_a_model_that_its_vendor_gives_away_is_declared_free() -> None:
    """OpenAI's moderation is free by its documentation, with and without usage."""
    for usage in (None, CHAT):
        outcome = ask("openai", "omni-moderation-latest", usage)
        assert isinstance(outcome, Price)
        assert (outcome.cost_usd, outcome.source) == (0, "declared_free")


def test_a_naive_time_is_refused() -> None:
    """A time without an offset selects no price: it raises."""
    with pytest.raises(ValueError, match="naive"):
        ask("openai", "gpt-4o", at=datetime(2026, 11, 20))  # noqa: DTZ001  # the point of it
    with pytest.raises(ValueError, match="api_calls 0"):
        ask("openai", "gpt-4o", api_calls=0)


def test_a_failure_inside_is_logged_and_costs_nobody_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever breaks in pricing leaves the call unpriced and the reason in the log."""
    assert ask("openai", "gpt-4o", context={"service_tier": ["fast"]}) == Unpriced("price_error")  # type: ignore[dict-item]
    assert "pricing of openai gpt-4o failed" in caplog.text


def test_the_callers_decimal_context_changes_nothing() -> None:
    """A program that computes with five digits, trapping inexactness, gets the same prices."""
    usage = Usage(input_tokens=123_456_789, output_tokens=987_654_321, details={"web_searches": 7})
    costs = [usd(ask("openai", "gpt-4.1", usage)), usd(ask("google_places", "places", None))]
    with decimal.localcontext() as context:
        context.prec = 5
        context.traps[decimal.Inexact] = True
        fresh = PriceBook.load()
        again = [
            usd(fresh.price(service="openai", model="gpt-4.1", timestamp=NOW, usage=usage)),
            usd(fresh.price(service="google_places", model="places", timestamp=NOW, usage=None)),
        ]
    assert costs == again
    # 123,456,789 x 2 + 987,654,321 x 8 = 8,148,148,146 millionths, and 7 searches at 0.01
    assert costs[0] == Decimal("8148.148146") + Decimal("0.07")


def test_an_amount_never_has_more_than_38_digits() -> None:
    """An amount that 38 digits cannot hold is rounded half-even to 38."""
    usage = Usage(input_tokens=10**40 + 1, output_tokens=0)
    cost = usd(ask("openai", "gpt-4o", usage))
    assert len(cost.as_tuple().digits) <= 38
    assert cost == Decimal(10) ** 40 * Decimal("0.0000025")
    long = Decimal("1." + "1" * 50)
    assert len(usd(ask("x", "y", provider_cost_usd=long)).as_tuple().digits) == 38


def test_the_memory_of_models_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models are asked for, at most MAX_PLANS are remembered."""
    monkeypatch.setattr(book_module, "MAX_PLANS", 8)
    small = PriceBook.load()
    for number in range(50):
        small.price(service="openai", model=f"nope-{number}", timestamp=NOW, usage=CHAT)
        price = small.price(service="openai", model="gpt-4o", timestamp=NOW, usage=CHAT)
        assert price == ask("openai", "gpt-4o")
        assert len(small._plans) <= 8


def test_many_threads_get_the_same_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A book that forgets all the time answers eight threads alike."""
    monkeypatch.setattr(book_module, "MAX_PLANS", 4)
    shared = PriceBook.load()
    models = ["gpt-4o", "gpt-4.1", "o3", "gpt-5", "gpt-5-mini", "nope", "gpt-4o-mini", "whisper-1"]
    expected = {model: ask("openai", model) for model in models}

    def work(start: int) -> bool:
        return all(
            shared.price(service="openai", model=model, timestamp=NOW, usage=CHAT)
            == expected[model]
            for turn in range(200)
            for model in (models[(start + turn) % len(models)],)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_importing_the_package_does_not_load_the_price_data() -> None:
    """genai-prices, 140 ms, is loaded when a book is made and not before."""
    code = (
        "import sys, receipt_label.pricing as p;"
        "assert not any(m.startswith(('genai_prices', 'pydantic')) for m in sys.modules);"
        "p.PriceBook.load(); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path.cwd())
