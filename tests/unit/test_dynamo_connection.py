"""The connection: our bodies, botocore's signatures, no retries, no reply taken on trust."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from receipt_dynamo import ConfigurationError
from receipt_dynamo.dynamo_connection import DynamoConnection
from receipt_dynamo.dynamo_faults import code_of
from receipt_dynamo.errors import CorruptReplyError
from tests.support import fork_in_c, in_fork, quiet_fork
from tests.support.wire import Reply, Request, Wire, fault

BODY = b'{"TableName":"t","Key":{"PK":{"S":"\xc3\xbc"}}}'


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    wire = Wire(lambda _: Reply({"Item": {}}))
    with wire.between():
        yield wire


def signature(request: Request) -> str:
    """Return the signature that AWS computes of what it received."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signed = request.headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    by_name = {name.lower(): value for name, value in request.headers.items()}
    headers = {name: by_name[name] for name in signed.split(";") if name in by_name}
    again = AWSRequest("POST", request.url, headers=headers, data=request.body)
    again.context["timestamp"] = by_name["x-amz-date"]
    auth = SigV4Auth(Credentials("key", "secret"), "dynamodb", "eu-central-1")
    return str(auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again))


@pytest.mark.parametrize("operation", ["GetItem", "Query", "BatchWriteItem", "BatchGetItem"])
def test_the_body_goes_out_as_it_is_and_is_what_is_signed(wire: Wire, operation: str) -> None:
    """Not a byte is added, and AWS finds the signature right."""
    assert DynamoConnection("t").call(operation, BODY) == b'{"Item": {}}'
    (request,) = wire.requests
    assert request.body == BODY
    assert request.headers["X-Amz-Target"] == f"DynamoDB_20120810.{operation}"
    assert request.headers["Content-Type"] == "application/x-amz-json-1.0"
    assert request.headers["Authorization"].endswith(f"Signature={signature(request)}")
    assert request.url == "https://dynamodb.eu-central-1.amazonaws.com/"
    assert request.headers["User-Agent"].startswith("receipt-usage/")


def test_the_explicit_region_and_endpoint_win(wire: Wire) -> None:
    """Over what the environment says."""
    DynamoConnection("t", region="us-west-2").call("GetItem", BODY)
    DynamoConnection("t", endpoint_url="http://127.0.0.1:1").call("GetItem", BODY)
    assert [request.url for request in wire.requests] == [
        "https://dynamodb.us-west-2.amazonaws.com/",
        "http://127.0.0.1:1/",
    ]


def test_without_a_region_it_says_what_to_set(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an endpoint that is named needs none."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="Set AWS_REGION to the region of the table t"):
        DynamoConnection("t").call("GetItem", BODY)
    DynamoConnection("t", endpoint_url="http://127.0.0.1:1").call("GetItem", BODY)
    assert len(wire.requests) == 1


@pytest.mark.parametrize("mode", ["adaptive", "legacy", "standard"])
def test_botocore_retries_nothing_whatever_the_environment_says(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Attempts that multiply, and waits that nobody counts, are no use to whoever retries."""
    monkeypatch.setenv("AWS_RETRY_MODE", mode)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    wire.answer = lambda _: fault("InternalServerError", 500)
    connection = DynamoConnection("t")
    with pytest.raises(Exception, match="InternalServerError") as caught:
        connection.call("GetItem", BODY)
    assert code_of(caught.value) == "InternalServerError"
    assert len(wire.requests) == 1
    config = connection._client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (1.0, 3.0)
    assert config.tcp_keepalive
    assert config.retries["mode"] == "standard"


@pytest.mark.parametrize("reply", [Reply({}, crc="1"), Reply({}, 500, crc="1")])
def test_a_wrong_checksum_is_no_reply(wire: Wire, reply: Reply) -> None:
    """botocore returns it once its retries are off; here it is an error, success or not."""
    wire.answer = lambda _: reply
    with pytest.raises(CorruptReplyError, match="does not have the checksum 1"):
        DynamoConnection("t").call("GetItem", BODY)


def test_a_reply_without_a_checksum_is_taken(wire: Wire) -> None:
    """Other engines send none."""
    wire.answer = lambda _: Reply({"Item": {}}, crc="")
    assert DynamoConnection("t").call("GetItem", BODY) == b'{"Item": {}}'


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"Item":{"a":'])
def test_what_botocore_would_read_as_nothing_comes_as_it_is(wire: Wire, body: bytes) -> None:
    """Its parser makes an empty dict of each of these: who asked has to see the bytes."""
    wire.answer = lambda _: Reply(body)
    assert DynamoConnection("t").call("GetItem", BODY) == body


def test_errors_are_those_of_botocore(wire: Wire) -> None:
    """Unwrapped, with the code, the status and the reasons that DynamoDB gives."""
    from botocore.exceptions import ClientError

    reasons = [{"reason": "TableWriteKeyRangeThroughputExceeded", "resource": "t"}]
    wire.answer = lambda _: Reply(
        {
            "__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
            "message": "slow down",
            "ThrottlingReasons": reasons,
        },
        400,
    )
    with pytest.raises(ClientError, match="slow down") as caught:
        DynamoConnection("t").call("BatchWriteItem", BODY)
    assert caught.value.response["ThrottlingReasons"] == reasons
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_connecting_waits_for_the_first_call() -> None:
    """boto3 costs a third of a second: who only records never loads it."""
    code = (
        "import sys; from receipt_dynamo.dynamo_client import DynamoClient; "
        "DynamoClient('t'); print('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("fork", [quiet_fork, fork_in_c])
def test_a_client_is_made_once_and_again_after_close_or_a_fork(
    wire: Wire, fork: Callable[[], int]
) -> None:
    """A child that wrote to its parent's socket would read its parent's replies."""
    connection = DynamoConnection("t")
    connection.call("GetItem", BODY)
    first = connection._client
    connection.call("Query", BODY)
    assert connection._client is first

    def child() -> None:
        connection.call("GetItem", BODY)
        assert connection._client is not first

    with connection._lock:  # as another thread might hold it at the moment of the fork
        assert in_fork(child, fork=fork) == 0
    assert connection._client is first

    connection.close()
    assert connection._client is None
    connection.close()


def test_many_threads_make_one_client(wire: Wire) -> None:
    """Sessions are not thread-safe, and a client takes a tenth of a second to make."""
    from concurrent.futures import ThreadPoolExecutor

    connection = DynamoConnection("t")
    made: list[Any] = []
    real = connection._open
    connection._open = lambda: made.append(real()) or made[-1]  # type: ignore[method-assign, func-returns-value]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: connection.call("GetItem", BODY), range(40)))
    assert len(made) == 1
    assert len(wire.requests) == 40
