"""The store beneath what it cannot take in answers as a store that has taken it in."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from receipt_dynamo import (
    PutResult,
    Settings,
    StoreError,
    StoreVersionError,
    UsageClient,
    UsageQuery,
    open_usage_client,
)
from receipt_dynamo import reports as reporting
from receipt_dynamo.sqlite_overlay import SqliteOverlay
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch
from tests.support import damage, in_fork, make_metric, stored_ids
from tests.support.sqlite_files import PAGE, batch, many_metrics, write

ALL = UsageQuery()
Open = Callable[..., UsageClient]


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "usage" / "usage.db")


@contextmanager
def locked(usage_dir: Path) -> Iterator[None]:
    """Keep the store's lock as a process does that is stopped: for good."""
    descriptor = os.open(usage_dir / "store.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_PATIENCE_SECONDS", 0.05)


def test_a_long_answer_comes_in_pages_that_seek(store: SqliteStore) -> None:
    """In order, each record once, also where the store takes one in between two pages."""
    metrics = many_metrics(2500)
    write(store, *metrics[:1500])
    overlay = store.overlay()
    overlay.add(batch(*metrics[1400:]))
    answer = overlay.query(ALL)
    first = next(answer)
    write(store, *metrics[1400:])
    assert [first, *answer] == metrics
    plans: list[str] = []
    overlay._memory.set_trace_callback(plans.append)
    list(overlay.query(ALL))
    overlay._memory.set_trace_callback(None)
    (page, *_) = [sql for sql in plans if "ORDER BY ts" in sql and "> (" in sql]
    overlay._attach(SimpleNamespace(uri=f"{store.path.as_uri()}?mode=ro"))  # type: ignore[arg-type]
    plan = str(overlay._memory.execute(f"EXPLAIN QUERY PLAN {page}").fetchall())
    overlay._detach()
    assert "SEARCH main.metric USING INDEX metric_time" in plan
    assert "SEARCH below USING INDEX metric_time" in plan
    assert "TEMP B-TREE" not in plan


def test_nothing_stays_open_between_two_questions(store: SqliteStore) -> None:
    """A fork in between inherits no file of SQLite's; a child is told that it is not its own."""
    write(store, make_metric())
    overlay = store.overlay()
    answer = overlay.query(ALL)
    next(answer)
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that this loop reads
            assert str(store.path) not in str(descriptor.readlink())

    def child() -> None:
        with pytest.raises(StoreError, match="forked"):
            overlay.dropped(ALL)

    assert in_fork(child) == 0


def test_a_store_that_is_not_there_yet_is_empty(store: SqliteStore) -> None:
    """And is seen as soon as somebody makes it."""
    overlay = store.overlay()
    overlay.add(batch(make_metric(request_id="above")))
    assert [m.request_id for m in overlay.query(ALL)] == ["above"]
    write(store, make_metric(request_id="below"))
    assert [m.request_id for m in overlay.query(ALL)] == ["above", "below"]


def test_a_newer_store_is_not_read_beneath_either(store: SqliteStore) -> None:
    """Neither by SQLite nor page by page."""
    write(store, make_metric())
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    overlay = store.overlay()
    with pytest.raises(StoreVersionError):
        list(overlay.query(ALL))
    with pytest.raises(StoreVersionError):
        overlay._absorb()


def test_a_report_beside_a_kept_lock_answers_completely_and_warns_once(
    open_client: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What others recorded too, and what this client records between two questions."""
    client, other = open_client(), open_client()
    client.put_ai_usage_metrics([make_metric(request_id="1"), make_metric(request_id="2")])
    client.flush()
    client.put_ai_usage_metric(make_metric(request_id="2", input_tokens=5))
    other.put_ai_usage_metric(make_metric(request_id="3"))
    with locked(tmp_path / "usage"):
        assert stored_ids(client) == ["1", "2", "3"]
        assert client.summarize()[0].input_tokens == 5
        client.put_ai_usage_metric(make_metric(request_id="4"))
        assert stored_ids(client) == ["1", "2", "3", "4"]
        assert set(client.recorded_times([("openai", "4"), ("openai", "5")])) == {("openai", "4")}
        assert client.dropped().count == 0
        assert client.pending() == 3
        assert "store.lock" in (client.store_refusal or "")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "store.lock was held by another process" in warning
    assert "2 were read from the spool" in warning
    assert stored_ids(client) == ["1", "2", "3", "4"]
    assert (client.pending(), client.store_refusal) == (0, None)
    with locked(tmp_path / "usage"):
        client.put_ai_usage_metric(make_metric(request_id="5"))
        assert len(stored_ids(client)) == 5
    assert len(caplog.records) == 2


def test_each_record_is_read_from_the_spool_once(
    client: UsageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that asks after every few lines does not read all of the spool each time."""
    read: list[str] = []
    add = SqliteOverlay.add

    def count(self: SqliteOverlay, batch: Batch) -> None:
        read.extend(record.metric.request_id for record in batch.records)
        add(self, batch)

    monkeypatch.setattr(SqliteOverlay, "add", count)
    with locked(tmp_path / "usage"):
        for n in range(5):
            client.put_ai_usage_metric(make_metric(request_id=f"{n}"))
            assert len(stored_ids(client)) == n + 1
    assert read == ["0", "1", "2", "3", "4"]


def test_records_and_losses_in_memory_are_shown_too(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A disk that refuses leaves both in memory; what is written later counts once all the same."""
    full = OSError(28, "No space left on device")

    def refuse(*_: object, **__: object) -> None:
        raise full

    with locked(tmp_path / "usage"):
        with monkeypatch.context() as patch:
            patch.setattr(client._pipeline.spool.writer, "append", refuse)
            assert client.put_ai_usage_metric(make_metric(request_id="r")) is PutResult.MEMORY
            client.count_dropped("invalid", input_tokens=3)
            client.count_dropped("invalid", input_tokens=4)
            for _ in range(2):
                assert stored_ids(client) == ["r"]
                assert client.dropped().by_reason == {"invalid": 2}
        assert stored_ids(client) == ["r"]  # written back, and the losses with it
        assert (client.dropped().by_reason, client.dropped().input_tokens) == ({"invalid": 2}, 7)
    assert (stored_ids(client), client.dropped().count) == (["r"], 2)


def test_damaged_lines_and_poison_are_counted_as_the_drainer_will(
    client: UsageClient, tmp_path: Path
) -> None:
    """A damaged line is a loss; what is no record waits to be buried. Neither is moved."""
    client.put_ai_usage_metric(make_metric(request_id="good"))
    segment = client._pipeline.spool.writer.active_segment
    assert segment is not None
    with segment.open("ab") as file:
        file.write(b"00000000 rotten\n")
    client._pipeline.spool.writer.append(b'{"no": "metric"}')
    client.put_ai_usage_metric(make_metric(request_id="last"))
    with locked(tmp_path / "usage"):
        assert stored_ids(client) == ["good", "last"]
        assert client.dropped().by_reason == {"corrupt": 1}
        assert not (client.settings.spool_dir / "quarantine").exists()
    assert stored_ids(client) == ["good", "last"]
    assert client.dropped().by_reason == {"corrupt": 1}


def test_a_sealed_segment_without_its_last_newline_is_read_to_its_end(tmp_path: Path) -> None:
    """Its writer was killed within its write, and the record is whole."""
    chosen = Settings(usage_dir=tmp_path / "usage", drain="manual")
    with open_usage_client(chosen) as client:
        client.put_ai_usage_metric(make_metric(request_id="whole"))
        segment = client._pipeline.spool.writer.active_segment
        assert segment is not None
        client._pipeline.spool.writer.close()
        os.truncate(segment, segment.stat().st_size - 1)
        with locked(tmp_path / "usage"):
            assert stored_ids(client) == ["whole"]


def test_what_the_store_already_has_is_not_put_over_it(client: UsageClient, tmp_path: Path) -> None:
    """A later arrival in the store is not hidden by an earlier one whose ack was lost."""
    client.put_ai_usage_metric(make_metric(request_id="r", input_tokens=1))
    client.flush()
    store = SqliteStore(tmp_path / "usage" / "usage.db")
    write(store, make_metric(request_id="r", input_tokens=2))
    segment = client._pipeline.spool.writer.active_segment
    assert segment is not None
    damage(segment, 0, b"#spool1 ack=0000000000000029\n")
    with locked(tmp_path / "usage"):
        assert client.summarize()[0].input_tokens == 2


def test_a_damaged_store_that_nobody_can_repair_now_is_read_all_the_same(
    client: UsageClient, tmp_path: Path
) -> None:
    """Its lock is kept: the report counts what is lost, and the file is not touched."""
    client.put_ai_usage_metrics(many_metrics(300))
    client.flush()
    path = tmp_path / "usage" / "usage.db"
    content = bytearray(path.read_bytes())
    leaves = [n * PAGE for n in range(1, len(content) // PAGE) if content[n * PAGE] == 13]
    page = next(at // PAGE for at in leaves if int.from_bytes(content[at + 3 : at + 5]) > 3)
    content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(content)
    client.put_ai_usage_metric(make_metric(request_id="new"))
    with locked(tmp_path / "usage"):
        ids = stored_ids(client)
        assert "new" in ids
        assert len(ids) + client.dropped().by_reason["store_corrupt"] == 301
        assert client.summarize()[0].calls == len(ids)
    assert path.read_bytes() == content


def test_questions_from_several_threads_are_answered(client: UsageClient, tmp_path: Path) -> None:
    """They share what one of them has read."""
    client.put_ai_usage_metrics(many_metrics(50))
    client.flush()
    client.put_ai_usage_metrics(many_metrics(60))
    answers: list[Any] = []
    with locked(tmp_path / "usage"):
        threads = [
            threading.Thread(target=lambda: answers.append(client.summarize()[0].calls))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [60] * 4


def test_a_store_that_cannot_be_read_beneath_says_what_is_wrong(
    tmp_path: Path,
) -> None:
    """Not every store can: then the error is the store's own."""
    chosen = Settings(usage_dir=tmp_path / "usage", drain="manual")
    store = SqliteStore(chosen.store_path)
    names = "exclusive position prune_positions write summarize close".split()
    plain = SimpleNamespace(**{name: getattr(store, name) for name in names})
    with UsageClient(chosen, plain) as client:  # type: ignore[arg-type]
        client.put_ai_usage_metric(make_metric())
        with locked(chosen.usage_dir), pytest.raises(StoreError, match=r"store\.lock"):
            client.summarize()
        assert client.summarize()[0].calls == 1


def test_a_child_reads_the_spool_itself(client: UsageClient, tmp_path: Path) -> None:
    """What its parent has read is the parent's."""
    client.put_ai_usage_metric(make_metric(request_id="parent"))
    with locked(tmp_path / "usage"):
        assert stored_ids(client) == ["parent"]

        def child() -> None:
            client.put_ai_usage_metric(make_metric(request_id="child"))
            assert stored_ids(client) == ["child", "parent"]

        assert in_fork(child) == 0
        assert stored_ids(client) == ["child", "parent"]


def test_an_error_of_the_disk_is_answered_like_a_kept_lock(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever SQLite says when it cannot write: a full disk, a read-only one, an error of I/O."""
    client.put_ai_usage_metric(make_metric(request_id="below"))
    client.flush()
    client.put_ai_usage_metric(make_metric(request_id="above"))
    for reason in ("database or disk is full", "attempt to write a readonly database"):

        def fail(*_: object, reason: str = reason) -> None:
            raise sqlite3.OperationalError(reason)

        with monkeypatch.context() as patch:
            patch.setattr("receipt_dynamo.sqlite_store.insert", fail)
            assert stored_ids(client) == ["above", "below"]
            assert client.summarize(by=["day"])[0].calls == 2
    assert caplog.records[-1].levelno == logging.WARNING
    assert "full" in caplog.records[0].getMessage()
    assert len(caplog.records) == 1
