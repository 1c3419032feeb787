"""The checks of a metric's fields, one function per kind of value.

Each raises a ValueError that names the field, the value and the remedy. Limits come from the
stores: DynamoDB keeps numbers of up to 38 significant digits between 1E-130 and 9.99E+125 and
nests documents 32 levels deep (AWS, "Supported data types"), SQLite keeps integers of 64 bits.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from receipt_dynamo.entities.frozen import FrozenDict, FrozenList

__all__ = [
    "MAX_COUNT",
    "MAX_ERROR_BYTES",
    "MAX_METADATA_VALUES",
    "check_choice",
    "check_count",
    "check_details",
    "check_metadata",
    "check_milliseconds",
    "check_money",
    "check_service",
    "check_text",
    "check_timestamp",
    "cut_text",
    "is_plain_money",
]

MAX_COUNT = 10**12
"""Highest count in one metric: a trillion. Sums of millions of such metrics still fit 64 bits."""

MAX_ERROR_BYTES = 4096
MAX_DETAILS = 64
MAX_METADATA_DEPTH = 30
MAX_METADATA_VALUES = 32_768
MAX_KEY_BYTES = 1024
_PLAIN_AMOUNT = 38
"""Characters of an amount that is within every limit when it is written without an exponent."""

_SHOWN = 60

PLAIN_DATETIME = (datetime,)
"""The class that JSON is made of. Not by its name, for what freezes time in tests (freezegun)
replaces that in every module, by a subclass."""


def shown(value: object) -> str:
    """Return ``value`` for an error message: its repr, cut to a line; of what is large its size."""
    if isinstance(value, str | bytes):
        value = value[: 2 * _SHOWN]
    elif isinstance(value, dict | list | tuple | set | frozenset) and len(value) > _SHOWN:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"


def byte_length(field: str, value: str) -> int:
    """Return the length in UTF-8 bytes; a lone surrogate is an error."""
    if value.isascii():
        return len(value)
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(
            f"{field}={shown(value)} holds a lone surrogate and cannot be written as UTF-8"
        ) from None


def check_text(field: str, value: object, limit: int) -> str | None:
    """Return a text of 1 to ``limit`` bytes, or None for None and the empty text."""
    if not isinstance(value, str):
        if value is None:
            return None
        raise ValueError(
            f"{field}={shown(value)} is no text: pass a str, such as {str(value)!r:.40}"
        )
    if not value:
        return None
    if len(value) * 4 > limit or not value.isascii():
        size = byte_length(field, value)
        if size > limit:
            raise ValueError(f"{field}={shown(value)} has {size} bytes; at most {limit} are kept")
    return value if type(value) is str else str.__str__(value)


def check_service(value: object) -> str:
    """Return the service in lower case. ``#`` is refused: it separates the parts of a table key."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"service={shown(value)} is empty: name the AI service, such as 'openai'")
    service = value.strip().lower()
    if byte_length("service", service) > 128 or "#" in service or not service.isprintable():  # noqa: PLR2004
        raise ValueError(
            f"service={shown(value)} must be printable, without '#', and at most 128 bytes long"
        )
    return service


def check_count(field: str, value: object, limit: int = MAX_COUNT) -> int | None:
    """Return a whole number from 0 to ``limit``, or None."""
    if type(value) is int:
        if 0 <= value <= limit:
            return value
        remedy = "a count is never negative" if value < 0 else f"at most {limit} is kept"
        raise ValueError(f"{field}={shown(value)} is out of range: {remedy}")
    if value is None:
        return None
    if not isinstance(value, bool) and hasattr(value, "__index__"):  # numpy's integers, IntEnum
        return check_count(field, int(operator.index(value)), limit)
    raise ValueError(
        f"{field}={shown(value)} is no whole number: pass an int of 0 or more, or None"
    )


def is_plain_money(value: object) -> bool:
    """Whether an amount is a Decimal within every limit, written without an exponent."""
    if type(value) is not Decimal:
        return False
    text = str(value)
    return len(text) <= _PLAIN_AMOUNT and text.replace(".", "", 1).isdigit()


def check_money(field: str, value: object) -> Decimal | None:
    """Return exact USD, or None. Floats are refused: they are not the decimals they look like."""
    if value is None:
        return None
    if is_plain_money(value):
        return value  # type: ignore[return-value]  # it is a Decimal
    if type(value) is int or type(value) is str:
        value = _parse_money(field, value)
    if not isinstance(value, Decimal):
        raise ValueError(
            f"{field}={shown(value)} is not exact money: pass a Decimal, such as Decimal('0.0125')"
        )
    if not value.is_finite():
        raise ValueError(f"{field}={value} is no amount: pass a finite Decimal, or None if unknown")
    if value < 0:
        raise ValueError(f"{field}={shown(value)} is negative: a cost is 0 or more")
    _, digits, exponent = value.as_tuple()
    if len(digits) > 38:  # noqa: PLR2004 - DynamoDB's limit, named in the module's docstring
        value = _strip_zeros(field, value, digits, int(exponent))
    if value == 0:
        return value.copy_abs() if -38 <= int(exponent) <= 0 else Decimal(0)  # noqa: PLR2004
    if not -130 <= value.adjusted() <= 125:  # noqa: PLR2004
        raise ValueError(f"{field}={value} is outside 1E-130 to 9.99E+125, what DynamoDB can keep")
    return value


def _parse_money(field: str, value: int | str) -> Decimal:
    try:
        return Decimal(value)
    except ArithmeticError:
        raise ValueError(f"{field}={shown(value)} is no number: pass a Decimal") from None


def _strip_zeros(field: str, value: Decimal, digits: tuple[int, ...], exponent: int) -> Decimal:
    kept = len(digits)
    while kept > 1 and digits[kept - 1] == 0:
        kept -= 1
    if kept > 38:  # noqa: PLR2004
        raise ValueError(
            f"{field}={shown(value)} has {kept} significant digits; at most 38 are kept exactly"
        )
    return Decimal((0, digits[:kept], exponent + len(digits) - kept))


def check_timestamp(field: str, value: object) -> datetime:
    """Return an aware time in UTC, to the microsecond."""
    if not isinstance(value, datetime):
        raise ValueError(f"{field}={shown(value)} is no datetime: pass datetime.now(timezone.utc)")
    if value.tzinfo is UTC and type(value) is PLAIN_DATETIME[0]:
        return value
    if value.utcoffset() is None:
        raise ValueError(
            f"{field}={value.isoformat()} has no timezone: add one, such as "
            "value.replace(tzinfo=timezone.utc)"
        )
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{field}={value.isoformat()} lies outside the years 1 to 9999") from None
    return PLAIN_DATETIME[0](
        utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, UTC
    )


def check_milliseconds(field: str, value: object) -> float | None:
    """Return a duration in milliseconds, finite and not negative, or None."""
    if value is None or (type(value) is float and 0 <= value <= MAX_COUNT):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{field}={shown(value)} is no duration: pass milliseconds as a number")
    try:
        milliseconds = float(value)
    except OverflowError:
        milliseconds = math.inf
    if not 0 <= milliseconds <= MAX_COUNT:
        raise ValueError(f"{field}={shown(value)} is out of range: 0 to {MAX_COUNT} milliseconds")
    return milliseconds


def check_choice(field: str, value: object, choices: frozenset[str]) -> str:
    """Return ``value`` as plain text; raise unless it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{field}={shown(value)} is unknown: one of {', '.join(sorted(choices))}")
    return value if type(value) is str else str.__str__(value)


def check_details(field: str, value: object) -> FrozenDict:
    """Return billable units by name: whole or finite numbers of 0 or more. None means no units."""
    if value is None:
        return FrozenDict()
    if not isinstance(value, Mapping):
        raise ValueError(f"{field}={shown(value)} is no dict of unit to number")
    units: dict[str, int | float] = {}
    if len(value) > MAX_DETAILS:
        raise ValueError(f"{field} has {len(value)} units; at most {MAX_DETAILS} are kept")
    for name, number in value.items():
        if check_text(f"{field} unit", name, 64) is None:
            raise ValueError(f"{field} has a unit without a name")
        if isinstance(number, bool) or not isinstance(number, int | float | Decimal):
            raise ValueError(
                f"{field}[{name!r}]={shown(number)} is no number: pass an int or float"
            )
        if not (number == 0 or 1e-120 <= number <= MAX_COUNT):  # noqa: PLR2004
            raise ValueError(f"{field}[{name!r}]={number} is out of range: 0 to {MAX_COUNT}")
        units[str.__str__(name)] = int(number) if number == int(number) else float(number)
    return FrozenDict(units)


class _TooManyValues(Exception):  # noqa: N818 - no error: what it says is recorded
    pass


def check_metadata(field: str, value: object) -> FrozenDict:
    """Return a read-only deep copy of a JSON object. None means an empty one.

    With more than 32,768 values in all it is left out, which ``metadata_left_out_values`` says:
    sizes are looked at before what they are of, so the time is bounded.
    """
    if value is None:
        return FrozenDict()
    if not (type(value) is dict or isinstance(value, Mapping)):
        raise ValueError(f"{field}={shown(value)} is no dict: metadata is a JSON object")
    try:
        return FrozenDict(_copy_object(field, value, 1, [MAX_METADATA_VALUES]))
    except _TooManyValues:
        return FrozenDict({f"{field}_left_out_values": MAX_METADATA_VALUES})


def _spend(left: list[int], count: int) -> None:
    left[0] -= count
    if left[0] < 0:
        raise _TooManyValues


def _copy_json(path: str, value: Any, depth: int, left: list[int]) -> Any:  # noqa: C901, PLR0911 - one branch per JSON type
    kind = type(value)
    if kind is str:
        if not value.isascii():
            byte_length(path, value)
        return value
    if value is None or kind is bool:
        return value
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        raise ValueError(f"{path}={shown(value)} does not fit 64 bits: pass it as text")
    if kind is float:
        if value == 0 or 1e-120 <= abs(value) <= 1e120:  # noqa: PLR2004
            return value
        raise ValueError(f"{path}={value} is no number that JSON and DynamoDB can keep")
    if depth > MAX_METADATA_DEPTH:
        raise ValueError(f"{path} is nested deeper than {MAX_METADATA_DEPTH} levels")
    if kind is dict or isinstance(value, Mapping):
        return FrozenDict(_copy_object(path, value, depth, left))
    if isinstance(value, list | tuple):
        _spend(left, len(value))
        return FrozenList(
            _copy_json(f"{path}[{i}]", v, depth + 1, left) for i, v in enumerate(value)
        )
    for plain in (str, int, float):  # an enum or another subclass: keep its plain value
        if isinstance(value, plain):
            text_or_number = plain.__str__(value) if plain is str else plain(value)
            return _copy_json(path, text_or_number, depth, left)
    raise ValueError(f"{path}={shown(value)} is not JSON: pass text, numbers, lists or dicts")


def _copy_object(
    path: str, value: Mapping[Any, Any], depth: int, left: list[int]
) -> dict[str, Any]:
    """Return a copy with checked keys and values; plain values of one level take no detour."""
    _spend(left, len(value))
    copy: dict[str, Any] = {}
    for key, inner in value.items():
        if not (type(key) is str and 0 < len(key) <= MAX_KEY_BYTES and key.isascii()) and (
            not isinstance(key, str) or not key or byte_length(path, key) > MAX_KEY_BYTES
        ):
            raise ValueError(f"{path} has the key {shown(key)}: keys are text, 1 to 1024 bytes")
        kind = type(inner)
        if not (
            (kind is str and inner.isascii())
            or (kind is int and -(2**63) <= inner < 2**63)
            or inner is None
            or kind is bool
        ):
            inner = _copy_json(f"{path}[{key!r}]", inner, depth + 1, left)  # noqa: PLW2901
        copy[key if type(key) is str else str.__str__(key)] = inner
    return copy


def cut_text(value: object, limit: int) -> str | None:
    """Return ``value`` as UTF-8 text of at most ``limit`` bytes; a cut one ends in an ellipsis."""
    if value is None or value == "":
        return None
    text = str.__str__(value) if isinstance(value, str) else str(value)  # an enum: its value
    if len(text) * 4 <= limit and text.isascii():
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"
