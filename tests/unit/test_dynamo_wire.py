"""The bytes that DynamoDB takes: the meaning of botocore's own, and no reply taken on trust."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import AIUsageMetric
from receipt_dynamo.dynamo_wire import (
    Put,
    batch_body,
    gap_of,
    metric_of,
    put_of,
    unprocessed,
)
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.errors import CorruptReplyError
from receipt_dynamo.table import Key, Shards, shard_of
from tests.support import FULL_FIELDS, NOON, encode, make_metric
from tests.support.strategies import metrics

ONE = Shards()
FOUR = Shards((("0001", 4),))


@cache
def serializer() -> tuple[Any, Any]:
    """Return botocore's serializer and its model of BatchWriteItem."""
    import botocore.session
    from botocore.serialize import create_serializer

    model = botocore.session.get_session().get_service_model("dynamodb")
    return create_serializer("json"), model.operation_model("BatchWriteItem")


def by_botocore(table: str, items: list[dict[str, Any]]) -> Any:
    """Return the body of a BatchWriteItem as boto3 and botocore write it, parsed."""
    from boto3.dynamodb.types import TypeSerializer

    serialize = TypeSerializer().serialize
    requests = [
        {"PutRequest": {"Item": {name: serialize(value) for name, value in item.items()}}}
        for item in items
    ]
    writer, model = serializer()
    request = writer.serialize_to_request({"RequestItems": {table: requests}}, model)
    return json.loads(request["body"])


def exact(value: Any) -> Any:
    """Return a body with its numbers as they are counted: 812.0 is 812."""
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"N"} and isinstance(value["N"], str):
        return {"N": Decimal(value["N"])}
    return {name: exact(inner) for name, inner in value.items()}


def keyed(metric: AIUsageMetric, shards: int) -> dict[str, Any]:
    """Return a metric's item with the keys that the table's documentation gives it."""
    item = metric.to_item()
    time, shard = item["timestamp"], shard_of(metric.request_id, shards)
    return {
        "PK": f"U#{metric.service}#{time[:13]}#{shard}",
        "SK": f"{time}#{metric.request_id}",
        "sh": shard,
        **item,
    }


@given(st.lists(metrics(), min_size=1, max_size=3), st.sampled_from([1, 4]))
def test_a_body_means_what_botocore_would_have_written(
    some: list[AIUsageMetric], shards: int
) -> None:
    """Attribute for attribute, number for number, for every metric that can be."""
    puts = [put_of(encode(metric), Shards((("0001", shards),))) for metric in some]
    body = batch_body('a "table"', puts)
    items = [keyed(metric, shards) for metric in some]
    assert exact(json.loads(body)) == exact(by_botocore('a "table"', items))
    assert [put.key for put in puts] == [(item["PK"], item["SK"]) for item in items]


@given(metrics())
def test_any_metric_comes_back_from_its_item(metric: AIUsageMetric) -> None:
    """What is read is what boto3's own types would make of it."""
    item = msgspec.json.decode(put_of(encode(metric), ONE).body)
    again = metric_of(item)
    assert again == metric
    assert again == AIUsageMetric.from_item(keyed(metric, 1))
    assert again.metadata == metric.metadata


def test_numbers_are_read_however_they_are_written() -> None:
    """Other writers have other habits: 1E+3 tokens are a thousand."""
    item = msgspec.json.decode(put_of(encode(make_metric(input_tokens=7)), ONE).body)
    item["inputTokens"] = {"N": "1E+3"}
    item["outputTokens"] = {"N": "2.0"}
    item["later"] = {"S": "an attribute of a later version"}
    item.pop("totalTokens", None)
    metric = metric_of(item)
    assert (metric.input_tokens, metric.output_tokens) == (1000, 2)


def test_the_full_metric_goes_out_and_comes_back() -> None:
    """No field is left behind; TTL stands beside them, and is no part of the metric."""
    metric = AIUsageMetric(**FULL_FIELDS)
    put = put_of(encode(metric), ONE, keep_seconds=86_400)
    item = msgspec.json.decode(put.body)
    assert item["ttl"] == {"N": str(int(metric.timestamp.timestamp()) + 86_400)}
    assert metric_of(item) == metric
    assert put.service == "anthropic"


def test_times_are_written_in_full_whatever_their_form() -> None:
    """Keys sort as the times do, so each has six digits of microseconds, and is UTC."""
    for text, full in (
        ("2026-11-21T12:00:00Z", "2026-11-21T12:00:00.000000Z"),
        ("2026-11-21T12:00:00.5Z", "2026-11-21T12:00:00.500000Z"),
        ("2026-11-21T12:00:00.123456Z", "2026-11-21T12:00:00.123456Z"),
        ("2026-11-21T13:00:00+01:00", "2026-11-21T12:00:00.000000Z"),
    ):
        payload = payload_of(timestamp=text)
        assert put_of(payload, ONE).key == (f"U#s#{full[:13]}#0", f"{full}#r")


def test_the_shard_is_that_of_the_moment() -> None:
    """A table may be spread wider from some time on; older metrics stay where they are."""
    shards = Shards((("0001", 2), ("2026-11-21T12:00:00.000000Z", 8)))
    for seconds, count in ((-1, 2), (0, 8), (1, 8)):
        metric = make_metric(timestamp=NOON + timedelta(seconds=seconds), request_id="r-1")
        item = msgspec.json.decode(put_of(encode(metric), shards).body)
        shard = shard_of("r-1", count)
        assert item["sh"] == {"N": str(shard)}
        assert item["PK"]["S"].endswith(f"#{shard}")


GOOD = {
    "service": "s",
    "model": "m",
    "operation": "o",
    "timestamp": "2026-11-21T12:00:00Z",
    "request_id": "r",
}


def payload_of(**changes: Any) -> bytes:
    """Return a record of the spool; None takes a field out."""
    fields = {**GOOD, **changes}
    return json.dumps({name: held for name, held in fields.items() if held is not None}).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"gap":1}',
        b'{"gap":"g","timestamp":"2026-11-21T12:00:00","reason":"disk","count":1}',
        *(payload_of(**{name: None}) for name in GOOD),
        *(payload_of(**{name: 5}) for name in GOOD),
        payload_of(request_id=""),
        payload_of(timestamp="yesterday"),
        payload_of(timestamp="2026-11-21T12:00:00"),
        payload_of(timestamp="0001-01-01T00:00:00+14:00"),
        payload_of(service="s#t"),
        payload_of(api_calls="1"),
        payload_of(input_tokens=1.5),
        payload_of(cost_usd="x"),
        payload_of(cost_usd={"N": "1"}),
        payload_of(latency_ms="1"),
        payload_of(metadata=[1]),
        payload_of(job_id=["j"]),
        payload_of()[:-1] + b',"job_id":null}',
    ],
)
def test_what_is_no_record_is_a_value_error(payload: bytes) -> None:
    """One kind of error for whatever a damaged spool may hold, so that it dies alone."""
    with pytest.raises(ValueError, match=r"\S"):
        put_of(payload, ONE)


def test_a_service_lies_under_its_name_in_lower_case() -> None:
    """As a metric has it: what is spelled otherwise is the same service."""
    put = put_of(payload_of(service="OpenAI"), ONE)
    assert put.service == "openai"
    assert put.key.partition.startswith("U#openai#")
    assert json.loads(put.body)["service"] == {"S": "openai"}


def test_fields_of_a_later_version_are_left_out() -> None:
    """An older process may deliver what a newer one recorded."""
    payload = encode(make_metric())[:-1] + b',"later":{"a":1}}'
    assert "later" not in msgspec.json.decode(put_of(payload, ONE).body)


gaps = st.builds(
    Gap,
    gap=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    timestamp=st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    reason=st.sampled_from(["disk", "invalid"]),
    count=st.integers(0, 2**63 - 1),
    service=st.none() | st.just("openai"),
    model=st.none() | st.just("a"),
    input_tokens=st.integers(0, 2**63 - 1),
    cost_usd=st.none() | st.builds(lambda n: Decimal(f"{n}E-60"), st.integers(0, 10**120)),
)


@given(gaps)
def test_any_gap_goes_out_and_comes_back(gap: Gap) -> None:
    """Also sums that have more digits than DynamoDB's numbers."""
    put = put_of(encode(gap), FOUR)
    time = gap.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert put.key == (f"G#{time[:7]}", f"{time}#{gap.gap}")
    assert put.service is None
    assert gap_of(msgspec.json.decode(put.body)) == gap


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("timestamp", {"S": "yesterday"}),
        ("inputTokens", {"S": "5"}),
        ("inputTokens", {"N": "many"}),
        ("costUSD", {"N": "dear"}),
        ("metadata", {"X": {}}),
        ("status", {"S": "odd"}),
    ],
)
def test_an_odd_item_is_named_by_its_attribute(attribute: str, value: dict[str, Any]) -> None:
    """Whoever finds a foreign item in the table learns what is wrong with it."""
    item = msgspec.json.decode(put_of(encode(make_metric()), ONE).body)
    with pytest.raises(ValueError, match=attribute):
        metric_of(item | {attribute: value})
    for missing in ("service", "model", "timestamp"):
        with pytest.raises(ValueError, match=missing):
            metric_of({name: held for name, held in item.items() if name != missing})
    with pytest.raises(ValueError, match="odd"):
        gap_of(item)


def three_puts() -> list[Put]:
    return [put_of(encode(make_metric(request_id=name)), ONE) for name in "abc"]


def refused(*keys: Key, table: str = "t") -> bytes:
    """Return a reply that says that the items under ``keys`` were not taken."""
    requests = [
        {"PutRequest": {"Item": {"SK": {"S": key.sort}, "x": {"N": "1"}, "PK": {"S": key[0]}}}}
        for key in keys
    ]
    return json.dumps({"UnprocessedItems": {table: requests}}).encode()


def test_what_was_not_taken_is_known_by_its_key() -> None:
    """In whatever order DynamoDB names them; the order of the puts is kept."""
    puts = three_puts()
    assert unprocessed(b'{"UnprocessedItems":{}}', puts) == []
    assert unprocessed(b'{ "UnprocessedItems" : {} , "ConsumedCapacity": [] }', puts) == []
    assert unprocessed(b'{"UnprocessedItems":{"t":[]}}', puts) == []
    assert unprocessed(refused(puts[2].key, puts[0].key), puts) == [puts[0], puts[2]]
    assert unprocessed(refused(*[put.key for put in puts]), puts) == puts


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"<html>503</html>",
        b'{"UnprocessedItems":{}',
        b'{"UnprocessedItems":null}',
        b'{"UnprocessedItems":[]}',
        b'{"unprocessedItems":{}}',
        b'{"UnprocessedItems":{"t":[{"DeleteRequest":{"Key":{}}}]}}',
        b'{"UnprocessedItems":{"t":[{"PutRequest":{"Item":{"PK":{"S":"x"}}}}]}}',
        b'{"UnprocessedItems":{"t":[{"PutRequest":{"Item":{"PK":{"N":"1"},"SK":{"S":"x"}}}}]}}',
        b'{"UnprocessedItems":{"t":[{"PutRequest":{"Item":{"PK":"x","SK":"y"}}}]}}',
        b"\xff\xfe",
        refused(Key("U#openai#2026-11-21T12#0", "unknown")),
    ],
)
def test_a_reply_that_does_not_say_is_no_success(reply: bytes) -> None:
    """A 200 that cannot be read once meant "all written" to those who asked for the key's list."""
    with pytest.raises(CorruptReplyError):
        unprocessed(reply, three_puts())


def test_a_key_named_twice_is_no_reply_to_rely_on() -> None:
    """Keys are distinct in a request, so they are in what was not taken."""
    puts = three_puts()
    with pytest.raises(CorruptReplyError, match="not asked for"):
        unprocessed(refused(puts[0].key, puts[0].key), puts)
