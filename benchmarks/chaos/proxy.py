"""A proxy before an engine of DynamoDB's that breaks what a schedule says.

One connection to the engine for each of a client's; asyncio sends without delay on both sides
(TCP_NODELAY is its default). Before ``begin`` it passes everything on, and notes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from benchmarks.chaos.buckets import TABLE_LIMIT
from benchmarks.chaos.fates import Fate, Fates
from benchmarks.chaos.log import ENGINE_LOST, Request, RequestLog
from benchmarks.chaos.messages import (
    MAX_BYTES,
    Message,
    error_reply,
    read_message,
    reply_of,
    with_body,
)
from benchmarks.chaos.schedule import Schedule
from benchmarks.chaos.writes import Item, read_table, request_id_of, unprocessed, without

__all__ = ["ChaosProxy"]

_ANSWER_SECONDS = 5.0
"""How long the end of a proxy waits for the engine to say what it wrote."""

_DRIP_SECONDS = 0.05  # between two pieces
_RST = struct.pack("ii", 1, 0)
_REPLIES = {
    "error_500": error_reply(500, "InternalServerError", "Internal server error"),
    "error_503": error_reply(503, "ServiceUnavailable", "The service is unavailable"),
    "expired_credentials": error_reply(
        400, "ExpiredTokenException", "The security token included in the request is expired"
    ),
}
_RESETS = frozenset({"outage", "reset_before", "reset_after"})
_UNREADABLE = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)


@dataclass(slots=True)
class _Engine:
    """The connection to the engine that belongs to one of a client's."""

    host: str
    port: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Message) -> Message:
        """Return the engine's reply. Raises OSError where it cannot be reached or gives none."""
        if self.streams is None or self.streams[0].at_eof():
            self.close()
            self.streams = await asyncio.open_connection(self.host, self.port, limit=MAX_BYTES)
        reader, writer = self.streams
        writer.write(request.bytes)
        reply = await _next(reader, is_reply=True)
        if reply is None:
            raise ConnectionResetError("the engine has ended the connection")
        if reply.is_last:
            self.close()
        return reply

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


@dataclass(slots=True)
class _Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    engine: _Engine

    async def send(self, data: bytes) -> bool:
        """Send, and return whether the client was still there; one that half-closes is gone."""
        if self.reader.at_eof() or self.writer.is_closing():
            return False
        self.writer.write(data)
        await self.writer.drain()
        return True


@dataclass(slots=True)
class _Exchange:
    """A request under way, and what has come of it so far."""

    request: Message
    fate: Fate
    arrived: float
    wall: float
    applied: list[int] = field(default_factory=list)
    status: int | None = None
    fault: str = ""


class ChaosProxy:
    """Serves an engine at ``endpoint`` from ``start`` to ``stop``; belongs to one event loop."""

    def __init__(
        self,
        engine: str,
        schedule: Schedule,
        *,
        seed: int,
        log: RequestLog,
        clock: Callable[[], float] = time.monotonic,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        place = urlsplit(engine)
        if place.scheme != "http" or not place.hostname:
            raise ValueError(
                f"The engine is {engine!r}. Give an address like http://127.0.0.1:8000."
            )
        self._place = (place.hostname, place.port or 80)
        self._fates = Fates(schedule, seed)
        self._log = log
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._zero: float | None = None
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._replies: set[asyncio.Task[Message | None]] = set()
        self._stops = False
        self._server: asyncio.Server | None = None
        self.counts: Counter[str] = Counter()

    async def start(self) -> str:
        """Listen on a free port of 127.0.0.1; return the address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_BYTES)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def begin(self) -> float:
        """Make now time zero of the schedule and of the log; return the clock's seconds."""
        self._zero = self._clock()
        return self._zero

    def replace(self, schedule: Schedule) -> None:
        """Go by another schedule from now on. Time zero stays."""
        self._fates.replace(schedule)

    async def stop(self) -> dict[str, int]:
        """End every connection, complete the log and return counts by operation and fault.

        What has reached the engine is waited for, ``answer_seconds`` at most: the log says what of
        it was written, or that this is not known.
        """
        self._stops = True
        if self._server is not None:
            self._server.close()
        if self._replies:
            await asyncio.wait(self._replies, timeout=self._answer_seconds)
        for tasks in (self._replies, self._tasks):  # a reply first: it notes what it did not learn
            ending = [*tasks]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
        self._log.close()
        return dict(self.counts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = _Client(reader, writer, next(self._numbers), _Engine(*self._place))
        try:
            while (request := await _next(reader)) is not None and not self._stops:
                if not await self._exchange(request, client) or request.is_last:
                    break
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or the proxy stops
        finally:
            self._tasks.discard(task)
            client.engine.close()
            writer.close()

    async def _exchange(self, request: Message, client: _Client) -> bool:
        """Answer one request; return whether the connection goes on."""
        arrived, wall = self._clock(), time.time()
        if self._zero is None:
            reply = await client.engine.ask(request)
            return await client.send(reply.bytes) and not reply.is_last
        fate = self._fates.decide(request.operation, request.body, arrived - self._zero)
        exchange = _Exchange(request, fate, arrived, wall, fault=fate.fault)
        try:
            return await self._carry_out(exchange, client)
        except OSError:
            return False
        finally:
            self._note(exchange, client.number, self._zero)

    async def _carry_out(self, exchange: _Exchange, client: _Client) -> bool:
        fate = exchange.fate
        if fate.fault == "black_hole":
            await client.reader.read(-1)  # until the client gives up
            return False
        reply = await self._reply_to_the_end(exchange, client.engine)
        if (wait := exchange.arrived + fate.hold - self._clock()) > 0:
            await asyncio.sleep(wait)
        if reply is None or fate.fault in _RESETS:
            if fate.fault in _RESETS:
                _reset(client.writer)
            return False
        if fate.fault == "truncated":
            await client.send(reply.head + reply.body[: len(reply.body) // 2])
            return False
        sent = await (
            _drip(client, reply, fate) if fate.fault == "drip" else client.send(reply.bytes)
        )
        exchange.status = reply.status if sent else None
        return sent and not reply.is_last

    async def _reply_to_the_end(self, exchange: _Exchange, engine: _Engine) -> Message | None:
        """Return what ``_reply`` does; it goes on where the exchange is cancelled."""
        task = asyncio.create_task(self._reply(exchange, engine))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)
        return await asyncio.shield(task)

    async def _reply(self, exchange: _Exchange, engine: _Engine) -> Message | None:
        """Return the reply to a request, None: there is none."""
        fate = exchange.fate
        if fate.refused is not None:
            return _throttled(*fate.refused)
        if not fate.reaches_engine:
            return _REPLIES.get(fate.fault)
        request, write = exchange.request, fate.write
        if write is None:
            return await self._ask(exchange, engine, request)
        sent_on = without(len(write.items), fate.held_back)
        if fate.held_back:
            request = with_body(request, write.body(sent_on))
        reply = await self._ask(exchange, engine, request)
        if reply is None or reply.status != 200:
            return reply if fate.fault != "lost_reply" else None
        refused = unprocessed(reply.body)
        exchange.applied = sent_on if not refused else _but_for(write.items, sent_on, refused)
        if fate.held_back:
            for table, items in write.grouped(fate.held_back).items():
                refused.setdefault(table, []).extend(items)
            reply = _with_unprocessed(reply, refused)
        return reply if fate.fault != "lost_reply" else None

    async def _ask(self, exchange: _Exchange, engine: _Engine, request: Message) -> Message | None:
        try:
            return await engine.ask(request)
        except OSError:
            exchange.fault = ENGINE_LOST
            return None
        except asyncio.CancelledError:  # the proxy stops, and has waited long enough
            exchange.fault = ENGINE_LOST
            raise

    def _note(self, exchange: _Exchange, connection: int, zero: float) -> None:
        request, write = exchange.request, exchange.fate.write
        operation = request.operation
        self.counts[f"{operation} {exchange.fault}"] += 1
        count = len(write.items) if write else 0
        self._log.add(
            Request(
                t=round(exchange.arrived - zero, 6),
                wall=exchange.wall,
                op=operation,
                table=write.table if write else read_table(request.body),
                sent=count,
                applied=len(exchange.applied),
                ids=write.ids() if write else [],
                units=exchange.fate.units,
                fault=exchange.fault,
                status=exchange.status,
                ms=round((self._clock() - exchange.arrived) * 1000, 3),
                connection=connection,
                left=write.ids(without(count, exchange.applied)) if write else [],
            )
        )


async def _next(reader: asyncio.StreamReader, *, is_reply: bool = False) -> Message | None:
    """Return the next message; None where there is none, or something that is no HTTP."""
    try:
        return await read_message(reader, is_reply=is_reply)
    except _UNREADABLE:
        return None


def _but_for(items: Sequence[Item], sent: list[int], refused: Mapping[str, list[Raw]]) -> list[int]:
    """Return which of the items ``sent`` the engine took that has refused some itself."""
    known = [request_id_of(raw) for raws in refused.values() for raw in raws]
    return [index for index in sent if items[index].request_id not in known]


def _with_unprocessed(reply: Message, refused: Mapping[str, list[Raw]]) -> Message:
    rest = msgspec.json.decode(reply.body, type=dict[str, Raw])
    return reply_of(200, msgspec.json.encode({**rest, "UnprocessedItems": refused}))


def _throttled(reason: str, table: str) -> Message:
    resource = f"arn:aws:dynamodb:us-east-1:000000000000:table/{table}"
    kind = "table" if reason == TABLE_LIMIT else "key range"
    return error_reply(
        400,
        "ProvisionedThroughputExceededException",
        f"The level of configured provisioned throughput for the {kind} was exceeded.",
        ThrottlingReasons=[{"reason": reason, "resource": resource}],
    )


async def _drip(client: _Client, reply: Message, fate: Fate) -> bool:
    """Send a reply a few bytes at a time; return whether the client was there until its end."""
    data = reply.bytes
    pieces = max(1, round(fate.drip_seconds / _DRIP_SECONDS))
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        await asyncio.sleep(fate.drip_seconds / pieces)
        if not await client.send(data[start : start + size]):
            return False
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset, as a machine that is gone does."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
