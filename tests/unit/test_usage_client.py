"""UsageClient: what a put answers, what a flush reports, and that nothing outlives its client."""

from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import signal
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import pytest

from receipt_dynamo import (
    AIUsageMetric,
    PutResult,
    Settings,
    StoreError,
    UsageClient,
    UsageQuery,
    open_usage_client,
)
from receipt_dynamo import usage_client as module
from receipt_dynamo.drainer import Drainer
from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import (
    FakeClock,
    encode,
    in_fork,
    make_metric,
    only_segment,
    payloads_of,
    stored_ids,
)

Open = Callable[..., UsageClient]


def drainers(expected: int) -> list[threading.Thread]:
    """Return the background threads, as soon as there are as many as expected."""
    never = threading.Event()
    while True:  # ends in the test's own time limit
        found = [t for t in threading.enumerate() if t.name == "receipt-usage"]
        if len(found) == expected:
            return found
        never.wait(0.01)


def refuse(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_client_reads_its_own_writes_without_any_thread(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recording, and every question takes in the spool first."""
    monkeypatch.setattr(Drainer, "start", lambda _self: None)
    metrics = [make_metric(cost_usd=Decimal("0.5")) for _ in range(3)]
    assert client.put_ai_usage_metrics(metrics) == [PutResult.STORED] * 3
    assert client.pending() == 3
    assert list(client.query()) == metrics
    assert client.summarize()[0].cost_usd == Decimal("1.5")
    assert client.summarize(UsageQuery(model="other"))[0].calls == 0
    assert client.pending() == 0
    drainers(0)


def test_the_background_thread_delivers_and_ends_with_the_client(open_client: Open) -> None:
    """The first record starts it, close stops it."""
    client = open_client(drain="thread")
    drainers(0)
    client.put_ai_usage_metric(make_metric())
    drainers(1)
    never = threading.Event()
    while client.health().delivered == 0:  # ends in the test's own time limit
        never.wait(0.02)
    assert client.pending() == 0
    client.close()
    drainers(0)


def test_a_put_after_close_is_dropped_counted_and_said_once(
    client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost in silence, with its tokens and cost; questions still answer."""
    client.put_ai_usage_metric(make_metric())
    for _ in range(3):
        client.close()
    metric = make_metric(input_tokens=7, output_tokens=1, cost_usd=Decimal("0.5"))
    assert client.put_ai_usage_metrics([metric] * 3) == [PutResult.DROPPED] * 3
    dropped = client.dropped()
    assert (dropped.count, dropped.input_tokens, dropped.output_tokens) == (3, 21, 3)
    assert (dropped.cost_usd, dropped.by_reason) == (Decimal("1.5"), {"closed": 3})
    assert len([r for r in caplog.records if "dropped (closed)" in r.message]) == 1
    assert client.closed
    assert len(list(client.query())) == 1
    assert client.flush().pending == 0


@pytest.mark.parametrize(
    ("max_bytes", "answer"), [(1, PutResult.DROPPED), (1 << 30, PutResult.STORED)]
)
def test_a_put_that_a_close_overtakes_is_kept_or_counted(
    open_client: Open, monkeypatch: pytest.MonkeyPatch, max_bytes: int, answer: PutResult
) -> None:
    """Between the look whether it is open and the record another thread may close the client."""
    client = open_client(max_bytes=max_bytes)
    spool, put = client._pipeline.spool, Spool.put

    def overtaken(self: Spool, metric: AIUsageMetric) -> PutResult:
        client.close()
        return put(self, metric)

    with monkeypatch.context() as race:
        race.setattr(Spool, "put", overtaken)
        assert client.put_ai_usage_metric(make_metric(request_id="a")) is answer
    assert len(spool.ring) == 0
    assert spool.writer.active_segment is None
    assert spool.drops.by_reason() == ({} if answer is PutResult.STORED else {"memory": 1})


@pytest.mark.parametrize("thing", [None, "metric", {"service": "x"}, object(), 5, b"x"])
def test_what_is_no_metric_is_dropped_as_invalid(client: UsageClient, thing: object) -> None:
    """A put never raises, whatever it is given."""
    assert client.put_ai_usage_metric(thing) is PutResult.DROPPED  # type: ignore[arg-type]
    assert client.dropped().by_reason == {"invalid": 1}
    assert list(client.query()) == []


def test_a_put_never_raises_though_the_pipelines_log_handler_does(client: UsageClient) -> None:
    """Logging is part of tracking: its failure never reaches the caller."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log is broken")

    handler = Broken()
    logging.getLogger("receipt_dynamo").addHandler(handler)
    try:
        assert client.put_ai_usage_metric(None) is PutResult.DROPPED  # type: ignore[arg-type]
    finally:
        logging.getLogger("receipt_dynamo").removeHandler(handler)


def test_a_full_disk_keeps_in_memory_then_drops_and_recovers_by_itself(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored stays; what memory holds is written as soon as there is room; the rest is
    one gap record."""
    client._pipeline.spool.ring = MemoryRing(max_records=3)
    client.put_ai_usage_metric(make_metric(request_id="before"))
    client._pipeline.spool.writer.seal()
    with monkeypatch.context() as disk:
        disk.setattr(writer_module.os, "write", refuse)
        answers = [
            client.put_ai_usage_metric(make_metric(request_id=f"m{n}", input_tokens=3))
            for n in range(5)
        ]
        held = client.health()
    assert answers == [PutResult.MEMORY] * 3 + [PutResult.DROPPED] * 2
    assert (held.recorded, held.stored, held.memory) == (6, 1, 3)
    assert client.put_ai_usage_metric(make_metric(request_id="after")) is PutResult.STORED
    assert sorted(stored_ids(client)) == ["after", "before", "m0", "m1", "m2"]
    dropped = client.dropped()
    assert (dropped.count, dropped.input_tokens, dropped.by_reason) == (2, 6, {"disk": 2})
    health = client.health()
    assert (health.recorded, health.stored, health.memory) == (7, 5, 0)
    assert dict(health.dropped) == {"disk": 2}


def test_memory_is_delivered_past_a_disk_that_stays_full(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may take what the spool's disk refuses."""
    spool = client._pipeline.spool
    refused = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(spool.writer, "append", Mock(side_effect=refused))
    assert client.put_ai_usage_metric(make_metric(request_id="m")) is PutResult.MEMORY
    assert client.flush().delivered == 1
    assert len(spool.ring) == 0
    assert stored_ids(client) == ["m"]


def test_two_that_write_memory_back_at_once_lose_nothing(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes into memory while it is written back by two threads is neither's to discard."""
    spool, append = client._pipeline.spool, SpoolWriter.append
    for name in ("a", "b"):
        spool.ring.offer(encode(make_metric(request_id=name)))
    within: list[bytes] = []

    def interrupted(self: SpoolWriter, payload: bytes, count: int = 1) -> None:
        if not within:
            within.append(payload)
            spool._write_back()  # the other one, in the middle of ours
            spool.ring.offer(encode(make_metric(request_id="c")))
        append(self, payload, count)

    monkeypatch.setattr(SpoolWriter, "append", interrupted)
    spool._write_back()
    assert sorted(stored_ids(client)) == ["a", "b", "c"]


def test_what_memory_still_holds_at_the_end_is_counted(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that closes while neither disk nor store takes a record counts it as lost."""
    spool = client._pipeline.spool
    refused = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as disk:
        disk.setattr(spool.writer, "append", Mock(side_effect=refused))
        disk.setattr(SqliteStore, "write", Mock(side_effect=StoreError("full")))
        client.put_ai_usage_metric(make_metric(input_tokens=7, output_tokens=0))
        client.close(1)
    assert client.dropped().by_reason == {"memory": 1}
    assert client.dropped().input_tokens == 7


def test_the_bound_of_the_spool_holds_and_opens_again(open_client: Open) -> None:
    """At max_bytes records go to memory; once the spool is drained they are stored again."""
    client = open_client(segment_bytes=4096, max_bytes=20_000)
    spool = client._pipeline.spool
    answers = [client.put_ai_usage_metric(make_metric(request_id=f"{n:04}")) for n in range(400)]
    assert set(answers) == {PutResult.STORED, PutResult.MEMORY}
    held = sum(path.stat().st_size for path in client.settings.spool_dir.glob("*.seg"))
    assert held <= 20_000 + 4096
    assert client.flush().pending == 0
    assert len(stored_ids(client)) == 400
    assert len(spool.ring) == 0
    assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED


def test_room_that_must_stay_free_is_kept(open_client: Open) -> None:
    """A disk with less than min_free_bytes is left to others."""
    client = open_client(min_free_bytes=1 << 60)
    assert client.put_ai_usage_metric(make_metric()) is PutResult.MEMORY


def test_the_oldest_go_first_where_that_is_chosen(open_client: Open) -> None:
    """drop_oldest removes sealed segments and counts each record in them with its figures."""
    client = open_client(segment_bytes=4096, max_bytes=16_384, overflow="drop_oldest")
    pipeline = client._pipeline
    for n in range(400):
        metric = make_metric(request_id=f"{n:04}", input_tokens=2, output_tokens=1)
        client.put_ai_usage_metric(metric)
        if n % 10 == 9:
            pipeline.make_room()
            pipeline.maintain()
    kept = stored_ids(client)
    dropped = client.dropped()
    assert 0 < dropped.count < 400
    assert dropped.by_reason == {"drop_oldest": dropped.count}
    assert dropped.input_tokens == 2 * dropped.count
    assert kept == [f"{n:04}" for n in range(dropped.count, 400)]


def test_nothing_goes_while_there_is_room(open_client: Open) -> None:
    """A bound that is no larger than a segment is one all the same: what fits is delivered."""
    client = open_client(max_bytes=4 << 20, overflow="drop_oldest")
    client.put_ai_usage_metric(make_metric(request_id="a"))
    client._pipeline.spool.writer.seal()
    client._pipeline.make_room()
    assert stored_ids(client) == ["a"]
    assert client.dropped().count == 0


def test_a_bound_smaller_than_a_segment_lets_the_oldest_go(open_client: Open) -> None:
    """A segment is an eighth of the bound at most: only sealed ones can make room."""
    client = open_client(max_bytes=64 << 10, overflow="drop_oldest")
    for n in range(1000):
        client.put_ai_usage_metric(make_metric(request_id=f"{n:04}"))
        if n % 10 == 9:
            client._pipeline.make_room()
            client._pipeline.maintain()
    kept = stored_ids(client)
    assert client.dropped().by_reason == {"drop_oldest": 1000 - len(kept)}
    assert kept[-1] == "0999"


def test_what_can_be_delivered_makes_room_by_itself(open_client: Open) -> None:
    """A round delivers before it removes anything."""
    client = open_client(max_bytes=16 << 10, overflow="drop_oldest")
    for n in range(100):
        client.put_ai_usage_metric(make_metric(request_id=f"{n:03}"))
    assert client._pipeline.bounds.excess() > 0
    client.ship()
    assert len(stored_ids(client)) == 100
    assert client.dropped().count == 0


def test_drops_are_written_at_once_then_once_a_second(tmp_path: Path, clock: FakeClock) -> None:
    """A storm of drops costs one gap record a second, and the first one none of its time."""
    settings = Settings(usage_dir=tmp_path / "u", drain="manual")
    client = UsageClient(settings, SqliteStore(settings.store_path), clock=clock)
    for _ in range(3):
        client.count_dropped("disk")
    segment = only_segment(settings.spool_dir)
    assert len(payloads_of(segment)) == 1
    clock.advance(1)
    client.count_dropped("disk")
    assert len(payloads_of(segment)) == 2
    assert client.pending() == 0, "a gap is no record that waits"
    assert client.dropped().count == 4
    client.close()


def test_metadata_of_megabytes_is_left_out_and_the_figures_kept(client: UsageClient) -> None:
    """Figures before words: the record says how large it was."""
    metric = make_metric(input_tokens=5, job_id="j", metadata={"x": "y" * 400_000})
    assert client.put_ai_usage_metric(metric) is PutResult.STORED
    (kept,) = client.query()
    assert (kept.identity, kept.input_tokens, kept.job_id) == (metric.identity, 5, "j")
    assert kept.metadata["metadata_left_out_bytes"] > 400_000


def test_a_flush_tells_the_truth(client: UsageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivered, pending and dead are what happened, and a failing store raises nothing."""
    client.put_ai_usage_metrics([make_metric() for _ in range(3)])
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise StoreError("the store is away")

        patch.setattr(SqliteStore, "write", fail)
        report = client.flush()
        assert (report.delivered, report.pending, report.dead) == (0, 3, 0)
        assert client.health().last_error == "the store is away"
    client._pipeline.spool.writer.append(b"poison")
    report = client.flush()
    assert (report.delivered, report.pending, report.dead) == (3, 0, 1)
    assert client.health().last_error is None
    assert client.flush().delivered == 0


@pytest.mark.parametrize("harm", ["newer", "directory", "spool is a file"])
def test_flush_health_and_close_raise_nothing_whatever_lies_there(
    tmp_path: Path, client: UsageClient, harm: str
) -> None:
    """The exit hook and with-blocks run through here: a broken store breaks no pipeline."""
    client.put_ai_usage_metric(make_metric())
    store = tmp_path / "usage" / "usage.db"
    if harm == "newer":
        with closing(sqlite3.connect(store)) as connection:
            connection.execute("PRAGMA user_version = 7")
        store.chmod(0o600)
    elif harm == "directory":
        store.mkdir()
    else:
        shutil.rmtree(client.settings.spool_dir)
        client.settings.spool_dir.write_text("x")
    assert client.flush(1).delivered == 0
    assert client.health().stored >= 1
    assert client.pending() == (0 if harm == "spool is a file" else 1)
    assert client.put_ai_usage_metric(make_metric()) in (PutResult.STORED, PutResult.DROPPED)
    client.close()


def test_a_flush_gives_up_when_its_time_is_up(client: UsageClient, tmp_path: Path) -> None:
    """Another process that keeps the store delays a flush no longer than it may take."""
    client.put_ai_usage_metric(make_metric())
    with SqliteStore(tmp_path / "usage" / "usage.db").exclusive(1):
        assert client.flush(0).pending == 1
    assert client.flush(5).pending == 0


def test_health_tells_what_was_done_and_what_waits_for_all(
    open_client: Open, clock: FakeClock, tmp_path: Path
) -> None:
    """Nothing is kept on the way of a record: another client's put counts from its next flush."""
    other = open_client()
    other.put_ai_usage_metric(make_metric())
    settings = Settings(usage_dir=tmp_path / "usage", drain="manual")
    client = UsageClient(settings, SqliteStore(settings.store_path), clock=clock)
    client.put_ai_usage_metric(make_metric())
    health = client.health()
    assert (health.recorded, health.stored, health.delivered, health.pending) == (1, 1, 0, 2)
    assert (health.destination, health.spool_segments) == ("local", 2)
    assert health.spool_bytes > 200
    assert health.oldest_unsent_seconds is not None
    client.take_in()
    after = client.health()
    assert (after.delivered, after.pending, after.oldest_unsent_seconds) == (2, 0, None)
    assert after.last_delivery == clock.now()
    client.close()


def test_a_client_that_is_garbage_leaves_no_thread_and_no_lock(tmp_path: Path) -> None:
    """Never closed: its thread ends, its drops are written, the next client delivers the rest."""
    settings = Settings(usage_dir=tmp_path / "usage")
    client = open_usage_client(settings)
    client.put_ai_usage_metric(make_metric(request_id="a"))
    client.put_ai_usage_metric(None)  # type: ignore[arg-type]
    client.put_ai_usage_metric(None)  # type: ignore[arg-type]
    (thread,) = drainers(1)
    watched = weakref.ref(client)
    del client
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert watched() is None
    with open_usage_client(settings) as after:
        assert stored_ids(after) == ["a"]
        assert after.dropped().by_reason == {"invalid": 2}


def test_the_exit_hook_flushes_and_closes_nothing(
    open_client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At exit what can be sent is sent; a client that recorded nothing touches nothing."""
    client, idle, never = open_client(), open_client(), open_client(exit_flush_seconds=0)
    external = open_client(drain="external")  # another process is to deliver
    client.put_ai_usage_metric(make_metric())
    flushed: list[UsageClient] = []
    real = UsageClient.flush
    monkeypatch.setattr(
        UsageClient, "flush", lambda self, t=30.0: (flushed.append(self), real(self, t))[1]
    )
    never.put_ai_usage_metric(make_metric())
    external.put_ai_usage_metric(make_metric())
    module._flush_all()
    assert client in flushed
    assert idle not in flushed
    assert never not in flushed
    assert external not in flushed
    assert not client.closed
    assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED


def test_a_forked_child_records_as_itself(open_client: Open) -> None:
    """Own segment, own counts, own thread; neither process waits for or repeats the other."""
    client = open_client(drain="thread")
    client.put_ai_usage_metric(make_metric(request_id="parent"))
    client.count_dropped("disk")
    client.count_dropped("disk")

    def child() -> None:
        assert client.health().recorded == 0
        drainers(0)
        assert client.put_ai_usage_metric(make_metric(request_id="child")) is PutResult.STORED
        drainers(1)

    assert [in_fork(child) for _ in range(3)] == [0] * 3
    ids = stored_ids(client)
    assert sorted(ids) == ["child", "parent"]
    assert client.dropped().count == 2


def test_forks_beside_recording_threads_lose_nothing_and_never_hang(open_client: Open) -> None:
    """Children forked at any moment of another thread's put and delivery go on."""
    client = open_client(drain="thread")
    stop, stored = threading.Event(), []

    def hammer(thread: int) -> None:
        n = 0
        while not stop.is_set():
            metric = make_metric(request_id=f"t{thread}-{n}")
            assert client.put_ai_usage_metric(metric) is PutResult.STORED
            stored.append(metric.request_id)
            n += 1
            if n % 50 == 0:
                client.flush(5)

    def child() -> None:
        metric = make_metric(request_id=f"c{os.getpid()}")
        assert client.put_ai_usage_metric(metric) is PutResult.STORED
        assert client.flush(20).pending >= 0

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_fork(child) for _ in range(12)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 12
    ids = stored_ids(client)
    assert len(ids) == len(set(ids)) == len(stored) + 12
    assert set(stored) <= set(ids)


def test_a_signal_handler_may_record_while_the_client_records_or_drops(client: UsageClient) -> None:
    """Every path of a put is reentrant: nothing waits for the lock its own thread holds."""
    inside = count = 0

    def handler(*_: object) -> None:
        nonlocal inside
        inside += 1
        client.put_ai_usage_metric(make_metric(request_id=f"signal{inside}"))
        client.count_dropped("disk")

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    try:
        while inside < 10:
            client.put_ai_usage_metric(make_metric(request_id=f"main{(count := count + 1)}"))
            client.count_dropped("invalid")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    ids = stored_ids(client)
    assert len(ids) == len(set(ids)) == count + inside
    assert client.dropped().by_reason == {"disk": inside, "invalid": count}


def test_the_first_put_lists_no_directory(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand segments take a while to measure: whoever makes the client waits, no caller."""
    scanned = Mock(side_effect=AssertionError)
    monkeypatch.setattr(os, "scandir", scanned)
    assert client._pipeline.spool.put(make_metric()) is PutResult.STORED
    assert not scanned.called
