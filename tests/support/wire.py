"""The network in front of botocore: requests are recorded, and answered by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from zlib import crc32

from receipt_dynamo.dynamo_connection import DynamoConnection


@dataclass
class Request:
    """What botocore was about to send."""

    operation: str
    body: bytes
    headers: Mapping[str, str]
    url: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What comes back. ``body``: JSON, or bytes as they are. ``crc``: None for the right one."""

    body: Any = field(default_factory=dict)
    status: int = 200
    crc: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def fault(code: str, status: int = 400, message: str = "it says no") -> Reply:
    """Return an error as DynamoDB words it."""
    kind = f"com.amazonaws.dynamodb.v20120810#{code}"
    return Reply({"__type": kind, "message": message}, status)


Answer = Callable[[Request], Reply]


class _Raw:
    """The stream that a body is read from."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_args: Any, **_kwargs: Any) -> Iterator[bytes]:
        yield self._body


class Wire:
    """Every connection made within ``between`` ends here."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def operations(self) -> list[str]:
        """Return the operations that were asked for, in order."""
        return [request.operation for request in self.requests]

    @contextmanager
    def between(self) -> Iterator[None]:
        """Stand between botocore and the network."""
        real = DynamoConnection._open

        def open_one(connection: DynamoConnection) -> Any:
            client = real(connection)
            client.meta.events.register("before-send.dynamodb", self._send)
            return client

        with mock.patch.object(DynamoConnection, "_open", open_one):
            yield

    def _send(self, request: Any, **_: Any) -> Any:
        from botocore.awsrequest import AWSResponse

        headers = {
            name: value.decode() if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        operation = headers["X-Amz-Target"].partition(".")[2]
        found = Request(operation, request.body, headers, request.url)
        self.requests.append(found)
        reply = self.answer(found)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        told = str(crc32(body)) if reply.crc is None else reply.crc
        headers = {"content-type": "application/x-amz-json-1.0", **reply.headers}
        if told:
            headers["x-amz-crc32"] = told
        return AWSResponse(request.url, reply.status, _Headers(headers), _Raw(body))


class _Headers(dict[str, str]):
    """Headers are found whatever their case."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())
