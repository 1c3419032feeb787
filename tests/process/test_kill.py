"""Real processes, really killed: what was answered STORED is in the next report, once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, Settings, UsageClient, UsageQuery, open_usage_client
from tests.support import in_fork, make_metric, stored_ids

pytestmark = pytest.mark.slow

HEAD = """
import os, sys
from datetime import datetime, timezone
from pathlib import Path
from receipt_dynamo import AIUsageMetric, PutResult, Settings, UsageQuery, open_usage_client
directory, name, told = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
client = open_usage_client(Settings(usage_dir=directory, segment_bytes=65536))
def record(n):
    metric = AIUsageMetric("openai", "gpt-4o", "chat", datetime.now(timezone.utc), f"{name}-{n}",
                           input_tokens=1, output_tokens=2, cost_usd="0.01")
    if client.put_ai_usage_metric(metric) is PutResult.STORED:
        os.write(told, b"%s-%d\\n" % (name.encode(), n))
"""
WRITER = HEAD + "for n in range(10_000): record(n)\n"
REPORTER = HEAD + (
    "while True:\n"
    "    calls = client.summarize()[0].calls\n"
    "    metrics = [m.request_id for m in client.query()]\n"
    "    assert len(metrics) == len(set(metrics)) >= calls, (len(metrics), calls)\n"
    "    client.summarize(UsageQuery(model='gpt-4o'), by=['day', 'model'])\n"
    "    os.write(told, b'%d\\n' % calls)\n"
)


class Process:
    """A child that tells, unbuffered, through a file."""

    def __init__(self, script: str, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.told = directory.parent / f"{name}.told"
        descriptor = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._errors = (directory.parent / f"{name}.errors").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(directory), name, str(descriptor)],
            pass_fds=[descriptor],
            stderr=self._errors,
        )
        os.close(descriptor)

    @property
    def lines(self) -> list[str]:
        return self.told.read_text().split("\n")[:-1]

    def wait_for(self, count: int) -> None:
        """Return when the child has told so many lines; fail when it dies or takes too long."""
        end = time.monotonic() + 60
        while self.told.read_bytes().count(b"\n") < count:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < end, f"{count} lines never came"
            time.sleep(0.002)

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(30) == -signal.SIGKILL, self.errors

    @property
    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self._errors.close()


Start = Callable[[str, str], Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start children in one usage directory; whatever still runs at the end is killed."""
    children: list[Process] = []

    def run(script: str, name: str) -> Process:
        children.append(Process(script, tmp_path / "usage", name))
        return children[-1]

    yield run
    for child in children:
        child.close()


def report(tmp_path: Path) -> list[str]:
    """Return the ids that a report in a new client shows."""
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual")) as client:
        ids = stored_ids(client)
        summary = client.summarize()[0]
        assert summary.calls == len(ids)
        assert client.dropped().count == 0
        assert client.pending() == 0
    with closing(sqlite3.connect(tmp_path / "usage" / "usage.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return ids


def assert_nothing_lost(stored: list[str], reported: list[str]) -> None:
    assert len(reported) == len(set(reported)), "a record was counted twice"
    assert set(stored) <= set(reported), "a record that was STORED is missing"


def test_a_writer_killed_in_the_middle_loses_no_stored_record(tmp_path: Path, start: Start) -> None:
    """10,000 metrics, SIGKILL at random moments, several times: every STORED id is reported."""
    chance = random.Random(20261121)  # noqa: S311 - moments, no secrets
    stored: list[str] = []
    for run in range(8):
        writer = start(WRITER, f"w{run}")
        writer.wait_for(chance.randrange(1, 7000))
        writer.kill()
        assert 0 < len(writer.lines) < 10_000
        stored += writer.lines
        assert_nothing_lost(stored, report(tmp_path))
    reported = report(tmp_path)
    assert len(reported) - len(stored) <= 8  # killed between the write and its answer
    assert list((tmp_path / "usage" / "spool" / "local").glob("*.seg")) == []


def test_four_writers_and_two_reports_at_once_all_of_them_killed(
    tmp_path: Path, start: Start
) -> None:
    """Writers, and reports that take in what they write, die at any moment; nothing else does."""
    chance = random.Random(7)  # noqa: S311
    writers = [start(WRITER, f"w{n}") for n in range(4)]
    victims = [(writers[1], chance.randrange(1, 2000)), (writers[2], chance.randrange(2000, 4000))]
    for round_ in range(3):
        reporters = [start(REPORTER, f"r{round_}{n}") for n in range(2)]
        while victims:
            victim, count = victims.pop(0)
            victim.wait_for(count)
            victim.kill()
        for reporter in reporters:
            reporter.wait_for(chance.randrange(1, 4))
            time.sleep(chance.random() * 0.05)  # anywhere within a report
        for reporter in reporters:
            seen = [int(line) for line in reporter.lines]
            assert seen == sorted(seen), "a report went back"
            reporter.kill()
    for writer in writers:
        if writer.process.poll() is None:
            writer.process.wait(60)
    stored = [line for writer in writers for line in writer.lines]
    assert len(writers[0].lines) == len(writers[3].lines) == 10_000
    assert_nothing_lost(stored, report(tmp_path))


ENDINGS = {
    "os._exit": ("record(1); os._exit(3)", 3),
    "unhandled exception": ("record(1); raise RuntimeError('the pipeline broke')", 1),
    "sys.exit": ("record(1); sys.exit(4)", 4),
    "end": ("record(1)", 0),
    "SIGTERM": ("import signal; record(1); signal.raise_signal(signal.SIGTERM)", -15),
    "abort": ("record(1); os.abort()", -6),
    "in a thread": (
        "import threading; t = threading.Thread(target=record, args=(1,)); t.start(); t.join()",
        0,
    ),
    "exit hook": ("import atexit; atexit.register(record, 1)", 0),
    "finaliser": (
        "class Late:\n    def __del__(self): record(1)\nlate = Late()\nlate.me = late",
        0,
    ),
    "forked child": ("pid = os.fork()\nif not pid: record(1); os._exit(0)\nos.waitpid(pid, 0)", 0),
    "child that ends as usual": (
        "record(0); client.flush(); pid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: record(1)",
        0,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_record_survives_however_its_process_ends(
    tmp_path: Path, start: Start, ending: str
) -> None:
    """No flush, no close: STORED is enough, and the ending itself is not disturbed."""
    script, code = ENDINGS[ending]
    child = start(HEAD + script, "x")
    assert child.process.wait(60) == code, child.errors
    assert "x-1" in child.lines
    reported = report(tmp_path)
    assert sorted(reported) == sorted(child.lines)
    if code == 0:
        assert child.errors == ""


def test_forks_of_a_recording_process_mint_no_id_twice(tmp_path: Path) -> None:
    """Minted ids of parent and children are different: none replaces another's record."""
    client = open_usage_client(Settings(usage_dir=tmp_path / "usage"))

    def record_ten() -> None:
        metrics = [make_metric() for _ in range(10)]
        assert set(client.put_ai_usage_metrics(metrics)) == {PutResult.STORED}

    record_ten()
    assert [in_fork(record_ten) for _ in range(10)] == [0] * 10
    client.close()
    assert len(report(tmp_path)) == 110


def _record_in_child(client: UsageClient | None, directory: Path, name: str) -> None:
    client = client or open_usage_client(Settings(usage_dir=directory))
    for n in range(100):
        metric = make_metric(request_id=f"{name}-{n}")
        assert client.put_ai_usage_metric(metric) is PutResult.STORED


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_multiprocessing_children_lose_nothing(tmp_path: Path, method: str) -> None:
    """They end in os._exit, without exit hooks: what they recorded is there."""
    context = multiprocessing.get_context(method)
    client = open_usage_client(Settings(usage_dir=tmp_path / "usage"))
    client.put_ai_usage_metric(make_metric(request_id="parent"))
    inherited = client if method == "fork" else None
    children = [
        context.Process(target=_record_in_child, args=(inherited, tmp_path / "usage", f"c{n}"))
        for n in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    expected = {"parent"} | {f"c{c}-{n}" for c in range(3) for n in range(100)}
    assert {metric.request_id for metric in client.query(UsageQuery())} == expected
    client.close()
    assert len(report(tmp_path)) == 301
