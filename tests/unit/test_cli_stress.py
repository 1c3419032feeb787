"""``receipt-usage stress``: the harness is in the checkout, and the command says where there is
none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from receipt_label.cli import stress
from tests.unit.conftest import RunCommand

if TYPE_CHECKING:
    import pytest


def test_without_a_checkout_one_line_says_so(
    run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness is no part of what is installed."""
    monkeypatch.setattr(stress, "_checkout", lambda: None)
    ran = run("stress", "--profile", "seed")
    assert (ran.code, ran.out) == (1, "")
    assert "comes with a checkout" in ran.one_error


def test_the_harness_takes_the_command_s_place(tmp_path: Path) -> None:
    """Whatever follows the word is passed on, --help among it; process and exit code are its own,
    so that whoever sends the command a signal sends it to the harness."""
    harness = tmp_path / "benchmarks" / "stress"
    harness.mkdir(parents=True)
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (harness / "__init__.py").touch()
    (harness / "__main__.py").write_text(
        "import os, sys\nprint(os.getpid(), sys.argv[1:])\nsys.exit(3)\n"
    )
    script = (
        "import sys; from pathlib import Path; from receipt_label.cli import main, stress; "
        f"stress._checkout = lambda: Path({str(tmp_path)!r}); sys.exit(main.main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "stress", "--help", "--profile", "seed"],
        stdout=subprocess.PIPE,
        text=True,
    ) as command:
        told, _ = command.communicate(timeout=60)
    assert command.returncode == 3
    assert told == f"{command.pid} ['--help', '--profile', 'seed']\n"


def test_the_checkout_is_where_the_packages_lie_or_one_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this checkout it is found from anywhere."""
    monkeypatch.chdir(tmp_path)
    root = stress._checkout()
    assert root is not None
    assert (root / "benchmarks" / "stress" / "__main__.py").is_file()
