"""Real botocore and what it makes of an answer, on two roads to the same table of failures.

``delivery`` is the client that deliveries use: bodies of its own within botocore. ``botocore`` is a
plain client as others have it, which parses every reply. Clients are made once: it takes longer
than all that is asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from botocore.config import Config
from botocore.exceptions import ChecksumError
from botocore.session import Session

from receipt_dynamo import DynamoClient
from receipt_dynamo.dynamo_connection import DynamoConnection
from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.failures import Key, Verdict, classify, classify_left
from receipt_dynamo.table import Key as TableKey
from tests.support.dynamodb import access_key
from tests.support.fake_dynamodb import TABLE, make_item, put_requests

SENT: list[Key] = [("U#openai#2026-11-21T20#0", f"r{number}") for number in range(3)]
PUTS = [
    Put(TableKey(*key), "openai", b'{"PK":{"S":"%b"},"SK":{"S":"%b"}}' % (p, s), b"")
    for key in SENT
    for p, s in [(key[0].encode(), key[1].encode())]
]
READ_TIMEOUT = 0.8  # where nothing comes
PATIENCE_SECONDS = 30.0  # where something does, be the machine as busy as it may

JudgeWire = Callable[[Any], Verdict]


def make_client(**changes: Any) -> Any:
    """Return a plain client of botocore's that retries nothing."""
    config = {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "parameter_validation": changes.pop("parameter_validation", False),
    }
    keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret"}
    arguments = {"region_name": "us-east-1", **keys, **changes}
    client = Session().create_client("dynamodb", config=Config(**config), **arguments)
    client.meta.events.register("after-call.dynamodb.BatchWriteItem", check_sum)
    return client


def check_sum(http_response: Any, **_: object) -> None:
    """Refuse a reply whose checksum is wrong: with its retries off, botocore lets it through."""
    told = http_response.headers.get("x-amz-crc32")
    actual = str(crc32(http_response.content))
    if told is not None and told != actual:
        raise ChecksumError(checksum_type="crc32", expected_checksum=told, actual_checksum=actual)


def make_store(endpoint_url: str | None = None, timeout: float = READ_TIMEOUT) -> DynamoClient:
    """Return the client that deliveries use, with nothing left to register."""
    store = DynamoClient(TABLE, region="us-east-1", endpoint_url=endpoint_url)
    store._connection = DynamoConnection(
        TABLE,
        region="us-east-1",
        endpoint_url=endpoint_url,
        connect_timeout=timeout,
        read_timeout=timeout,
    )
    store._registry.announce = lambda *_: None  # type: ignore[method-assign]
    return store


def judge_client(client: Any) -> Verdict:
    """Send a batch of three by a plain client, and classify what comes of it."""
    answer: object
    try:
        answer = client.batch_write_item(**put_requests([make_item(key) for key in SENT]))
    except Exception as error:
        answer = error
    return classify(answer, sent=SENT)


def judge_store(store: DynamoClient) -> Verdict:
    """Send a batch of three as a delivery does, and classify what comes of it."""
    try:
        left = store.send(PUTS)
    except Exception as error:
        return classify(error, sent=SENT)
    return classify_left([put.key for put in left], sent=SENT)


class Plug:
    """What a client's ``before-send`` hook does: give an answer, or raise one."""

    answer: Any = None

    def __call__(self, **_: object) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def _plug(client: Any) -> Plug:
    plug = Plug()
    client.meta.events.register("before-send.dynamodb", plug)
    return plug


@pytest.fixture(scope="session")
def _roads() -> Iterator[dict[str, JudgeWire]]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in access_key("wire").items():
            environment.setenv(name, value)
        store = make_store()
        store._connection._connect("BatchWriteItem")  # its credentials are found here
    client = make_client()
    store_plug, client_plug = _plug(store._connection._client), _plug(client)

    def by_delivery(answer: Any) -> Verdict:
        store_plug.answer = answer
        return judge_store(store)

    def by_botocore(answer: Any) -> Verdict:
        client_plug.answer = answer
        return judge_client(client)

    yield {"delivery": by_delivery, "botocore": by_botocore}
    store.close()
    client.close()


@pytest.fixture(params=["delivery", "botocore"])
def judge_wire(request: pytest.FixtureRequest, _roads: dict[str, JudgeWire]) -> JudgeWire:
    """Answer a batch with a response, or raise an exception where the socket would, and judge."""
    return _roads[request.param]


@pytest.fixture
def judge_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Verdict]]:
    """Send a batch to an address as a delivery does, and judge what comes of it."""
    for name, value in access_key("wire").items():
        monkeypatch.setenv(name, value)
    stores = []

    def judge(endpoint: str, timeout: float = PATIENCE_SECONDS) -> Verdict:
        stores.append(make_store(endpoint, timeout))
        return judge_store(stores[-1])

    yield judge
    for store in stores:
        store.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the chaos proxy of this test notes what it did."""
    return tmp_path / "chaos.jsonl"
