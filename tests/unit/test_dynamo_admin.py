"""Making a table takes time on AWS: what is waited for, tried again, and given up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from receipt_dynamo import StoreError
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.table import definition
from tests.support import FakeClock
from tests.support.wire import Reply, Request, Wire, fault

SHARDS = {"L": [{"M": {"from": {"S": "0001-01-01T00:00:00.000000Z"}, "shards": {"N": "1"}}}]}


def table(status: str = "ACTIVE", index_status: str = "ACTIVE") -> Reply:
    """Return what DescribeTable says of a table of ours."""
    found = definition("t")
    for index in found["GlobalSecondaryIndexes"]:
        index["IndexStatus"] = index_status
    return Reply({"Table": {**found, "TableStatus": status}})


class Account:
    """AWS as far as making a table goes: each operation's replies in turn, the last for ever."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {
            "CreateTable": [Reply({"TableDescription": {}})],
            "DescribeTable": [table()],
            "DescribeTimeToLive": [Reply({"TimeToLiveDescription": {}})],
            "UpdateTimeToLive": [Reply({"TimeToLiveSpecification": {}})],
            "UpdateItem": [Reply({"Attributes": {"shards": SHARDS}})],
            "GetItem": [Reply({"Item": {"shards": SHARDS}})],
        }

    def __call__(self, request: Request) -> Reply:
        replies = self.replies[request.operation]
        return replies.pop(0) if len(replies) > 1 else replies[0]


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def wire(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    wire = Wire(account)
    with wire.between():
        yield wire


@pytest.fixture
def client(wire: Wire, clock: FakeClock) -> DynamoClient:
    assert wire
    return DynamoClient("t", region="us-east-1", clock=clock)


def test_it_returns_when_table_and_indexes_are_active(
    client: DynamoClient, account: Account, clock: FakeClock, wire: Wire
) -> None:
    """Asked every two seconds; just made, it may not even be known yet."""
    account.replies["DescribeTable"] = [
        fault("ResourceNotFoundException"),
        table("CREATING", "CREATING"),
        table("ACTIVE", "CREATING"),
        table(),
    ]
    begun = clock.monotonic()
    assert client.create_table().status == "ACTIVE"
    assert clock.monotonic() - begun == 6.0
    assert wire.operations().count("DescribeTable") == 4
    assert wire.requests[0].json == definition("t")


def test_a_table_that_is_there_is_no_fault(client: DynamoClient, account: Account) -> None:
    """Nor one that another process is making at this moment; TTL is left as it is."""
    account.replies["CreateTable"] = [fault("ResourceInUseException")]
    account.replies["DescribeTimeToLive"] = [
        Reply({"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}})
    ]
    account.replies["UpdateTimeToLive"] = [fault("ValidationException")]
    assert client.create_table().differences == []


def test_another_process_may_switch_ttl_on_first(client: DynamoClient, account: Account) -> None:
    """What was wanted is so: no fault."""
    on = {"TimeToLiveStatus": "ENABLING", "AttributeName": "ttl"}
    account.replies["DescribeTimeToLive"].append(Reply({"TimeToLiveDescription": on}))
    account.replies["UpdateTimeToLive"] = [fault("ValidationException")]
    assert client.create_table().ttl_attribute == "ttl"


@pytest.mark.parametrize(
    "step", ["CreateTable", "DescribeTable", "DescribeTimeToLive", "UpdateItem", "GetItem"]
)
@pytest.mark.parametrize("tries", [1, 5])
def test_each_step_is_tried_so_often(
    client: DynamoClient, account: Account, wire: Wire, clock: FakeClock, step: str, tries: int
) -> None:
    """Two seconds apart; then it is an error that says why."""
    account.replies[step] = [fault("InternalServerError", 500)]
    begun = clock.monotonic()
    with pytest.raises(StoreError, match=r"the table t \(us-east-1\) .*InternalServerError"):
        client.create_table(tries=tries)
    assert wire.operations().count(step) == tries
    assert clock.monotonic() - begun == 2.0 * (tries - 1)


def test_too_many_tables_in_the_making_is_waited_out(
    client: DynamoClient, account: Account
) -> None:
    """AWS makes so many at a time."""
    account.replies["CreateTable"].insert(0, fault("LimitExceededException"))
    assert client.create_table().status == "ACTIVE"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (table("DELETING"), "does not become ready: it is ACTIVE, DELETING"),
        (table("CREATING", "CREATING"), "does not become ready: it is CREATING"),
    ],
)
def test_a_table_that_does_not_get_ready_is_an_error(
    client: DynamoClient, account: Account, found: Reply, said: str
) -> None:
    """At once when it is being deleted, else after five minutes."""
    account.replies["DescribeTable"] = [found]
    with pytest.raises(StoreError, match=said):
        client.create_table()


@pytest.mark.parametrize("body", [b"", b"<html>", {}, {"Table": None}])
def test_what_cannot_be_read_describes_no_table(
    client: DynamoClient, account: Account, body: Any
) -> None:
    """Least of all one of ours."""
    account.replies["DescribeTable"] = [Reply(body)]
    with pytest.raises(StoreError, match="DescribeTable was answered with what cannot be read"):
        client.describe_table()
