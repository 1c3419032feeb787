"""The units that a vendor bills, and how they nest.

The vocabulary is genai-prices' (``input_tokens``, ``cache_read_tokens``, ``input_audio_tokens``,
``web_searches``, ...): a unit is a set of dimensions, and a unit with more dimensions is a subset
of every unit whose dimensions it contains. ``Usage`` names two of them in its own way
(``cached_input_tokens``, ``reasoning_tokens``); both spellings are understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

REQUESTS = "requests"
CORE_FIELDS: Mapping[str, str] = {
    "input_tokens": "input_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "output_tokens": "output_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
}
"""Field of Usage -> unit."""
_OWN_NAMES = {unit: field for field, unit in CORE_FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Unit:
    """A billable unit. ``per`` is how many of them a price list quotes: 1,000,000 for tokens."""

    name: str
    per: int
    dimensions: frozenset[tuple[str, str]]

    def contains(self, other: Unit) -> bool:
        """Whether every ``other`` is also one of these (each unit contains itself)."""
        return self.dimensions <= other.dimensions

    def overlaps(self, other: Unit) -> bool:
        """Whether one thing can be both, neither unit containing the other."""
        mine = dict(self.dimensions)
        return (
            not self.contains(other)
            and not other.contains(self)
            and all(mine.get(key, value) == value for key, value in other.dimensions)
        )


@cache
def vocabulary() -> Mapping[str, Unit]:
    """Return every unit that genai-prices knows, by name. Loads genai-prices' unit table."""
    from genai_prices.data_units import unit_data  # loaded when first needed

    return {
        name: Unit(name, int(raw["per"]), frozenset(raw.get("dimensions", {}).items()))
        for name, raw in unit_data.items()
    }


@cache
def joins() -> Mapping[frozenset[tuple[str, str]], str]:
    """Return unit names by dimensions, to find the unit that is the overlap of two others."""
    return {unit.dimensions: name for name, unit in vocabulary().items()}


def custom_unit(name: str, per: int) -> Unit:
    """Return a unit of the user's own that neither contains nor is part of another."""
    return Unit(name, per, frozenset({("family", f"own:{name}")}))


def canonical(name: str) -> str:
    """Return the vocabulary's spelling of a unit: ``cached_input_tokens -> cache_read_tokens``."""
    return CORE_FIELDS.get(name, name)


def documented(name: str) -> str:
    """Return our own spelling of a unit: ``cache_read_tokens -> cached_input_tokens``."""
    return _OWN_NAMES.get(name, name)


Count = int | Fraction
