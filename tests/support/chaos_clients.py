"""Who asks a chaos proxy: a client of botocore's, and bytes on a socket."""

from __future__ import annotations

import socket
from typing import Any

from botocore.config import Config
from botocore.session import Session

from tests.support.chaos_rig import Rig
from tests.wire.conftest import check_sum

NAMES = [f"id-{number}" for number in range(5)]
PATIENCE_SECONDS = 30.0  # for what comes; on a busy machine a thread may wait long
SESSION = Session()  # loads what it knows of DynamoDB once


def client_of(endpoint: str, timeout: float = PATIENCE_SECONDS) -> Any:
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
    port = int(rig.endpoint.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)


def ask(rig: Rig, data: bytes) -> bytes:
    """Send on a connection of its own; return what comes until its end, or the reply's."""
    with connect(rig) as connection:
        connection.sendall(data)
        reply = b""
        while not reply.endswith(b"}") and (more := connection.recv(1 << 16)):
            reply += more
        return reply
