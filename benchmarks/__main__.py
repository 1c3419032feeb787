"""Measure, and print tables or JSON.

    make bench                                  every part, about three minutes
    make bench ARGS="recording durability"      some parts
    make bench ARGS="--repeat 5 --json"         medians of five runs, as JSON

Absolute times move with the machine and with what else it does. What counts is the ratio to the
yardsticks, which were measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from benchmarks import (
    arrival,
    background,
    backlog,
    beside_drainer,
    contention,
    contexts,
    durability,
    event_loop,
    recording,
    wire,
    wrapping,
)
from benchmarks.report import Part, as_json, median_of, print_parts

_PARTS = {
    "recording": recording.run,
    "drainer": beside_drainer.run,
    "contention": contention.run,
    "contexts": contexts.run,
    "event-loop": event_loop.run,
    "background": background.run,
    "backlog": backlog.run,
    "wire": wire.run,
    "wrapping": wrapping.run,
    "arrival": arrival.run,
    "durability": durability.run,
}


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def measure(names: list[str], scale: float = 1.0, repeat: int = 1) -> list[Part]:
    """Return the parts, each figure the median of ``repeat`` runs. ``scale`` sizes the runs."""
    parts: list[Part] = []
    for name in names:
        runs = [_PARTS[name](scale, _say) for _ in range(repeat)]
        parts += [median_of(same) for same in zip(*runs, strict=True)]
    _say("")
    return parts


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; print a table for each part, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--repeat", type=int, default=1, help="run each part so often: medians")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the runs; 0.01 is a try")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in _PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}: of {', '.join(_PARTS)}")
    started = time.monotonic()
    parts = measure(options.parts or list(_PARTS), options.scale, max(1, options.repeat))
    if options.json:
        seconds = round(time.monotonic() - started, 1)
        report = as_json(parts, scale=options.scale, repeat=options.repeat, seconds=seconds)
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        print_parts(parts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
