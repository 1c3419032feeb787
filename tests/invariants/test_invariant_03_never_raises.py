"""Invariant 3: recording never raises, whatever the disk, the input or the moment."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_dynamo.spool.ring import MemoryRing
from tests.invariants.conftest import OpenBench
from tests.support import make_metric, stored_ids
from tests.support.fake_os import MAY_FAIL, Fault

Open = Callable[..., UsageClient]
CALLS = "open write pwrite pread rename unlink fstat statvfs scandir fdatasync dup close".split()
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.EDQUOT)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", [*CALLS, "flock"])
def test_invariant_03_no_error_of_the_disk_reaches_the_caller(
    open_client: Open, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    """Each call of the system fails with each error: every answer is one of three, every record
    that was not dropped arrives, and every drop is counted."""
    client = open_client(segment_bytes=4096)
    pipeline = client._pipeline
    pipeline.spool.ring = MemoryRing(max_records=15)
    answers: dict[str, PutResult] = {}

    def put(count: int) -> None:
        for _ in range(count):
            name = f"r{len(answers)}"
            metric = make_metric(request_id=name, input_tokens=2, cost_usd=Decimal("0.5"))
            answers[name] = client.put_ai_usage_metric(metric)

    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    put(3)
    with monkeypatch.context() as failing:
        failing.setattr(fcntl if call == "flock" else os, call, fail)
        put(30)
        pipeline.maintain()
        pipeline.tick()
    put(3)
    client.flush()
    client.flush()
    put(1)
    assert set(answers.values()) <= {PutResult.STORED, PutResult.MEMORY, PutResult.DROPPED}
    assert list(answers.values())[-1] is PutResult.STORED, "recording resumes by itself"
    lost = [name for name, answer in answers.items() if answer is PutResult.DROPPED]
    assert sorted(stored_ids(client)) == sorted(set(answers) - set(lost))
    dropped = client.dropped()
    assert (dropped.count, dropped.input_tokens) == (len(lost), 2 * len(lost))


@pytest.mark.parametrize("fsync", [False, True], ids=["default", "fsync"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_invariant_03_every_single_call_of_a_put_may_fail(
    open_bench: OpenBench, error: int, fsync: bool
) -> None:
    """The first, the second, and so on, once or from then on: it answers, and so does the next."""
    for lasting in (False, True):
        for passing in range(100):
            bench = open_bench(fsync=fsync)
            (program,) = bench.programs
            fault = Fault(MAY_FAIL, passing=passing, error=error, lasting=lasting)
            with bench.acting(program, fault):
                bench.put_some(program, 6)  # more than one segment
            if not fault.happened:
                break
            bench.clock.advance(2)
            with bench.acting(program):
                assert program.spool.put(make_metric(request_id="after")) is PutResult.STORED
            assert bench.stored <= bench.present()
            assert bench.counted() == bench.lost
        assert passing > 10


@pytest.mark.parametrize("keep", range(0, 200, 7))
def test_invariant_03_a_short_write_is_an_answer(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """The disk takes the first bytes of a record and no more."""
    write = os.write
    with monkeypatch.context() as short:
        short.setattr(os, "write", lambda fd, data: write(fd, data[:keep]))
        answer = client.put_ai_usage_metric(make_metric(request_id="cut"))
    assert client.put_ai_usage_metric(make_metric(request_id="next")) is PutResult.STORED
    assert answer in (PutResult.STORED, PutResult.MEMORY)
    client.flush()
    assert sorted(stored_ids(client)) == ["cut", "next"]


def test_invariant_03_a_directory_that_vanishes_is_made_again(client: UsageClient) -> None:
    """What was on the disk is gone with it; what comes after is stored."""
    client.put_ai_usage_metric(make_metric())
    client.flush()
    shutil.rmtree(client.settings.usage_dir)
    answers = [client.put_ai_usage_metric(make_metric()) for _ in range(3)]
    assert set(answers) <= {PutResult.STORED, PutResult.MEMORY}
    client.flush()
    client.flush()
    assert client.put_ai_usage_metric(make_metric(request_id="after")) is PutResult.STORED
    assert "after" in stored_ids(client)


@pytest.mark.parametrize("thing", [None, 7, "text", object(), {"service": "openai"}, make_metric])
def test_invariant_03_what_cannot_be_a_record_is_counted(
    client: UsageClient, thing: object
) -> None:
    """No input raises; it is a drop with a reason."""
    assert client.put_ai_usage_metric(thing) is PutResult.DROPPED  # type: ignore[arg-type]
    assert client.dropped().by_reason == {"invalid": 1}


class Odd:
    """A value that no JSON has, and no text."""

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize("value", [Odd(), {"a": Odd()}, "\ud800", {1: {2, Odd()}}, float("nan")])
def test_invariant_03_what_cannot_be_written_down_is_counted(
    client: UsageClient, value: object
) -> None:
    """A metric that somebody has changed by force harms nobody."""
    metric = make_metric()
    msgspec.structs.force_setattr(metric, "metadata", {"odd": value})
    msgspec.structs.force_setattr(metric, "error", value)
    answer = client.put_ai_usage_metric(metric)
    assert (answer is PutResult.STORED) != (client.dropped().count == 1)
    assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED


SHUTDOWN = """
import sys, threading, atexit
from datetime import datetime, timezone
from pathlib import Path
from receipt_dynamo import AIUsageMetric, Settings, open_usage_client
client = open_usage_client(Settings(usage_dir=Path(sys.argv[1])))
def put(name):
    metric = AIUsageMetric("openai", "gpt-4o", "chat", datetime.now(timezone.utc), name)
    print(name, client.put_ai_usage_metric(metric).value, flush=True)
class Late:
    def __init__(self, name): self.name = name
    def __del__(self): put(self.name)
atexit.register(put, "exit hook")
thread = threading.Thread(target=lambda: threading.main_thread().join() or put("thread"))
thread.start()
sys.modules["late"] = Late("module")
ring = Late("cycle"); ring.me = ring
put("main")
"""


def test_invariant_03_recording_while_the_interpreter_shuts_down(open_client: Open) -> None:
    """Exit hooks, threads that outlive the main one, finalisers: each gets its answer."""
    client = open_client()
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHUTDOWN, str(client.settings.usage_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    told = [line.rsplit(" ", 1) for line in ran.stdout.splitlines()]
    assert {"main", "thread", "exit hook", "cycle"} <= {name for name, _ in told}
    assert {answer for _, answer in told} == {"STORED"}
    assert sorted(stored_ids(client)) == sorted(name for name, _ in told)
