"""``receipt-usage stress``: the harness is in the checkout, and the command says where there is
none."""

from __future__ import annotations

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


def test_arguments_and_exit_code_are_the_harness_s(
    run: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever follows the word is passed on, --help among it."""
    harness = tmp_path / "benchmarks" / "stress"
    harness.mkdir(parents=True)
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (harness / "__init__.py").touch()
    told = tmp_path / "told"
    (harness / "__main__.py").write_text(
        f"import sys, pathlib\npathlib.Path({str(told)!r}).write_text(repr(sys.argv[1:]))\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setattr(stress, "_checkout", lambda: tmp_path)
    assert run("stress", "--help", "--profile", "seed").code == 3
    assert told.read_text() == "['--help', '--profile', 'seed']"


def test_the_checkout_is_where_the_packages_lie_or_one_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this checkout it is found from anywhere."""
    monkeypatch.chdir(tmp_path)
    root = stress._checkout()
    assert root is not None
    assert (root / "benchmarks" / "stress" / "__main__.py").is_file()
