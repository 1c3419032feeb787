"""The counts of a usage by unit, where they do not contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from receipt_label.pricing.units import Count, vocabulary

if TYPE_CHECKING:
    from receipt_label.usage.reply import Usage

__all__ = ["read_counts"]

_CACHED_KINDS = (
    "cache_text_read_tokens",
    "cache_audio_read_tokens",
    "cache_image_read_tokens",
    "cache_video_read_tokens",
)


def read_counts(usage: Usage) -> dict[str, Count] | None:
    """Return a usage's known counts by unit, or None where they contradict each other.

    A cache write, or an audio duration, that is only reported in parts is the sum of its parts.
    """
    counts: dict[str, Count] = {}
    core = (
        ("input_tokens", usage.input_tokens),
        ("cache_read_tokens", usage.cached_input_tokens),
        ("cache_write_tokens", usage.cache_write_tokens),
        ("output_tokens", usage.output_tokens),
        ("output_reasoning_tokens", usage.reasoning_tokens),
    )
    for name, value in (*core, *usage.details.items()):
        if value is None:
            continue
        count = _count(value)
        if count is None or counts.get(name, count) != count:
            return None
        counts[name] = count
    _complete_cached_split(counts)
    _sum_parts(counts, "cache_write_tokens", ("cache_write_5m_tokens", "cache_write_1h_tokens"))
    _sum_parts(counts, "audio_seconds", ("input_audio_seconds", "output_audio_seconds"))
    return counts if _nested(counts) else None


def _count(value: object) -> Count | None:
    """Return a finite count of 0 or more, exactly; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    if isinstance(value, (float, Decimal)):
        exact = Decimal(repr(value)) if isinstance(value, float) else value
        return Fraction(exact) if exact.is_finite() and exact >= 0 else None
    return None


def _sum_parts(counts: dict[str, Count], whole: str, parts: tuple[str, str]) -> None:
    if whole not in counts and any(part in counts for part in parts):
        counts[whole] = sum(counts.get(part, 0) for part in parts)


def _complete_cached_split(counts: dict[str, Count]) -> None:
    """Note the kinds of which nothing was cached, where the others make up all cached reads.

    Vendors leave out the kinds that are 0, and a rate for cached audio needs to know.
    """
    total = counts.get("cache_read_tokens")
    if total is not None and total == sum(counts.get(kind, 0) for kind in _CACHED_KINDS):
        for kind in _CACHED_KINDS:
            counts.setdefault(kind, 0)


def _nested(counts: Mapping[str, Count]) -> bool:
    """Whether no reported part, nor cached reads and writes together, exceed a reported whole."""
    cached = counts.get("cache_read_tokens", 0) + counts.get("cache_write_tokens", 0)
    if cached > counts.get("input_tokens", cached):
        return False
    return all(counts[part] <= counts[whole] for whole, part in _nestings(tuple(counts)))


@lru_cache(4096)
def _nestings(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of these units of which the second is a part of the first."""
    known = [unit for name, unit in vocabulary().items() if name in names]
    return tuple(
        (whole.name, part.name)
        for whole in known
        for part in known
        if whole is not part and whole.contains(part)
    )
