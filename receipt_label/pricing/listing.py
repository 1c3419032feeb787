"""What the price book holds, for people to read: ``prices show MODEL`` and ``prices list``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING

from receipt_label.pricing.catalog import Listing, rates_of
from receipt_label.pricing.rules import Rule, RuleBook
from receipt_label.pricing.units import documented

if TYPE_CHECKING:
    from receipt_label.pricing.outcome import PriceSource
    from receipt_label.pricing.tariff import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRate:
    """USD for ``per`` of a unit; ``tiers`` are (input tokens exceeded, USD), ascending."""

    unit: str
    usd: Decimal
    per: int
    tiers: tuple[tuple[int, Decimal], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceEntry:
    """One price of a model, from one source, in one period, for one context.

    ``model`` is the name that the source uses. ``effective_from`` is inclusive, ``effective_until``
    exclusive (aware UTC, None is open); ``daily`` is the part of the day (UTC), or None for all of
    it. ``multiplier`` is on top of ``rates``, or of the list price where there are none.
    """

    service: str
    model: str
    source: PriceSource
    version: str
    rates: tuple[UnitRate, ...] = ()
    effective_from: datetime | None = None
    effective_until: datetime | None = None
    daily: tuple[time, time] | None = None
    when: Mapping[str, str] = field(default_factory=dict)
    multiplier: Decimal = Decimal(1)
    batch_multiplier: Decimal | None = None
    note: str = ""

    @property
    def is_for_any_model(self) -> bool:
        """Whether this is a rule for whatever its service sells; it sells not every model."""
        return not self.model.strip("*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model (or pattern of names) that some source has a price for."""

    service: str
    model: str
    source: PriceSource
    version: str
    note: str = ""


def unit_rates(rates: Sequence[Rate]) -> tuple[UnitRate, ...]:
    """Return rates as they are quoted, their units named as the documents name them."""
    return tuple(
        UnitRate(
            unit=documented(rate.unit.name), usd=rate.usd, per=rate.quoted_per, tiers=rate.tiers
        )
        for rate in rates
    )


def rule_entry(rule: Rule, book: RuleBook, source: PriceSource, names: Sequence[str]) -> PriceEntry:
    """Return what a rule says of the model that goes by ``names``."""
    return PriceEntry(
        service=rule.service,
        model=rule.name_for(names),
        source="declared_free" if rule.free else source,
        version=book.version,
        rates=() if rule.tariff is None else unit_rates(rule.tariff.rates),
        effective_from=rule.effective_from,
        effective_until=rule.effective_until,
        when=rule.when,
        multiplier=rule.multiplier,
        batch_multiplier=rule.batch_multiplier,
        note=rule.note,
    )


def listed_entries(listing: Listing, at: datetime, version: str) -> Iterator[PriceEntry]:
    """Yield genai-prices' price of a model at an aware time, then its variants then."""
    dates, times = listing.boundaries(variants=False)
    after = bisect_right(dates, at)
    daily = None
    if times:
        hour = bisect_right(times, at.astimezone(UTC).time())
        daily = (times[hour - 1], times[hour % len(times)])
    shared = PriceEntry(
        service=listing.provider.id,
        model=listing.model.id,
        source="genai-prices",
        version=version,
        rates=unit_rates(rates_of(listing.model.get_prices(at))),
        effective_from=dates[after - 1] if after else None,
        effective_until=dates[after] if after < len(dates) else None,
        daily=daily,
        note=listing.model.price_comments or "",
    )
    yield shared
    seen: set[tuple[tuple[str, str], ...]] = set()
    for variant in listing.variants(at):
        key = tuple(sorted(variant.when.items()))
        if key in seen or not variant.prices.__dict__:
            continue
        seen.add(key)
        since = getattr(variant.constraint, "start_date", None)
        begin = None if since is None else datetime.combine(since, time.min, UTC)
        yield PriceEntry(
            service=shared.service,
            model=shared.model,
            source=shared.source,
            version=version,
            rates=unit_rates(rates_of(listing.model.get_prices(at, dict(variant.when)))),
            effective_from=max(filter(None, (begin, shared.effective_from)), default=None),
            effective_until=shared.effective_until,
            daily=daily,
            when=dict(variant.when),
        )
