"""HTTP/1.1 messages as bytes: read whole, passed on as they came, or made here."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from zlib import crc32

__all__ = ["MAX_BYTES", "Message", "error_reply", "read_message", "reply_of", "with_body"]

MAX_BYTES = 1 << 25  # twice what DynamoDB takes
_ERROR = "com.amazonaws.dynamodb.v20120810#"
_END = b"\r\n\r\n"
_BODILESS = (204, 304)


@dataclass(slots=True)
class Message:
    """A request or a reply; ``head`` ends with its empty line, and ``low`` is it in lower case."""

    head: bytes
    low: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, given in lower case, itself in lower case."""
        _, found, rest = self.low.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if found else None

    @property
    def operation(self) -> str:
        """The operation that a request of DynamoDB's names, or an empty text."""
        start = self.low.find(b"\r\nx-amz-target:")
        if start < 0:
            return ""
        line = self.head[start + 15 : self.head.index(b"\r\n", start + 2)]
        return line.decode("latin-1").strip().rpartition(".")[2]

    @property
    def status(self) -> int:
        """The status of a reply."""
        return int(self.head[9:12])

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with it."""
        told = self.header(b"connection")
        return told == b"close" or (told is None and self.low[:200].find(b"http/1.0\r\n") >= 0)

    @property
    def bytes(self) -> bytes:
        """The whole message."""
        return self.head + self.body


async def read_message(reader: asyncio.StreamReader, *, is_reply: bool = False) -> Message | None:
    """Return the next message, None where the connection has ended before its first byte.

    A chunked one comes back with a Content-Length. Raises IncompleteReadError and
    LimitOverrunError for one that is cut or too long, ValueError for one that is none.
    """
    try:
        head = await reader.readuntil(_END)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    message = Message(head, head.lower(), b"")
    length = message.header(b"content-length")
    if length is not None:
        if length != b"0":
            message.body = await reader.readexactly(int(length))
    elif message.header(b"transfer-encoding") == b"chunked":
        return with_body(message, await _read_chunks(reader))
    elif is_reply and message.status not in _BODILESS:
        return with_body(message, await reader.read(-1))
    return message


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    while length := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        pieces.append(await reader.readexactly(length))
        await reader.readuntil(b"\r\n")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return b"".join(pieces)


_REPLACED = (b"content-length:", b"transfer-encoding:", b"x-amz-crc32:")


def with_body(message: Message, body: bytes) -> Message:
    """Return the message with another body: its length is right, the old checksum is gone."""
    lines = [
        line
        for line in message.head[: -len(_END)].split(b"\r\n")
        if not line.lower().startswith(_REPLACED)
    ]
    head = b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + _END
    return Message(head, head.lower(), body)


def reply_of(status: int, body: bytes) -> Message:
    """Return a reply of DynamoDB's, with its checksum."""
    head = (
        b"HTTP/1.1 %d X\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n"
        b"x-amz-crc32: %d\r\n\r\n"
    ) % (status, len(body), crc32(body))
    return Message(head, head.lower(), body)


def error_reply(status: int, code: str, text: str, **more: object) -> Message:
    """Return an error of DynamoDB's."""
    return reply_of(status, json.dumps({"__type": _ERROR + code, "message": text, **more}).encode())
