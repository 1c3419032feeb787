"""From an embedded store into a table of DynamoDB Local: all of it, once, from where it stopped."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receipt_dynamo import ConfigurationError, Migration, Settings, StoreError, UsageQuery
from receipt_dynamo import migration as module
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import NOON, make_metric, write
from tests.support.dynamodb import drop_table

ALL = UsageQuery()
_numbers = count(1)


@pytest.fixture
def client(dynamodb: str) -> Iterator[DynamoClient]:
    """An empty table, with a client of it."""
    with DynamoClient(f"cloud-{next(_numbers)}", endpoint_url=dynamodb) as client:
        client.create_table()
        yield client
        drop_table(client)


@pytest.fixture
def settings(tmp_path: Path, client: DynamoClient, dynamodb: str) -> Settings:
    return Settings(usage_dir=tmp_path, table_name=client.table_name, endpoint_url=dynamodb)


@pytest.fixture
def store(settings: Settings) -> SqliteStore:
    return SqliteStore(settings.store_path)


@pytest.fixture
def sent(client: DynamoClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The request ids that were sent, in no order."""
    names: list[str] = []
    real = client.write

    def writing(batch: Any) -> Any:
        names.extend(record.metric.request_id for record in batch.records)
        names.extend(gap.gap for gap in batch.gaps)
        return real(batch)

    monkeypatch.setattr(client, "write", writing)
    return names


def named(names: Sequence[object], **changes: Any) -> list[Any]:
    return [make_metric(request_id=f"{name}", **changes) for name in names]


def bookmark_of(settings: Settings) -> Path:
    (found,) = settings.usage_dir.glob("usage.db.to-*")
    return found


def test_everything_that_a_store_holds_comes_into_the_table(
    client: DynamoClient, settings: Settings, store: SqliteStore
) -> None:
    """Metrics and losses; queries and sums are those of the embedded store, which keeps its own."""
    chance = Random(4)  # noqa: S311
    metrics = [
        make_metric(
            service=chance.choice(["openai", "anthropic"]),
            timestamp=NOON + timedelta(minutes=2 * number),
            request_id=f"{number:04}",
            job_id=chance.choice([None, "j"]),
            input_tokens=chance.choice([None, number]),
            metadata={"n": number},
        )
        for number in range(620)
    ]
    gaps = [
        Gap(gap=f"{n}", timestamp=NOON + timedelta(days=n), reason="disk", count=n + 1)
        for n in range(3)
    ]
    write(store, metrics, gaps)
    told: list[int] = []
    migration = Migration(settings, client)
    assert migration.waiting() == 620
    report = migration.run(told.append)
    assert (report.shipped, report.gaps, report.before, report.refused) == (620, 3, 0, [])
    assert sum(told) == 620
    assert max(told) <= 25
    for query in (ALL, UsageQuery(job_id="j"), UsageQuery(service="openai")):
        assert list(client.query(query)) == list(store.query(query))
        for by in ((), ("day",), ("service", "job")):
            assert client.summarize(query, by, "UTC") == store.summarize(query, by, "UTC")
        assert client.dropped(query) == store.dropped(query)
    assert len(list(store.query(ALL))) == 620


def test_a_second_run_sends_nothing_but_what_is_new_or_replaced(
    client: DynamoClient, settings: Settings, store: SqliteStore, sent: list[str]
) -> None:
    """By another process as well: the bookmark is a file."""
    gap = Gap(gap="lost", timestamp=NOON, reason="disk", count=1)
    write(store, named(range(60)), [gap])
    Migration(settings, client).run()
    sent.clear()
    again = Migration(settings, client)
    assert again.waiting() == 0
    report = again.run()
    assert (report.shipped, report.gaps, report.before) == (0, 0, 60)
    assert sent == []
    write(store, [*named(["new"]), *named([7], input_tokens=7)])
    report = Migration(settings, client).run()
    assert (report.shipped, report.before) == (2, 59)
    assert sorted(sent) == ["7", "new"]
    assert list(client.query(ALL)) == list(store.query(ALL))
    assert oct(bookmark_of(settings).stat().st_mode & 0o777) == "0o600"


def test_a_run_that_fails_is_gone_on_with(
    client: DynamoClient,
    settings: Settings,
    store: SqliteStore,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the last page that the table has acknowledged; nothing is left out between."""
    monkeypatch.setattr(module, "_PAGE_ROWS", 50)
    write(store, named(range(230)))
    real, calls = client.write, count()

    def failing(batch: Any) -> Any:
        if next(calls) >= 7:
            raise StoreError("the table is away")
        return real(batch)

    with monkeypatch.context() as patch:
        patch.setattr(client, "write", failing)
        with pytest.raises(StoreError, match="is away"):
            Migration(settings, client, senders=1).run()
    already = len(set(sent))
    assert 150 <= already < 230
    sent.clear()
    migration = Migration(settings, client)
    assert migration.waiting() == 80
    report = migration.run()
    assert (report.shipped, report.before) == (80, 150)
    assert len(sent) == 80
    assert list(client.query(ALL)) == list(store.query(ALL))


def change_file(path: Path) -> None:
    """Put the same store into another file, as a repair or a backup does."""
    data = path.read_bytes()
    path.rename(path.with_name("old.db"))
    path.write_bytes(data)
    path.chmod(0o600)


def spoil(settings: Settings, store: SqliteStore, client: DynamoClient, how: str) -> None:
    if how == "another store":
        change_file(store.path)
    elif how == "another table":
        drop_table(client)
        client.create_table()
    elif how == "no bookmark":
        bookmark_of(settings).unlink()
    elif how == "half a bookmark":
        path = bookmark_of(settings)
        path.write_bytes(path.read_bytes()[:40])
    else:
        write(store, named(["last"], input_tokens=1))


@pytest.mark.parametrize(
    "how",
    ["another store", "another table", "no bookmark", "half a bookmark", "a row that is gone"],
)
def test_a_bookmark_that_may_not_be_right_is_not_believed(
    client: DynamoClient, settings: Settings, store: SqliteStore, sent: list[str], how: str
) -> None:
    """Everything is sent again, and replaces itself: never is a record left out."""
    write(store, named([*range(30), "last"]))
    Migration(settings, client).run()
    sent.clear()
    spoil(settings, store, client, how)
    report = Migration(settings, client).run()
    assert (report.shipped, report.before) == (31, 0)
    assert len(sent) == 31
    assert list(client.query(ALL)) == list(store.query(ALL))


def test_a_store_that_is_replaced_while_it_is_read_is_read_anew(
    client: DynamoClient, settings: Settings, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may have other numbers than those that were seen."""
    monkeypatch.setattr(module, "_PAGE_ROWS", 10)
    write(store, named(range(30)))
    told: list[int] = []

    def progress(done: int) -> None:
        told.append(done)
        if len(told) == 2:
            change_file(store.path)

    report = Migration(settings, client).run(progress)
    assert report.shipped == sum(told) == 50
    assert list(client.query(ALL)) == list(store.query(ALL))


def test_what_is_stored_meanwhile_is_sent_too(
    client: DynamoClient, settings: Settings, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there is no more: a pipeline goes on recording."""
    monkeypatch.setattr(module, "_PAGE_ROWS", 10)
    write(store, named(range(10)))
    told: list[int] = []

    def progress(done: int) -> None:
        if not told:
            write(store, named(range(100, 105)))
        told.append(done)

    assert Migration(settings, client).run(progress).shipped == 15
    assert list(client.query(ALL)) == list(store.query(ALL))


def test_what_the_table_refuses_is_named_in_every_run_until_it_is_taken(
    client: DynamoClient, settings: Settings, store: SqliteStore, sent: list[str]
) -> None:
    """It stops nothing else, and the embedded store still has it."""
    metrics = named(range(30))
    metrics[7] = make_metric(request_id="7", metadata={"text": "x" * 450_000})
    write(store, metrics)
    report = Migration(settings, client).run()
    assert (report.shipped, report.before) == (29, 0)
    (refused,) = report.refused
    assert refused.metric == metrics[7]
    assert "Item size has exceeded" in refused.reason
    sent.clear()
    migration = Migration(settings, client)
    assert migration.waiting() == 1
    report = migration.run()
    assert (report.shipped, report.before, len(report.refused)) == (0, 29, 1)
    assert sent == ["7"]
    write(store, named([7]))
    report = Migration(settings, client).run()
    assert (report.shipped, report.before, report.refused) == (1, 29, [])
    assert len(list(client.query(ALL))) == 30
    assert Migration(settings, client).waiting() == 0


def test_a_table_that_refuses_a_thousand_records_is_no_place_for_them(
    client: DynamoClient, settings: Settings, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first of its reasons."""
    monkeypatch.setattr(module, "_MOST_REFUSED", 2)
    write(store, named(range(4), metadata={"text": "x" * 450_000}))
    with pytest.raises(
        StoreError, match=r"refuses more than 2 records\. The first: DynamoDB refuses"
    ):
        Migration(settings, client).run()


def test_several_requests_run_at_a_time_and_no_more_than_senders(
    client: DynamoClient, settings: Settings, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request takes milliseconds, most of them on the way."""
    write(store, named(range(400)))
    together = threading.Barrier(3, timeout=20)
    lock = threading.Lock()
    now = most = calls = 0
    real = client.write

    def counted(batch: Any) -> Any:
        nonlocal now, most, calls
        with lock:
            now, calls = now + 1, calls + 1
            most = max(most, now)
            is_first = calls <= 3
        try:
            if is_first:
                together.wait()
            return real(batch)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(client, "write", counted)
    assert Migration(settings, client, senders=3).run().shipped == 400
    assert most == 3


def test_a_bookmark_that_cannot_be_written_costs_the_next_run_time_only(
    client: DynamoClient,
    settings: Settings,
    store: SqliteStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk stops no migration."""
    write(store, named(range(5)))

    def full(path: Path, _flags: int) -> int:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(module, "create_private_file", full)
    with caplog.at_level(logging.WARNING):
        assert Migration(settings, client).run().shipped == 5
    assert "the next run begins where the last one did" in caplog.text
    assert Migration(settings, client).run().shipped == 5


def test_an_empty_store_and_a_missing_one_are_no_fault(
    client: DynamoClient, settings: Settings
) -> None:
    """There is nothing to ship, and nothing is made."""
    report = Migration(settings, client).run()
    assert (report.shipped, report.gaps, report.before) == (0, 0, 0)
    assert list(settings.usage_dir.iterdir()) == []


def test_a_table_that_is_not_ours_is_left_alone(
    client: DynamoClient, settings: Settings, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent before it was looked at."""
    from receipt_dynamo import dynamo_admin

    write(store, named(range(2)))
    monkeypatch.setattr(dynamo_admin, "differences", lambda _: ["the index GSI_PR is missing"])
    with pytest.raises(StoreError, match=r"not as it should be: the index GSI_PR is missing\. See"):
        Migration(settings, client).run()
    assert list(client.query(ALL)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: Migration(s, DynamoClient("t"), senders=0), "senders=0"),
        (lambda s: Migration(Settings(usage_dir=s.usage_dir), DynamoClient("t")), "no table"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(
    tmp_path: Path, change: Callable[[Settings], object], said: str
) -> None:
    """At once."""
    with pytest.raises(ConfigurationError, match=said):
        change(Settings(usage_dir=tmp_path, table_name="t"))
