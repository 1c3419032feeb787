"""Forks, servers and ends: nobody is silent in them, and nobody waits for the network."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from receipt_dynamo import Settings, UsageClient, open_usage_client
from receipt_label import AIUsageTracker
from tests.pitfalls.conftest import RunProgram
from tests.support import stored_ids
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer
from tests.vendors.conftest import Make

CRASH = """
import time
from receipt_label import AIUsageTracker
tracker = AIUsageTracker()
used = dict(service="openai", model="gpt-4o", operation="chat", input_tokens=1, output_tokens=1)
for n in range(3):
    tracker.record(**used, request_id=f"early-{n}")
end = time.monotonic() + 20
while not tracker.health().spool_bytes and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.5)  # the delivery hangs in its call by now
begun = time.perf_counter()
for n in range(200):
    tracker.record(**used, request_id=f"late-{n}")
print(time.perf_counter() - begun)
raise ZeroDivisionError("the pipeline broke")
"""
GREEN = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
from receipt_label import AIUsageTracker

with AIUsageTracker(strict=True) as tracker:
    def work(n):
        for k in range(10):
            with tracker.context(job_id=f"job-{n}"):
                gevent.sleep(0)
                tracker.record(
                    service="openai", model="gpt-4o", operation="chat", request_id=f"{n}-{k}"
                )

    gevent.joinall([gevent.spawn(work, n) for n in range(100)], raise_error=True)
    print(tracker.flush(20.0).pending)
"""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of this machine that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


def test_a_crash_beside_a_table_that_never_answers_ends_at_once(
    run_program: RunProgram, silent_port: int, tmp_path: Path
) -> None:
    """Calls go on while a request hangs (trouble 24), and so does the end (trouble 25).

    All is in the spool for the next process.
    """
    table = {
        "DYNAMODB_TABLE_NAME": "usage",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{silent_port}",
        "AWS_ACCESS_KEY_ID": "dummy",
        "AWS_SECRET_ACCESS_KEY": "dummy",
    }
    begun = monotonic()
    ran = run_program(CRASH, RECEIPT_USAGE_EXIT_FLUSH_SECONDS="0.5", **table)
    assert monotonic() - begun < 30, "botocore alone waits a minute for a reply"
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith("ZeroDivisionError: the pipeline broke")
    assert float(ran.stdout) < 2.0, "200 records, 10 ms each at the most on a busy machine"
    settings = Settings.from_env(
        {**table, "RECEIPT_USAGE_DIR": str(tmp_path / "usage")}, drain="manual"
    )
    with open_usage_client(settings) as client:
        assert client.pending() == 203


def test_green_threads_record_and_deliver(run_program: RunProgram, client: UsageClient) -> None:
    """Under gevent's patches a lock or a queue of ours blocks nobody, contexts are kept apart."""
    ran = run_program(GREEN)
    assert (ran.returncode, ran.stdout) == (0, "0\n"), ran.stderr
    jobs = {metric.request_id: metric.job_id for metric in client.query()}
    assert len(jobs) == 1000
    assert all(job == f"job-{name.split('-')[0]}" for name, job in jobs.items())


def held() -> tuple[int, int]:
    """Return how many threads, and how many files and sockets, this process has."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def holds_at_most(threads: int, descriptors: int) -> bool:
    """Return whether that is so soon: what was let go of ends in its own thread."""
    end = monotonic() + 20
    while (now := held()) and (now[0] > threads or now[1] > descriptors):
        if monotonic() > end:
            return False
        threading.Event().wait(0.01)
    return True


def test_a_tracker_and_a_wrapped_client_per_call_leak_nothing(
    server: VendorServer, make: Make, tmp_path: Path
) -> None:
    """No thread, no descriptor: where they are closed, and where nobody closes the tracker's."""
    server.own_ids = True
    settings = Settings(usage_dir=tmp_path / "usage")

    def call(*, close: bool) -> None:
        client = open_usage_client(settings)
        wrapped = AIUsageTracker(client).wrap(make("OpenAI"))
        wrapped.chat.completions.create(model="gpt-4o", messages=SAY)
        wrapped.close()
        if close:
            client.close()

    call(close=True)
    before = held()
    for n in range(40):
        call(close=n % 2 == 0)
    gc.collect()
    assert holds_at_most(*before), f"{before} before, {held()} after 40 calls"
    with open_usage_client(settings) as client:
        assert len(stored_ids(client)) == 41
