"""The stress harness itself: a short run of everything passes, and a broken client turns it red.

Real processes, a real engine, a real proxy: about two minutes. No time is asserted here but what
benchmarks/stress/thresholds.py names for short runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from benchmarks.stress.command import main
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


def failures(document: dict[str, Any]) -> list[str]:
    """Return the checks of our cells that failed, each with its figure."""
    return [
        f"{check['name']} {check['figure']} of {cell['contender']} in {profile['name']}"
        for profile in document["profiles"]
        for cell in profile["cells"]
        for check in cell["checks"]
        if not check["passed"]
    ]


def failed(document: dict[str, Any]) -> set[str]:
    """Return the names of the checks that failed."""
    return {failure.split()[0] for failure in failures(document)}


def problems(document: dict[str, Any]) -> list[str]:
    """Return what speaks against the counts."""
    cells = [cell for profile in document["profiles"] for cell in profile["cells"]]
    return [problem for cell in cells for problem in cell["problems"]]


@pytest.mark.alone
def test_a_short_run_of_everything_passes() -> None:
    """Callers keep their pace, nothing is lost and nothing is there twice: through a store that
    becomes worse, one that throttles, one that is gone, kills and a full disk."""
    document = run(Plan(profiles=("ci",)))
    assert (failures(document), problems(document)) == ([], [])
    assert document["passed"]
    cells = [cell for profile in document["profiles"] for cell in profile["cells"]]
    assert len(cells) == 7
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
        (["--minutes", "inf"], "--minutes inf"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--html", "no-such-directory/page.html"], "page.html cannot be written"),
        (["--html", "."], "--html . cannot be written"),
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


def test_a_run_that_fails_leaves_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither an empty one nor a change of one that was there; who is named twice runs once."""
    plans = []

    def fail(plan: Plan, _stop: threading.Event) -> NoReturn:
        plans.append(plan)
        raise EngineError("no engine")

    monkeypatch.setattr("benchmarks.stress.command.run", fail)
    before = tmp_path / "before.html"
    before.write_text("<p>before")
    for page in (before, tmp_path / "page.html"):
        twice = ["--contender", "put_item"] * 2
        assert main(["--html", str(page), *twice]) == 1
    assert "no engine" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["before.html"]
    assert before.read_text() == "<p>before"
    assert plans[0].contenders == ("put_item",)


def started_in(place: Path) -> dict[int, dict[str, str]]:
    """Return the processes whose temporary files lie in ``place``, with their environment."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has just ended
                told = (process / "environ").read_bytes().decode(errors="replace")
                environment = dict(pair.partition("=")[::2] for pair in told.split("\0") if pair)
                if environment.get("TMPDIR") == str(place):
                    found[int(process.name)] = environment
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "engine"),
    [(signal.SIGINT, "moto"), (signal.SIGTERM, "local"), (signal.SIGKILL, "moto")],
)
def test_an_interrupted_run_leaves_nothing_behind(
    number: signal.Signals, engine: str, tmp_path: Path
) -> None:
    """Workers, the drainer beside them, proxy and engine end, and no temporary file stays; one
    word says so. Killed, it can tidy nothing, but whatever it started ends by itself. None of
    that has settings of the user's."""
    theirs = {"AWS_MAX_ATTEMPTS": "9", "HTTP_PROXY": "http://127.0.0.1:9", "AWS_PROFILE": "x"}
    # a run that is started in the background of a shell would ignore Ctrl-C
    start = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
    )
    options = ["--profile", "kill", "--engine", engine]

    def all_run_without_theirs() -> bool:
        # until its program begins, a process shows the environment of the harness
        others = [env for pid, env in started_in(tmp_path).items() if pid != harness.pid]
        enough = len(others) >= 6  # engine, proxy, three workers, drainer
        return enough and not any(theirs.keys() & environment.keys() for environment in others)

    with subprocess.Popen(
        [sys.executable, "-c", start, "receipt_label.cli.main", "stress", *options],
        env={**os.environ, **theirs, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as harness:
        shippers = "receipt-usage-stress-*/shipper.errors"
        wait_for(lambda: bool([*tmp_path.glob(shippers)]), 60)
        wait_for(all_run_without_theirs, 60)
        harness.send_signal(number)
        _, told = harness.communicate(timeout=60)
    if number is signal.SIGKILL:
        wait_for(lambda: not started_in(tmp_path), 60)
        return
    assert (harness.returncode, told) == (130, "interrupted\n")
    wait_for(lambda: not started_in(tmp_path), 60)
    assert [*tmp_path.iterdir()] == []
