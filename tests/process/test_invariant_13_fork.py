"""Invariant 13: whoever forks, and however: no hang, no duplicate, nothing that was STORED lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, Settings, UsageClient, UsageQuery, open_usage_client
from receipt_dynamo.files import FileLock
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import fork_in_c, make_metric, quiet_fork
from tests.support.ledger import assert_ledger, read_ledger
from tests.support.zygote import Tell, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FORKS = 60


KINDS: dict[str, Callable[[], int]] = {"os.fork": quiet_fork, "fork in C": fork_in_c}


def put(client: UsageClient, tell: Tell) -> None:
    """Record under an id that this process mints, and tell it."""
    metric = make_metric()
    assert client.put_ai_usage_metric(metric) is PutResult.STORED
    tell(metric.request_id)


def put_five(client: UsageClient, tell: Tell) -> None:
    for _ in range(5):
        put(client, tell)


def in_child(fork: Callable[[], int], work: Callable[[], object]) -> None:
    """Do ``work`` in a child that ends in ``os._exit``; fail when it does not, or hangs."""
    pid = fork()
    if pid == 0:
        signal.alarm(120)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def wait_until_idle(client: UsageClient) -> None:
    """Return when the background thread sleeps: a fork in C must not meet it on its way."""
    while not client._drainer.idle:
        threading.Event().wait(0.001)
    threading.Event().wait(0.005)


def reported(directory: Path) -> list[str]:
    """Return what a report shows, with the spool taken in."""
    with open_usage_client(Settings(usage_dir=directory, drain="manual")) as client:
        return [metric.request_id for metric in client.query()]


def fork_under_load(tell: Tell, directory: Path) -> None:
    client = open_usage_client(Settings(usage_dir=directory, segment_bytes=1 << 18))
    enough = threading.Event()

    def hammer() -> None:
        while not enough.wait(0.005):
            for _ in range(10):
                put(client, tell)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(FORKS):
        in_child(quiet_fork, lambda: put_five(client, tell))
    enough.set()
    for thread in threads:
        thread.join()
    store = SqliteStore(directory / "usage.db")
    assert next(store.query(UsageQuery()), None), "nothing was delivered meanwhile"
    os._exit(0)  # no flush, no close


def test_invariant_13_sixty_forks_under_load(zygote: Zygote, tmp_path: Path) -> None:
    """Four threads record and one delivers while the process forks: every child records, none
    hangs, all ids are different, and every record that was STORED is reported once."""
    worker = zygote.run(fork_under_load, tmp_path / "usage")
    told = worker.told
    assert len(told) == len(set(told)), "two processes minted one id"
    assert len(told) > FORKS * 5
    assert sorted(reported(tmp_path / "usage")) == sorted(told)


def fork_between_records(tell: Tell, directory: Path, kind: str) -> None:
    client = open_usage_client(Settings(usage_dir=directory))
    for _ in range(2):  # the second loss is not written before the fork
        client.count_dropped("invalid", model="gpt-4o", input_tokens=7)
    put(client, tell)
    assert client.flush().pending == 0

    def record() -> None:
        put(client, tell)
        assert client.flush(20.0).pending == 0
        put(client, tell)
        client.count_dropped("invalid", model="gpt-4o", input_tokens=7)
        client.close(20.0)

    for _ in range(3):
        wait_until_idle(client)
        in_child(KINDS[kind], record)
        put(client, tell)
    client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_13_a_child_is_a_process_of_its_own(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    """It records, delivers and closes with a thread, locks and ids of its own, and what its parent
    has lost it does not count again."""
    worker = zygote.run(fork_between_records, tmp_path / "usage", kind)
    assert len(set(worker.told)) == 1 + 3 * 3
    assert sorted(reported(tmp_path / "usage")) == sorted(worker.told)
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual")) as client:
        lost = client.dropped()
    assert (lost.by_reason, lost.input_tokens) == ({"invalid": 2 + 3}, 5 * 7)


def descriptors(directory: Path) -> list[str]:
    """Return the names of the files below ``directory`` that this process has open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = entry.readlink()
        except FileNotFoundError:  # the one that lists them
            continue
        if target.is_relative_to(directory):
            links.append(target.name)
    return links


def leave_a_child_behind(tell: Tell, directory: Path, kind: str) -> None:
    """Fork with everything open and locked; the child records, and lives on."""
    store = SqliteStore(directory / "usage.db")
    client = UsageClient(Settings(usage_dir=directory), store)
    put(client, tell)
    while not client.health().delivered:
        threading.Event().wait(0.001)
    wait_until_idle(client)
    with store.exclusive(20.0):
        held = [name for name in descriptors(directory) if not name.startswith("usage.db")]
        assert {"drain.lock", "store.lock"} < set(held)
        assert {".seg", ".json"} < {Path(name).suffix for name in held}
        if KINDS[kind]() == 0:
            put(client, tell)
            kept = [name for name in descriptors(directory) if not name.startswith("usage.db")]
            tell(f"child {os.getpid()} keeps {sorted(set(held) & set(kept))}")
            signal.pause()
            os._exit(0)
        signal.pause()


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_13_a_child_that_records_keeps_no_lock_of_its_dead_parent(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    """Segment, lead and store are free as soon as the parent dies, though its child lives on."""
    directory = tmp_path / "usage"
    parent = zygote.start(leave_a_child_behind, directory, kind)
    parent.wait_for(3)
    (line,) = [line for line in parent.told if line.startswith("child")]
    child = int(line.split()[1])
    try:
        parent.kill()
        assert line.endswith("keeps []")
        spool = directory / "spool" / "local"
        for path in list_segments(spool):
            with SegmentReader(path) as segment:
                assert segment.is_sealed() == (path.name.split("-")[1] != str(child))
        for path in (spool / "drain.lock", directory / "store.lock"):
            with FileLock(path) as lock:
                assert lock.try_acquire()
    finally:
        os.kill(child, signal.SIGKILL)
    ids = [told for told in parent.told if told != line]
    assert sorted(reported(directory)) == sorted(ids)


def _record_in_child(client: UsageClient | None, directory: Path, name: str) -> None:
    client = client or open_usage_client(Settings(usage_dir=directory))
    for n in range(100):
        metric = make_metric(request_id=f"{name}-{n}")
        assert client.put_ai_usage_metric(metric) is PutResult.STORED


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_invariant_13_multiprocessing_children_lose_nothing(tmp_path: Path, method: str) -> None:
    """They end in os._exit, without exit hooks: what they recorded is there."""
    context = multiprocessing.get_context(method)
    directory = tmp_path / "usage"
    client = open_usage_client(Settings(usage_dir=directory))
    client.put_ai_usage_metric(make_metric(request_id="parent"))
    inherited = client if method == "fork" else None
    children = [
        context.Process(target=_record_in_child, args=(inherited, directory, f"c{n}"))  # type: ignore[attr-defined]
        for n in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    client.close()
    ledger = read_ledger(directory / "spool" / "local", SqliteStore(directory / "usage.db"))
    assert_ledger(ledger, ["parent", *(f"c{c}-{n}" for c in range(3) for n in range(100))])
