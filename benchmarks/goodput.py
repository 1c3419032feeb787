"""Goodput under throttling: ``python -m benchmarks.goodput [--write]``.

Simulated, in virtual time: senders with an endless backlog against a table that is a token bucket
with partial acceptance. Prints accepted items as a share of the table's capacity / of what was
sent, the mean of three seeds over 120 s. ``--write`` puts the table into docs/goodput.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.pacing import BASELINE, CELLS, LIMITER, POLICIES, Figures, measure

PAGE = Path(__file__).parent.parent / "docs" / "goodput.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def main() -> int:
    """Measure all policies in all cells; 1 if the limiter is behind the baseline anywhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update docs/goodput.md")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0)
    chosen = parser.parse_args()
    figures: dict[str, dict[str, Figures]] = {}
    lines = [f"| policy | {' | '.join(CELLS)} |", "|---|" + "---|" * len(CELLS)]
    print("\n".join(lines), flush=True)
    for policy, make in POLICIES.items():
        figures[policy] = {
            name: measure(make, cell, seconds=chosen.seconds, seeds=chosen.seeds)
            for name, cell in CELLS.items()
        }
        line = f"| {policy} | {' | '.join(map(words, figures[policy].values()))} |"
        print(line, flush=True)
        lines.append(line)
    if chosen.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after, encoding="utf-8")
    return int(any(_behind(figures, cell) for cell in CELLS))


def words(figures: Figures) -> str:
    """Return a cell of the table: goodput / accepted of what was sent."""
    return f"{figures.goodput:.1%} / {figures.efficiency:.1%}"


def _behind(figures: dict[str, dict[str, Figures]], cell: str) -> bool:
    limiter, baseline = figures[LIMITER][cell], figures[BASELINE][cell]
    behind = limiter.goodput < baseline.goodput - 0.005 or limiter.efficiency < baseline.efficiency
    if behind:
        print(f"the limiter is behind the baseline: {cell}")
    return behind


if __name__ == "__main__":
    raise SystemExit(main())
