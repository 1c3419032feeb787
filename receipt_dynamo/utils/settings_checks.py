"""What the settings of every part have in common: each field is checked at once, and named."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from receipt_dynamo.errors import ConfigurationError

__all__ = ["check_number"]


def check_number(
    settings: Any,
    *names: str,
    least: float = -inf,
    above: float = -inf,
    most: float = inf,
    whole: bool = False,
) -> None:
    """Raise ConfigurationError unless every field of ``names`` is a finite number within bounds.

    ``least`` and ``most`` are allowed values, ``above`` is not; ``whole`` asks for an int.
    """
    for name in names:
        value = getattr(settings, name)
        fits = (
            isinstance(value, int if whole else (int, float))
            and not isinstance(value, bool)
            and isfinite(value)
            and least <= value <= most
            and value > above
        )
        if not fits:
            bounds = [f"at least {least:g}"] if least > -inf else []
            bounds += [f"more than {above:g}"] if above > -inf else []
            bounds += [f"at most {most:g}"] if most < inf else []
            kind = "a whole number" if whole else "a number"
            wanted = " ".join([kind, " and ".join(bounds)]).strip()
            raise ConfigurationError(f"{type(settings).__name__}.{name}={value!r} is not {wanted}")
