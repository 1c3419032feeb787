"""A server that takes every batch: what remains is what the client itself costs."""

from __future__ import annotations

import multiprocessing
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from multiprocessing.connection import Connection
from zlib import crc32

__all__ = ["Arrivals", "noting_arrivals", "taking_everything"]

_SHARDS = b'{"L":[{"M":{"from":{"S":"0001"},"shards":{"N":"1"}}}]}'
_REPLIES = {
    b"BatchWriteItem": b'{"UnprocessedItems":{}}',
    b"GetItem": b'{"Item":{"shards":%b}}' % _SHARDS,
    b"UpdateItem": b'{"Attributes":{"shards":%b}}' % _SHARDS,
}
_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: Server\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n"
    b"Connection: keep-alive\r\n"
    b"x-amzn-RequestId: ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGHIJKLMNOPQRST\r\n"
    b"x-amz-crc32: %d\r\n\r\n"
)


_TIMES = re.compile(rb'"SK":\{"S":"([^#"]+)#')


def _answer(connection: socket.socket, take: Callable[[bytes, bytes], None]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(1 << 16)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        lower = {name.lower(): value for name, value in headers.items()}
        length = int(lower[b"content-length"])
        while len(data) < length:
            data += connection.recv(1 << 16)
        operation = lower[b"x-amz-target"].partition(b".")[2]
        take(operation, data[:length])
        data = data[length:]
        body = _REPLIES[operation]
        connection.sendall(_HEAD % (len(body), crc32(body)) + body)


def _take(_operation: bytes, _body: bytes) -> None:
    """Take everything, and look at nothing."""


def _serve(pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        _accept(server, _take)


def _accept(server: socket.socket, take: Callable[[bytes, bytes], None]) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_answer, args=(connection, take), daemon=True).start()


def _serve_and_note(pipe: Connection, latency: float) -> None:
    """Answer after ``latency`` seconds; when asked, tell the calls, and ages of what arrived."""
    ages: list[float] = []
    calls: list[int] = []

    def note(operation: bytes, body: bytes) -> None:
        if operation == b"BatchWriteItem":
            now = time.time()
            calls.append(1)
            ages.extend(
                now - datetime.fromisoformat(found.decode()).timestamp()
                for found in _TIMES.findall(body)
            )
        time.sleep(latency)

    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, note), daemon=True).start()
        pipe.recv()
        pipe.send((ages, len(calls)))


class Arrivals:
    """The ages of what has arrived, in seconds; ``calls`` is set when they were asked for."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.calls = 0

    def __call__(self) -> list[float]:
        self._pipe.send(None)
        ages, self.calls = self._pipe.recv()
        return list(ages)


@contextmanager
def noting_arrivals(latency: float) -> Iterator[tuple[str, Arrivals]]:
    """Run a server that notes when records arrive; yield its address and the arrivals."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_and_note, args=(theirs, latency), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}", Arrivals(ours)
    finally:
        process.kill()
        process.join()


@contextmanager
def taking_everything() -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
