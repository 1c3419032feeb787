"""flush and close return by their deadline, whatever hangs, at any moment of a process's life."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from receipt_dynamo import Settings, open_usage_client
from receipt_dynamo.files import FileLock
from tests.support import stored_ids
from tests.support.ending import MOMENTS
from tests.support.zygote import PATIENCE_SECONDS, ROOT, Tell, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

AT_MOST_SECONDS = 5.0
"""For a deadline of half a second, on a busy machine. What hangs here hangs for ever."""
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
ENDS = [
    (version, moment)
    for version in ("3.11", "3.12", "3.13")
    for moment in MOMENTS
    if version == RUNNING or "thread" not in moment  # what is done at shutdown differs by version
]
at_every_end = pytest.mark.parametrize(("version", "moment"), ENDS)


def hold_the_lock(tell: Tell, directory: Path) -> None:
    """Hold the store's lock, and stop."""
    lock = FileLock(directory / "store.lock")
    assert lock.try_acquire()
    tell("holds it")
    os.kill(os.getpid(), signal.SIGSTOP)


def write_for_ever(tell: Tell, directory: Path) -> None:
    """Write into the database as a program does that knows nothing of our lock."""
    with sqlite3.connect(directory / "usage.db", isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        tell("holds it")
        signal.pause()


HOLDERS: dict[str, Callable[[Tell, Path], None]] = {
    "a stopped process holds the store's lock": hold_the_lock,
    "another program writes into the store": write_for_ever,
}
HANGING = {"the disk never syncs": "disk", "the store never answers": "store"}


@pytest.fixture
def python(version: str) -> str:
    """An interpreter: the running one, or one that tools/setup.sh has found beside it."""
    if version == RUNNING:
        return sys.executable
    other = ROOT / ".venv" / "others" / version / "bin" / "python"
    if not can_import(other):
        pytest.skip(f"tools/setup.sh has found no Python {version}")
    return str(other)


@cache
def can_import(python: Path) -> bool:
    command = [python, "-c", "import msgspec, sqlite3"]
    return python.exists() and subprocess.run(command, check=False).returncode == 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A usage directory with a store in it."""
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual")) as client:
        client.count_dropped("invalid")
    return tmp_path / "usage"


def end(python: str, directory: Path, *how: str) -> list[list[str]]:
    """Let a process record and end; return what it told. It must end well, and soon."""
    ended = subprocess.run(
        [python, "-W", "error", "-m", "tests.support.ending", str(directory), *how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return [line.split() for line in ended.stdout.splitlines()]


def assert_in_time(told: list[list[str]]) -> None:
    (flush, took, delivered, pending), (close, took_to_close) = told
    assert (flush, close) == ("flush", "close")
    assert float(took) < AT_MOST_SECONDS, "flush"
    assert float(took_to_close) < AT_MOST_SECONDS, "close"
    assert (delivered, pending) == ("0", "1")


def assert_kept(directory: Path) -> None:
    with open_usage_client(Settings(usage_dir=directory, drain="manual")) as client:
        assert stored_ids(client) == ["r"]


@at_every_end
@pytest.mark.parametrize("drain", ["thread", "manual"])
@pytest.mark.parametrize("holder", HOLDERS)
def test_who_holds_the_store_keeps_nobody_waiting(
    zygote: Zygote, python: str, directory: Path, holder: str, drain: str, moment: str
) -> None:
    """Another process has the store and does not let go: the record is pending, and not lost."""
    worker = zygote.start(HOLDERS[holder], directory)
    worker.wait_for(1)
    told = end(python, directory, drain, "-", moment)
    assert_in_time(told)
    worker.send(signal.SIGKILL)
    worker.wait()
    assert_kept(directory)


@at_every_end
@pytest.mark.parametrize("drain", ["thread", "manual"])
@pytest.mark.parametrize("obstacle", HANGING)
def test_what_hangs_in_the_process_keeps_nobody_waiting(
    python: str, directory: Path, obstacle: str, drain: str, moment: str
) -> None:
    """A call of ours that never comes back: the record is pending, and not lost."""
    told = end(python, directory, drain, HANGING[obstacle], moment)
    assert_in_time(told)
    assert_kept(directory)


@at_every_end
@pytest.mark.parametrize("drain", ["thread", "manual"])
def test_where_nothing_hangs_everything_is_delivered_at_any_moment(
    python: str, directory: Path, drain: str, moment: str
) -> None:
    """What can be delivered before the end of the process is, and is said to be."""
    told = end(python, directory, drain, "-", moment)
    (_, took, delivered, pending), (_, took_to_close) = told
    assert max(float(took), float(took_to_close)) < AT_MOST_SECONDS
    if moment != "finaliser":
        assert int(delivered) + int(pending) == 1
    elif drain == "thread":
        assert (delivered, pending) == ("0", "0"), "our exit hook comes before, its thread runs"
    assert_kept(directory)
