"""DynamoClient on DynamoDB Local, where the contract of all stores ends: pages, expiry, forks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receipt_dynamo import StoreError, UsageQuery
from receipt_dynamo import dynamo_pages as pages
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_registry import Nothing
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.table import Shards, shard_of
from tests.support import NOON, FakeClock, in_fork, make_metric, write
from tests.support.dynamodb import drop_table

ALL = UsageQuery()
_numbers = count(1)


@pytest.fixture
def client(dynamodb: str) -> Iterator[DynamoClient]:
    """A table spread over two shards, with a client of it."""
    with DynamoClient(f"store-{next(_numbers)}", endpoint_url=dynamodb) as client:
        client.create_table(shards=2)
        yield client
        drop_table(client)


def put_raw(client: DynamoClient, item: dict[str, Any]) -> None:
    """Put an item that no metric made."""
    client._call("PutItem", {"TableName": client.table_name, "Item": item}, Nothing)


def test_answers_have_every_page_in_order(
    client: DynamoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of three items: several services, shards and hours, from the table and an index."""
    monkeypatch.setattr(pages, "_PAGE_ITEMS", 3)
    monkeypatch.setattr(pages, "_KEYS_A_REQUEST", 7)
    metrics = [
        make_metric(
            service=service,
            timestamp=NOON + timedelta(minutes=25 * (number % 7)),
            request_id=f"{number:03}",
            job_id="j",
            input_tokens=number,
        )
        for number in range(60)
        for service in ("anthropic", "openai")
    ]
    Random(1).shuffle(metrics)  # noqa: S311
    write(client, metrics)
    wanted = sorted(metrics, key=lambda m: (m.timestamp, m.service, m.request_id))
    for query in (ALL, UsageQuery(job_id="j")):
        assert list(client.query(query)) == wanted
        (total,) = client.summarize(query, (), "UTC")
        assert (total.calls, total.input_tokens) == (120, 2 * sum(range(60)))
        by_user = client.summarize(query, ("user", "job"), "UTC")
        assert [(row.calls, row.group) for row in by_user] == [(120, {"user": None, "job": "j"})]
    assert len(client.recorded_times([(m.service, m.request_id) for m in metrics])) == 120


def test_answers_have_every_page_of_a_mebibyte(client: DynamoClient) -> None:
    """DynamoDB ends a page after so much, however few the items: large metrics come whole."""
    metrics = [
        make_metric(request_id=f"{n:02}", job_id="j", metadata={"text": "x" * 380_000})
        for n in range(8)
    ]
    write(client, metrics)
    for query in (ALL, UsageQuery(job_id="j")):
        assert [m.request_id for m in client.query(query)] == [m.request_id for m in metrics]
        assert client.summarize(query, (), "UTC")[0].calls == 8


def test_a_metric_lies_where_its_key_says(client: DynamoClient) -> None:
    """In the shard of its id: the same one whoever writes it, whenever."""
    metrics = [make_metric(request_id=f"{n}") for n in range(8)]
    write(client, metrics)
    for metric in metrics:
        shard = shard_of(metric.request_id, 2)
        key = {
            "PK": {"S": f"U#openai#2026-11-21T12#{shard}"},
            "SK": {"S": f"2026-11-21T12:00:00.000000Z#{metric.request_id}"},
        }
        found = client._call(
            "GetItem", {"TableName": client.table_name, "Key": key}, dict[str, Any]
        )
        assert found["Item"]["requestId"] == {"S": metric.request_id}
        assert client.get_ai_usage_metric("OpenAI", metric.timestamp, metric.request_id) == metric
    with pytest.raises(ValueError, match="has no timezone"):
        client.get_ai_usage_metric("openai", datetime(2026, 1, 1), "r")  # noqa: DTZ001


def test_a_table_that_was_spread_wider_later_is_read_whole(
    client: DynamoClient, dynamodb: str
) -> None:
    """Older metrics stay in their shards; both count, also within the hour of the change."""
    change = NOON + timedelta(minutes=30)
    entries = [("0001-01-01T00:00:00.000000Z", 2), ("2026-11-21T12:30:00.000000Z", 5)]
    shards = {"L": [{"M": {"from": {"S": f}, "shards": {"N": str(n)}}} for f, n in entries]}
    put_raw(client, {"PK": {"S": "REGISTRY"}, "SK": {"S": "services"}, "shards": shards})
    later = DynamoClient(client.table_name, endpoint_url=dynamodb)
    metrics = [
        make_metric(timestamp=change + timedelta(minutes=minutes), request_id=f"{n}", job_id="j")
        for minutes in (-20, -1, 0, 20)
        for n in range(10)
    ]
    write(later, metrics)
    assert later._registry.shards(later._call) == Shards(tuple(entries))
    for query in (ALL, UsageQuery(job_id="j"), UsageQuery(since=NOON)):
        assert list(later.query(query)) == metrics
    for metric in metrics:
        assert later.get_ai_usage_metric(*metric.identity) == metric


def test_what_has_expired_is_in_no_answer(dynamodb: str, client: DynamoClient) -> None:
    """DynamoDB deletes it within days; until then it is there, and must not be seen."""
    clock = FakeClock()
    keeping = DynamoClient(
        client.table_name, endpoint_url=dynamodb, retention_days=1.5, clock=clock
    )
    metric = make_metric(job_id="j", timestamp=clock.now())
    gap = Gap(gap="1", timestamp=clock.now(), reason="disk", count=1)
    write(keeping, [metric], [gap])
    for seconds, is_there in ((0, True), (1.5 * 86_400 - 1, True), (1, False), (10**6, False)):
        clock.advance(seconds)
        for query in (ALL, UsageQuery(job_id="j")):
            assert len(list(keeping.query(query))) == is_there
            for by in ((), ("user",)):
                rows = keeping.summarize(query, by, "UTC")
                assert sum(row.calls for row in rows) == is_there
        assert keeping.dropped(ALL).count == is_there
        assert (keeping.get_ai_usage_metric(*metric.identity) is not None) == is_there
        assert len(keeping.recorded_times([("openai", metric.request_id)])) == is_there


def test_an_item_that_is_no_metric_is_named(client: DynamoClient) -> None:
    """To leave it out would make a sum too low, and say nothing."""
    write(client, [make_metric(request_id="a")])
    odd = {
        "PK": {"S": f"U#openai#2026-11-21T12#{shard_of('odd', 2)}"},
        "SK": {"S": "2026-11-21T12:00:00.000000Z#odd"},
        "inputTokens": {"S": "many"},
    }
    put_raw(client, odd)
    for question in (
        lambda: list(client.query(ALL)),
        lambda: client.summarize(ALL, (), "UTC"),
        lambda: client.get_ai_usage_metric("openai", NOON, "odd"),
    ):
        with pytest.raises(StoreError, match=r"holds an item that cannot be read.*#odd"):
            question()


def test_what_dynamodb_never_takes_dies_alone(client: DynamoClient) -> None:
    """An item of more than 400 KB, among others; its reason is DynamoDB's."""
    metrics = [make_metric(request_id=f"{n:02}") for n in range(30)]
    metrics[7] = make_metric(request_id="07", metadata={"text": "x" * 450_000})
    outcome = write(client, metrics)
    assert outcome.acknowledged == 29
    (rejection,) = outcome.rejected
    assert rejection.record.metric is metrics[7]  # type: ignore[union-attr]
    assert "Item size has exceeded" in rejection.reason
    assert list(client.query(ALL)) == metrics[:7] + metrics[8:]


def test_threads_and_a_forked_child_share_a_client(
    client: DynamoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread at any time; the child with connections of its own, and the parent goes on."""
    monkeypatch.setattr(pages, "_PAGE_ITEMS", 5)
    write(client, [make_metric(timestamp=NOON + timedelta(seconds=n)) for n in range(40)])
    reading = client.query(ALL)
    next(reading)

    def work(name: int) -> int:
        write(client, [make_metric(request_id=f"thread-{name}-{n}") for n in range(10)])
        return len(list(client.query(ALL)))

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(work, range(4)))
        assert all(50 <= found <= 80 for found in counts), counts

        def child() -> None:
            write(client, [make_metric(request_id="child")])
            assert len(list(client.query(ALL))) == 81
            with pytest.raises(StoreError, match="begun before a fork"):
                list(reading)

        assert in_fork(child) == 0
    assert len(list(client.query(ALL))) == 81
    assert len(list(reading)) >= 39


def test_no_more_requests_at_a_time_than_readers(
    client: DynamoClient, dynamodb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many partitions a question has, and however its answer is left."""
    reader = DynamoClient(client.table_name, endpoint_url=dynamodb, readers=3)
    write(client, [make_metric(timestamp=NOON + timedelta(hours=n)) for n in range(12)])
    now, most, lock = 0, 0, threading.Lock()
    real = reader._connection.call

    def counted(operation: str, body: bytes) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return real(operation, body)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(reader._connection, "call", counted)
    assert len(list(reader.query(ALL))) == 12
    assert reader.summarize(ALL, (), "UTC")[0].calls == 12
    assert 2 <= most <= 3
    left = reader.query(ALL)
    next(left)
    left.close()
    assert len(list(reader.query(ALL))) == 12


def test_one_page_that_cannot_be_read_is_no_answer(
    client: DynamoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: never a part of a sum."""
    monkeypatch.setattr(pages, "_PAGE_ITEMS", 4)
    monkeypatch.setattr(client, "_tries", 1)
    write(client, [make_metric(request_id=f"{n:02}", job_id="j") for n in range(20)])
    real = client._connection.call
    for query in (ALL, UsageQuery(job_id="j")):
        begun = count()

        def counting(operation: str, body: bytes, begun: Any = begun) -> bytes:
            next(begun)
            return real(operation, body)

        monkeypatch.setattr(client._connection, "call", counting)
        assert client.summarize(query, ("job",), "UTC")[0].calls == 20
        for failing in range(next(begun)):
            calls = count()

            def broken(
                operation: str, body: bytes, failing: int = failing, calls: Any = calls
            ) -> bytes:
                return b'{"Items":[' if next(calls) == failing else real(operation, body)

            monkeypatch.setattr(client._connection, "call", broken)
            with pytest.raises(StoreError):
                client.summarize(query, ("job",), "UTC")


def test_the_years_1_and_9999_are_read_too(client: DynamoClient) -> None:
    """Odd records break no report."""
    metrics = [
        make_metric(timestamp=datetime(1, 1, 1, tzinfo=UTC), job_id="j"),
        make_metric(timestamp=datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), job_id="j"),
    ]
    write(client, metrics)
    for query in (ALL, UsageQuery(job_id="j"), UsageQuery(since=metrics[0].timestamp)):
        assert list(client.query(query)) == metrics


def test_odd_ids_are_answered_with_nothing(client: DynamoClient) -> None:
    """A lone surrogate and a number beyond every pull request are no ids, and no fault."""
    write(client, [make_metric(user_id="u", github_pr=1)])
    for odd in (UsageQuery(user_id="\ud800"), UsageQuery(github_pr=10**60)):
        assert list(client.query(odd)) == []
        assert client.summarize(odd, ("day",), "UTC") == []
    assert client.get_ai_usage_metric("openai", NOON, "\ud800") is None


def test_a_spool_is_delivered_into_the_table(
    client: DynamoClient, open_client: Any, tmp_path: Path, clock: FakeClock
) -> None:
    """Put, ack, unlink; and the same spool again changes nothing."""
    recorder = open_client()
    metrics = [make_metric(request_id=f"{n:03}") for n in range(60)]
    assert {recorder.put_ai_usage_metric(metric) for metric in metrics} == {"STORED"}
    spool = recorder.settings.spool_dir
    (segment,) = spool.glob("*.seg")
    kept = segment.read_bytes()
    for _ in range(2):
        segment.write_bytes(kept)
        segment.chmod(0o600)
        report = Delivery(spool, client, clock).run(clock.monotonic() + 60)
        assert report.delivered == 60
        assert list(client.query(ALL)) == metrics
