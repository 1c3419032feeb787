"""The chaos proxy from its beginning to its end: seeds, its log, a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from benchmarks.chaos.log import read_log
from benchmarks.chaos.running import chaos_proxy
from benchmarks.chaos.schedule import SHARES, Faults, Phase, Schedule
from tests.support.chaos_clients import NAMES, ask, client_of, raw_request
from tests.support.chaos_rig import batch_of, rigged, running_loop

ROOT = Path(__file__).parents[2]


def test_before_it_begins_everything_is_healthy_and_unlogged(log: Path) -> None:
    """A table can be made in peace; faults and the log start at ``begin``."""
    with running_loop(log) as rig:
        schedule = Schedule("s", [Phase(0, None, Faults(error_500=1.0))])
        rig.start(schedule, 1, time.monotonic)
        client = client_of(rig.endpoint)
        client.batch_write_item(**batch_of("early"))
        rig.begin()
        with pytest.raises(ClientError):
            client.batch_write_item(**batch_of("late"))
        requests = rig.stop()
    assert rig.engine.ids == ["early"]
    assert [request.ids for request in requests] == [["late"]]
    assert 0 <= requests[0].t < 60
    assert abs(requests[0].wall - time.time()) < 60


def run_all(log: Path, seed: int) -> tuple[list[str], list[str], dict[str, int]]:
    """Send 60 batches through every fault; return fates, what the engine had, and counts."""
    shares: dict[str, Any] = dict.fromkeys((one for one in SHARES if one != "black_hole"), 0.08)
    data = raw_request(json.dumps(batch_of(*NAMES)).encode())
    with rigged(Faults(drip_seconds=0.01, **shares), log, seed=seed) as rig:
        for _ in range(60):
            with suppress(ConnectionResetError):
                ask(rig, data)
        requests = rig.stop()
    return [one.fault for one in requests], rig.engine.ids, rig.counts


def test_the_same_seed_meets_the_same_fates(tmp_path: Path) -> None:
    """The same requests in the same order find the same faults and write the same items."""
    first, again, other = (run_all(tmp_path / f"{n}", seed) for n, seed in enumerate((1, 1, 2)))
    assert first == again
    assert first[0] != other[0]


def test_the_log_is_what_happened(tmp_path: Path) -> None:
    """The items that it calls applied are those that the engine had; counts are its lines."""
    fates, written, counts = run_all(tmp_path / "log", 3)
    requests = list(read_log(tmp_path / "log"))
    applied = [name for one in requests for name in one.ids if name not in one.left]
    assert Counter(applied) == Counter(written)
    assert sum(one.applied for one in requests) == len(written)
    assert counts == Counter(f"BatchWriteItem {fault}" for fault in fates)


def test_a_proxy_in_a_process_of_its_own(log: Path) -> None:
    """It begins when it is told to, takes another schedule, and leaves counts and a whole log."""
    with running_loop(log.with_suffix(".unused")) as rig:
        engine = rig.start_engine()
        with chaos_proxy(engine, "healthy", seed=1, log=log) as proxy:
            client = client_of(proxy.endpoint)
            client.batch_write_item(**batch_of("early"))
            before = time.monotonic()
            assert before <= proxy.begin() <= time.monotonic()
            client.batch_write_item(**batch_of("healthy"))
            proxy.replace(Schedule("bad", [Phase(0, None, Faults(error_503=1.0))]))
            with pytest.raises(ClientError):
                client.batch_write_item(**batch_of("bad"))
            counts = proxy.stop()
            assert proxy.stop() == counts
            with pytest.raises(RuntimeError, match="has ended with 0"):
                proxy.begin()
    assert counts == {"BatchWriteItem none": 1, "BatchWriteItem error_503": 1}
    assert [request.ids for request in read_log(log)] == [["healthy"], ["bad"]]


def test_the_command_ends_with_its_input(log: Path) -> None:
    """Its first line is its address, its last the counts; wrong words are answered, not obeyed."""
    command = [sys.executable, "-m", "benchmarks.chaos", "http://127.0.0.1:9"]
    run = partial(subprocess.run, check=False, capture_output=True, text=True, cwd=ROOT)
    told = run(command, input='{"schedule": 5}\nbegin\n')
    address, wrong, began, counts = told.stdout.splitlines()
    assert address.startswith("http://127.0.0.1:")
    assert "not an object with phases" in json.loads(wrong)["error"]
    assert list(json.loads(began)) == ["began"]
    assert json.loads(counts) == {}
    wrong_name = run([*command, "--schedule", "stormy"])
    assert wrong_name.returncode == 2
    assert "no schedule 'stormy'" in wrong_name.stderr


def test_it_ends_when_its_parent_is_gone() -> None:
    """A harness that was killed leaves no proxy behind, even where its pipe is held open."""
    script = (
        "import os, subprocess, sys, time\n"
        "r, w = os.pipe()\n"
        "child = subprocess.Popen([sys.executable, '-m', 'benchmarks.chaos', 'http://127.0.0.1:9'],"
        " stdin=r, stdout=subprocess.PIPE, pass_fds=[w])\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        proxy = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([proxy], [], [], 30.0)
    os.close(proxy)
    assert ended
