"""The price list of genai-prices, read into tariffs: which model, which period, which variant.

genai-prices answers in 50 to 130 us a call, answers the standard price where it does not know the
variant that was asked for, and looks a model up again at every miss. This module asks it once per
model, context and period, and says so where a variant is not covered.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cache
from typing import TYPE_CHECKING, Protocol

from receipt_label.pricing.tariff import Rate, Tariff, compile_tariff
from receipt_label.pricing.units import vocabulary

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Provider

SERVICE_NAMES: Mapping[str, str] = {
    "amazon": "aws",
    "azure_openai": "azure",
    "azure-openai": "azure",
    "bedrock": "aws",
    "gemini": "google",
    "moonshot": "moonshotai",
    "together-ai": "together",
    "together_ai": "together",
    "vertex": "google",
    "vertex_ai": "google",
    "vertexai": "google",
    "voyage": "voyageai",
    "xai": "x-ai",
}
"""Other names of services that genai-prices lists. A name is never matched by its parts: its own
matching would take ``google_places`` for Google's models."""

STANDARD: Mapping[str, frozenset[str]] = {
    "service_tier": frozenset({"", "default", "standard", "auto", "on_demand", "on-demand"}),
    "processing": frozenset({"", "default", "standard", "online", "realtime", "sync"}),
    "speed": frozenset({"", "default", "standard", "normal"}),
    "inference_geo": frozenset({"", "global", "not_available"}),
}
"""Context values that mean the list price, whether or not the list has a variant of that name."""

_AUDIO_MODEL = re.compile(r"\bgpt-(4o-)?(mini-)?(audio|realtime)\b")
_AUDIO_TOKENS = ("input_audio_tokens", "output_audio_tokens")

GROQ_MINIMUM_SECONDS = 10
"""Groq bills a transcription as 10 seconds at least (groq.com/pricing); so does genai-prices."""


def normal_context(context: Mapping[str, str]) -> dict[str, str]:
    """Return the context's pairs that ask for something else than the list price.

    Anthropic reports a batch call as service tier ``batch``; it is ``processing`` here.
    """
    asked: dict[str, str] = {}
    for key, value in context.items():
        word = str(value).strip().lower()
        if is_standard(key, word):
            continue
        if key == "service_tier" and word == "batch":
            key = "processing"  # noqa: PLW2901  # the pair is renamed
        asked[key] = word
    return asked


def is_standard(key: str, word: str) -> bool:
    """Whether a context value (lower case) asks for nothing but the list price."""
    return word in STANDARD.get(key, ("",))


class Quote(Protocol):
    """The tariffs of one model over time."""

    def at(self, timestamp: datetime) -> Tariff | None:
        """Return the tariff at an aware time, or None where the context is not covered."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """A quote that never changes: no dated prices, no time of day."""

    tariff: Tariff | None

    def at(self, timestamp: datetime) -> Tariff | None:
        """Return the one tariff."""
        return self.tariff


class Dated:
    """A quote whose price changes at dates, and perhaps by the time of day. Thread-safe.

    The boundaries cut time into periods in which every condition of the price list is constant, so
    one tariff serves a period; each is compiled when a call first falls into it.
    """

    __slots__ = ("_context", "_dates", "_listing", "_periods", "_times")

    def __init__(self, listing: Listing, context: Mapping[str, str]) -> None:
        self._listing = listing
        self._context = dict(context)
        self._dates, self._times = listing.boundaries(variants=bool(context))
        self._periods: dict[tuple[int, int], Tariff | None] = {}

    def at(self, timestamp: datetime) -> Tariff | None:
        """Return the tariff at an aware time, or None where the context is not covered."""
        day = 0
        if self._times:
            day = bisect_right(self._times, timestamp.astimezone(UTC).time())
        period = (bisect_right(self._dates, timestamp), day)
        try:
            return self._periods[period]
        except KeyError:
            tariff = self._periods[period] = self._listing.tariff(timestamp, self._context)
            return tariff


@dataclass(frozen=True, slots=True)
class Listing:
    """One model of the price list, as sold by one provider."""

    provider: Provider
    model: ModelInfo

    @property
    def is_fallback(self) -> bool:
        """Whether the model is another provider's (Azure sells OpenAI's): no variants."""
        return not any(self.model is own for own in self.provider.models)

    def boundaries(self, *, variants: bool = True) -> tuple[tuple[datetime, ...], tuple[time, ...]]:
        """Return the UTC instants, and the UTC times of day, at which the price may change."""
        from genai_prices.types import StartDateConstraint, TimeOfDateConstraint

        dates: set[datetime] = set()
        times: set[time] = set()
        for constraint in self._constraints(variants=variants):
            if isinstance(constraint, StartDateConstraint):
                dates.add(datetime.combine(constraint.start_date, time.min, UTC))
            elif isinstance(constraint, TimeOfDateConstraint):
                times.update(map(_utc_time, (constraint.start_time, constraint.end_time)))
        return tuple(sorted(dates)), tuple(sorted(times))

    def _constraints(self, *, variants: bool) -> Iterator[object]:
        if isinstance(self.model.prices, list):
            yield from (price.constraint for price in self.model.prices)
        if variants:
            yield from (variant.constraint for variant in self.model.price_variants or ())

    def tariff(self, timestamp: datetime, context: Mapping[str, str]) -> Tariff | None:
        """Compile the rates at an aware time, or return None where the context is not covered."""
        if context and not self._covers(timestamp, context):
            return None
        rates = rates_of(self.model.get_prices(timestamp, dict(context)))
        return compile_tariff(
            rates, minimum_seconds=self._minimum_seconds(), unlisted=self._unlisted(rates)
        )

    def _unlisted(self, rates: list[Rate]) -> tuple[str, ...]:
        """Return the units that have a price elsewhere, and none in this list.

        OpenAI charges 16 times the text rate for the audio of gpt-4o-audio-preview; the list has
        its text rates only.
        """
        if not _AUDIO_MODEL.search(self.model.id):
            return ()
        priced = {rate.unit.name for rate in rates}
        return tuple(name for name in _AUDIO_TOKENS if name not in priced)

    def _covers(self, timestamp: datetime, context: Mapping[str, str]) -> bool:
        """Whether one kind of variant, and only one, answers everything the context asks."""
        matched = {
            tuple(sorted(variant.when.items()))
            for variant in self.variants(timestamp)
            if variant.prices.__dict__
            and all(context.get(key) == value for key, value in variant.when.items())
        }
        return matched == {tuple(sorted(context.items()))}

    def variants(self, timestamp: datetime) -> Iterator[PriceVariant]:
        """Yield the variants that are offered at an aware time."""
        if self.is_fallback:
            return
        for variant in self.model.price_variants or ():
            if variant.constraint is None or variant.constraint.active(timestamp):
                yield variant

    def _minimum_seconds(self) -> int:
        billed_so = self.provider.id == "groq" and self.model.id.startswith("whisper-large-v3")
        return GROQ_MINIMUM_SECONDS if billed_so else 0


def _utc_time(moment: time) -> time:
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(2000, 1, 1), moment).astimezone(UTC).time()


def rates_of(price: ModelPrice) -> list[Rate]:
    """Return a price list entry's rates. Rates of 0 are kept: they are said, not missing."""
    from genai_prices.types import TieredPrices

    by_key = _units_by_price_key()
    rates = []
    for key, value in price.__dict__.items():
        if value is None or key.startswith("_"):
            continue
        unit = vocabulary()[by_key[key]]
        if isinstance(value, TieredPrices):
            tiers = tuple((tier.start, tier.price) for tier in value.tiers)
            rates.append(Rate(unit, value.base, tiers))
        else:
            rates.append(Rate(unit, value))
    return rates


@cache
def _units_by_price_key() -> Mapping[str, str]:
    from genai_prices.data_units import unit_data

    return {raw.get("price_key", name): name for name, raw in unit_data.items()}


class Catalog:
    """genai-prices' data as loaded when the catalog was made. Immutable, thread-safe."""

    __slots__ = ("_providers", "version")

    def __init__(self) -> None:
        import genai_prices  # 140 ms: only when prices are wanted
        from genai_prices.data_snapshot import get_snapshot

        snapshot = get_snapshot()
        self._providers = {provider.id: provider for provider in snapshot.providers}
        self.version = f"genai-prices {genai_prices.__version__}"
        if snapshot.from_auto_update:
            self.version += f" updated {snapshot.timestamp:%Y-%m-%d}"

    def provider(self, service: str) -> Provider | None:
        """Return the provider of that exact id, or of a known other name of it."""
        name = service.strip().lower()
        return self._providers.get(SERVICE_NAMES.get(name, name))

    def providers(self) -> list[Provider]:
        """Return all providers, in the data's own order."""
        return list(self._providers.values())

    def find(self, service: str, model: str) -> Listing | None:
        """Return the listing of a model reference, or None. Not cached here."""
        provider = self.provider(service)
        if provider is None:
            return None
        everyone = self.providers()
        for reference in references(model):
            found = provider.find_model(reference, all_providers=everyone)
            if found is not None:
                return Listing(provider, found)
        return None


def quote_of(listing: Listing, context: Mapping[str, str]) -> Quote:
    """Return a listing's quote in a context that is normal already."""
    if any(listing.boundaries(variants=bool(context))):
        return Dated(listing, context)
    return Fixed(listing.tariff(datetime.now(UTC), context))


def references(model: str) -> Iterator[str]:
    """Yield the spellings under which to look a model up, the given one first.

    Google writes ``models/NAME`` and ``publishers/google/models/NAME``, AWS an ARN, Fireworks
    ``accounts/fireworks/models/NAME``: the price list knows the last part.
    """
    yield model
    prefix, _, name = model.rpartition("/")
    if name and (prefix.endswith("models") or prefix.startswith("arn:")):
        yield name
