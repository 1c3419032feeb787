"""Run the stress harness.

    make stress                                          all that is compared, 9 to 10 minutes
    receipt-usage stress --profile seed --html run.html  one profile, with a page
    receipt-usage stress --profile outage --contender put_item --json
    receipt-usage stress --profile soak --minutes 60

Exit code 1 when a threshold or the proof of a count fails, 2 for wrong usage, 130 when it was
interrupted: then everything that it started is ended, and its temporary files are removed.
docs/stress.md says what is measured, and how.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks.stress.contenders import CONTENDERS, missing_package
from benchmarks.stress.engines import EngineError
from benchmarks.stress.interruption import interruptible
from benchmarks.stress.profiles import ALL, CI, PROFILES, SOAK
from benchmarks.stress.report import print_document
from benchmarks.stress.running import Plan, run
from benchmarks.stress.workload import KINDS

__all__ = ["main"]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="receipt-usage stress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--profile",
        action="append",
        choices=[*PROFILES, SOAK, CI],
        help=f"what happens to the store (default: {', '.join(ALL)}); {CI}: a short run of "
        "everything with looser limits; may be repeated",
    )
    parser.add_argument(
        "--contender", action="append", choices=[*CONTENDERS], help="who; may be repeated"
    )
    parser.add_argument("--workers", choices=KINDS, help="how the pipeline's workers run")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the profile soak")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="of all times; 0.2 is a try. Below 1 the limits of short runs judge, as with --short",
    )
    parser.add_argument("--short", action="store_true", help="judge by the limits of short runs")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engine", choices=["local", "moto"], help="default: local, else moto")
    parser.add_argument("--json", action="store_true", help="print the run as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page")
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 1:
        parser.error(f"--scale {options.scale:g} is out of range: above 0, at most 1")
    if not (options.minutes > 0 and math.isfinite(options.minutes)):
        parser.error(f"--minutes {options.minutes:g} is no duration: above 0, and finite")
    if options.html is not None:
        try:
            _check_page(options.html)
        except OSError as error:
            parser.error(f"--html {options.html} cannot be written: {error.strerror}")
    return options


def _check_page(page: Path) -> None:
    """Raise OSError where no page can be written: before the run, not after it. Leaves nothing."""
    if page.exists():
        page.open("ab").close()
    else:
        tempfile.TemporaryFile(dir=page.parent).close()


def main(arguments: list[str] | None = None) -> int:
    """Run, and print a table for each profile, or JSON with ``--json``."""
    options = _options(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with interruptible() as stop:
            return _run(options, shlex.join(["receipt-usage", "stress", *given]), stop)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, command: str, stop: threading.Event) -> int:
    plan = Plan(
        profiles=tuple(dict.fromkeys(options.profile or ALL)),
        contenders=tuple(dict.fromkeys(options.contender or ())),
        seed=options.seed,
        scale=options.scale,
        minutes=options.minutes,
        kind=options.workers,
        short=options.short,
        engine=options.engine,
    )
    missing = missing_package(name for it in plan.chosen() for group in it.groups for name in group)
    if missing is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    try:
        document = run(plan, stop)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    document["command"] = command
    if options.html is not None:
        from benchmarks.stress.page import render

        try:
            options.html.write_text(render(document), encoding="utf-8")
        except OSError as error:  # the figures are there all the same
            print(f"error: {options.html}: {error.strerror}", file=sys.stderr)
            document["passed"] = False
    if options.json:
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        print_document(document)
    return 0 if document["passed"] else 1
