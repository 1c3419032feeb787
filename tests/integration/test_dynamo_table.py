"""The table on DynamoDB Local: making it, and telling it from a table that is none of ours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from receipt_dynamo import ConfigurationError, StoreError
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_faults import code_of
from receipt_dynamo.dynamo_registry import Nothing
from receipt_dynamo.table import definition
from tests.support import FakeClock, make_metric, write
from tests.support.dynamodb import drop_table

_numbers = count(1)


@pytest.fixture
def client(dynamodb: str, clock: FakeClock) -> Iterator[DynamoClient]:
    """A client of a table that is not there yet."""
    with DynamoClient(f"made-{next(_numbers)}", endpoint_url=dynamodb, clock=clock) as client:
        yield client
        try:
            drop_table(client)
        except Exception as error:
            if code_of(error) != "ResourceNotFoundException":
                raise


def test_a_table_is_made_once_and_ready_when_the_call_returns(client: DynamoClient) -> None:
    """A second call changes nothing; TTL is on, the shards are registered."""
    made = client.create_table(shards=4)
    assert (made.status, made.billing, made.ttl_attribute) == ("ACTIVE", "PAY_PER_REQUEST", "ttl")
    assert (made.shards, made.services, made.differences) == (4, [], [])
    assert set(made.indexes.values()) == {"ACTIVE"}
    write(client, [make_metric()])
    again = client.create_table(shards=4)
    assert again.services == ["openai"]
    assert client.describe_table() == again


def test_several_processes_may_make_it_at_once(client: DynamoClient, dynamodb: str) -> None:
    """Every worker of a pipeline may begin with it."""
    others = [DynamoClient(client.table_name, endpoint_url=dynamodb) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda other: other.create_table(), others))
    assert {table.status for table in made} == {"ACTIVE"}


def test_a_table_keeps_its_shards(client: DynamoClient, caplog: pytest.LogCaptureFixture) -> None:
    """Other ones would put a record that comes again in another place."""
    client.create_table(shards=4)
    with caplog.at_level(logging.WARNING):
        assert client.create_table(shards=2).shards == 4
    assert "was made with other shards than 2, and keeps them" in caplog.text


def remake(client: DynamoClient, change: Callable[[dict[str, Any]], object]) -> None:
    """Make the table of a client otherwise than it should be."""
    wanted = definition(client.table_name)
    change(wanted)
    client._call("CreateTable", wanted, Nothing)


def test_a_table_of_another_schema_is_left_alone_and_described(client: DynamoClient) -> None:
    """Whoever mistypes a name learns what that table is, and nothing was changed in it."""

    def change(wanted: dict[str, Any]) -> None:
        wanted["GlobalSecondaryIndexes"] = [
            index
            for index in wanted["GlobalSecondaryIndexes"]
            if index["IndexName"] not in ("GSI_PR", "GSI_USER")
        ]
        wanted["GlobalSecondaryIndexes"][0]["Projection"] = {"ProjectionType": "KEYS_ONLY"}
        wanted["AttributeDefinitions"] = [
            entry
            for entry in wanted["AttributeDefinitions"]
            if entry["AttributeName"] not in ("githubPr", "userId")
        ]

    remake(client, change)
    with pytest.raises(StoreError, match=r"has another schema: .*Use another name") as caught:
        client.create_table()
    for said in ("GSI_PR is missing", "GSI_USER is missing", "GSI_CONV does not hold apiCalls"):
        assert said in str(caught.value)
    found = client.describe_table()
    assert "TTL is off, not on for 'ttl'" in found.differences
    assert len(found.differences) == 4
    assert found.shards is None


def test_ttl_on_another_attribute_is_said(client: DynamoClient) -> None:
    """It cannot be on for two."""
    remake(client, lambda _: None)
    client._call(
        "UpdateTimeToLive",
        {
            "TableName": client.table_name,
            "TimeToLiveSpecification": {"Enabled": True, "AttributeName": "expires"},
        },
        Nothing,
    )
    assert client.describe_table().differences == ["TTL is on for 'expires', not on for 'ttl'"]
    with pytest.raises(StoreError, match="has another schema: TTL is on for 'expires'"):
        client.create_table()


def test_a_table_that_is_not_there_is_said(client: DynamoClient) -> None:
    """With the command that makes it."""
    for question in (client.describe_table, lambda: write(client, [make_metric()])):
        with pytest.raises(StoreError, match=r"does not exist\. Create it: receipt-usage table"):
            question()


@pytest.mark.parametrize(
    "wrong", [{"shards": 0}, {"shards": 1025}, {"tries": 0}, {"wait_seconds": -1}]
)
def test_wishes_that_make_no_sense_are_refused(client: DynamoClient, wrong: Any) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        client.create_table(**wrong)
    with pytest.raises(StoreError, match="does not exist"):
        client.describe_table()
