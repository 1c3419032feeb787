"""Contenders of the stress harness that cannot run are named before anything is started."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NoReturn

import pytest

from benchmarks.stress.command import main


@pytest.mark.parametrize("arguments", [[], ["--contender", "pynamodb"]])
def test_a_contender_without_its_package_is_named_at_once(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with what to install, and exit code 2."""

    def run(*_: object) -> NoReturn:
        raise AssertionError("it was started")

    monkeypatch.setattr("benchmarks.stress.command.run", run)
    monkeypatch.setattr("benchmarks.stress.contenders.find_spec", lambda _: None)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pynamodb" in line
    assert "pip install '.[stress]'" in line


def test_a_run_without_that_contender_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names others can go on."""
    begun: list[object] = []

    def run(*given: object) -> NoReturn:
        begun.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.stress.command.run", run)
    monkeypatch.setattr("benchmarks.stress.contenders.find_spec", lambda _: None)
    assert main(["--contender", "put_item"]) == 130
    assert len(begun) == 1


def test_all_extras_are_those_of_a_pipeline() -> None:
    """Who installs ``all`` gets the exporters, not the harness with its web server."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["all"] == ["receipt-usage[otel,prometheus]"]
