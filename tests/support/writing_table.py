"""A table as far as writing goes, and what is sent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from receipt_dynamo import AIUsageMetric
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_wire import Put
from tests.support import encode, make_metric
from tests.support.wire import Answer, Reply, Request, Wire, fault

REGISTRY = {"shards": {"L": [{"M": {"from": {"S": "0001"}, "shards": {"N": "1"}}}]}}
DONE = Reply({"UnprocessedItems": {}})
NAMES = "abcdefghijklmnopqrstuvwxyz"


class Table:
    """A table as far as writing goes. ``batch`` answers BatchWriteItem, or takes it all."""

    def __init__(self) -> None:
        self.batch: Answer = lambda _: DONE
        self.update: Answer = lambda _: Reply({"Attributes": REGISTRY})

    def __call__(self, request: Request) -> Reply:
        if request.operation == "GetItem":
            return Reply({"Item": REGISTRY})
        if request.operation == "UpdateItem":
            return self.update(request)
        assert request.operation == "BatchWriteItem", request.operation
        return self.batch(request)


def names_of(request: Request) -> list[str]:
    """Return the request ids of a BatchWriteItem."""
    puts = request.json["RequestItems"]["t"]
    return [put["PutRequest"]["Item"]["SK"]["S"].rpartition("#")[2] for put in puts]


def sent(wire: Wire) -> list[list[str]]:
    """Return the request ids of each BatchWriteItem so far."""
    return [names_of(r) for r in wire.requests if r.operation == "BatchWriteItem"]


def not_taken(request: Request, names: str) -> Reply:
    """Return the reply that leaves some items of a request unprocessed."""
    puts = request.json["RequestItems"]["t"]
    left = [put for put, name in zip(puts, names_of(request), strict=True) if name in names]
    return Reply({"UnprocessedItems": {"t": left[::-1]} if left else {}})


def named(names: str = NAMES, **changes: Any) -> list[AIUsageMetric]:
    return [make_metric(request_id=name, **changes) for name in names]


def puts_of(client: DynamoClient, metrics: list[AIUsageMetric]) -> list[Put]:
    return [client.prepare(encode(metric)) for metric in metrics]


def refuse(names: Iterable[str]) -> Callable[[Request], Reply]:
    """Answer as DynamoDB does: one bad item, and none is taken."""
    return lambda request: (
        fault("ValidationException", 400, "Item size has exceeded the maximum allowed size")
        if set(names) & set(names_of(request))
        else DONE
    )
