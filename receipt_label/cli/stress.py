"""``receipt-usage stress``: the stress harness of the checkout, if this is one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from receipt_label.cli.output import note

__all__ = ["command"]

_HARNESS = Path("benchmarks", "stress", "__main__.py")


@click.command(
    name="stress",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Try this library and its alternatives on a store that has a bad day.

    Needs a checkout of the project: the harness is no part of the installed packages. It runs on
    this machine alone, and takes the place of this command. See: receipt-usage stress --help
    """
    root = _checkout()
    if root is None:
        note(
            "error: the stress harness comes with a checkout of the project, and this is none. "
            "Clone it, and run: make stress"
        )
        return 1
    return _become(root, arguments)


def _become(root: Path, arguments: tuple[str, ...]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Python answers an interrupt of its own start with a traceback: it waits until the harness can.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # In place of this process: a signal reaches the harness itself, whoever sends it. Files are
    # named from the user's own working directory.
    os.execve(  # noqa: S606 - this very Python, and the checkout it found
        sys.executable,
        [sys.executable, "-P", "-m", "benchmarks.stress", *arguments],
        {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *_python_path()])},
    )


def _python_path() -> list[str]:
    return [path for path in (os.environ.get("PYTHONPATH"),) if path]


def _checkout() -> Path | None:
    """Return the root of the checkout that these packages or the working directory lie in."""
    here = [Path(__file__).resolve().parents[2], Path.cwd(), *Path.cwd().parents]
    return next((root for root in here if (root / _HARNESS).is_file()), None)
