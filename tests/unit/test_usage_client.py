"""UsageClient: what a put answers, what a flush reports, and that nothing outlives its client."""

from __future__ import annotations

import gc
import logging
import os
import shutil
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
    PutResult,
    Settings,
    StoreError,
    UsageClient,
    UsageQuery,
    open_usage_client,
)
from receipt_dynamo import usage_client as module
from receipt_dynamo.drainer import Drainer
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import FakeClock, drainers, make_metric, stored_ids

Open = Callable[..., UsageClient]


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
    thread.join(30)
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


def test_the_first_put_lists_no_directory(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand segments take a while to measure: whoever makes the client waits, no caller."""
    scanned = Mock(side_effect=AssertionError)
    monkeypatch.setattr(os, "scandir", scanned)
    assert client._pipeline.spool.put(make_metric()) is PutResult.STORED
    assert not scanned.called
