"""What DynamoDB refuses: the store relies on it, and moto accepts much of it."""

from __future__ import annotations

from typing import Any

import pytest

from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_faults import code_of
from receipt_dynamo.dynamo_registry import Nothing
from receipt_dynamo.table import BATCH_ITEMS

lies = pytest.mark.xfail(strict=True, reason="moto accepts it")
on_moto_too = [pytest.param("dynamodb_table"), pytest.param("moto_table")]
not_on_moto = [pytest.param("dynamodb_table"), pytest.param("moto_table", marks=lies)]


def item(name: str, **attributes: Any) -> dict[str, Any]:
    return {"PK": {"S": "U#s#2026-11-21T12#0"}, "SK": {"S": name}, **attributes}


def refusal(client: DynamoClient, *items: dict[str, Any]) -> str:
    """Put items with one BatchWriteItem; return the code of DynamoDB's refusal, or nothing."""
    requests = [{"PutRequest": {"Item": item}} for item in items]
    try:
        client._call("BatchWriteItem", {"RequestItems": {client.table_name: requests}}, Nothing)
    except Exception as error:
        return code_of(error)
    return ""


def count_of(client: DynamoClient) -> int:
    request = {
        "TableName": client.table_name,
        "FilterExpression": "begins_with(PK, :u)",
        "ExpressionAttributeValues": {":u": {"S": "U#"}},
    }
    return int(client._call("Scan", request, dict[str, Any])["Count"])


@pytest.mark.parametrize("table", not_on_moto)
def test_a_batch_has_at_most_25_items(table: str, request: pytest.FixtureRequest) -> None:
    """Hence the size of a request."""
    client = request.getfixturevalue(table)
    items = [item(f"{number}") for number in range(BATCH_ITEMS + 1)]
    assert refusal(client, *items[1:]) == ""
    assert refusal(client, *items) == "ValidationException"


@pytest.mark.parametrize("table", on_moto_too)
def test_a_batch_names_no_key_twice(table: str, request: pytest.FixtureRequest) -> None:
    """Hence a repeated identity waits for the next request."""
    client = request.getfixturevalue(table)
    assert refusal(client, item("a"), item("a")) == "ValidationException"


ODD: dict[str, dict[str, Any]] = {
    "39 digits": {"costUSD": {"N": "1." + "1" * 38}},
    "too large": {"costUSD": {"N": "1E+126"}},
    "text as the number of an index": {"githubPr": {"S": "seven"}, "sh": {"N": "0"}},
    "an empty key of an index": {"jobId": {"S": ""}, "sh": {"N": "0"}},
}
MOTO_KNOWS = "an empty key of an index"


@pytest.mark.parametrize(
    ("table", "odd"),
    [
        pytest.param(
            table, odd, marks=[lies] if table == "moto_table" and odd != MOTO_KNOWS else []
        )
        for table in ("dynamodb_table", "moto_table")
        for odd in ODD
    ],
)
def test_values_that_no_metric_has_are_refused(
    table: str, odd: str, request: pytest.FixtureRequest
) -> None:
    """The checks of a metric keep them out: DynamoDB would refuse the whole batch."""
    client = request.getfixturevalue(table)
    assert refusal(client, item("good"), item("bad", **ODD[odd])) == "ValidationException"
    if table == "dynamodb_table":
        assert count_of(client) == 0


@pytest.mark.parametrize("table", not_on_moto)
def test_one_bad_item_keeps_the_whole_batch_out(table: str, request: pytest.FixtureRequest) -> None:
    """All or nothing: so halving finds it, and nothing is counted that is not there."""
    client = request.getfixturevalue(table)
    huge = item("huge", metadata={"S": "x" * (400 << 10)})
    assert refusal(client, item("good"), huge) == "ValidationException"
    assert count_of(client) == 0
