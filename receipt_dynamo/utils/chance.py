"""Chance as a dependency: parts that draw lots take a Chance, which tests seed."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Chance", "system_chance"]

Chance = Callable[[], float]
"""Returns a float in [0, 1), a new one each time."""

system_chance: Chance = random.random  # Python seeds it anew in a forked child
