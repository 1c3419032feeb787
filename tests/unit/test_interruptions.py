"""Who interrupts recording or delivery (a log or signal handler, a fork) harms nobody."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, StoreBusyError, StoreError, UsageClient, UsageQuery
from receipt_dynamo import sqlite_connect as connect_module
from receipt_dynamo.delivery import Delivery, DeliveryReport
from receipt_dynamo.spool.reader import CHUNK_BYTES, SegmentReader
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_rows import Page
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_label import AIUsageTracker
from receipt_label.pricing import PriceBook, shared
from tests.support import FakeClock, damage, encode, in_fork, make_metric, only_segment, stored_ids

Open = Callable[..., UsageClient]


class Raising(logging.Handler):
    """A handler as some pipelines have it: one that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


@pytest.fixture
def raising_handler() -> Iterator[None]:
    handler = Raising()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("raising_handler")
def test_a_log_handler_that_raises_costs_no_record(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting, flushing and closing raise nothing, and the segment is sealed all the same."""
    huge = make_metric(request_id="huge", metadata={"text": "x" * 400_000})
    assert client.put_ai_usage_metric(huge) is PutResult.STORED
    assert client.put_ai_usage_metric("no metric") is PutResult.DROPPED  # type: ignore[arg-type]
    with monkeypatch.context() as failing:
        failing.setattr(SqliteStore, "write", lambda *_: (_ for _ in ()).throw(StoreError("no")))
        assert client.flush().pending == 1, "the gap beside it is no record"
        client.close()
    assert client._pipeline.spool.writer.active_segment is None
    assert stored_ids(client) == ["huge"]


@pytest.mark.usefixtures("raising_handler")
def test_a_log_handler_that_raises_drops_nothing_uncounted(client: UsageClient) -> None:
    """A fault is counted before it is told, and an error without text is counted too."""

    class Wordless:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    tracker = AIUsageTracker(client)
    used = {"service": "openai", "model": "gpt-4o", "operation": "chat", "input_tokens": 1}
    for bad in ({"input_tokens": -1}, {"cost_usd": Wordless()}, {"cost_usd": 10**5000}):
        assert tracker.record(**{**used, **bad}) is PutResult.DROPPED  # type: ignore[arg-type]
    with tracker.context(user_id=Wordless(), metadata={"a": Wordless()}):
        assert tracker.record(**used, output_tokens=1) is PutResult.STORED  # type: ignore[arg-type]
    assert client.dropped().by_reason == {"invalid": 3}


def test_a_question_within_a_delivery_of_its_own_thread_does_not_wait(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that reads while it interrupts a report is answered from store and spool."""
    client.put_ai_usage_metric(make_metric())
    run, answers = Delivery.run, []

    def interrupted(self: Delivery, *args: object, **options: object) -> DeliveryReport:
        if not answers:
            answers.append(None)
            answers.append(client.summarize()[0].calls)
        return run(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Delivery, "run", interrupted)
    assert client.take_in().delivered == 1
    assert answers == [None, 1]


def test_the_stores_lock_stays_with_the_thread_that_opens_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that interrupts a migration is refused; it frees nothing."""
    store = SqliteStore(tmp_path / "usage" / "usage.db")
    prepare = connect_module.prepare

    def interrupted(connection: sqlite3.Connection, path: Path) -> None:
        with pytest.raises(StoreBusyError, match="being opened"), store.exclusive(1):
            pass
        assert store._lock.held
        prepare(connection, path)

    monkeypatch.setattr(connect_module, "prepare", interrupted)
    with store.exclusive(1):
        assert store._lock.held
    assert not store._lock.held


def test_a_fork_waits_for_prices_that_load(
    monkeypatch: pytest.MonkeyPatch, client: UsageClient
) -> None:
    """A child forked meanwhile would find modules locked for ever."""
    loading, release = threading.Event(), threading.Event()
    book = PriceBook.load()

    def load(_path: Path | None = None) -> PriceBook:
        loading.set()
        release.wait(10)
        return book

    monkeypatch.setattr(shared, "_books", {})
    monkeypatch.setattr(PriceBook, "load", load)
    thread = threading.Thread(target=lambda: AIUsageTracker(client))
    thread.start()
    assert loading.wait(10)
    threading.Timer(0.2, release.set).start()
    assert in_fork(lambda: release.is_set() or pytest.fail("forked while prices load")) == 0
    thread.join()


def test_a_torn_line_at_the_end_of_a_chunk_is_still_told_apart(tmp_path: Path) -> None:
    """Its mark lies in the next chunk: it is read with it, and counts as no loss."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 22)
    writer.append(b"{}")
    path = only_segment(tmp_path / "spool")
    torn = b"0badc0de {"
    filler = CHUNK_BYTES - len(encode_line(b"{}")) - len(torn) - 1
    line = encode_line(b'{"x":"%b"}' % (b"x" * (filler - len(encode_line(b'{"x":""}')))))
    with path.open("ab") as file:
        file.write(line + torn + b"\n\n" + encode_line(b"{}"))
    with SegmentReader(path) as segment:
        first = segment.read(HEADER_BYTES, 10)
        second = segment.read(first.end, 10)
    assert (len(first.payloads), first.bad) == (2, [])
    assert (second.bad, second.damaged, len(second.payloads)) == ([torn], [], 1)


def test_a_growing_segment_is_set_aside_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that goes on recording while the store fails fills no quarantine."""
    directory = tmp_path / "spool"
    store = SqliteStore(tmp_path / "usage.db")
    delivery = Delivery(directory, store, FakeClock())
    writer = SpoolWriter(directory, 1 << 22)
    writer.append(encode(make_metric()))
    damage(only_segment(directory), HEADER_BYTES + 20, b"?")
    with monkeypatch.context() as failing:
        failing.setattr(SqliteStore, "write", lambda *_: (_ for _ in ()).throw(StoreError("no")))
        for _ in range(5):
            writer.append(encode(make_metric()))
            with pytest.raises(StoreError):
                delivery.run(float("inf"))
    delivery.run(float("inf"))
    (kept,) = (directory / "quarantine").iterdir()
    assert len(kept.read_bytes().splitlines()) == 1
    assert store.dropped(UsageQuery()).by_reason == {"corrupt": 1}


def test_a_damaged_ack_delays_nothing(client: UsageClient) -> None:
    """An ack that says that all is read, but is not ours, is not believed."""
    client.put_ai_usage_metric(make_metric(request_id="a"))
    path = only_segment(client.settings.spool_dir)
    damage(path, 0, b"#spool1 ack=%016d\n" % path.stat().st_size)
    assert stored_ids(client) == ["a"]


def test_a_line_without_its_newline_is_delivered_by_the_next_flush(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered STORED is in the report, also while its segment is active."""
    client.put_ai_usage_metric(make_metric(request_id="a"))
    path = only_segment(client.settings.spool_dir)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    client._pipeline.spool.writer._active.torn = True
    assert client.flush().delivered == 1
    assert stored_ids(client) == ["a"]


def test_pages_and_look_ups_are_seeks(tmp_path: Path) -> None:
    """No question walks or sorts the whole store for every page or key."""
    store = SqliteStore(tmp_path / "usage.db")
    with store.exclusive(5):
        pass
    page = Page()
    page._last = (1, "openai", "r")
    sql, values = page.sql(UsageQuery(service="openai"))
    with closing(sqlite3.connect(store.path)) as connection:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
        seek = "SELECT min(ts) FROM metric WHERE service = ? AND request_id = ?"
        key = str(connection.execute(f"EXPLAIN QUERY PLAN {seek}", ("a", "b")).fetchall())
    assert "metric_time" in plan
    assert "TEMP B-TREE" not in plan
    assert "SEARCH" in key
    assert "SCAN" not in key
