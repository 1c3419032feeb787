"""The same records in two stores: whatever is asked, they answer the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from receipt_dynamo import DIMENSIONS, AIUsageMetric, UsageQuery
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import make_metric, write
from tests.support.dynamodb import drop_table

START = datetime(2026, 10, 31, 20, 30, tzinfo=UTC)
MINUTES = 60 * 7  # over the end of a day and of a month
CHOICES: dict[str, list[Any]] = {
    "service": ["openai", "anthropic", "tool"],
    "model": ["a", "b"],
    "operation": ["chat", "embed"],
    "job_id": [None, "j1", "j2"],
    "batch_id": [None, None, "b1"],
    "github_pr": [None, 7, 12345678901],
    "user_id": [None, "u1", "ü2"],
    "conversation_id": [None, None, None, "c1"],
    "session_id": [None, "s1", "s2"],
    "tool": [None, None, "Bash", "ü"],
    "skill": [None, None, "pdf"],
    "subagent": [None, "Explore"],
    "environment": [None, "production"],
}


def a_metric(rng: Random, number: int) -> AIUsageMetric:
    """Return one of many metrics that often share hours, ids and even times."""
    fields: dict[str, Any] = {name: rng.choice(values) for name, values in CHOICES.items()}
    tokens = rng.choice([None, 0, 10, 10**12])
    return make_metric(
        **fields,
        timestamp=START + timedelta(minutes=rng.randrange(0, MINUTES, 7)),
        request_id=f"{rng.randrange(10**6)}-{number}",
        api_calls=rng.choice([1, 1, 3]),
        input_tokens=tokens,
        cached_input_tokens=None if tokens is None else tokens // 2,
        output_tokens=rng.choice([None, 5]),
        cost_usd=rng.choice([None, Decimal("0.1"), Decimal("1E-30"), Decimal("12345.6789")]),
        error=rng.choice([None, None, "failed"]),
        metadata=rng.choice([{}, {"n": number}]),
    )


def a_query(rng: Random) -> UsageQuery:
    """Return a question with a few conditions, most of which something fulfils."""
    names = rng.sample(sorted(CHOICES), rng.randrange(4))
    since = START + timedelta(minutes=rng.randrange(MINUTES))
    return UsageQuery(
        **{name: rng.choice(CHOICES[name]) for name in names},
        since=rng.choice([None, since]),
        until=rng.choice([None, since + timedelta(minutes=rng.randrange(1, MINUTES))]),
        unpriced=rng.random() < 0.2,
    )


@pytest.fixture
def table(dynamodb: str) -> Iterator[DynamoClient]:
    """An empty table, spread over three shards."""
    with DynamoClient("equal", endpoint_url=dynamodb) as client:
        client.create_table(shards=3)
        yield client
        drop_table(client)


@pytest.mark.no_cover
def test_a_table_and_the_embedded_store_answer_alike(table: DynamoClient, tmp_path: Path) -> None:
    """Metrics, their order, sums by any words in any timezone, losses, first times."""
    rng = Random(20261121)  # noqa: S311 - the same questions every time
    metrics = [a_metric(rng, number) for number in range(400)]
    again = [a_metric(rng, 1000 + n) for n in range(20)]
    gaps = [
        Gap(
            gap=f"{n}",
            timestamp=START + timedelta(days=n - 20),
            reason=rng.choice(["disk", "invalid"]),
            count=n + 1,
            service=rng.choice([None, "openai"]),
            model=rng.choice([None, "a"]),
            cost_usd=rng.choice([None, Decimal("0.25")]),
        )
        for n in range(40)
    ]
    embedded = SqliteStore(tmp_path / "usage.db")
    for store in (embedded, table):
        write(store, metrics, gaps)
        write(store, [*again, *again])
    for number in range(50):
        query = a_query(rng)
        assert list(table.query(query)) == list(embedded.query(query)), (number, query)
        by = rng.sample(sorted(DIMENSIONS), rng.randrange(3))
        zone = rng.choice(["UTC", "Europe/Berlin", "Pacific/Chatham"])
        here, there = (store.summarize(query, by, zone) for store in (embedded, table))
        assert here == there, (number, query, by, zone)
        assert table.dropped(query) == embedded.dropped(query), (number, query)
    keys = [(metric.service, metric.request_id) for metric in metrics[::7]]
    assert table.recorded_times(keys) == embedded.recorded_times(keys)
    identities = [metric.identity for metric in metrics[::7]]
    assert table.recorded(identities) == embedded.recorded(identities)
    for metric in metrics[::29]:
        assert table.get_ai_usage_metric(*metric.identity) == metric
    assert table.get_ai_usage_metric("openai", START, "missing") is None
