"""The processes of the stress harness: they end with their parent, and what they say is heard."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.stress import engines
from benchmarks.stress.crew import Crew, CrewError
from benchmarks.stress.engines import EngineError, credentials, running_engine
from benchmarks.stress.environment import clean_environment
from benchmarks.stress.interruption import InterruptionError
from benchmarks.stress.parent import watched
from benchmarks.stress.shipper import Shipper
from benchmarks.stress.workload import Work

ROOT = Path(__file__).parents[2]
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path: Path) -> dict[str, str]:
    """An environment in which the module ``sleeper`` says its process id and sleeps."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def work_in(directory: Path, **changes: object) -> Work:
    given: dict[str, object] = {
        "contender": "receipt-usage",
        "endpoint": "http://127.0.0.1:9",
        "table": "T",
        "directory": str(directory / "usage"),
        "ledgers": str(directory),
        "workers": (0,),
    }
    return Work(**{**given, **changes})  # type: ignore[arg-type]


def environment_in(directory: Path) -> dict[str, str]:
    return {**clean_environment(directory / "home"), **credentials("crew")}


def test_a_watched_process_ends_with_a_parent_that_was_killed(sleeper: dict[str, str]) -> None:
    """SIGKILL of the harness leaves nothing that runs."""
    script = (
        "import subprocess, time\n"
        "from benchmarks.stress.parent import watched\n"
        "subprocess.Popen(watched('sleeper'))\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=sleeper, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([child], [], [], 30.0)
    os.close(child)
    assert ended


def test_a_parent_that_has_ended_before_is_noticed(sleeper: dict[str, str]) -> None:
    """Between the start of a process and its first look its parent may have been killed."""
    command = watched("sleeper")
    command[command.index(str(os.getpid()))] = "1"
    ran = subprocess.run(command, env=sleeper, stdout=subprocess.DEVNULL, timeout=30, check=False)
    assert ran.returncode == 1


def test_a_drainer_that_ended_by_itself_is_an_error_with_its_words(tmp_path: Path) -> None:
    """A run with kills needs a drainer to kill: one whose directory is a file has none."""
    (tmp_path / "usage").write_text("no directory")
    with Shipper(work_in(tmp_path), environment_in(tmp_path), tmp_path) as shipper:
        shipper._process.wait(60)
        with pytest.raises(CrewError, match=r"drainer beside the pipeline ended with 1: .*usage"):
            shipper.replace()
        assert shipper.lives == 0


def test_workers_end_when_the_run_does(tmp_path: Path) -> None:
    """Nobody waits for their work; a kill counts as a worker's, and what is killed is replaced."""
    stop = threading.Event()
    works = [work_in(tmp_path, contender="nothing", workers=(n,)) for n in range(2)]
    with Crew(works, environment_in(tmp_path), tmp_path, stop) as crew:
        crew.wait_until_ready()
        crew.go(0.0, 1e9)
        crew.kill_one(random.Random(1))  # noqa: S311
        assert (crew.worker_kills, crew.shipper_kills, crew.kills) == (1, 0, 1)
        processes = [os.pidfd_open(pid) for pid in crew.pids]
        stop.set()
        with pytest.raises(InterruptionError):
            crew.wait_until_worked()
    ended, _, _ = select.select(processes, [], [], 0)
    for process in processes:
        os.close(process)
    assert ended == processes


def test_what_workers_say_of_exceptions_is_heard(tmp_path: Path) -> None:
    """Once for each, by process; whatever else they say is not."""
    with Crew([work_in(tmp_path)], environment_in(tmp_path), tmp_path, threading.Event()) as crew:
        (tmp_path / "worker0.errors").write_text(
            "a warning\nException in thread Thread-1:\nTraceback (most recent call last):\n  x\n"
        )
        assert crew.errors() == [
            "the process of worker 0 said: Exception in thread Thread-1:",
            "the process of worker 0 said: Traceback (most recent call last):",
        ]


def test_a_small_disk_that_may_not_be_mounted_says_what_it_takes(tmp_path: Path) -> None:
    """Not only that an operation is not permitted."""
    (tmp_path / "usage").write_text("in its place")
    work = work_in(tmp_path, disk_bytes=1 << 20)
    with (
        Crew([work], environment_in(tmp_path), tmp_path, threading.Event()) as crew,
        pytest.raises(CrewError, match=r"before 'ready': .*Error.*root or user namespaces"),
    ):
        crew.wait_until_ready()


def test_moto_takes_the_place_of_an_engine_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless that one was asked for; the name says which runs, a warning why. A table of the
    library's can be made in it."""
    broken = tmp_path / "tool.py"
    broken.write_text("raise SystemExit('no Java for you')")
    monkeypatch.setattr(engines.dynamodb_local, "fetch", lambda: None)
    monkeypatch.setattr(engines.dynamodb_local, "__file__", str(broken))
    with pytest.raises(EngineError, match="no Java for you"), running_engine("local"):
        pass
    before = dict(os.environ)
    with running_engine() as engine:
        assert engine.name.startswith("moto")
        engine.create_table("usage", "somebody")
        (registry,) = engine.items("usage", "somebody", ["REGISTRY"])
        assert [*engine.items("usage", "somebody", [])] == [registry], (
            "also where nobody looks for it"
        )
        assert (registry["PK"], len(registry["shards"])) == ("REGISTRY", 1)
        assert dict(os.environ) == before
    assert "no Java for you" in caplog.text
