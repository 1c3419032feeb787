"""Exact money: integer and rational arithmetic, turned into Decimal once, at the end.

No function here reads the caller's decimal context, so a program that computes with five digits
gets the same prices as any other.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from math import lcm

MAX_DIGITS = 38
"""Significant digits of a DynamoDB number, and so of every amount of this package."""

_FIT = Context(prec=MAX_DIGITS, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_WIDE = Context(prec=400, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])

EXACT_BELOW: int = 10**MAX_DIGITS
"""Whole numbers below this have at most 38 digits."""

times = _FIT.multiply
"""``times(whole number below EXACT_BELOW, power of ten)``: exact. A bound method, for speed."""

ZERO = Decimal(0)


def fit(amount: Decimal) -> Decimal:
    """Return the amount in at most 38 significant digits, half-even where digits must go."""
    return _FIT.plus(amount)


def scaled(numerator: int, quantum: Decimal) -> Decimal:
    """Return ``numerator * quantum``, quantum being a power of ten. Exact below 38 digits."""
    if -EXACT_BELOW < numerator < EXACT_BELOW:
        return _FIT.multiply(numerator, quantum)
    return fit(_WIDE.multiply(Decimal(numerator), quantum))


def plus(left: Decimal, right: Decimal) -> Decimal:
    """Return ``left + right`` in at most 38 digits, rounded once."""
    return _FIT.add(left, right)


def product(left: Decimal, right: Decimal) -> Decimal:
    """Return ``left * right`` in at most 38 digits, rounded once."""
    return fit(_WIDE.multiply(left, right))


def to_decimal(amount: Fraction) -> Decimal:
    """Return the fraction as Decimal: exact if 38 digits hold it, else its nearest (half-even)."""
    return _FIT.divide(Decimal(amount.numerator), Decimal(amount.denominator))


def decimal_places(denominator: int) -> int | None:
    """Return the least k for which the denominator divides 10**k, or None if there is none."""
    twos = fives = 0
    while denominator % 2 == 0:
        denominator //= 2
        twos += 1
    while denominator % 5 == 0:
        denominator //= 5
        fives += 1
    return max(twos, fives) if denominator == 1 else None


def common_denominator(fractions: list[Fraction]) -> int:
    """Return the least denominator, a power of ten where one serves, that all fractions share."""
    least = lcm(*(fraction.denominator for fraction in fractions))
    places = decimal_places(least)
    return least if places is None else int(10**places)
