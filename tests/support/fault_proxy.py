"""A proxy before an engine of DynamoDB's that does what networks and services do in bad hours.

Run as ``python -m tests.support.fault_proxy ENGINE SEED OUTAGE...``: it prints its address, then
serves until it is killed. Faults hit writes only, each by its share, drawn with SEED. For 3 of 20
seconds the table is at its limit: it refuses some of a batch, or all of it. An OUTAGE is
``start-end`` in seconds after the first write, within which every connection is reset.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

SHARES = {"lost": 0.15, "reset": 0.05, "500": 0.05}
AT_THE_LIMIT = {**SHARES, "partial": 0.25, "throttled": 0.25}
LIMIT_SECONDS, EVERY_SECONDS = 3.0, 20.0
_CHUNK = 1 << 16
_RST = struct.pack("ii", 1, 0)


@dataclass
class Request:
    """One request as it came."""

    head: bytes
    body: bytes

    @property
    def operation(self) -> str:
        for line in self.head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"x-amz-target":
                return value.strip().decode().rpartition(".")[2]
        return ""


@dataclass
class FaultProxy:
    """Passes requests on to the engine, but for what it breaks."""

    host: str
    port: int
    random: Random
    outages: list[tuple[float, float]]
    counts: Counter[str] = field(default_factory=Counter)
    began: float | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, over one of its own to the engine."""
        engine: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while (request := await read_message(reader)) is not None:
                if engine is None:
                    engine = await asyncio.open_connection(self.host, self.port)
                answer = await self._answer(Request(*request), engine)
                if answer is None:
                    reset(writer)
                    return
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, engine and engine[1]):
                if one is not None:
                    one.close()

    async def _answer(
        self, request: Request, engine: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> bytes | None:
        """Return the bytes of a reply, or None to reset the connection."""
        fault = self._fault(request)
        self.counts[f"{request.operation} {fault}"] += 1
        if fault in ("outage", "reset"):
            return None
        if fault == "500":
            return error_reply(500, "InternalServerError")
        if fault == "throttled":
            return error_reply(400, "ProvisionedThroughputExceededException")
        held: list[object] = []
        if fault == "partial":
            request, held = self._halve(request)
        engine[1].write(request.head + request.body)
        await engine[1].drain()
        reply = await read_message(engine[0])
        if fault == "lost" or reply is None:
            return None
        return reply[0] + reply[1] if not held else with_unprocessed(reply[1], held)

    def _fault(self, request: Request) -> str:
        if request.operation not in ("BatchWriteItem", "UpdateItem"):
            return "none"
        now = time.monotonic()
        self.began = self.began or now
        if any(start <= now - self.began < end for start, end in self.outages):
            return "outage"
        drawn = self.random.random()
        limited = (now - self.began) % EVERY_SECONDS < LIMIT_SECONDS
        for name, share in (AT_THE_LIMIT if limited else SHARES).items():
            if drawn < share:
                return "none" if name == "partial" and request.operation == "UpdateItem" else name
            drawn -= share
        return "none"

    def _halve(self, request: Request) -> tuple[Request, list[object]]:
        """Keep back a random part of a batch: at least one record, and not all of it."""
        sent = json.loads(request.body)
        ((table, puts),) = sent["RequestItems"].items()
        if len(puts) < 2:
            return request, []
        kept = self.random.sample(puts, self.random.randint(1, len(puts) - 1))
        held = [put for put in puts if put not in kept]
        body = json.dumps({"RequestItems": {table: kept}}).encode()
        length = b"Content-Length: %d" % len(body)
        lines = [
            length if line.lower().startswith(b"content-length") else line
            for line in request.head.split(b"\r\n")
        ]
        return Request(b"\r\n".join(lines), body), [table, held]


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Return head and body of a request or reply; None where the connection has ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head, await reader.readexactly(length)


def error_reply(status: int, code: str) -> bytes:
    """Return an error of DynamoDB's."""
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"})
    return reply_of(status, body.encode())


def with_unprocessed(body: bytes, held: list[object]) -> bytes:
    """Return the reply to a batch of which ``held`` (table, puts) was kept back."""
    reply = json.loads(body)
    table, puts = held
    assert isinstance(puts, list)
    reply.setdefault("UnprocessedItems", {}).setdefault(table, []).extend(puts)
    return reply_of(200, json.dumps(reply).encode())


def reply_of(status: int, body: bytes) -> bytes:
    """Return the bytes of a reply."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.0\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset, as a machine that is gone does."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()


async def main(engine: str, seed: str, *outages: str) -> None:
    """Serve on a free port of 127.0.0.1."""
    place = urlsplit(engine)
    proxy = FaultProxy(
        place.hostname or "127.0.0.1",
        place.port or 80,
        Random(int(seed)),  # noqa: S311
        [(float(start), float(end)) for start, end in (text.split("-") for text in outages)],
    )
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 25)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: sys.stdin.buffer.read1(1) or done.set())
    await done.wait()
    print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
