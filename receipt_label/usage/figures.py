"""Reading numbers that somebody else wrote: token counts, quantities, money, and what contradicts.

Every function takes what a vendor sent and either returns a figure that can be believed or raises
:class:`InconsistentUsageError`. Nothing here knows a vendor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from receipt_label.usage.reply import Usage

Json = Mapping[str, object]
Details = dict[str, int | float]

NOTHING: Final[Json] = {}

# No single call uses a trillion tokens. The bound also keeps a count within 64 bits (SQLite).
MAX_TOKENS: Final = 10**12
_WORD: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_RAW_DEPTH: Final = 4
_RAW_ITEMS: Final = 64

_INPUT_KINDS: Final = ("input_audio_tokens", "input_image_tokens", "input_video_tokens")
_OUTPUT_KINDS: Final = ("output_audio_tokens", "output_image_tokens", "output_video_tokens")
_CACHE_KINDS: Final = (
    ("cache_audio_read_tokens", "input_audio_tokens"),
    ("cache_image_read_tokens", "input_image_tokens"),
    ("cache_video_read_tokens", "input_video_tokens"),
)
_WRITE_KINDS: Final = ("cache_write_5m_tokens", "cache_write_1h_tokens")


class InconsistentUsageError(ValueError):
    """The vendor's figures contradict each other, or are no figures."""


def count(value: object) -> int | None:
    """Return a token count, or None where there is none.

    Whole floats count (Cohere sends ``431.0``). Raises InconsistentUsageError for anything else
    that is not a whole number from 0 to a trillion: text, truth values, NaN, negatives.
    """
    if type(value) is int:
        if 0 <= value <= MAX_TOKENS:
            return value
    elif value is None:
        return None
    elif isinstance(value, (float, Decimal)) and not isinstance(value, bool):
        number = quantity(value)
        if number == int(number):
            return int(number)
    raise InconsistentUsageError("a token count is not a whole number from 0 on")


def quantity(value: object) -> int | float:
    """Return a non-negative finite number (seconds, pages), else raise InconsistentUsageError."""
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        finite = value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)
        if finite and 0 <= value <= MAX_TOKENS:
            return float(value) if isinstance(value, Decimal) else value
    raise InconsistentUsageError("a quantity is not a number from 0 on")


def money(value: object) -> Decimal | None:
    """Return an amount exactly as written (a float by its shortest form), or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    try:
        amount = value if isinstance(value, Decimal) else Decimal(repr(value))
    except (InvalidOperation, ValueError):
        return None
    return amount if amount.is_finite() and 0 <= amount <= MAX_TOKENS else None


def first(source: Json, *keys: str) -> object:
    """Return the value of the first of the keys that is there and not null."""
    for key in keys:
        value = source.get(key)
        if value is not None:
            return value
    return None


def part(source: Json, *keys: str) -> Json:
    """Return the first of the named sub-objects, empty where none is there.

    Raises InconsistentUsageError where one is there that is no object: then the figures around it
    cannot be believed either.
    """
    value = first(source, *keys)
    if value is None:
        return NOTHING
    if type(value) is dict or isinstance(value, Mapping):
        return value
    raise InconsistentUsageError("a breakdown of token counts is not an object")


def inner(source: Json, key: str) -> Json:
    """Return a sub-object where it is one, else an empty one. Raises nothing."""
    value = source.get(key)
    if value is None:
        return NOTHING
    return value if type(value) is dict or isinstance(value, Mapping) else NOTHING


def items(value: object) -> Iterable[Json]:
    """Return the objects of a list; nothing where it is no list."""
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()


def word(value: object) -> str | None:
    """Return a vendor's short code (``rate_limit_error``, ``429``), never a sentence."""
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def note(details: Details, name: str, value: object) -> None:
    """Add a non-zero token count to the details, adding up where the name is there already."""
    number = count(value)
    if number:
        details[name] = details.get(name, 0) + number


def settle(
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    cached: int | None = None,
    written: int | None = None,
    reasoning: int | None = None,
    details: Details | None = None,
) -> Usage | None:
    """Return the usage, or None where no figure is known at all.

    Raises InconsistentUsageError where a subset is larger than what it is a subset of.
    """
    if input_tokens is None and output_tokens is None and not details:
        if cached or written or reasoning:
            raise InconsistentUsageError("a part of the tokens without the whole")
        return None
    if (cached or 0) + (written or 0) > (input_tokens or 0):
        raise InconsistentUsageError("more tokens cached than sent")
    if reasoning and reasoning > (output_tokens or 0):
        raise InconsistentUsageError("more tokens of reasoning than of output")
    if details:
        _check_details(details, input_tokens or 0, output_tokens or 0, cached or 0, written or 0)
    return Usage(
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning,
        details=details or {},
    )


def _check_details(
    details: Details, input_tokens: int, output_tokens: int, cached: int, written: int
) -> None:
    get = details.get
    if (
        sum(get(name, 0) for name in _INPUT_KINDS) > input_tokens
        or sum(get(name, 0) for name in _OUTPUT_KINDS) > output_tokens
        or sum(get(name, 0) for name in _WRITE_KINDS) > written
        or sum(get(name, 0) for name, _ in _CACHE_KINDS) > cached
        or any(get(name, 0) > get(whole, 0) for name, whole in _CACHE_KINDS)
        or get("output_citation_tokens", 0) > output_tokens
    ):
        raise InconsistentUsageError("a part of the tokens is larger than the whole")


def harmless(value: object, depth: int = 0) -> object:
    """Return figures as JSON that may be kept: numbers and short codes, never a text."""
    if value is None or isinstance(value, (bool, int)):
        return value if value is None or abs(value) <= 10**18 else str(value)[:40]
    if isinstance(value, (float, Decimal)):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return word(value) or "(text)"
    if depth < _RAW_DEPTH:
        if isinstance(value, Mapping):
            pairs = list(value.items())[:_RAW_ITEMS]
            return {word(key) or "(text)": harmless(item, depth + 1) for key, item in pairs}
        if isinstance(value, (list, tuple)):
            return [harmless(item, depth + 1) for item in value[:_RAW_ITEMS]]
    return f"({type(value).__name__})"
