"""Invariant 4: a put is one write to a local file, from wherever it is called: no network, no sync,
no look at a directory, no lock that somebody else may hold for long."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, UsageClient
from tests.support import make_metric, stored_ids

Open = Callable[..., UsageClient]

SCRIPT = """
import os, socket, sys, time
from datetime import datetime, timezone
from pathlib import Path
from receipt_dynamo import AIUsageMetric, Settings, open_usage_client
sys.path.insert(0, sys.argv[2])
from tests.support import mutants
mutants.apply()
client = open_usage_client(Settings(usage_dir=Path(sys.argv[1]), drain="manual"))
now = datetime.now(timezone.utc)
metrics = [AIUsageMetric("openai", "gpt-4o", "chat", now) for _ in range(2001)]
client.put_ai_usage_metric(metrics[0])
calls = []
for name in ("write", "fsync", "fdatasync", "open", "stat", "lstat", "fstat", "statvfs", "scandir",
             "listdir", "rename", "unlink", "pread", "pwrite", "read", "dup", "close", "sync"):
    real = getattr(os, name)
    def noted(*args, _real=real, _name=name, **more):
        calls.append(_name)
        return _real(*args, **more)
    setattr(os, name, noted)
time.sleep = lambda seconds: calls.append("sleep")
sys.addaudithook(lambda event, args: calls.append(event) if event.split(".")[0] in
                 ("socket", "open", "sqlite3", "subprocess", "import", "fcntl") else None)
answers = {client.put_ai_usage_metric(metric) for metric in metrics[1:]}
seen = list(calls)
print(sorted(answer.value for answer in answers), *seen)
os._exit(0)
"""


def test_invariant_04_a_put_is_one_write(tmp_path: Path) -> None:
    """Two thousand puts are two thousand writes: no sync, no directory, no socket, no sleep."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "usage"), str(Path.cwd())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answers, _, calls = ran.stdout.partition("] ")
    assert answers == "['STORED'"
    assert Counter(calls.split()) == {"write": 2000}


def test_invariant_04_from_a_signal_handler(client: UsageClient) -> None:
    """An alarm that goes off at any moment of another put records at once."""
    answers: list[PutResult] = []

    def interrupt(*_: object) -> None:
        answers.append(client.put_ai_usage_metric(make_metric()))
        if len(answers) < 100:  # one set after the last would go off in whoever comes next
            signal.setitimer(signal.ITIMER_REAL, 0.0005)  # anew: it must not interrupt itself

    before = signal.signal(signal.SIGALRM, interrupt)
    own = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while len(answers) < 100:
            own.append(client.put_ai_usage_metric(make_metric()))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert {*answers, *own} == {PutResult.STORED}
    assert len(stored_ids(client)) == len(answers) + len(own)


def test_invariant_04_from_a_finaliser(client: UsageClient) -> None:
    """The garbage collector may run in the middle of a put, and record."""
    answers: list[PutResult] = []

    class Garbage:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            answers.append(client.put_ai_usage_metric(make_metric()))

    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(200):
            Garbage()
            answers.append(client.put_ai_usage_metric(make_metric()))
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert answers == [PutResult.STORED] * 400
    assert len(stored_ids(client)) == 400


def test_invariant_04_from_coroutines(open_client: Open) -> None:
    """Straight from the loop, beside a drainer that delivers; nothing is awaited, none is lost."""
    client = open_client(drain="thread")

    async def call(task: int) -> list[PutResult]:
        answers = []
        for n in range(50):
            await asyncio.sleep(0)
            metric = make_metric(request_id=f"{task}-{n}")
            answers.append(client.put_ai_usage_metric(metric))
        return answers

    async def everything() -> list[list[PutResult]]:
        return await asyncio.gather(*(call(task) for task in range(40)))

    answers = [answer for task in asyncio.run(everything()) for answer in task]
    assert answers == [PutResult.STORED] * 2000
    assert len(set(stored_ids(client))) == 2000


@pytest.mark.parametrize("what", ["store", "delivering"])
def test_invariant_04_a_put_waits_for_no_delivery(client: UsageClient, what: str) -> None:
    """While another thread holds the store or delivers, a put returns all the same."""
    pipeline = client._pipeline
    if what == "store":
        with pipeline.delivery._store.exclusive(5):
            assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED
    else:
        with pipeline.delivering:
            assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED
