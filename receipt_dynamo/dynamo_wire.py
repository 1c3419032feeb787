"""From a record as the spool holds it to the bytes that DynamoDB takes, and back.

A record is encoded once, straight from its JSON: no metric is built, and botocore walks no
attribute. What comes out means the same as botocore's own serialiser would write for
``AIUsageMetric.to_item``; tests hold that. Pure: nothing here talks to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.checks import check_service
from receipt_dynamo.entities.gap import GAP_PREFIX, Gap
from receipt_dynamo.entities.item import ATTRIBUTES, format_timestamp, parse_timestamp
from receipt_dynamo.errors import CorruptReplyError
from receipt_dynamo.table import (
    PARTITION_KEY,
    SORT_KEY,
    TTL_ATTRIBUTE,
    Key,
    Shards,
    gap_partition,
    hour_of,
    metric_partition,
    month_of,
    shard_of,
    sort_key,
)

__all__ = [
    "Item",
    "Put",
    "Value",
    "batch_body",
    "gap_of",
    "key_of",
    "metric_of",
    "put_of",
    "read_count",
    "unprocessed",
]

Value = Mapping[str, Any]
"""A value as DynamoDB's JSON has it: ``{"S": "text"}``, ``{"N": "0.5"}``."""

Item = Mapping[str, Value]
_WHOLE = 2**64
_FULL_TIME, _TIME_IN_SECONDS = len("2026-11-21T20:00:00.000000Z"), len("2026-11-21T20:00:00Z")
_encode = msgspec.json.Encoder().encode
_decode_fields: Callable[[bytes], dict[str, Any]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode
_decode_gap = msgspec.json.Decoder(Gap).decode


class Put(msgspec.Struct, frozen=True, gc=False):
    """A record made ready: its key, the item as JSON, and the bytes that the spool holds of it.

    ``service`` is None for a gap. ``len(body)`` is what the item adds to a request.
    """

    key: Key
    service: str | None
    body: bytes
    payload: bytes


def put_of(payload: bytes, shards: Shards, keep_seconds: int | None = None) -> Put:
    """Return what puts the record ``payload`` into the table.

    ``keep_seconds`` after its time DynamoDB may delete it. Raises ValueError for what is no record.
    """
    try:
        if payload.startswith(GAP_PREFIX):
            return _put_of_gap(payload, keep_seconds)
        return _put_of_metric(payload, shards, keep_seconds)
    except (msgspec.MsgspecError, ArithmeticError) as error:
        raise ValueError(f"this is no record: {error}") from error


def _put_of_metric(payload: bytes, shards: Shards, keep_seconds: int | None) -> Put:
    """Pass on what the spool holds byte for byte, within a template of the attributes' JSON.

    The record is decoded twice, in C both times: into its values, which checks the type of each,
    and into the bytes of each.
    """
    record = _decode_record(payload)
    service = _check_service(record.service)
    request_id = record.request_id
    if not request_id:
        raise ValueError("request_id is empty: it tells no call from another")
    time, timestamp = _read_time(record.timestamp)
    shard = shard_of(request_id, shards.at(timestamp))
    key = Key(metric_partition(service, hour_of(timestamp), shard), sort_key(timestamp, request_id))
    fields = _decode_fields(payload)
    shape = _shape_of(tuple(fields))
    fields["timestamp"] = b'"%b"' % timestamp.encode()
    if service != record.service:
        fields["service"] = _encode(service)
    for name in shape.documents:
        fields[name] = _encode(_document(getattr(record, name)))
    parts = shape.parts.copy()
    parts[1::2] = (
        _encode(key.partition),
        _encode(key.sort),
        b"%d" % shard,
        *shape.values(fields),
        b"" if keep_seconds is None else b',"ttl":{"N":"%d"}' % _ttl(time, keep_seconds),
    )
    return Put(key, service, b"".join(parts), payload)


class _Shape(NamedTuple):
    """How records with the same fields become items: the records of a pipeline have few shapes.

    Every second one of ``parts`` is a value's place. To join costs half of what formatting does.
    """

    parts: list[bytes]
    values: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    documents: tuple[str, ...]


@lru_cache(maxsize=1024)
def _shape_of(names: tuple[str, ...]) -> _Shape:
    known = [name for name in names if name in ATTRIBUTES]  # a later version may have more
    attributes = [
        b'"PK":{"S":%b},"SK":{"S":%b},"sh":{"N":"%b"}',
        *(b'"%b":%b' % (ATTRIBUTES[name].encode(), _FORMS[_kind_of(name)]) for name in known),
        # What the spool leaves out, as it is the default.
        *([] if "api_calls" in known else [b'"apiCalls":{"N":"1"}']),
        *([] if "status" in known else [b'"status":{"S":"complete"}']),
    ]
    documents = tuple(name for name in known if _kind_of(name) == "document")
    between = (b"{" + b",".join(attributes) + b"%b}").split(b"%b")
    parts = [part for text in between for part in (text, b"")][:-1]
    return _Shape(parts, itemgetter(*known), documents)


def _put_of_gap(payload: bytes, keep_seconds: int | None) -> Put:
    """A gap's cost is kept as text: a sum may have more digits than a number of DynamoDB's."""
    gap = _decode_gap(payload)
    timestamp = format_timestamp(parse_timestamp(gap.timestamp.isoformat()))
    key = Key(gap_partition(month_of(timestamp)), sort_key(timestamp, gap.gap))
    item: dict[str, Value] = {
        PARTITION_KEY: {"S": key.partition},
        SORT_KEY: {"S": key.sort},
        "gap": {"S": gap.gap},
        "timestamp": {"S": timestamp},
        "reason": {"S": gap.reason},
        "count": _number(gap.count),
        "inputTokens": _number(gap.input_tokens),
        "outputTokens": _number(gap.output_tokens),
    }
    for attribute, text in (
        ("service", gap.service),
        ("model", gap.model),
        ("costUSD", None if gap.cost_usd is None else str(gap.cost_usd)),
    ):
        if text is not None:
            item[attribute] = {"S": text}
    if keep_seconds is not None:
        item[TTL_ATTRIBUTE] = _number(_ttl(gap.timestamp, keep_seconds))
    return Put(key, None, _encode(item), payload)


def _ttl(time: datetime, keep_seconds: int) -> int:
    return int(time.timestamp()) + keep_seconds


@lru_cache(maxsize=1024)
def _check_service(name: str) -> str:
    return check_service(name)


def _read_time(text: str) -> tuple[datetime, str]:
    """Return a time, and how keys and attributes write it."""
    time = datetime.fromisoformat(text)
    if text.endswith("Z"):
        if len(text) == _TIME_IN_SECONDS:
            return time, f"{text[:-1]}.000000Z"
        if len(text) == _FULL_TIME:
            return time, text
    if time.utcoffset() is None:
        raise ValueError(f"timestamp={text!r} has no timezone")
    return time, format_timestamp(parse_timestamp(text))


def _number(value: int) -> Value:
    return {"N": str(value)}


def _float(value: float) -> Value:
    # A large whole float is written out in full: its shortest form stands for another integer.
    if value.is_integer() and abs(value) < _WHOLE:
        return {"N": str(int(value))}
    return {"N": str(Decimal(repr(value)))}


def _document(value: Any) -> Value:
    """Return any JSON value."""
    return _DOCUMENTS[type(value)](value)


_DOCUMENTS: Mapping[type, Callable[[Any], Value]] = {
    str: lambda value: {"S": value},
    int: lambda value: {"N": str(value)},
    float: _float,
    bool: lambda value: {"BOOL": value},
    type(None): lambda _: {"NULL": True},
    dict: lambda value: {"M": {key: _document(inner) for key, inner in value.items()}},
    list: lambda value: {"L": [_document(inner) for inner in value]},
}


def _read_document(value: Value) -> Any:
    ((kind, inner),) = value.items()
    return _READ_DOCUMENTS[kind](inner)


def _read_number(text: str) -> int | float:
    number = Decimal(text)
    whole = number == number.to_integral_value() and -(2**63) <= number < _WHOLE
    return int(number) if whole else float(number)


_READ_DOCUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "S": lambda inner: inner,
    "N": _read_number,
    "BOOL": lambda inner: inner,
    "NULL": lambda _: None,
    "M": lambda inner: {key: _read_document(held) for key, held in inner.items()},
    "L": lambda inner: [_read_document(held) for held in inner],
}


def read_count(value: Value) -> int:
    """Return a whole number as DynamoDB's JSON has it. Raises KeyError, ArithmeticError."""
    text = value["N"]
    return int(text) if text.isdigit() else int(Decimal(text))  # 1E+3, as some writers have it


_FORMS: Mapping[str, bytes] = {
    "text": b'{"S":%b}',
    "count": b'{"N":"%b"}',
    "money": b'{"N":%b}',  # text in the spool, as its numbers would not be exact
    "milliseconds": b'{"N":"%b"}',
    "document": b"%b",
    "time": b'{"S":%b}',
}
_TYPES: Mapping[str, Any] = {
    "text": str,
    "count": int,
    "money": Decimal,
    "milliseconds": float,
    "document": dict[str, Any],
    "time": str,
}
_READERS: Mapping[str, Callable[[Value], Any]] = {
    "text": lambda value: value["S"],
    "count": read_count,
    "money": lambda value: Decimal(value["N"]),
    "milliseconds": lambda value: float(value["N"]),
    "document": _read_document,
    "time": lambda value: parse_timestamp(value["S"]),
}


def _kind_of(name: str) -> str:
    if name.endswith("_tokens") or name in ("api_calls", "github_pr"):
        return "count"
    if name.endswith("_usd"):
        return "money"
    others = {
        "latency_ms": "milliseconds",
        "timestamp": "time",
        "usage_details": "document",
        "metadata": "document",
    }
    return others.get(name, "text")


_READ = {ATTRIBUTES[name]: (name, _READERS[_kind_of(name)]) for name in ATTRIBUTES}


def _record_decoder() -> Callable[[bytes], Any]:
    """Return what decodes a record of the spool: the types of a metric's fields, but no checks.

    They were made when it was recorded, and cost more than all the rest of delivery together.
    """
    required = ("service", "model", "operation", "timestamp", "request_id")
    fields: list[Any] = [(name, _TYPES[_kind_of(name)]) for name in required]
    fields += [
        (name, _TYPES[_kind_of(name)] | msgspec.UnsetType, msgspec.UNSET)
        for name in ATTRIBUTES
        if name not in required
    ]
    return msgspec.json.Decoder(msgspec.defstruct("_Record", fields, gc=False)).decode


_decode_record = _record_decoder()


def batch_body(table_name: str, puts: Iterable[Put]) -> bytes:
    """Return the body of the BatchWriteItem that puts ``puts``, at least one and at most 25."""
    items = b'}},{"PutRequest":{"Item":'.join(put.body for put in puts)
    return b'{"RequestItems":{%b:[{"PutRequest":{"Item":' % _encode(table_name) + items + b"}}]}}"


_ALL_PROCESSED = b'{"UnprocessedItems":{}}'


class _PutRequest(msgspec.Struct):
    Item: dict[str, Any]


class _WriteRequest(msgspec.Struct):
    PutRequest: _PutRequest


class _BatchReply(msgspec.Struct):
    UnprocessedItems: dict[str, list[_WriteRequest]]


_decode_batch_reply = msgspec.json.Decoder(_BatchReply).decode


def unprocessed(reply: bytes, puts: Sequence[Put]) -> list[Put]:
    """Return which of ``puts`` DynamoDB did not take, in their order.

    Raises CorruptReplyError for a reply that does not say so beyond doubt: then none counts as
    taken. An empty body is no "all taken": that has the key, with an empty map.
    """
    if reply == _ALL_PROCESSED:
        return []
    try:
        lists = _decode_batch_reply(reply).UnprocessedItems.values()
        left = [key_of(request.PutRequest.Item) for requests in lists for request in requests]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CorruptReplyError(f"BatchWriteItem answered what cannot be read: {error}") from error
    if not left:
        return []
    refused = set(left)
    if len(refused) < len(left) or not refused.issubset(put.key for put in puts):
        raise CorruptReplyError("BatchWriteItem answered with keys that were not asked for")
    return [put for put in puts if put.key in refused]


def key_of(item: Item) -> Key:
    """Return the primary key of an item. Raises KeyError."""
    return Key(item[PARTITION_KEY]["S"], item[SORT_KEY]["S"])


def metric_of(item: Item) -> AIUsageMetric:
    """Return the metric of an item as DynamoDB's JSON has it.

    Raises ValueError that names the attribute when one is missing or of the wrong kind.
    """
    fields: dict[str, Any] = {}
    for attribute, value in item.items():
        known = _READ.get(attribute)
        if known is not None:
            name, read = known
            try:
                fields[name] = read(value)
            except (ValueError, KeyError, TypeError, ArithmeticError):
                raise ValueError(f"the attribute {attribute!r} is odd: {value!r:.60}") from None
    try:
        return AIUsageMetric(**fields)
    except TypeError as error:  # a field that every metric has is missing
        raise ValueError(str(error)) from error


def gap_of(item: Item) -> Gap:
    """Return the gap of an item. Raises ValueError."""
    try:
        cost = item.get("costUSD")
        return Gap(
            gap=item["gap"]["S"],
            timestamp=parse_timestamp(item["timestamp"]["S"]),
            reason=item["reason"]["S"],
            count=read_count(item["count"]),
            service=item["service"]["S"] if "service" in item else None,
            model=item["model"]["S"] if "model" in item else None,
            input_tokens=read_count(item["inputTokens"]),
            output_tokens=read_count(item["outputTokens"]),
            cost_usd=None if cost is None else Decimal(cost["S"]),
        )
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"the gap is odd: {error!r}") from error
