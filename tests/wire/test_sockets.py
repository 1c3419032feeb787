"""The table of failures holds for what goes wrong on real sockets, from the first byte to the last.

Each server does one thing wrong, to real botocore and urllib3.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from receipt_dynamo.failures import Fate, Verdict
from tests.wire.conftest import PATIENCE_SECONDS, READ_TIMEOUT

BODY = b'{"UnprocessedItems": {}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
Behave = Callable[[socket.socket], None]


def whole(length: int = len(BODY)) -> bytes:
    return HEAD + f"Content-Length: {length}\r\n\r\n".encode()


def read_request(connection: socket.socket) -> None:
    """Read headers and body of one request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(65536)


def reset(connection: socket.socket) -> None:
    """Close so that the peer gets a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answers(data: bytes) -> Behave:
    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data)

    return behave


def resets_after(data: bytes) -> Behave:
    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data)
        time.sleep(0.05)  # else the reset overtakes the bytes
        reset(connection)

    return behave


def says_nothing(connection: socket.socket) -> None:
    read_request(connection)
    connection.recv(1)  # until the client gives up


def drips(connection: socket.socket) -> None:
    """One byte at a time, each within the read timeout, and then not the rest."""
    read_request(connection)
    for byte in whole() + BODY[:10]:
        connection.sendall(bytes([byte]))
        time.sleep(READ_TIMEOUT / 40)


class Server:
    """A server of one behaviour, on a port of its own."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with closing(connection), suppress(OSError):
                self._behave(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def serve() -> Iterator[Callable[[Behave], str]]:
    """Start a server; return its address."""
    servers: list[Server] = []

    def start(behave: Behave) -> str:
        servers.append(Server(behave))
        return f"http://127.0.0.1:{servers[-1].port}"

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else is given."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


JudgeAt = Callable[..., Verdict]
BEHAVIOURS: dict[str, tuple[Behave, str]] = {
    "a good reply": (answers(whole() + BODY), "ok"),
    "resets before reading": (reset, "transient"),
    "resets after reading": (resets_after(b""), "transient"),
    "closes without a word": (read_request, "transient"),
    "says nothing": (says_nothing, "transient"),
    "closes within the headers": (answers(HEAD), "transient corrupt"),
    "resets within the headers": (resets_after(HEAD), "transient"),
    "closes within the body": (answers(whole(500) + BODY[:22]), "corrupt transient"),
    "closes before the body": (answers(whole(500)), "corrupt transient"),
    "resets within the body": (resets_after(whole(500) + BODY[:22]), "transient"),
    "a body that ends early": (answers(whole(10) + BODY), "corrupt"),
    "a page": (answers(HEAD + b"Content-Length: 6\r\n\r\n<html>"), "corrupt"),
    "another protocol": (answers(b"SSH-2.0-OpenSSH_9.6\r\n"), "transient"),
    "a broken chunk": (
        answers(HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"),
        "transient corrupt",
    ),
    "wrong compression": (
        answers(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n{}{}"),
        "transient corrupt",
    ),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_socket_fault_is_what_the_table_says(
    serve: Callable[[Behave], str], judge_at: JudgeAt, name: str
) -> None:
    """Nothing is acknowledged but by a whole reply, and every fault is tried again."""
    behave, kinds = BEHAVIOURS[name]
    patience = READ_TIMEOUT if behave is says_nothing else PATIENCE_SECONDS
    verdict = judge_at(serve(behave), patience)
    assert verdict.kind in kinds.split(), verdict
    if kinds == "ok":
        assert verdict.fate() is Fate.ACK
    else:
        assert (verdict.fate(), len(verdict.unprocessed)) == (Fate.FRONT, 3)
        assert verdict.backoff() is not None


def test_a_dripping_reply_outlasts_the_read_timeout(
    serve: Callable[[Behave], str], judge_at: JudgeAt
) -> None:
    """botocore's timeout is for each read: so a probe, and a batch in flight, have leases."""
    started = time.monotonic()
    verdict = judge_at(serve(drips), READ_TIMEOUT)
    assert time.monotonic() - started > 2 * READ_TIMEOUT
    assert verdict.kind in ("corrupt", "transient")
    assert verdict.fate() is Fate.FRONT


def test_a_refused_connection_is_transient(closed_port: int, judge_at: JudgeAt) -> None:
    """Nobody listens."""
    verdict = judge_at(f"http://127.0.0.1:{closed_port}")
    assert (verdict.kind, verdict.code) == ("transient", "EndpointConnectionError")


def test_a_connection_that_is_never_accepted_is_transient(judge_at: JudgeAt) -> None:
    """The queue of the listener is full: the first packet is dropped, and nothing comes back."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            verdict = judge_at(f"http://127.0.0.1:{address[1]}", READ_TIMEOUT)
        finally:
            for filler in fillers:
                filler.close()
    assert (verdict.kind, verdict.code) == ("transient", "ConnectTimeoutError")


def test_a_name_that_does_not_resolve_is_transient(
    monkeypatch: pytest.MonkeyPatch, judge_at: JudgeAt
) -> None:
    """DNS away is an outage, not a wrong name."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    verdict = judge_at("http://dynamodb.example:8000")
    assert (verdict.kind, verdict.code) == ("transient", "EndpointConnectionError")


def test_no_free_descriptor_is_transient(
    serve: Callable[[Behave], str], judge_at: JudgeAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has too many files open: that passes, and is no fault of the record's."""
    endpoint = serve(answers(whole() + BODY))

    def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", fail)
    assert judge_at(endpoint).kind == "transient"


def test_a_server_without_tls_is_configuration(
    serve: Callable[[Behave], str], judge_at: JudgeAt
) -> None:
    """An SSLError is botocore's ConnectionError as well; it does not pass by waiting."""
    endpoint = serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    verdict = judge_at(endpoint.replace("http:", "https:"))
    assert (verdict.kind, verdict.fate(), verdict.code) == ("config", Fate.KEEP, "SSLError")


def test_a_proxy_that_is_away_is_transient(
    closed_port: int, judge_at: JudgeAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any other outage on the way."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port}")
    verdict = judge_at("http://dynamodb.example:8000")
    assert (verdict.kind, verdict.code) == ("transient", "ProxyConnectionError")


def test_a_proxy_that_wants_a_password_buries_no_record(
    serve: Callable[[Behave], str], judge_at: JudgeAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 407 is no word of DynamoDB's."""
    page = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 6\r\n\r\n<html>"
    monkeypatch.setenv("HTTP_PROXY", serve(answers(page)))
    verdict = judge_at("http://dynamodb.example:8000")
    assert (verdict.kind, verdict.fate()) == ("config", Fate.KEEP)
