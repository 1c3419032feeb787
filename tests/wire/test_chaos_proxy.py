"""The chaos proxy on real sockets: what a client sees of each fault, and what the engine had."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from botocore.exceptions import ChecksumError, ClientError, ConnectionClosedError, ReadTimeoutError

from benchmarks.chaos.messages import Message, reply_of
from benchmarks.chaos.schedule import Faults, Latency, Phase, Schedule
from tests.support.chaos_clients import (
    NAMES,
    PATIENCE_SECONDS,
    ask,
    client_of,
    connect,
    raw_request,
)
from tests.support.chaos_rig import TABLE, batch_of, put_of, rigged


def test_without_faults_everything_passes(log: Path) -> None:
    """Requests and replies come through as they are, many on one connection."""
    with rigged(Faults(), log) as rig:
        client = client_of(rig.endpoint)
        for name in NAMES:
            assert client.batch_write_item(**batch_of(name))["UnprocessedItems"] == {}
        client.put_item(TableName=TABLE, Item=put_of("single"))
        requests = rig.stop()
    assert rig.engine.ids == [*NAMES, "single"]
    assert rig.engine.connections == 1
    assert {request.connection for request in requests} == {1}
    assert [(one.op, one.table, one.sent, one.applied, one.status) for one in requests] == [
        *[("BatchWriteItem", TABLE, 1, 1, 200)] * 5,
        ("PutItem", TABLE, 1, 1, 200),
    ]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("error_500", 500, "InternalServerError"),
        ("error_503", 503, "ServiceUnavailable"),
        ("expired_credentials", 400, "ExpiredTokenException"),
    ],
)
def test_an_error_is_answered_and_nothing_written(
    log: Path, fault: str, status: int, code: str
) -> None:
    """The client gets DynamoDB's error on a connection that goes on; the engine gets nothing."""
    with rigged(Faults(**{fault: 1.0}), log) as rig:  # type: ignore[arg-type]
        client = client_of(rig.endpoint)
        for _ in range(2):
            with pytest.raises(ClientError) as caught:
                client.batch_write_item(**batch_of(*NAMES))
        (request, _) = rig.stop()
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert rig.engine.requests == []
    assert (request.fault, request.status, request.applied, request.left) == (
        fault, status, 0, NAMES,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "error", "applied"),
    [
        ("reset_before", ConnectionClosedError, False),
        ("reset_after", ConnectionClosedError, True),
        ("lost_reply", ConnectionClosedError, True),
        ("truncated", ChecksumError, True),
        ("black_hole", ReadTimeoutError, False),
    ],
)
def test_a_reply_that_never_comes_whole(
    log: Path, fault: str, error: type[Exception], applied: bool
) -> None:
    """The client learns nothing; whether the engine wrote the batch depends on the fault."""
    patience = 0.5 if error is ReadTimeoutError else PATIENCE_SECONDS
    with rigged(Faults(**{fault: 1.0}), log) as rig:  # type: ignore[arg-type]
        with pytest.raises(error):
            client_of(rig.endpoint, timeout=patience).batch_write_item(**batch_of(*NAMES))
        (request,) = rig.stop()
    assert rig.engine.ids == (NAMES if applied else [])
    assert (request.fault, request.status) == (fault, None)
    assert (request.applied, request.left) == ((5, []) if applied else (0, NAMES))


@pytest.mark.parametrize("fault", ["reset_before", "reset_after"])
def test_a_reset_is_a_reset(log: Path, fault: str) -> None:
    """The kernel says so: ECONNRESET, not an end."""
    body = json.dumps(batch_of(*NAMES)).encode()
    with rigged(Faults(**{fault: 1.0}), log) as rig, connect(rig) as connection:  # type: ignore[arg-type]
        connection.sendall(raw_request(body))
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_lost_reply_is_an_orderly_end(log: Path) -> None:
    """The connection is closed with nothing sent."""
    body = json.dumps(batch_of(*NAMES)).encode()
    with rigged(Faults(lost_reply=1.0), log) as rig, connect(rig) as connection:
        connection.sendall(raw_request(body))
        assert connection.recv(1) == b""


def test_a_truncated_body_is_shorter_than_its_length(log: Path) -> None:
    """The head is whole, the body is half of what it says."""
    body = json.dumps(batch_of(*NAMES)).encode()
    with rigged(Faults(truncated=1.0), log) as rig:
        head, _, cut = ask(rig, raw_request(body)).partition(b"\r\n\r\n")
    assert b"Content-Length: 23" in head
    assert cut == b'{"UnprocessedItems":{}}'[:11]


def test_a_black_hole_lasts_until_the_client_gives_up(log: Path) -> None:
    """It is noted when the client's end is, with the time that it took."""
    looks = iter([0.0, 1.0, 3.5])  # it begins, the request is there, the client is gone
    with rigged(Faults(black_hole=1.0), log, clock=lambda: next(looks)) as rig:
        with pytest.raises(ReadTimeoutError):
            client_of(rig.endpoint, timeout=0.5).put_item(TableName=TABLE, Item=put_of("x"))
        (request,) = rig.stop()
    assert (request.t, request.ms) == (1.0, 2500.0)


def test_a_reply_drips(log: Path) -> None:
    """It comes in small pieces, whole, and takes as long as was said."""
    body = json.dumps(batch_of(*NAMES)).encode()
    with rigged(Faults(drip=1.0, drip_seconds=0.5), log) as rig:
        with connect(rig) as connection:
            began = time.monotonic()  # before it sends: a pause after that would not be counted
            connection.sendall(raw_request(body))
            pieces = [connection.recv(1 << 16)]
            while not pieces[-1].endswith(b"}}"):
                pieces.append(connection.recv(1 << 16))
            took = time.monotonic() - began
        (request,) = rig.stop()
    assert len(pieces) > 2
    assert took >= 0.49
    assert (request.fault, request.status, request.applied) == ("drip", 200, 5)
    assert request.ms >= 499


def test_a_partial_batch_comes_back_in_part(log: Path) -> None:
    """What the engine did not get is unprocessed; together they are the batch, each item once."""
    with rigged(Faults(partial=1.0), log) as rig:
        client = client_of(rig.endpoint)
        for _ in range(20):
            rig.engine.requests.clear()
            reply = client.batch_write_item(**batch_of(*NAMES))
            back = [
                one["PutRequest"]["Item"]["SK"]["S"].partition("#")[2]
                for one in reply["UnprocessedItems"][TABLE]
            ]
            assert back
            assert rig.engine.ids
            assert sorted(back + rig.engine.ids) == NAMES
        requests = rig.stop()
    assert {one.fault for one in requests} == {"partial"}
    assert requests[-1].left == back
    assert requests[-1].applied == 5 - len(back)


def test_what_the_engine_leaves_is_not_applied(log: Path) -> None:
    """The engine's own UnprocessedItems are passed on beside the proxy's, and logged as left."""

    def leave_the_first(request: Message) -> bytes:
        first = json.loads(request.body)["RequestItems"][TABLE][:1]
        return reply_of(200, json.dumps({"UnprocessedItems": {TABLE: first}}).encode()).bytes

    with rigged(Faults(partial=1.0), log) as rig:
        rig.engine.answer = leave_the_first
        reply = client_of(rig.endpoint).batch_write_item(**batch_of(*NAMES))
        (request,) = rig.stop()
    back = [one["PutRequest"]["Item"]["SK"]["S"][-4:] for one in reply["UnprocessedItems"][TABLE]]
    assert sorted(back) == request.left
    assert request.applied == 5 - len(back)
    assert rig.engine.ids[0] in back


def test_a_limit_of_the_table_refuses_with_its_reason(log: Path) -> None:
    """What fits is written, the rest unprocessed; where nothing fits, an error says why."""
    with rigged(Faults(table_units=3), log, clock=lambda: 50.0) as rig:
        client = client_of(rig.endpoint)
        left = client.batch_write_item(**batch_of(*NAMES))["UnprocessedItems"][TABLE]
        with pytest.raises(ClientError) as caught:
            client.batch_write_item(**batch_of(*NAMES))
        first, second = rig.stop()
    assert len(left) == 2
    assert rig.engine.ids == NAMES[:3]
    assert caught.value.response["Error"]["Code"] == "ProvisionedThroughputExceededException"
    (reason,) = caught.value.response["ThrottlingReasons"]
    assert reason["reason"] == "TableWriteProvisionedThroughputExceeded"
    assert reason["resource"].endswith(f":table/{TABLE}")
    assert (first.fault, first.status, first.units, first.left) == (
        "throttled", 200, 3, NAMES[3:],
    )  # fmt: skip
    assert (second.fault, second.status, second.units, second.left) == (
        "throttled", 400, 0, NAMES,
    )  # fmt: skip


def test_a_limit_of_a_key_says_so(log: Path) -> None:
    """A hot partition key has a reason of its own."""
    with rigged(Faults(key_units=1), log, clock=lambda: 50.0) as rig:
        client = client_of(rig.endpoint)
        client.put_item(TableName=TABLE, Item=put_of("a"))
        with pytest.raises(ClientError) as caught:
            client.put_item(TableName=TABLE, Item=put_of("b"))
    (reason,) = caught.value.response["ThrottlingReasons"]
    assert reason["reason"] == "TableWriteKeyRangeThroughputExceeded"


def test_endless_demand_gets_the_rate_of_the_table(log: Path) -> None:
    """Over time on real sockets, accepted units are at least 97 % of what came, and never more."""
    schedule = Schedule("s", [Phase(0, None, Faults(table_units=100))])
    now = [0.0]
    with rigged(schedule, log, clock=lambda: now[0]) as rig, connect(rig) as connection:
        data = raw_request(json.dumps(batch_of(*NAMES)).encode())
        for tick in range(200):
            now[0] = tick * 0.02
            connection.sendall(data)
            connection.recv(1 << 16)
        requests = rig.stop()
    accepted, come = 0, 100 * 199 * 0.02
    for request in requests:
        accepted += request.units
        assert accepted <= 100 + 100 * request.t + 1e-6
    assert accepted >= 0.97 * (100 + come)
    assert len(rig.engine.ids) == accepted == sum(one.applied for one in requests)


def test_in_an_outage_reads_are_reset_too(log: Path) -> None:
    """Every request is reset at once, however long replies take."""
    with rigged(Faults(outage=True, latency=Latency(seconds=60)), log) as rig:
        client = client_of(rig.endpoint)
        with pytest.raises(ConnectionClosedError):
            client.get_item(TableName=TABLE, Key={"PK": {"S": "a"}, "SK": {"S": "b"}})
        with pytest.raises(ConnectionClosedError):
            client.batch_write_item(**batch_of(*NAMES))
        read, write = rig.stop()
    assert rig.engine.requests == []
    assert (read.fault, read.sent, read.ids) == ("outage", 0, [])
    assert (write.fault, write.sent, write.left) == ("outage", 5, NAMES)


def test_other_faults_leave_reads_alone(log: Path) -> None:
    """Where every write fails, reads come through."""
    with rigged(Faults(error_500=1.0), log) as rig:
        client_of(rig.endpoint).get_item(TableName=TABLE, Key={"PK": {"S": "a"}, "SK": {"S": "b"}})
        (request,) = rig.stop()
    assert (request.op, request.table, request.fault) == ("GetItem", TABLE, "none")


@pytest.mark.parametrize("faults", [{}, {"error_500": 1.0}])
def test_a_reply_takes_at_least_its_latency(log: Path, faults: dict[str, float]) -> None:
    """Replies and errors alike are held; what the engine takes itself counts towards it."""
    body = json.dumps(batch_of("x")).encode()
    with rigged(Faults(latency=Latency(seconds=0.1), **faults), log) as rig:  # type: ignore[arg-type]
        with connect(rig) as connection:
            began = time.monotonic()
            connection.sendall(raw_request(body))
            connection.recv(1 << 16)
            took = time.monotonic() - began
        (request,) = rig.stop()
    assert took >= 0.1
    assert request.ms >= 100
