"""The chaos proxy on real sockets: what a client sees of each fault, and what the engine had."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import (
    ChecksumError,
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
)
from botocore.session import Session

from benchmarks.chaos.log import Request, read_log, unknown_ids
from benchmarks.chaos.messages import Message, reply_of
from benchmarks.chaos.running import chaos_proxy
from benchmarks.chaos.schedule import SHARES, Faults, Latency, Phase, Schedule
from tests.support.chaos_rig import (
    TABLE,
    Rig,
    batch_of,
    put_of,
    reply_to,
    rigged,
    running_loop,
)
from tests.wire.conftest import check_sum

NAMES = [f"id-{number}" for number in range(5)]
SESSION = Session()  # loads what it knows of DynamoDB once
ROOT = Path(__file__).parents[2]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "chaos.jsonl"


def client_of(endpoint: str, timeout: float = 5.0) -> Any:
    """Return a client of botocore's that retries nothing and checks sums."""
    client = SESSION.create_client(
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="secret",  # noqa: S106
        config=Config(retries={"total_max_attempts": 1}, read_timeout=timeout),
    )
    client.meta.events.register("after-call.dynamodb.BatchWriteItem", check_sum)
    return client


def raw_request(body: bytes, operation: str = "BatchWriteItem") -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(rig: Rig) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(rig.endpoint.rpartition(":")[2])), 5)
    connection.settimeout(5)
    return connection


def ask(rig: Rig, data: bytes) -> bytes:
    """Send on a connection of its own; return what comes until its end, or the reply's."""
    with connect(rig) as connection:
        connection.sendall(data)
        reply = b""
        while not reply.endswith(b"}") and (more := connection.recv(1 << 16)):
            reply += more
        return reply


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
    with rigged(Faults(**{fault: 1.0}), log) as rig:  # type: ignore[arg-type]
        with pytest.raises(error):
            client_of(rig.endpoint, timeout=0.2).batch_write_item(**batch_of(*NAMES))
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
    with rigged(Faults(black_hole=1.0), log) as rig:
        with pytest.raises(ReadTimeoutError):
            client_of(rig.endpoint, timeout=0.2).put_item(TableName=TABLE, Item=put_of("x"))
        (request,) = rig.stop()
    assert request.ms >= 200


def test_a_reply_drips(log: Path) -> None:
    """It comes in small pieces, whole, and takes as long as was said."""
    body = json.dumps(batch_of(*NAMES)).encode()
    with rigged(Faults(drip=1.0, drip_seconds=0.2), log) as rig:
        with connect(rig) as connection:
            connection.sendall(raw_request(body))
            began = time.monotonic()
            pieces = [connection.recv(1 << 16)]
            while not pieces[-1].endswith(b"}}"):
                pieces.append(connection.recv(1 << 16))
            took = time.monotonic() - began
        (request,) = rig.stop()
    assert len(pieces) > 2
    assert took >= 0.1
    assert (request.fault, request.status, request.applied) == ("drip", 200, 5)
    assert request.ms >= 199


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


def test_chunked_bodies_pass_both_ways(log: Path) -> None:
    """A chunked request reaches the engine whole, a chunked reply the client."""

    def chunked(_request: Message) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + b"1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n"

    body = json.dumps(batch_of("x")).encode()
    head = raw_request(body).partition(b"\r\n\r\n")[0].replace(b"Content-Length", b"X-Was")
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:20], body[20:]))
    with rigged(Faults(), log) as rig:
        rig.engine.answer = chunked
        reply = ask(rig, head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
    assert rig.engine.ids == ["x"]
    assert reply.endswith(b"Content-Length: 2\r\n\r\n{}")


def test_an_engine_that_ends_its_connections_is_asked_anew(log: Path) -> None:
    """A reply that is the last on its connection is passed on; the next request finds another."""

    def last(request: Message) -> bytes:
        reply = reply_to(request).bytes
        return reply.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)

    with rigged(Faults(), log) as rig:
        rig.engine.answer = last
        client = client_of(rig.endpoint)
        for name in NAMES:
            client.batch_write_item(**batch_of(name))
    assert rig.engine.ids == NAMES
    assert rig.engine.connections == 5


def test_an_engine_that_is_lost_is_no_fault_of_the_schedule(log: Path) -> None:
    """The client's connection ends; the log says that nothing is known to be applied."""
    with rigged(Faults(), log) as rig:
        rig.engine.answer = lambda _request: None
        with pytest.raises(ConnectionClosedError):
            client_of(rig.endpoint).batch_write_item(**batch_of("x"))
        (request,) = rig.stop()
    assert (request.fault, request.status, request.applied) == ("engine_lost", None, 0)


def stop_during_a_write(rig: Rig, *, answered: bool) -> list[Request]:
    """Stop the proxy while the engine has a batch; return the log. The engine answers after that,
    or never."""

    async def stop() -> None:
        async with asyncio.timeout(5):
            while not rig.engine.requests:
                await asyncio.sleep(0.001)
        stopping = asyncio.ensure_future(rig.proxy.stop())
        await asyncio.sleep(0)
        assert rig.engine.held is not None
        if answered:
            rig.engine.held.set()
        await stopping

    rig.engine.held = asyncio.Event()
    with connect(rig) as connection:
        connection.sendall(raw_request(json.dumps(batch_of(*NAMES)).encode()))
        rig.run(stop())
    return rig.stop()


def test_a_write_under_way_at_the_end_is_noted_as_written(log: Path) -> None:
    """The proxy waits for the engine's answer before it ends, and the log has it."""
    with rigged(Faults(latency=Latency(seconds=60)), log) as rig:
        (request,) = stop_during_a_write(rig, answered=True)
    assert (request.fault, request.status) == ("none", None)
    assert (request.applied, request.left) == (5, [])
    assert not request.unknown


def test_a_write_that_stays_unanswered_is_noted_as_unknown(log: Path) -> None:
    """The proxy does not wait for ever; the ids are those that may be in the store or not."""
    with rigged(Faults(), log, answer_seconds=0.05) as rig:
        (request,) = requests = stop_during_a_write(rig, answered=False)
    assert (request.fault, request.applied, request.unknown) == ("engine_lost", 0, True)
    assert unknown_ids(requests) == set(NAMES)


def test_what_is_no_http_harms_nobody_else(log: Path) -> None:
    """A connection that speaks something else ends; others go on."""
    with rigged(Faults(), log) as rig:
        assert ask(rig, b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n") == b""
        client_of(rig.endpoint).batch_write_item(**batch_of("x"))
    assert rig.engine.ids == ["x"]


def test_before_it_begins_everything_is_healthy_and_unlogged(log: Path) -> None:
    """A table can be made in peace; faults and the log start at ``begin``."""
    with running_loop(log) as rig:
        schedule = Schedule("s", [Phase(0, None, Faults(error_500=1.0))])
        rig.start(schedule, 1, time.monotonic)
        client = client_of(rig.endpoint)
        client.batch_write_item(**batch_of("early"))
        rig.begin()
        with pytest.raises(ClientError):
            client.batch_write_item(**batch_of("late"))
        requests = rig.stop()
    assert rig.engine.ids == ["early"]
    assert [request.ids for request in requests] == [["late"]]
    assert 0 <= requests[0].t < 5
    assert abs(requests[0].wall - time.time()) < 60


def run_all(log: Path, seed: int) -> tuple[list[str], list[str], dict[str, int]]:
    """Send 60 batches through every fault; return fates, what the engine had, and counts."""
    shares: dict[str, Any] = dict.fromkeys((one for one in SHARES if one != "black_hole"), 0.08)
    data = raw_request(json.dumps(batch_of(*NAMES)).encode())
    with rigged(Faults(drip_seconds=0.01, **shares), log, seed=seed) as rig:
        for _ in range(60):
            with suppress(ConnectionResetError):
                ask(rig, data)
        requests = rig.stop()
    return [one.fault for one in requests], rig.engine.ids, rig.counts


def test_the_same_seed_meets_the_same_fates(tmp_path: Path) -> None:
    """The same requests in the same order find the same faults and write the same items."""
    first, again, other = (run_all(tmp_path / f"{n}", seed) for n, seed in enumerate((1, 1, 2)))
    assert first == again
    assert first[0] != other[0]


def test_the_log_is_what_happened(tmp_path: Path) -> None:
    """The items that it calls applied are those that the engine had; counts are its lines."""
    fates, written, counts = run_all(tmp_path / "log", 3)
    requests = list(read_log(tmp_path / "log"))
    applied = [name for one in requests for name in one.ids if name not in one.left]
    assert Counter(applied) == Counter(written)
    assert sum(one.applied for one in requests) == len(written)
    assert counts == Counter(f"BatchWriteItem {fault}" for fault in fates)


def test_a_proxy_in_a_process_of_its_own(log: Path) -> None:
    """It begins when it is told to, takes another schedule, and leaves counts and a whole log."""
    with running_loop(log.with_suffix(".unused")) as rig:
        engine = rig.start_engine()
        with chaos_proxy(engine, "healthy", seed=1, log=log) as proxy:
            client = client_of(proxy.endpoint)
            client.batch_write_item(**batch_of("early"))
            before = time.monotonic()
            assert before <= proxy.begin() <= time.monotonic()
            client.batch_write_item(**batch_of("healthy"))
            proxy.replace(Schedule("bad", [Phase(0, None, Faults(error_503=1.0))]))
            with pytest.raises(ClientError):
                client.batch_write_item(**batch_of("bad"))
            counts = proxy.stop()
            assert proxy.stop() == counts
            with pytest.raises(RuntimeError, match="has ended with 0"):
                proxy.begin()
    assert counts == {"BatchWriteItem none": 1, "BatchWriteItem error_503": 1}
    assert [request.ids for request in read_log(log)] == [["healthy"], ["bad"]]


def test_the_command_ends_with_its_input(log: Path) -> None:
    """Its first line is its address, its last the counts; wrong words are answered, not obeyed."""
    command = [sys.executable, "-m", "benchmarks.chaos", "http://127.0.0.1:9"]
    run = partial(subprocess.run, check=False, capture_output=True, text=True, cwd=ROOT)
    told = run(command, input='{"schedule": 5}\nbegin\n')
    address, wrong, began, counts = told.stdout.splitlines()
    assert address.startswith("http://127.0.0.1:")
    assert "not an object with phases" in json.loads(wrong)["error"]
    assert list(json.loads(began)) == ["began"]
    assert json.loads(counts) == {}
    wrong_name = run([*command, "--schedule", "stormy"])
    assert wrong_name.returncode == 2
    assert "no schedule 'stormy'" in wrong_name.stderr


def test_it_ends_when_its_parent_is_gone() -> None:
    """A harness that was killed leaves no proxy behind, even where its pipe is held open."""
    script = (
        "import os, subprocess, sys, time\n"
        "r, w = os.pipe()\n"
        "child = subprocess.Popen([sys.executable, '-m', 'benchmarks.chaos', 'http://127.0.0.1:9'],"
        " stdin=r, stdout=subprocess.PIPE, pass_fds=[w])\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        proxy = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([proxy], [], [], 10.0)
    os.close(proxy)
    assert ended
