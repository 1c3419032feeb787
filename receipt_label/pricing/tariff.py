"""A tariff: the rates of one model in one period, compiled to whole-number weights.

What is left of a unit after its priced subsets are taken out is charged at the unit's rate, so a
bill is linear in the reported counts. The weights of that sum are worked out once, over one common
denominator; a call then costs a few multiplications of ints and one Decimal.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from receipt_label.pricing.counts import read_counts
from receipt_label.pricing.money import (
    EXACT_BELOW,
    ZERO,
    common_denominator,
    decimal_places,
    scaled,
    times,
    to_decimal,
)
from receipt_label.pricing.units import REQUESTS, Count, Unit, vocabulary

if TYPE_CHECKING:
    from receipt_label.usage.reply import Usage

Refusal = Literal["no_usage", "unknown_unit", "inconsistent_usage", "price_error"]


@dataclass(frozen=True, slots=True)
class Rate:
    """USD for ``unit.per`` units, and what it becomes when a call's input exceeds a threshold.

    ``tiers`` are (input tokens, USD), ascending; the last one whose threshold the call's
    ``input_tokens`` exceed applies to the whole call (a cliff, not a staircase).
    """

    unit: Unit
    usd: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()
    per: int | None = None

    @property
    def quoted_per(self) -> int:
        """How many units the USD are for."""
        return self.unit.per if self.per is None else self.per

    def each(self, input_tokens: int) -> Fraction:
        """Return USD for one unit in a call of so many input tokens."""
        usd = self.usd
        for start, tier_usd in self.tiers:
            if input_tokens > start:
                usd = tier_usd
        return Fraction(usd) / self.quoted_per


@dataclass(frozen=True, slots=True)
class Band:
    """The weights that hold between two context-size thresholds, in units of the quantum."""

    weights: Mapping[str, int]
    core: tuple[int, int, int, int, int, int]
    """Of input, output, cached reads, cache writes, reasoning and requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Compiled rates. Immutable, so any thread may charge with it.

    ``free_of_charge`` says that a total of nothing is meant (declared free, or rates of 0 that a
    user wrote); otherwise a call that used something and costs nothing is refused.
    """

    rates: tuple[Rate, ...]
    thresholds: tuple[int, ...]
    bands: tuple[Band, ...]
    core: tuple[int, int, int, int, int, int] | None = field(repr=False)
    denominator: int
    quantum: Decimal | None
    prices_input: bool
    prices_output: bool
    token_quantum: Decimal | None = field(repr=False)
    needs_usage: bool
    free_of_charge: bool
    minimum_seconds: int
    _leaves: tuple[tuple[tuple[str, int], ...], ...] = field(repr=False)
    _priced: frozenset[str] = field(repr=False)
    _covered: frozenset[str] = field(repr=False)
    _needed: tuple[str, ...] = field(repr=False)

    def charge(self, usage: Usage | None, api_calls: int) -> Decimal | Refusal:
        """Return what one call costs in USD, or why that cannot be said. Thread-safe.

        The common call (five plain counts) takes the short way; anything else the long one, with
        the same result.
        """
        if usage is None or usage.details:
            return self._charge_counts(usage, api_calls)
        tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        if tokens_in is None or tokens_out is None or self.quantum is None:
            return self._charge_counts(usage, api_calls)
        cached = usage.cached_input_tokens or 0
        written = usage.cache_write_tokens or 0
        reasoning = usage.reasoning_tokens or 0
        if (
            not 0 <= cached <= tokens_in - written <= tokens_in
            or not 0 <= reasoning <= tokens_out
            or (tokens_in and not self.prices_input)
            or (tokens_out and not self.prices_output)
            or (api_calls > 1 and self.thresholds)
        ):
            return self._charge_counts(usage, api_calls)
        core = self.core or self.bands[bisect_left(self.thresholds, tokens_in)].core
        per_input, per_output, per_cached, per_written, per_reasoning, per_request = core
        total = tokens_in * per_input + tokens_out * per_output + api_calls * per_request
        if cached or written or reasoning:
            total += cached * per_cached + written * per_written + reasoning * per_reasoning
        if total.__class__ is not int or not 0 < total < EXACT_BELOW:
            return self._charge_counts(usage, api_calls)
        return times(total, self.quantum)

    def charge_tokens(
        self, tokens: tuple[int, int | None, int | None, int, int | None]
    ) -> Decimal | None:
        """Return what one call costs in USD whose counts are known to add up (input, cached reads,
        cache writes, output, reasoning); None where ``charge`` has to look. Thread-safe."""
        sent, read, written, made, thought = tokens
        core = self.core or self.bands[bisect_left(self.thresholds, sent)].core
        per_input, per_output, per_cached, per_written, per_reasoning, per_request = core
        total = sent * per_input + made * per_output + per_request
        if read:
            total += read * per_cached
        if written:
            total += written * per_written
        if thought:
            total += thought * per_reasoning
        if self.token_quantum is None or not 0 < total < EXACT_BELOW:
            return None
        return times(total, self.token_quantum)

    def _charge_counts(self, usage: Usage | None, api_calls: int) -> Decimal | Refusal:
        """Charge any usage: details, unknown counts, fractions of a unit, none at all."""
        counts = {} if usage is None else read_counts(usage)
        if counts is None:
            return "inconsistent_usage"
        if not counts and self.needs_usage:
            return "no_usage"
        if self.minimum_seconds:
            self._apply_minimum(counts)
        return self._doubt(counts, api_calls) or self._bill(counts, api_calls)

    def _bill(self, counts: Mapping[str, Count], api_calls: int) -> Decimal | Refusal:
        """Return the sum of counts that are in order. A call that used something is not free."""
        tokens_in = counts.get("input_tokens", 0)
        band = self.bands[bisect_left(self.thresholds, tokens_in)]
        total: Count = api_calls * band.weights.get(REQUESTS, 0)
        for name, count in counts.items():
            total += count * band.weights.get(name, 0)
        if not total:
            return "unknown_unit" if any(counts.values()) and not self.free_of_charge else ZERO
        if isinstance(total, int) and self.quantum is not None:
            return scaled(total, self.quantum)
        return to_decimal(Fraction(total) / self.denominator)

    def _apply_minimum(self, counts: dict[str, Count]) -> None:
        """Raise a call's audio to the least that the vendor bills."""
        if seconds := counts.get("audio_seconds"):
            billed = max(seconds, self.minimum_seconds)
            counts["audio_seconds"] = counts["input_audio_seconds"] = billed

    def _doubt(self, counts: Mapping[str, Count], api_calls: int) -> Refusal | None:
        """Return why these counts cannot be charged, or None: what is unknown is never 0."""
        used = [name for name, count in counts.items() if count]
        if not self._covered.issuperset(used):
            return "unknown_unit"
        if not self._is_whole(counts, used):
            return "inconsistent_usage"
        if any(name not in counts for name in self._needed):
            return "no_usage"
        if api_calls > 1 and self._depends_on_size(counts):
            return "price_error"
        return None

    def _is_whole(self, counts: Mapping[str, Count], used: Sequence[str]) -> bool:
        """Whether every priced unit is told, where its parts are, and no part exceeds its whole."""
        return not _is_untold(self._priced, tuple(counts), tuple(used)) and all(
            sum(counts.get(name, 0) * sign for name, sign in leaf) >= 0 for leaf in self._leaves
        )

    def _depends_on_size(self, counts: Mapping[str, Count]) -> bool:
        """Whether the price of several calls depends on how their sum is made up."""
        if self.minimum_seconds and counts.get("audio_seconds"):
            return True
        return bool(self.thresholds) and counts.get("input_tokens", 0) > self.thresholds[0]


@lru_cache(4096)
def _is_untold(priced: frozenset[str], told: tuple[str, ...], used: tuple[str, ...]) -> bool:
    """Whether what was used says that there is some of a priced unit that was not told."""
    units = vocabulary()
    present = [units[name] for name in used if name in units]
    return any(
        name not in told and _is_implied(units[name], present)
        for name in priced
        if name != REQUESTS and name in units
    )


def _is_implied(missing: Unit, present: Sequence[Unit]) -> bool:
    """Whether units that were used are parts of one, or two of them overlap in it."""
    if any(missing.contains(unit) for unit in present):
        return True
    return any(
        left.overlaps(right) and left.dimensions | right.dimensions == missing.dimensions
        for index, left in enumerate(present)
        for right in present[index + 1 :]
    )


def compile_tariff(
    rates: Sequence[Rate],
    *,
    multiplier: Decimal = Decimal(1),
    free_of_charge: bool = False,
    minimum_seconds: int = 0,
    unlisted: tuple[str, ...] = (),
) -> Tariff:
    """Return the tariff of these rates (one per unit), each times the multiplier.

    ``unlisted`` are units that the vendor charges at rates of their own which are not among these:
    a call that used them, or a part of them, is refused and not charged at the rate of the whole.
    """
    priced = {rate.unit.name: rate.unit for rate in rates}
    leaves = _leaf_vectors([unit for name, unit in priced.items() if name != REQUESTS])
    thresholds = tuple(sorted({start for rate in rates for start, _ in rate.tiers}))
    factor = Fraction(multiplier)
    sums = [_weights(rates, leaves, edge, factor) for edge in (0, *(t + 1 for t in thresholds))]
    fractions = [weight for band in sums for weight in band.values()]
    denominator = common_denominator(fractions)
    places = decimal_places(denominator)
    bands = tuple(_band(weights, denominator) for weights in sums)
    quantum = None if places is None else Decimal((0, (1,), -places))
    return Tariff(
        rates=tuple(rates),
        thresholds=thresholds,
        bands=bands,
        core=None if thresholds else bands[0].core,
        denominator=denominator,
        quantum=quantum,
        prices_input="input_tokens" in priced,
        prices_output="output_tokens" in priced,
        token_quantum=quantum if {"input_tokens", "output_tokens"} <= priced.keys() else None,
        needs_usage=any(name != REQUESTS for name in priced) or not priced,
        free_of_charge=free_of_charge,
        minimum_seconds=minimum_seconds,
        _leaves=tuple(tuple(leaf.items()) for leaf in leaves.values() if len(leaf) > 1),
        _priced=frozenset(priced),
        _covered=frozenset(_covered(priced, unlisted)),
        _needed=tuple(
            rate.unit.name
            for rate in rates
            if rate.unit.name in ("input_tokens", "output_tokens") and (rate.usd or rate.tiers)
        ),
    )


def _covered(priced: Mapping[str, Unit], unlisted: tuple[str, ...]) -> Iterator[str]:
    """Yield the units that some rate charges: each priced one and every subset of it."""
    yield from priced
    units = vocabulary()
    for name, unit in units.items():
        if any(units[refused].contains(unit) for refused in unlisted):
            continue
        if any(whole.contains(unit) for key, whole in priced.items() if key != REQUESTS):
            yield name


def _leaf_vectors(units: Sequence[Unit]) -> dict[str, Mapping[str, int]]:
    """Return, for each priced unit, the sum of counts that is left to charge at its own rate."""
    leaves: dict[str, Mapping[str, int]] = {}
    ordered = sorted(units, key=lambda unit: (-len(unit.dimensions), unit.name))
    for unit in ordered:
        vector = {unit.name: 1}
        for part in ordered:
            if part is not unit and unit.contains(part):
                for name, sign in leaves[part.name].items():
                    vector[name] = vector.get(name, 0) - sign
        leaves[unit.name] = {name: sign for name, sign in vector.items() if sign}
    return leaves


def _weights(
    rates: Sequence[Rate],
    leaves: Mapping[str, Mapping[str, int]],
    input_tokens: int,
    factor: Fraction,
) -> dict[str, Fraction]:
    weights: dict[str, Fraction] = {}
    for rate in rates:
        each = rate.each(input_tokens) * factor
        for name, sign in leaves.get(rate.unit.name, {rate.unit.name: 1}).items():
            weights[name] = weights.get(name, Fraction(0)) + each * sign
    return weights


_CORE = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_reasoning_tokens",
    REQUESTS,
)


def _band(weights: Mapping[str, Fraction], denominator: int) -> Band:
    whole = {name: int(weight * denominator) for name, weight in weights.items()}
    first, second, third, fourth, fifth, sixth = (whole.get(name, 0) for name in _CORE)
    return Band(weights=whole, core=(first, second, third, fourth, fifth, sixth))
