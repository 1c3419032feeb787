"""A table that answers as DynamoDB does, in this process: capacity, refusals, validation, faults.

Two faces. ``batch_write_item`` is a plain callable, for simulations under a virtual clock;
``before_send`` is a botocore hook of that name, so that botocore's own parsing, error classes and
hooks run with no network. Every call is written down in ``history``, for a checker that knows
nothing of the client.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, inf
from typing import Any, Protocol

from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from tests.support.simulation import seeded

Key = tuple[str, str]
Item = Mapping[str, Any]
TABLE = "usage"
URL = "https://dynamodb.us-east-1.amazonaws.com/"
MAX_ITEMS = 25
MAX_ITEM_BYTES = 400 * 1024
MAX_REQUEST_BYTES = 16 << 20
_STATUS = {"InternalServerError": 500, "ServiceUnavailable": 503}


class Ticks(Protocol):
    """The part of a clock that the table needs."""

    def monotonic(self) -> float:
        """Return seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a ``share`` of the calls between ``start`` and ``end`` (seconds).

    ``refused`` and ``lost`` calls never arrive; of ``applied`` and ``reset`` ones only the reply is
    lost; ``empty`` ones are answered by an unreadable 200. Any other word is an error code.
    """

    kind: str
    start: float = -inf
    end: float = inf
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call: when, what was sent (keys and versions), what the table took, and the answer."""

    at: float
    sent: tuple[tuple[Key, int], ...]
    taken: tuple[tuple[Key, int], ...]
    answer: str


class _Bucket:
    """Tokens that come at a rate, and are kept for ``burst`` seconds.

    ``steps`` are (from when, rate); what comes is summed exactly over them, however rarely somebody
    asks: else a client that is seldom seen would find more than there was.
    """

    def __init__(self, steps: Sequence[tuple[float, float]], burst: float, now: float) -> None:
        self._steps = steps
        self._burst = burst
        self._at = now
        self.tokens = self._rate(now) * burst

    def _rate(self, now: float) -> float:
        return next(rate for start, rate in reversed(self._steps) if start <= now)

    def refill(self, now: float) -> None:
        edges = [start for start, _ in self._steps if self._at < start < now]
        for edge in (*edges, now):
            rate = self._rate(self._at)
            self.tokens = min(rate * self._burst, self.tokens + rate * (edge - self._at))
            self._at = edge


class FakeDynamoDB:
    """One table with a partition key PK and a sort key SK. Used by one thread at a time.

    ``capacity`` is in write units a second, a number or steps of (from when, how much); the table
    keeps unused ones for ``burst`` seconds (the real one: up to 300). ``partition_capacity`` bounds
    each partition key alike. An item with an attribute ``poison`` is refused for ever; a batch with
    one that is ``cursed`` gets a 500 each time.
    """

    def __init__(
        self,
        clock: Ticks,
        *,
        capacity: float | Sequence[tuple[float, float]] = inf,
        partition_capacity: float = inf,
        burst: float = 1.0,
        faults: tuple[Fault, ...] = (),
        seed: int = 0,
        keep_history: bool = True,
    ) -> None:
        self._clock = clock
        self._random = seeded(seed)
        self._burst = burst
        self._partition_capacity = partition_capacity
        steps = ((-inf, capacity),) if isinstance(capacity, int | float) else capacity
        self._table = None if capacity == inf else _Bucket(steps, burst, clock.monotonic())
        self._partitions: dict[str, _Bucket] = {}
        self._keep_history = keep_history
        self.faults = faults
        self.items: dict[Key, Item] = {}
        self.history: list[Call] = []
        self.calls = self.sent = self.taken = 0

    def batch_write_item(self, **request: Any) -> dict[str, Any]:
        """Answer as botocore's low-level client does: a reply, or botocore's own exceptions."""
        puts: list[Item] = []
        taken: list[Item] = []
        answer = "refused"
        fault = self._draw_fault()
        try:
            if fault in ("refused", "lost"):
                raise _no_reply(fault)
            puts = _puts_of(request)
            self._validate(puts)
            if fault in ("applied", "reset"):
                taken = self._admit(puts)
                raise _no_reply(fault)
            if fault is not None and fault != "empty":
                raise client_error(fault)
            if any("cursed" in put for put in puts):
                raise client_error("InternalServerError")
            taken = self._admit(puts)
            reply = self._reply(puts, taken)
            answer = "ok" if len(taken) == len(puts) else "partial"
            if fault == "empty":
                answer, reply = "empty", {"ResponseMetadata": {"HTTPStatusCode": 200}}
        except Exception as error:
            answer = type(error).__name__
            if isinstance(error, ClientError):
                answer = "{Code}: {Message}".format(**error.response["Error"])
            raise
        else:
            return reply
        finally:
            self._note(puts, taken, answer)

    def before_send(self, request: Any, **_: Any) -> AWSResponse:
        """Answer a prepared request of botocore's, as the server would on the wire."""
        body = request.body
        try:
            reply = self.batch_write_item(**json.loads(body))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code.isdecimal():  # somebody else spoke
                return wire_response(status, b"<html>")
            wire = {
                "__type": f"com.amazonaws.dynamodb.v20120810#{code}",
                "message": error.response["Error"]["Message"],
                **{k: v for k, v in error.response.items() if k == "ThrottlingReasons"},
            }
            return wire_response(status, wire)
        if "UnprocessedItems" not in reply:
            return wire_response(200, b"<html>")
        return wire_response(200, {"UnprocessedItems": reply["UnprocessedItems"]})

    def version(self, key: Key) -> int | None:
        """Return the version that lies under a key, or None."""
        item = self.items.get(key)
        return None if item is None else version_of(item)

    def is_in_trouble(self) -> bool:
        """Whether any fault may happen at this moment."""
        now = self._clock.monotonic()
        return any(fault.start <= now < fault.end for fault in self.faults)

    def _draw_fault(self) -> str | None:
        now = self._clock.monotonic()
        for fault in self.faults:
            if fault.start <= now < fault.end and self._random.random() < fault.share:
                return fault.kind
        return None

    def _validate(self, puts: list[Item]) -> None:
        """Refuse a request for any fault in it: all of it is valid or none is."""
        if not 1 <= len(puts) <= MAX_ITEMS:
            raise client_error("ValidationException", "Too many items requested for the call")
        sizes = [size_of(put) for put in puts]
        if sum(sizes) > MAX_REQUEST_BYTES:
            raise client_error("RequestEntityTooLarge", "the request is too large")
        for put, size in zip(puts, sizes, strict=True):
            self._validate_item(put, size)
        if len({key_of(put) for put in puts}) < len(puts):
            raise client_error(
                "ValidationException", "Provided list of item keys contains duplicates"
            )

    def _validate_item(self, put: Item, size: int) -> None:
        for name in ("PK", "SK"):
            value = put.get(name, {}).get("S")
            if not isinstance(value, str):
                raise client_error(
                    "ValidationException", "The provided key element does not match the schema"
                )
            if not value:
                raise client_error("ValidationException", "an AttributeValue is an empty string")
        if size > MAX_ITEM_BYTES:
            raise client_error("ValidationException", "Item size has exceeded the maximum size")
        if "poison" in put:
            raise client_error("ValidationException", f"refused: {put['poison']['S']}")

    def _admit(self, puts: list[Item]) -> list[Item]:
        """Take what the capacity allows, in no particular order. Raises when that is nothing."""
        now = self._clock.monotonic()
        if self._table:
            self._table.refill(now)
        taken: list[Item] = []
        reason = "TableWriteProvisionedThroughputExceeded"
        for put in self._random.sample(puts, len(puts)) if self._limited() else puts:
            units = ceil(size_of(put) / 1024)
            partition = self._partition(put["PK"]["S"], now)
            if self._table and self._table.tokens < units:
                continue
            if partition and partition.tokens < units:
                reason = "TableWriteKeyRangeThroughputExceeded"
                continue
            for bucket in (self._table, partition):
                if bucket:
                    bucket.tokens -= units
            taken.append(put)
        if not taken:
            reasons = [{"reason": reason, "resource": f"arn:aws:dynamodb:::table/{TABLE}"}]
            raise client_error("ProvisionedThroughputExceededException", ThrottlingReasons=reasons)
        for put in taken:
            self.items[key_of(put)] = put
        return taken

    def _limited(self) -> bool:
        return self._table is not None or self._partition_capacity < inf

    def _partition(self, name: str, now: float) -> _Bucket | None:
        if self._partition_capacity == inf:
            return None
        bucket = self._partitions.get(name)
        if bucket is None:
            steps = ((-inf, self._partition_capacity),)
            bucket = self._partitions[name] = _Bucket(steps, self._burst, now)
        bucket.refill(now)
        return bucket

    def _reply(self, puts: list[Item], taken: list[Item]) -> dict[str, Any]:
        keys = {key_of(put) for put in taken}
        left = [{"PutRequest": {"Item": put}} for put in puts if key_of(put) not in keys]
        self._random.shuffle(left)  # the real one promises no order either
        return {
            "UnprocessedItems": {TABLE: left} if left else {},
            "ResponseMetadata": {"HTTPStatusCode": 200},
        }

    def _note(self, puts: list[Item], taken: list[Item], answer: str) -> None:
        self.calls += 1
        self.sent += len(puts)
        self.taken += len(taken)
        if self._keep_history:
            sent, written = (
                tuple((key_of(put), version_of(put)) for put in some if _has_key(put))
                for some in (puts, taken)
            )
            self.history.append(Call(self._clock.monotonic(), sent, written, answer))


class SizedItem(dict[str, Any]):
    """An item whose size is known: it is asked for with every call."""

    size = 0


def make_item(key: Key, version: int = 0, size: int = 100, **marks: str) -> Item:
    """Return an item in DynamoDB's JSON, of ``size`` bytes, with marks such as poison."""
    values = {"PK": ("S", key[0]), "SK": ("S", key[1]), "version": ("N", str(version))}
    values |= {name: ("S", value) for name, value in marks.items()}
    used = sum(len(name) + 1 + len(value) for name, (_, value) in values.items())
    values["fill"] = ("S", "x" * max(1, size - used - len("fill") - 1))
    item = SizedItem({name: {kind: value} for name, (kind, value) in values.items()})
    item.size = max(size, used + len("fill") + 2)
    return item


def put_requests(items: list[Item]) -> dict[str, Any]:
    """Return the arguments of a BatchWriteItem that puts ``items``."""
    return {"RequestItems": {TABLE: [{"PutRequest": {"Item": item}} for item in items]}}


def _puts_of(request: Mapping[str, Any]) -> list[Item]:
    tables = request.get("RequestItems") or {}
    if list(tables) != [TABLE]:
        raise client_error("ResourceNotFoundException", "Requested resource not found")
    return [entry["PutRequest"]["Item"] for entry in tables[TABLE]]


def _has_key(put: Item) -> bool:
    return all(isinstance(put.get(name, {}).get("S"), str) for name in ("PK", "SK"))


def key_of(item: Item) -> Key:
    """Return the primary key."""
    return item["PK"]["S"], item["SK"]["S"]


def version_of(item: Item) -> int:
    """Return the version that ``make_item`` wrote."""
    return int(item.get("version", {}).get("N", 0))


def size_of(value: Any) -> int:
    """Return about how many bytes DynamoDB counts for an item."""
    if isinstance(value, SizedItem) and value.size:
        return value.size
    if isinstance(value, Mapping):
        return sum(len(name) + size_of(inner) for name, inner in value.items())
    if isinstance(value, list):
        return sum(map(size_of, value))
    return len(value) if isinstance(value, str) else 1


def client_error(code: str, message: str = "", **fields: Any) -> ClientError:
    """Return botocore's exception for an error code."""
    status = int(code) if code.isdecimal() else _STATUS.get(code, 400)
    response: Any = {
        "Error": {"Code": code, "Message": message or code},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
        **fields,
    }
    return ClientError(response, "BatchWriteItem")


def _no_reply(fault: str) -> Exception:
    if fault == "refused":
        return EndpointConnectionError(endpoint_url=URL)
    if fault == "reset":
        return ConnectionClosedError(endpoint_url=URL)
    return ReadTimeoutError(endpoint_url=URL)


class _Raw(BytesIO):
    """What botocore reads a body from."""

    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.read()


def wire_response(
    status: int, body: dict[str, Any] | bytes, headers: Mapping[str, str] | None = None
) -> AWSResponse:
    """Return a response as it comes off the wire, with DynamoDB's CRC unless told otherwise."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    chosen = {"content-type": "application/x-amz-json-1.0", "x-amz-crc32": str(zlib.crc32(data))}
    return AWSResponse(URL, status, {**chosen, **(headers or {})}, _Raw(data))
