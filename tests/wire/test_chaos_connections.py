"""The chaos proxy on real sockets: bodies and connections, and what ends in their middle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from botocore.exceptions import ConnectionClosedError

from benchmarks.chaos.log import Request, unknown_ids
from benchmarks.chaos.messages import Message
from benchmarks.chaos.schedule import Faults, Latency
from tests.support.chaos_clients import NAMES, ask, client_of, connect, raw_request
from tests.support.chaos_rig import Rig, batch_of, reply_to, rigged


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
        async with asyncio.timeout(30):
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
