"""Times as numbers: seconds since 1970, or milliseconds, as JavaScript and Java have them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

__all__ = ["moment_of"]

_MILLISECONDS_FROM: Final = 10**11  # 1973 in milliseconds, the year 5138 in seconds


def moment_of(number: int | float | Decimal) -> datetime:
    """Return the time in UTC. What would be after the year 5138 in seconds is milliseconds.

    Raises ValueError, OverflowError or OSError for what is no time (microseconds, NaN).
    """
    is_milliseconds = number >= _MILLISECONDS_FROM
    return datetime.fromtimestamp(float(number) / (1000 if is_milliseconds else 1), UTC)
