"""Invariant 5: a kill at every call of writer and drainer leaves the ledger exact.

Twice: at every call of ``os`` and ``fcntl`` in Python, where the process kills itself, and at every
system call, those of SQLite included, where strace kills it. To be killed before a call is to be
killed after the one before. Calls that only read leave nothing behind, and neither do locks on the
bytes of a file: to be killed there is to be killed at the next call. Where there are more than 150
system calls (SQLite makes so many) a sample of them is taken, the same in every run.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, Settings, UsageClient, UsageQuery
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import UsageStore
from receipt_dynamo.utils.clock import SystemClock
from tests.support import make_metric
from tests.support.file_store import FileStore
from tests.support.ledger import (
    assert_ledger,
    damaged_line,
    good_line,
    plant_segment,
    poison_line,
    read_ledger,
)
from tests.support.zygote import Tell, Worker, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECORDS = [f"r{n}" for n in range(5)]
SEALED = {"s0": good_line, "bad": damaged_line, "s1": good_line, "no": poison_line, "s2": good_line}
ACTIVE = {"a0": good_line, "a1": good_line}
STORES: dict[str, Callable[[Path], UsageStore]] = {
    "sqlite": lambda directory: SqliteStore(directory / "usage.db"),
    "acks_in_headers": lambda directory: FileStore(directory / "usage.jsonl"),
}
RUNS = 150
CHANGES = (
    "openat,close,write,pwrite64,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,flock,"
    "fsync,fdatasync,ftruncate,fchmod,fchmodat,chmod,utimensat"
)
PYTHON_CALLS = (
    "open write pwrite close rename replace link unlink mkdir fdatasync fsync ftruncate truncate "
    "chmod fchmod utime"
).split()


class LaterClock(SystemClock):
    """Two minutes later: what a dead process left half-made is old by now."""

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=2)


def open_client(directory: Path, store: str, clock: SystemClock | None = None) -> UsageClient:
    settings = Settings(usage_dir=directory, segment_bytes=4096, drain="manual")
    return UsageClient(settings, STORES[store](directory), clock=clock)


def record(tell: Tell, directory: Path, store: str) -> None:
    """The writer's script: records over three segments, synced in between, and closed."""
    client = open_client(directory, store)
    for request_id in RECORDS:
        metric = make_metric(request_id=request_id, metadata={"text": "x" * 2000})
        assert client.put_ai_usage_metric(metric) is PutResult.STORED
        tell(request_id)
        if request_id == "r3":
            client._pipeline.maintain()
    client._pipeline.spool.writer.close()


def drain(tell: Tell, directory: Path, store: str) -> None:
    """The drainer's script: one round as the leader, over a sealed and an active segment."""
    client = open_client(directory, store)
    tell(f"delivered {client.ship()}")
    client._pipeline.leader.release()


def restart(tell: Tell, directory: Path, store: str) -> None:
    """What comes after the kill: a process that records, and delivers all there is."""
    client = open_client(directory, store, LaterClock())
    assert client.put_ai_usage_metric(make_metric(request_id="after")) is PutResult.STORED
    client._pipeline.spool.writer.seal()
    client.ship()
    assert client.pending() == 0
    client.close()


SCRIPTS = {"writer": record, "drainer": drain}


def killing_itself(
    tell: Tell, work: Callable[..., object], before: int, directory: Path, store: str
) -> None:
    """Do ``work`` and die before the call of that number; count the calls and tell."""
    calls = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            nonlocal calls
            if calls == before:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return call(*args, **kwargs)

        return wrapper

    for name in PYTHON_CALLS:
        setattr(os, name, counted(getattr(os, name)))
    fcntl.flock = counted(fcntl.flock)  # type: ignore[assignment]
    work(tell, directory, store)
    tell(f"calls {calls}")


def waiting_for_strace(
    tell: Tell, work: Callable[..., object], gate: Path, directory: Path, store: str
) -> None:
    """Do ``work`` once the gate is opened."""
    descriptor = os.open(gate, os.O_RDWR)
    tell("ready")
    os.read(descriptor, 1)
    work(tell, directory, store)


class Scene:
    """A spool, a process that is killed over it, and what comes after; any number of times."""

    def __init__(self, tmp_path: Path, zygote: Zygote, script: str, store: str) -> None:
        self._directory = tmp_path / "usage"
        self._zygote = zygote
        self._script = script
        self._store = store

    def play(self, start: Callable[[Path], Worker]) -> Worker:
        """Let ``start`` run the script on a new spool to whatever end; check what it left."""
        drains = self._script == "drainer"
        with self._planted() if drains else nullcontext():
            worker = start(self._directory)
            worker.wait()
        stored = [line for line in worker.told if line in RECORDS]
        if drains:
            self._check([*SEALED, *ACTIVE], [], {"corrupt": 1})
        else:
            self._check(stored, RECORDS[len(stored) :][:1], {})
        shutil.rmtree(self._directory)
        return worker

    @contextmanager
    def _planted(self) -> Iterator[None]:
        spool = open_client(self._directory, self._store).settings.spool_dir
        plant_segment(spool, f"{1:019d}-1-sealed", (make(n) for n, make in SEALED.items()))
        active = plant_segment(spool, f"{2:019d}-1-active", (make(n) for n, make in ACTIVE.items()))
        with active.open("rb") as writer:
            fcntl.flock(writer, fcntl.LOCK_EX)
            yield

    def _check(self, entrusted: list[str], perhaps: list[str], lost: dict[str, int]) -> None:
        store = STORES[self._store](self._directory)
        spool = self._directory / "spool" / "local"
        if spool.exists():
            assert_ledger(read_ledger(spool, store), entrusted, perhaps)
        self._zygote.run(restart, self._directory, self._store)
        ledger = read_ledger(spool, store)
        assert ledger.pending == set()
        assert_ledger(ledger, [*entrusted, "after"], perhaps)
        assert store.dropped(UsageQuery()).by_reason == lost
        assert not {path.suffix for path in spool.iterdir()} & {".seg", ".new"}


@pytest.fixture
def scene(tmp_path: Path, zygote: Zygote, script: str, store: str) -> Scene:
    return Scene(tmp_path, zygote, script, store)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_invariant_05_a_kill_before_every_call_of_python(
    zygote: Zygote, scene: Scene, script: str, store: str
) -> None:
    """The ledger is exact, and a restart delivers all there is, wherever Python was killed."""

    def play(before: int) -> Worker:
        return scene.play(
            lambda directory: zygote.start(
                killing_itself, SCRIPTS[script], before, directory, store
            )
        )

    whole = play(-1)
    assert whole.wait() == 0, whole.errors
    calls = int(whole.told[-1].split()[1])
    assert calls > 30
    for before in range(calls):
        assert play(before).wait() == -signal.SIGKILL


def run_under_strace(
    zygote: Zygote, gate: Path, directory: Path, script: str, store: str, *options: str
) -> Worker:
    """Run a script, traced from its first line on, to its end."""
    worker = zygote.start(waiting_for_strace, SCRIPTS[script], gate, directory, store)
    worker.wait_for(1)
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(worker.pid), "-e", f"trace={CHANGES}", *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    with tracer, tracer.stderr:
        if "attached" not in tracer.stderr.readline():
            pytest.skip("strace is here, but may not trace (ptrace is forbidden)")
        gate.write_bytes(b"x")
        worker.wait()
    return worker


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_invariant_05_a_kill_before_every_system_call_that_changes_anything(
    tmp_path: Path, zygote: Zygote, scene: Scene, script: str, store: str
) -> None:
    """The ledger is exact, and a restart delivers all there is, wherever the kernel was asked."""
    gate, log = tmp_path / "gate", tmp_path / "strace.log"
    os.mkfifo(gate, 0o600)

    def play(*options: str) -> Worker:
        return scene.play(
            lambda directory: run_under_strace(zygote, gate, directory, script, store, *options)
        )

    assert play("-o", str(log)).wait() == 0
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    points = [(call, n) for call, count in calls.items() for n in range(1, count + 1)]
    if len(points) > RUNS:
        points = random.Random(5).sample(points, RUNS)  # noqa: S311 - chance, no secrets
    for call, n in points:
        worker = play("-o", str(log), "-e", f"inject={call}:signal=KILL:when={n}")
        assert worker.wait() == -signal.SIGKILL, (call, n)
