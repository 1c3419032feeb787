"""docs/parts.md: its examples run as they stand, each by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(number: int) -> None:
    """What a reader copies works, and its assertions hold."""
    exec(compile(EXAMPLES[number], f"{PAGE.name}, example {number + 1}", "exec"), {})  # noqa: S102


def test_each_part_has_an_example() -> None:
    """Breaker, queue and retry."""
    assert len(EXAMPLES) == 3
