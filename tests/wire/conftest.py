"""Real botocore, configured as deliveries configure it, and what it makes of an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from botocore.config import Config
from botocore.exceptions import ChecksumError
from botocore.session import Session

from receipt_dynamo.failures import Key, Verdict, classify
from tests.support.fake_dynamodb import make_item, put_requests

SENT: list[Key] = [("U#openai#2026-11-21T20#0", f"r{number}") for number in range(3)]
READ_TIMEOUT = 0.4


def make_client(**changes: Any) -> Any:
    """Return a client that retries nothing and waits for nothing long."""
    config = {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "connect_timeout": 0.4,
        "read_timeout": READ_TIMEOUT,
        "parameter_validation": changes.pop("parameter_validation", False),
        "proxies": changes.pop("proxies", None),
    }
    arguments = {
        "region_name": "us-east-1",
        "aws_access_key_id": "AKIAEXAMPLE",
        "aws_secret_access_key": "secret",
        **changes,
    }
    client = Session().create_client("dynamodb", config=Config(**config), **arguments)
    client.meta.events.register("after-call.dynamodb.BatchWriteItem", check_sum)
    return client


def check_sum(http_response: Any, **_: object) -> None:
    """Refuse a reply whose checksum is wrong: with its retries off, botocore lets it through."""
    told = http_response.headers.get("x-amz-crc32")
    actual = str(crc32(http_response.content))
    if told is not None and told != actual:
        raise ChecksumError(checksum_type="crc32", expected_checksum=told, actual_checksum=actual)


def judge(client: Any) -> Verdict:
    """Send a batch of three, and classify what comes of it."""
    answer: object
    try:
        answer = client.batch_write_item(**put_requests([make_item(key) for key in SENT]))
    except Exception as error:
        answer = error
    return classify(answer, sent=SENT)


@pytest.fixture
def judge_wire() -> Callable[[Any], Verdict]:
    """Answer a batch with a response, or raise an exception where the socket would, and judge."""

    def answer_with(answer: Any) -> Verdict:
        client = make_client()

        def before_send(**_: object) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        client.meta.events.register("before-send.dynamodb", before_send)
        return judge(client)

    return answer_with
