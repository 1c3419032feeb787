"""A server that takes every batch: what remains is what the client itself costs."""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from zlib import crc32

__all__ = ["taking_everything"]

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


def _answer(connection: socket.socket) -> None:
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
        data = data[length:]
        body = _REPLIES[lower[b"x-amz-target"].partition(b".")[2]]
        connection.sendall(_HEAD % (len(body), crc32(body)) + body)


def _serve(pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


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
