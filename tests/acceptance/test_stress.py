"""The stress harness itself: a short run of everything passes, and a broken client turns it red.

Real processes, a real engine, a real proxy: about two minutes. No time is asserted here but what
benchmarks/stress/thresholds.py names for short runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stress.__main__ import main
from benchmarks.stress.engines import EngineError, running_engine
from benchmarks.stress.running import Plan, run
from tests.support.dynamodb import REQUIRED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def _an_engine() -> None:
    """Skip where DynamoDB Local cannot be had, and say so; in CI that is a failure."""
    try:
        with running_engine("local"):
            return
    except EngineError as error:
        (pytest.fail if REQUIRED else pytest.skip)(str(error))


def failed(document: dict[str, Any]) -> set[str]:
    """Return the checks of our cells that failed."""
    return {
        check["name"]
        for profile in document["profiles"]
        for cell in profile["cells"]
        for check in cell["checks"]
        if not check["passed"]
    }


def problems(document: dict[str, Any]) -> list[str]:
    """Return what speaks against the counts."""
    cells = [cell for profile in document["profiles"] for cell in profile["cells"]]
    return [problem for cell in cells for problem in cell["problems"]]


def test_a_short_run_of_everything_passes() -> None:
    """Callers keep their pace, nothing is lost and nothing is there twice: through a store that
    becomes worse, one that throttles, one that is gone, kills and a full disk."""
    document = run(Plan(profiles=("ci",)))
    assert (failed(document), problems(document)) == (set(), []), document
    assert document["passed"]
    cells = [cell for profile in document["profiles"] for cell in profile["cells"]]
    assert len(cells) == 6
    assert all(cell["figures"]["stored"] > 100 for cell in cells)
    by_name = {profile["name"]: profile["cells"][0] for profile in document["profiles"]}
    assert by_name["kill"]["figures"]["kills"] > 0
    assert by_name["outage"]["figures"]["breaker_openings"] > 0
    assert by_name["throttle"]["faults_met"]["BatchWriteItem throttled"] > 0


@pytest.mark.parametrize(
    ("mutant", "profile", "scale", "found"),
    [
        ("mutant-drops", "healthy", 0.25, {"lost"}),
        ("mutant-acks-early", "flaky", 0.3, {"lost", "retried_share"}),
        ("mutant-counts-throttles", "throttle-starved", 0.5, {"breaker_openings"}),
    ],
)
def test_a_broken_client_turns_a_run_red(
    mutant: str, profile: str, scale: float, found: set[str]
) -> None:
    """One record in a thousand dropped; an ack before the answer; a throttle taken for a failure:
    each is named by the check that it fails."""
    document = run(
        Plan(profiles=(profile,), contenders=(mutant,), scale=scale, short=True, engine="local")
    )
    assert not document["passed"]
    assert failed(document) & found, (failed(document), problems(document))


def test_the_command_runs_from_anywhere(tmp_path: Path) -> None:
    """It prints a document, writes the page where it was asked to, and says by its exit code
    whether the run passed."""
    command = [sys.executable, "-m", "receipt_label.cli.main", "stress", "--profile", "outage"]
    short = ["--contender", "queue-thread", "--scale", "0.05", "--json", "--html", "run.html"]
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [*command, *short],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["passed"]
    (cell,) = document["profiles"][0]["cells"]
    assert cell["contender"] == "queue-thread"
    assert "queue and thread" in (tmp_path / "run.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "storm"], "storm"),
        (["--scale", "0"], "--scale 0"),
        (["--minutes", "-1"], "--minutes -1"),
        (["--contender", "mongodb"], "mongodb"),
    ],
)
def test_wrong_usage_is_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_said_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after ten minutes."""
    assert main(["--html", str(tmp_path / "no" / "page.html")]) == 1
    assert "page.html" in capsys.readouterr().err
