"""The goodput limiter stays because it beats the baseline; these are the cells it is held to."""

from __future__ import annotations

import pytest

from benchmarks.goodput import PAGE, words
from benchmarks.pacing import BASELINE, CELLS, LIMITER, POLICIES, Cell, measure

STEADY = "4 x 4, steady 1000"
SHORT = 40.0  # seconds of virtual time that tell as much, where the capacity is steady


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_the_limiter_is_never_behind_full_jitter(name: str) -> None:
    """As much goodput, up to half a point of noise, and fewer items sent in vain."""
    seconds = SHORT if len(CELLS[name].steps) == 1 else 120.0
    limiter = measure(POLICIES[LIMITER], CELLS[name], seconds=seconds, seeds=1)
    baseline = measure(POLICIES[BASELINE], CELLS[name], seconds=seconds, seeds=1)
    assert limiter.goodput >= baseline.goodput - 0.005
    assert limiter.efficiency > baseline.efficiency


@pytest.mark.slow
def test_a_steady_table_is_used_to_its_limit() -> None:
    """95 % of the capacity and 90 % of what was sent at the least, over three seeds."""
    figures = measure(POLICIES[LIMITER], CELLS[STEADY], seconds=SHORT)
    assert figures.goodput >= 0.95
    assert figures.efficiency >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize("burst", [1.0, 30.0])
def test_a_table_with_a_long_memory_is_used_as_well(burst: float) -> None:
    """What it saved up is taken, and the pace after that is still right."""
    cell = Cell(2, 4, ((0.0, 300.0),))
    figures = measure(POLICIES[LIMITER], cell, seeds=1, burst=burst)
    assert figures.goodput >= 0.99 + burst / 120
    assert figures.efficiency >= 0.85


def test_a_table_that_refuses_nothing_is_never_slowed() -> None:
    """Every call is a full batch: a 25th of a call for an item."""
    cell = Cell(1, 4, ((0.0, 1_000_000.0),))
    limiter = measure(POLICIES[LIMITER], cell, seconds=5.0, seeds=1)
    bare = measure(POLICIES[BASELINE], cell, seconds=5.0, seeds=1)
    assert limiter == bare


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_the_page_shows_what_the_simulation_gives(policy: str) -> None:
    """To the digit, in the cells that are quick: ``make goodput ARGS=--write`` writes them all."""
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| {policy} |"))
    shown = dict(zip(CELLS, row.strip("| ").split(" | ")[1:], strict=True))
    for cell in ("1 x 1, steady 20", "1 x 4, steady 20"):
        assert shown[cell] == words(measure(POLICIES[policy], CELLS[cell]))
