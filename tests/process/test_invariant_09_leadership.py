"""Invariant 9: one process delivers a spool, and its end or its silence hands that over.

Ticks are those of the processes themselves, made short: what counts is how many they need.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import PutResult, Settings, UsageClient, UsageQuery
from receipt_dynamo import drainer as drainer_module
from receipt_dynamo.pipeline import Pipeline
from receipt_dynamo.spool.leadership import STALE_SECONDS, Leadership, read_heartbeat
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, UsageStore, WriteOutcome
from tests.support import fork_in_c, make_metric
from tests.support.file_store import FileStore
from tests.support.ledger import (
    assert_ledger,
    damaged_line,
    good_line,
    plant_segment,
    poison_line,
    read_ledger,
)
from tests.support.zygote import PATIENCE_SECONDS, Tell, Worker, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STORES: dict[str, Callable[[Path], UsageStore]] = {
    "sqlite": lambda directory: SqliteStore(directory / "usage.db"),
    "acks_in_headers": lambda directory: FileStore(directory / "usage.jsonl"),
}


class StoppingStore(FileStore):
    """A store whose writer is stopped when it has written, before it can ack."""

    def write(self, batch: Batch) -> WriteOutcome:
        outcome = super().write(batch)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # at once, at this very line
        return outcome


def take_part(tell: Tell, directory: Path, name: str, store: UsageStore) -> UsageClient:
    """Record once, and tell after each tick of the background thread whether it leads."""
    drainer_module.TICK_SECONDS = 0.05
    tick, ack = Pipeline.tick, SegmentReader.ack

    def told_tick(pipeline: Pipeline) -> int:
        found = tick(pipeline)
        tell("leads" if pipeline.leader.leads else "follows")
        return found

    def told_ack(segment: SegmentReader, offset: int) -> None:
        tell("acks")
        ack(segment, offset)

    Pipeline.tick = told_tick  # type: ignore[assignment,method-assign]
    SegmentReader.ack = told_ack  # type: ignore[assignment,method-assign]
    client = UsageClient(Settings(usage_dir=directory), store)
    assert client.put_ai_usage_metric(make_metric(request_id=name)) is PutResult.STORED
    return client


def follow(tell: Tell, directory: Path, name: str, store: str) -> None:
    client = take_part(tell, directory, name, STORES[store](directory))
    signal.pause()
    client.close()


def be_stopped_before_an_ack(tell: Tell, directory: Path, name: str) -> None:
    client = take_part(tell, directory, name, StoppingStore(directory / "usage.jsonl"))
    signal.pause()
    client.close()


def leave_a_child_behind(tell: Tell, directory: Path, name: str, store: str) -> None:
    """Lead, deliver, and fork in C: no hook closes what the child inherits."""
    client = take_part(tell, directory, name, STORES[store](directory))
    while client.health().delivered == 0:
        time.sleep(0.001)
    if (child := fork_in_c()) == 0:
        signal.pause()
    tell(f"child {child}")
    signal.pause()
    client.close()


def lead_by_force(tell: Tell, directory: Path, store: str) -> None:
    """Deliver a spool to its end without asking who leads."""
    Leadership.try_lead = lambda _: True  # type: ignore[assignment,method-assign]
    Leadership.still_leads = lambda *_: True  # type: ignore[method-assign]
    settings = Settings(usage_dir=directory, drain="manual")
    client = UsageClient(settings, STORES[store](directory))
    tell("ready")
    while list_segments(settings.spool_dir):
        client.ship()


def wait_until(what: Callable[[], object]) -> None:
    """Return when ``what`` is true; fail when it never is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)


def wait_for_ticks(worker: Worker, state: str, count: int = 1) -> None:
    wanted = Counter(worker.told)[state] + count
    wait_until(lambda: Counter(worker.told)[state] >= wanted)


def is_stopped(worker: Worker) -> bool:
    """Whether all threads of a process have stopped."""
    states = [path.read_text() for path in Path(f"/proc/{worker.pid}/task").glob("*/stat")]
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "usage"
    UsageClient(Settings(usage_dir=directory, drain="manual"), SqliteStore(directory / "x")).close()
    return directory


@pytest.fixture
def spool(directory: Path) -> Path:
    return directory / "spool" / "local"


def age_heartbeat(spool: Path) -> None:
    """Let the leader's last sign of life be as long ago as nobody waits."""
    long_ago = time.time() - STALE_SECONDS - 1
    os.utime(spool / "leader", (long_ago, long_ago))


@pytest.mark.parametrize("store", STORES)
def test_invariant_09_a_killed_leader_is_followed_within_two_ticks(
    zygote: Zygote, directory: Path, spool: Path, store: str
) -> None:
    """One leads and the other looks on; when the one is killed the other delivers for both."""
    leader = zygote.start(follow, directory, "first", store)
    wait_for_ticks(leader, "leads")
    follower = zygote.start(follow, directory, "second", store)
    wait_for_ticks(follower, "follows", 3)
    wait_for_ticks(leader, "leads", 3)
    assert "leads" not in follower.told
    assert "follows" not in leader.told
    leader.kill()
    before = follower.count
    wait_for_ticks(follower, "leads")
    assert "leads" in [line for line in follower.told[before:] if line != "acks"][:2]
    heartbeat = read_heartbeat(spool)
    assert heartbeat is not None
    assert (heartbeat.pid, heartbeat.generation) == (follower.pid, 0)
    wait_until(lambda: len(read_ledger(spool, STORES[store](directory)).delivered) == 2)
    assert_ledger(read_ledger(spool, STORES[store](directory)), ["first", "second"])


def test_invariant_09_a_stopped_leader_is_fenced_before_its_next_ack(
    zygote: Zygote, directory: Path, spool: Path
) -> None:
    """Stopped between its write and its ack, and silent for too long: another takes the next
    generation and delivers; continued, the old leader acks nothing more, and follows."""
    leader = zygote.start(be_stopped_before_an_ack, directory, "first")
    wait_until(lambda: is_stopped(leader))
    follower = zygote.start(follow, directory, "second", "acks_in_headers")
    wait_for_ticks(follower, "follows", 3)
    age_heartbeat(spool)
    wait_for_ticks(follower, "leads")
    assert (spool / "drain.lock.1").exists()
    wait_until(lambda: "acks" in follower.told)
    leader.send(signal.SIGCONT)
    wait_for_ticks(leader, "follows", 3)
    assert "acks" not in leader.told
    assert "leads" not in leader.told
    wait_for_ticks(follower, "leads", 3)
    store = FileStore(directory / "usage.jsonl")
    wait_until(lambda: len(read_ledger(spool, store).delivered) == 2)
    assert_ledger(read_ledger(spool, store), ["first", "second"])


def test_invariant_09_a_leader_that_slept_finds_that_another_leads(
    zygote: Zygote, directory: Path, spool: Path
) -> None:
    """Stopped while it had nothing to do: the other passes it over, and it does not come back."""
    leader = zygote.start(follow, directory, "first", "sqlite")
    wait_until(lambda: read_ledger(spool, SqliteStore(directory / "usage.db")).delivered)
    wait_for_ticks(leader, "leads", 3)
    leader.send(signal.SIGSTOP)
    wait_until(lambda: is_stopped(leader))
    follower = zygote.start(follow, directory, "second", "sqlite")
    wait_for_ticks(follower, "follows", 3)
    age_heartbeat(spool)
    wait_for_ticks(follower, "leads", 3)
    leader.send(signal.SIGCONT)
    wait_for_ticks(leader, "follows", 3)
    wait_for_ticks(follower, "leads", 3)
    heartbeat = read_heartbeat(spool)
    assert heartbeat is not None
    assert (heartbeat.pid, heartbeat.generation) == (follower.pid, 1)
    assert_ledger(read_ledger(spool, SqliteStore(directory / "usage.db")), ["first", "second"])


@contextmanager
def orphan_of(worker: Worker) -> Iterator[int]:
    """Kill a process that has a child; the child outlives it, and dies in the end."""
    wait_until(lambda: any(line.startswith("child") for line in worker.told))
    child = int(next(line for line in worker.told if line.startswith("child")).split()[1])
    try:
        worker.kill()
        yield child
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("store", STORES)
def test_invariant_09_the_orphan_of_a_fork_in_c_is_passed_over(
    zygote: Zygote, directory: Path, spool: Path, store: str
) -> None:
    """It keeps its dead parent's lock, of which it knows nothing: the silence tells, in the end."""
    parent = zygote.start(leave_a_child_behind, directory, "first", store)
    with orphan_of(parent):
        follower = zygote.start(follow, directory, "second", store)
        wait_for_ticks(follower, "follows", 3)
        age_heartbeat(spool)
        wait_for_ticks(follower, "leads")
        heartbeat = read_heartbeat(spool)
        assert heartbeat is not None
        assert (heartbeat.pid, heartbeat.generation) == (follower.pid, 1)
        wait_until(lambda: len(read_ledger(spool, STORES[store](directory)).delivered) == 2)
    assert_ledger(read_ledger(spool, STORES[store](directory)), ["first", "second"])


def contents(directory: Path, store: str) -> tuple[Any, ...]:
    """Return all that a store holds, in an order of its own."""
    held = STORES[store](directory)
    return sorted(map(repr, held.query(UsageQuery()))), held.dropped(UsageQuery())


@pytest.mark.parametrize("store", STORES)
def test_invariant_09_two_leaders_leave_the_store_as_one_would(
    zygote: Zygote, tmp_path: Path, store: str
) -> None:
    """Who delivers at the same time sends twice, and the store is none the worse."""
    names, found = [f"n{n}" for n in range(2000)], []
    makers = {7: damaged_line, 13: poison_line}
    for leaders in (1, 3):
        directory = tmp_path / f"by{leaders}"
        settings = Settings(usage_dir=directory, drain="manual")
        UsageClient(settings, STORES[store](directory)).close()
        for first in range(0, len(names), 100):
            lines = [makers.get(n % 20, good_line)(names[n]) for n in range(first, first + 100)]
            plant_segment(settings.spool_dir, f"{first:019d}-1-planted", lines)
        workers = [zygote.start(lead_by_force, directory, store) for _ in range(leaders)]
        for worker in workers:
            assert worker.wait() == 0, worker.errors
        assert_ledger(read_ledger(settings.spool_dir, STORES[store](directory)), names)
        found.append(contents(directory, store))
    assert found[0] == found[1]
    assert found[0][1].by_reason == {"corrupt": 100}
