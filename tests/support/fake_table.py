"""A table in memory, as delivery uses one: it answers what a test tells it to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from botocore.exceptions import ClientError, ReadTimeoutError

from receipt_dynamo import StoreError, UsageError
from receipt_dynamo.dynamo_wire import Put, put_of
from receipt_dynamo.table import START_OF_TIME, Key, Shards
from tests.support.stores import MemoryStore

Answer = Callable[["FakeTable", Sequence[Put]], Sequence[Put]]
"""What becomes of one call: it may store, refuse some, or raise."""

_SHARDS = Shards(((START_OF_TIME, 2),))


def error(code: str, message: str = "", **more: Any) -> ClientError:
    """Return what botocore raises for an answer of DynamoDB's."""
    reply: Any = {"Error": {"Code": code, "Message": message}, **more}
    return ClientError(reply, "BatchWriteItem")


def take_all(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
    """Take everything."""
    table.take(puts)
    return []


def take(count: int) -> Answer:
    """Take the last ``count`` of a batch only."""

    def answer(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
        left = max(0, len(puts) - count)
        table.take(puts[left:])
        return puts[:left]

    return answer


def fail(code: str, status: int = 400) -> Answer:
    """Take nothing, and raise an error of this code."""

    def answer(_table: FakeTable, _puts: Sequence[Put]) -> Sequence[Put]:
        raise error(code, "no", ResponseMetadata=_status(status))

    return answer


def lose_reply(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
    """Take everything, and answer nothing."""
    table.take(puts)
    raise ReadTimeoutError(endpoint_url="http://127.0.0.1")


def _status(status: int) -> dict[str, int]:
    return {"HTTPStatusCode": status}


class FakeTable(MemoryStore):
    """Answers each call with the next of ``answers``, or takes it. ``calls`` are batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[Key, bytes] = {}
        self.answers: deque[Answer] = deque()
        self.poison: set[str] = set()
        self.calls: list[int] = []
        self.refused = 0  # records that a call left
        self.always: Answer | None = None
        self.ready = True
        self.away: Exception | None = None  # what get_ready raises

    def get_ready(self) -> None:
        if self.away is not None:
            raise self.away
        self.ready = True

    def prepare(self, payload: bytes) -> Put:
        return put_of(payload, _SHARDS)

    def send(self, puts: Sequence[Put]) -> Sequence[Put]:
        self.calls.append(len(puts))
        answer = self.answers.popleft() if self.answers else self.always or take_all
        left = answer(self, puts)
        self.refused += len(left)
        return left

    def explain(self, error: BaseException) -> UsageError:
        return StoreError(f"the fake table: {error}")

    def take(self, puts: Sequence[Put]) -> None:
        """Store ``puts``. Raises for a batch with poison in it."""
        if any(self.request_id(put) in self.poison for put in puts):
            raise error("ValidationException", "an item is odd", ResponseMetadata=_status(400))
        self.items.update((put.key, put.payload) for put in puts)

    @staticmethod
    def request_id(put: Put) -> str:
        """Return the request id of a record; a gap's id."""
        fields = msgspec.json.decode(put.payload)
        return str(fields.get("request_id") or fields["gap"])

    @property
    def ids(self) -> list[str]:
        """The request ids of what was taken, sorted."""
        found = [msgspec.json.decode(payload) for payload in self.items.values()]
        return sorted(str(fields.get("request_id") or fields["gap"]) for fields in found)
