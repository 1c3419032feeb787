"""JSON read exactly, and written back in one canonical form.

Numbers stay what they are: whole ones int, all others Decimal. The canonical form gives a line that
carries no id of its own an identity that does not depend on spaces, order of keys or spelling of
numbers.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring

__all__ = ["canonical", "line_id", "parse"]

_DIGITS_OF_ID = 32
_PLAIN_BELOW = 21  # digits of the largest whole number that is written without an exponent
_quoted = encode_basestring


def parse(data: bytes) -> object:
    """Return the value of one JSON text in UTF-8. Raises ValueError with a reason of a few words.

    NaN and the infinities are read, as Python programs write them; they become Decimals.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise ValueError(_reason(error, text)) from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except InvalidOperation:
        raise ValueError("a number is too large or too small to be kept") from None
    except ValueError:  # of int(): Python reads whole numbers of up to 4,300 digits
        raise ValueError("a whole number has too many digits") from None


def _constant(name: str) -> Decimal:
    return Decimal(name)


def _reason(error: json.JSONDecodeError, text: str) -> str:
    if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
        return "truncated JSON: the text ends in the middle of a value"
    place = f"column {error.colno}"
    if error.lineno > 1:
        place = f"line {error.lineno}, {place}"
    return f"not JSON: {error.msg} ({place})"


def canonical(value: object) -> str:
    """Return ``value`` as JSON with sorted keys, no spaces, and one spelling for each number."""
    if isinstance(value, str):
        quoted: str = _quoted(value)
        return quoted
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        return _canonical_number(value)
    if isinstance(value, dict):
        members = (f"{_quoted(key)}:{canonical(value[key])}" for key in sorted(value))
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    raise TypeError(f"{type(value).__name__} is no JSON")


def _canonical_number(number: Decimal) -> str:
    """Return equal text for equal numbers: ``1.50`` and ``1.5``, ``1E2`` and ``100``."""
    if not number.is_finite():
        return str(number)
    sign, digits, exponent = number.as_tuple()
    kept = len(digits)
    while kept > 1 and digits[kept - 1] == 0:
        kept -= 1
    if not number:
        return "0"
    short = Decimal((sign, digits[:kept], int(exponent) + len(digits) - kept))
    whole = int(short.as_tuple().exponent) >= 0 and short.adjusted() < _PLAIN_BELOW
    return str(int(short)) if whole else str(short)


def line_id(value: object) -> str:
    """Return the identity of a line without an id: ``sha256-`` and 32 hexadecimal digits."""
    digest = hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()
    return f"sha256-{digest[:_DIGITS_OF_ID]}"
