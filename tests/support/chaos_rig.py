"""A chaos proxy in this process, before an engine that remembers what it was given."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.chaos.log import Request, RequestLog, read_log
from benchmarks.chaos.messages import Message, read_message, reply_of
from benchmarks.chaos.proxy import ChaosProxy
from benchmarks.chaos.schedule import Faults, Phase, Schedule

T = TypeVar("T")
TABLE = "T"


@dataclass
class FakeEngine:
    """Takes every write and notes its requests; ``answer`` may say something else for one.

    With ``held`` it has what it was sent, and answers when that is set.
    """

    requests: list[Message] = field(default_factory=list)
    answer: Callable[[Message], bytes | None] | None = None
    held: asyncio.Event | None = None
    connections: int = 0

    @property
    def ids(self) -> list[str]:
        """The ids of the items that were written, in order."""
        return [name for request in self.requests for name in ids_in(request.body)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await read_message(reader)) is not None:
                self.requests.append(request)
                if self.held is not None:
                    await self.held.wait()
                said = self.answer(request) if self.answer else reply_to(request).bytes
                if said is None:
                    break
                writer.write(said)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def reply_to(request: Message) -> Message:
    batch = request.operation == "BatchWriteItem"
    return reply_of(200, b'{"UnprocessedItems":{}}' if batch else b"{}")


def ids_in(body: bytes) -> list[str]:
    """Return the ids of a request's items, found in another way than the proxy's."""
    sent = json.loads(body)
    if "RequestItems" in sent:
        items = [one["PutRequest"]["Item"] for one in sent["RequestItems"].get(TABLE, [])]
    else:
        items = [sent["Item"]] if "Item" in sent else []
    return [item["SK"]["S"].partition("#")[2] for item in items]


def put_of(name: str) -> dict[str, Any]:
    item = {"PK": "U#openai#2026-11-21T12#0", "SK": f"2026-11-21T12:00:00.000000Z#{name}"}
    return {attribute: {"S": value} for attribute, value in item.items()}


def batch_of(*names: str) -> dict[str, Any]:
    """Return the arguments of a BatchWriteItem."""
    return {"RequestItems": {TABLE: [{"PutRequest": {"Item": put_of(name)}} for name in names]}}


class Rig:
    """A loop in a thread with the proxy and its engine; the client is the test."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Path) -> None:
        self._loop = loop
        self._log = log
        self.engine = FakeEngine()
        self._server: asyncio.Server
        self.proxy: ChaosProxy
        self.endpoint = ""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def start_engine(self) -> str:
        """Start the engine alone; return its address."""
        work = asyncio.start_server(self.engine.serve, "127.0.0.1", 0, limit=1 << 25)
        self._server = self.run(work)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def start(
        self, schedule: Schedule, seed: int, clock: Callable[[], float], **more: float
    ) -> None:
        log, engine = RequestLog(self._log), self.start_engine()
        self.proxy = ChaosProxy(engine, schedule, seed=seed, log=log, clock=clock, **more)
        self.endpoint = self.run(self.proxy.start())

    def begin(self) -> None:
        async def begin() -> float:
            return self.proxy.begin()

        self.run(begin())

    def stop(self) -> list[Request]:
        """Stop the proxy; return its log."""
        self.counts = self.run(self.proxy.stop())
        return list(read_log(self._log))

    async def end(self) -> None:
        """Close what listens, end what is under way."""
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn of the loop


@contextmanager
def running_loop(log: Path) -> Iterator[Rig]:
    """Run a loop in a thread; yield a rig that has started nothing yet."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    rig = Rig(loop, log)
    try:
        yield rig
    finally:
        rig.run(rig.end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def rigged(
    faults: Faults | Schedule,
    log: Path,
    *,
    seed: int = 1,
    clock: Callable[[], float] = time.monotonic,
    **more: float,
) -> Iterator[Rig]:
    """Run the proxy under ``faults`` from its time zero, which is now."""
    given = faults if isinstance(faults, Schedule) else Schedule("s", [Phase(0, None, faults)])
    with running_loop(log) as rig:
        rig.start(given, seed, clock, **more)
        rig.begin()
        try:
            yield rig
        finally:
            rig.run(rig.proxy.stop())
