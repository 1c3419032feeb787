"""Answers from a table that answers late, in parts, or not: all of it, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, StoreError, UsageQuery
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_wire import put_of
from receipt_dynamo.table import PROJECTED, Shards
from tests.support import FakeClock, encode, make_metric
from tests.support.wire import Reply, Request, Wire, fault

METRICS = [make_metric(request_id=f"{number:03}", job_id="j") for number in range(10)]


def item_of(metric: AIUsageMetric) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(put_of(encode(metric), Shards()).body)
    return item


class Table:
    """Ten metrics of one hour; ``keys_at_once`` of a BatchGetItem are answered."""

    def __init__(self) -> None:
        self.items = {metric.request_id: item_of(metric) for metric in METRICS}
        self.keys_at_once = 100
        self.odd: dict[int, Reply] = {}
        self.count = 0

    def __call__(self, request: Request) -> Reply:
        self.count += 1
        if self.count in self.odd:
            return self.odd[self.count]
        asked = request.json
        if request.operation == "GetItem":
            return Reply({"Item": {"services": {"SS": ["openai"]}}})
        if request.operation == "BatchGetItem":
            return self.get(asked["RequestItems"]["t"])
        values = asked["ExpressionAttributeValues"]
        if values.get(":pk", {}).get("S", "").startswith("H#"):
            return Reply({"Items": [{"SK": {"S": "2026-11"}, "hours": {"NS": ["492"]}}]})
        start = asked.get("ExclusiveStartKey", {}).get("SK", {}).get("S", "")
        left = [item for item in self.items.values() if item["SK"]["S"] > start]
        page = {"Items": left[:4]}
        if len(left) > 4:
            page["LastEvaluatedKey"] = {"PK": left[3]["PK"], "SK": left[3]["SK"]}  # type: ignore[assignment]
        return Reply(page)

    def get(self, asked: dict[str, Any]) -> Reply:
        assert asked["ConsistentRead"] is True
        names = [key["SK"]["S"].rpartition("#")[2] for key in asked["Keys"]]
        answered = names[: self.keys_at_once]
        found = [self.items[name] for name in answered if name in self.items]
        left = {"t": {"Keys": asked["Keys"][self.keys_at_once :], "ConsistentRead": True}}
        return Reply(
            {"Responses": {"t": found[::-1]}, "UnprocessedKeys": left if left["t"]["Keys"] else {}}
        )


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def wire(table: Table, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    wire = Wire(table)
    with wire.between():
        yield wire


@pytest.fixture
def client(wire: Wire, clock: FakeClock) -> DynamoClient:
    assert wire
    return DynamoClient("t", region="us-east-1", clock=clock, rng=Random(1))  # noqa: S311


ALL, JOB = UsageQuery(), UsageQuery(job_id="j")


def test_pages_are_followed_to_the_last(client: DynamoClient, wire: Wire) -> None:
    """Ten metrics in pages of four, from the table and from an index."""
    for query in (ALL, JOB):
        wire.requests.clear()
        assert client.summarize(query, (), "UTC")[0].calls == 10
        assert list(client.query(query)) == METRICS


def test_the_table_is_read_consistently_and_an_index_says_which(
    client: DynamoClient, wire: Wire
) -> None:
    """An index knows no consistent read; a sum asks for no attribute that it does not need."""
    client.summarize(ALL, ("model",), "UTC")
    client.summarize(JOB, ("model",), "UTC")
    asked = [request.json for request in wire.requests if request.operation == "Query"]
    of_table = [query for query in asked if "IndexName" not in query]
    of_index = [query for query in asked if "IndexName" in query]
    assert all(query["ConsistentRead"] is True for query in of_table)
    assert {query["IndexName"] for query in of_index} == {"GSI_JOB"}
    assert all("ConsistentRead" not in query for query in of_index)
    names = set(of_index[0]["ExpressionAttributeNames"].values())
    assert names <= {*PROJECTED, "jobId", "sh", "PK", "SK"}
    assert "metadata" not in {
        name for query in of_table for name in query.get("ExpressionAttributeNames", {}).values()
    }
    assert not [request for request in wire.requests if request.operation == "BatchGetItem"]


def test_what_an_index_does_not_hold_is_read_from_the_table(
    client: DynamoClient, wire: Wire
) -> None:
    """By the keys that the index gives: a job's report by user, or only one user's part of it."""
    for query, by in ((JOB, ("user",)), (UsageQuery(job_id="j", user_id="u"), ())):
        wire.requests.clear()
        client.summarize(query, by, "UTC")
        assert "BatchGetItem" in wire.operations()


@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_keys_that_were_not_answered_are_asked_for_again(
    client: DynamoClient, table: Table, at_once: int
) -> None:
    """In whatever order the items come, the answer keeps its own."""
    table.keys_at_once = at_once
    assert list(client.query(JOB)) == METRICS


def test_keys_that_are_never_answered_are_an_error(client: DynamoClient, table: Table) -> None:
    """Not a shorter answer."""
    table.keys_at_once = 0
    with pytest.raises(StoreError, match="is throttled: 10 items could not be read"):
        list(client.query(JOB))


def test_an_item_that_is_gone_since_is_not_there(client: DynamoClient, wire: Wire) -> None:
    """An index lags behind: what was deleted or given to another job is not in its answer."""
    real = wire.answer

    def lagging(request: Request) -> Reply:
        reply = real(request)
        if request.operation == "BatchGetItem":
            kept = reply.body["Responses"]["t"][1:]
            kept[0] = kept[0] | {"jobId": {"S": "other"}}
            reply.body["Responses"]["t"] = kept
        return reply

    wire.answer = lagging
    assert list(client.query(JOB)) == METRICS[:8]


@pytest.mark.parametrize(
    "odd",
    [
        fault("InternalServerError", 500),
        fault("ProvisionedThroughputExceededException"),
        Reply(b'{"Items":['),
        Reply(b"{}"),
        Reply({"Items": []}, crc="1"),
    ],
)
def test_a_fault_of_the_moment_is_in_no_answer(
    client: DynamoClient, table: Table, odd: Reply, clock: FakeClock
) -> None:
    """Whichever request it befalls, it is asked again, and the answer is whole."""
    for question, answer in (
        (lambda: client.summarize(ALL, (), "UTC")[0].calls, 10),
        (lambda: len(list(client.query(ALL))), 10),
    ):
        table.count, table.odd = 0, {}
        question()
        for number in range(2, table.count + 1):  # the first is a GetItem: {} is an answer to it
            table.count, table.odd = 0, {number: odd}
            assert question() == answer, number


@pytest.mark.parametrize("item", [{"PK": {"S": "x"}}, {"PK": "x"}, 5])
def test_an_item_without_a_key_is_an_error(client: DynamoClient, wire: Wire, item: Any) -> None:
    """No table has one: the reply is damaged, and no part of it is used."""
    real = wire.answer

    def damaged(request: Request) -> Reply:
        reply = real(request)
        if request.operation == "Query" and "hours" not in json.dumps(reply.body):
            reply.body["Items"][0] = item
        return reply

    wire.answer = damaged
    for question in (
        lambda: list(client.query(ALL)),
        lambda: client.summarize(ALL, ("service",), "UTC"),
        lambda: client.recorded_times([("openai", "r")]),
    ):
        with pytest.raises(StoreError):
            question()
