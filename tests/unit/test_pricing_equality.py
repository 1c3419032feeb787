"""The compiled tariffs and genai-prices agree to the last digit, wherever both give a price."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal, localcontext
from functools import cache

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import StartDateConstraint, TimeOfDateConstraint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receipt_label.pricing import Price, PriceBook, Unpriced
from receipt_label.pricing.money import fit
from receipt_label.pricing.units import vocabulary
from receipt_label.usage.reply import Usage

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
FREE_ELSEWHERE = "moderation"  # the bundled table declares it free before genai-prices is asked
MODELS = [
    (provider.id, model.id)
    for provider in get_snapshot().providers
    for model in provider.models
    if FREE_ELSEWHERE not in model.id
    and provider.find_model(model.id, all_providers=get_snapshot().providers) is not None
]
EXTRAS = (
    "web_searches",
    "storage_searches",
    "audio_seconds",
    "input_characters",
    "input_document_pages",
    "rerank_searches",
    "input_text_messages",
)


@cache
def book() -> PriceBook:
    """Return one book for all tests."""
    return PriceBook.load()


def listed(
    service: str, model: str, counts: dict[str, int | float], at: datetime, context: dict[str, str]
) -> Decimal:
    """Return genai-prices' own total, computed with 80 digits and then fitted into 38."""
    usage = genai_prices.Usage(
        **{key: Decimal(repr(value)) if isinstance(value, float) else value
           for key, value in counts.items()}
    )  # fmt: skip
    with localcontext(Context(prec=80)):
        calculated = genai_prices.calc_price(
            usage, model, provider_id=service, genai_request_timestamp=at, price_context=context
        )
    return fit(calculated.total_price)


def rates_of(service: str, model: str, at: datetime, context: dict[str, str]) -> set[str]:
    """Return the units that genai-prices has a rate for."""
    _, info = get_snapshot().find_provider_model(model, None, service, None)
    keys = {unit["price_key"]: name for name, unit in _raw_units().items()}
    price = info.get_prices(at, context)
    return {keys[key] for key, value in price.__dict__.items() if value is not None}


@cache
def _raw_units() -> dict[str, dict[str, str]]:
    from genai_prices.data_units import unit_data

    return unit_data


def uncovered(service: str, model: str, counts: dict[str, int | float], at: datetime) -> set[str]:
    """Return the units that were used and that no rate of the model includes."""
    priced = rates_of(service, model, at, {}) - {"requests"}
    units = vocabulary()
    return {
        name
        for name, count in counts.items()
        if count and not any(units[rate].contains(units[name]) for rate in priced)
    }


def as_usage(counts: dict[str, int | float]) -> Usage:
    """Return the counts as the adapters would."""
    core = {
        "input_tokens": "input_tokens",
        "cache_read_tokens": "cached_input_tokens",
        "cache_write_tokens": "cache_write_tokens",
        "output_tokens": "output_tokens",
        "output_reasoning_tokens": "reasoning_tokens",
    }
    fields = {core[name]: int(count) for name, count in counts.items() if name in core}
    return Usage(
        **fields, details={name: count for name, count in counts.items() if name not in core}
    )


@st.composite
def token_counts(draw: st.DrawFn) -> dict[str, int | float]:
    """Draw consistent counts: disjoint cells first, every whole the sum of its cells."""
    cell = st.one_of(st.just(0), st.integers(1, 3000), st.integers(1, 400_000))
    kinds = ("text", "audio", "image", "video")
    fresh = {kind: draw(cell) for kind in kinds}
    cached = {kind: draw(cell) for kind in kinds}
    short, long = draw(cell), draw(cell)
    made = {kind: draw(cell) for kind in kinds}
    reasoning = draw(cell)
    counts: dict[str, int | float] = {
        "input_tokens": sum(fresh.values()) + sum(cached.values()) + short + long,
        "cache_read_tokens": sum(cached.values()),
        "cache_write_tokens": short + long,
        "cache_write_5m_tokens": short,
        "cache_write_1h_tokens": long,
        "output_tokens": sum(made.values()) + reasoning,
        "output_reasoning_tokens": reasoning,
    }
    for kind in kinds[1:]:
        counts[f"input_{kind}_tokens"] = fresh[kind] + cached[kind]
        counts[f"cache_{kind}_read_tokens"] = cached[kind]
        counts[f"output_{kind}_tokens"] = made[kind]
    return counts


@st.composite
def moments(draw: st.DrawFn) -> datetime:
    """Draw an aware time in any offset."""
    offset = timezone(timedelta(minutes=draw(st.integers(-14 * 60, 14 * 60))))
    since = datetime(2024, 1, 1, tzinfo=UTC)
    return (since + timedelta(seconds=draw(st.integers(0, 3 * 366 * 86_400)))).astimezone(offset)


@pytest.mark.no_cover
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(MODELS), token_counts(), moments(), st.data())
def test_any_usage_costs_what_genai_prices_says(
    which: tuple[str, str], counts: dict[str, int | float], at: datetime, data: st.DataObject
) -> None:
    """A consistent usage of any model at any time is priced as genai-prices does, or refused."""
    service, model = which
    extras = sorted(rates_of(service, model, at, {}) & set(EXTRAS))
    for name in data.draw(st.lists(st.sampled_from(extras), unique=True)) if extras else []:
        fraction = st.floats(0, 4000, allow_nan=False) if name == "audio_seconds" else st.nothing()
        counts[name] = data.draw(fraction | st.integers(0, 500))
        if name == "audio_seconds":
            counts["input_audio_seconds"] = counts[name]
    outcome = book().price(service=service, model=model, timestamp=at, usage=as_usage(counts))
    if isinstance(outcome, Price):
        assert outcome.cost_usd == listed(service, model, counts, at, {})
        assert outcome.source == "genai-prices"
    else:
        nothing = any(counts.values()) and not listed(service, model, counts, at, {})
        assert outcome == Unpriced("unknown_unit")
        text_only = re.search(r"gpt-(4o-)?(mini-)?audio", model) is not None  # audio has no rate
        assert nothing or text_only or uncovered(service, model, counts, at)


@pytest.mark.no_cover
@pytest.mark.parametrize("calls", [1, 3])
def test_every_listed_model_costs_what_genai_prices_says(calls: int) -> None:
    """The plain usage of a chat costs the same for every model of the list; so is the long way."""
    counts: dict[str, int | float] = {
        "input_tokens": 12_345,
        "cache_read_tokens": 2_345,
        "cache_write_tokens": 1_000,
        "output_tokens": 678,
        "output_reasoning_tokens": 78,
    }
    plain = as_usage(counts)
    long_way = Usage(
        input_tokens=12_345, cached_input_tokens=2_345, cache_write_tokens=1_000, output_tokens=678,
        reasoning_tokens=78, details={"web_searches": 0},
    )  # fmt: skip
    priced = 0
    for service, model in MODELS:
        first, second = (
            book().price(service=service, model=model, timestamp=NOW, usage=usage, api_calls=calls)
            for usage in (plain, long_way)
        )
        assert first == second
        if isinstance(first, Unpriced):
            assert first.reason == "unknown_unit"
            assert uncovered(service, model, counts, NOW)
            continue
        priced += 1
        expected = listed(service, model, counts, NOW, {})
        if "requests" not in rates_of(service, model, NOW, {}) or calls == 1:
            assert first.cost_usd == expected, (service, model)
        else:
            assert first.cost_usd > expected
    assert priced > 1900


def dated() -> Iterator[tuple[str, str, datetime]]:
    """Yield every instant at which some model's price may change."""
    for provider in get_snapshot().providers:
        for model in provider.models:
            prices = model.prices if isinstance(model.prices, list) else []
            for price in prices:
                constraint = price.constraint
                if isinstance(constraint, StartDateConstraint):
                    day = constraint.start_date
                    yield provider.id, model.id, datetime(day.year, day.month, day.day, tzinfo=UTC)
                elif isinstance(constraint, TimeOfDateConstraint):
                    for moment in (constraint.start_time, constraint.end_time):
                        yield provider.id, model.id, datetime.combine(NOW.date(), moment)


def test_a_price_changes_at_its_instant_and_no_microsecond_earlier() -> None:
    """At, and one microsecond before, every boundary of the list the price is genai-prices'."""
    counts: dict[str, int | float] = {"input_tokens": 1_000, "output_tokens": 500}
    tick = timedelta(microseconds=1)
    changes = 0
    for service, model, instant in dated():
        costs = []
        for at in (
            instant - tick,
            instant,
            (instant - tick).astimezone(timezone(-timedelta(hours=9))),
        ):
            outcome = book().price(
                service=service, model=model, timestamp=at, usage=as_usage(counts)
            )
            if isinstance(outcome, Price):
                assert outcome.cost_usd == listed(service, model, counts, at, {}), (model, at)
                costs.append(outcome.cost_usd)
        changes += len(set(costs)) == 2
    assert changes > 100


def test_a_variant_costs_what_genai_prices_says_from_its_first_day() -> None:
    """Batch, priority, flex and fast prices are exact in force, and refused the day before."""
    counts: dict[str, int | float] = {
        "input_tokens": 300_000, "cache_read_tokens": 1_000, "output_tokens": 500,
    }  # fmt: skip
    seen = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            for variant in model.price_variants or ():
                day = getattr(variant.constraint, "start_date", None)
                since = datetime(2026, 11, 20, tzinfo=UTC)
                if day is not None:
                    since = datetime(day.year, day.month, day.day, tzinfo=UTC)
                if not variant.prices.__dict__:
                    continue
                outcome = book().price(
                    service=provider.id, model=model.id, timestamp=since,
                    usage=as_usage(counts), context=variant.when,
                )  # fmt: skip
                if (provider.id, model.id) not in MODELS or outcome == Unpriced("unknown_unit"):
                    continue  # ids that name no call, models priced by the page or the second
                assert isinstance(outcome, Price)
                assert outcome.cost_usd == listed(
                    provider.id, model.id, counts, since, dict(variant.when)
                )
                seen += 1
                others = [one for one in model.price_variants or () if one.when == variant.when]
                if day is not None and len(others) == 1:
                    assert book().price(
                        service=provider.id, model=model.id, timestamp=since - timedelta(days=1),
                        usage=as_usage(counts), context=variant.when,
                    ) == Unpriced("price_error")  # fmt: skip
    assert seen > 180
