"""What a write request of DynamoDB's holds: its items, their keys and what they cost.

A batch is split without reading its items; those are kept as the bytes that came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import Any

import msgspec
from msgspec import Raw

__all__ = [
    "WRITES",
    "Item",
    "Write",
    "item_bytes",
    "read_table",
    "read_write",
    "request_id_of",
    "unprocessed",
    "without",
]

WRITES = frozenset({"PutItem", "BatchWriteItem", "UpdateItem", "TransactWriteItems", "DeleteItem"})
UNIT_BYTES = 1024
_TRANSACTION_FACTOR = 2  # a transactional write costs twice
_TEXT = rb'"\s*:\s*\{\s*"S"\s*:\s*("(?:[^"\\]|\\.)*")'
_PARTITION_KEY = re.compile(rb'"PK' + _TEXT)
_SORT_KEY = re.compile(rb'"SK' + _TEXT)
_REQUEST_ID = re.compile(rb'"requestId' + _TEXT)
_TABLE = re.compile(rb'"TableName"\s*:\s*"([^"]*)"')
_text_of = msgspec.json.Decoder(str).decode
_pieces_of = msgspec.json.Decoder(dict[str, Raw]).decode
_batch_of = msgspec.json.Decoder(dict[str, list[Raw]]).decode
_encode = msgspec.json.encode


@dataclass(slots=True)
class Item:
    """One item of a write: ``raw`` is its JSON, ``key`` its partition key (attribute ``PK``)."""

    table: str
    raw: bytes
    key: bytes | None
    request_id: str | None
    units: int


@dataclass(slots=True)
class Write:
    """A write request. ``rest`` holds its other fields; batches can be sent in part."""

    operation: str
    table: str
    items: list[Item]
    rest: Mapping[str, Raw]

    @property
    def is_batch(self) -> bool:
        """Whether a part of it may be accepted."""
        return self.operation == "BatchWriteItem"

    def body(self, of: Iterable[int]) -> bytes:
        """Return the request with only these of its items."""
        return _encode({**self.rest, "RequestItems": self.grouped(of)})

    def grouped(self, of: Iterable[int]) -> dict[str, list[Raw]]:
        """Return these items by table, as UnprocessedItems has them."""
        found: dict[str, list[Raw]] = {}
        for index in of:
            item = self.items[index]
            found.setdefault(item.table, []).append(Raw(item.raw))
        return found

    def ids(self, of: Iterable[int] | None = None) -> list[str]:
        """Return the request ids of these items, or of all, as far as they have one."""
        items = self.items if of is None else [self.items[index] for index in of]
        return [item.request_id for item in items if item.request_id is not None]


def read_write(operation: str, body: bytes) -> Write:
    """Return what a write of ``WRITES`` holds. What cannot be read has no items; raises nothing."""
    try:
        rest = _pieces_of(body)
        if operation == "BatchWriteItem":
            tables = _batch_of(rest["RequestItems"])
            items = [_item(name, bytes(raw)) for name, raws in tables.items() for raw in raws]
        elif operation == "TransactWriteItems":
            actions = msgspec.json.decode(rest["TransactItems"], type=list[dict[str, Raw]])
            raws = [bytes(raw) for raw in chain.from_iterable(one.values() for one in actions)]
            items = [_item(read_table(raw), raw, _TRANSACTION_FACTOR) for raw in raws]
        else:
            items = [_item(read_table(body), body)]
    except (msgspec.MsgspecError, KeyError):
        rest, items = {}, []
    return Write(operation, items[0].table if items else read_table(body), items, rest)


def read_table(body: bytes) -> str:
    """Return the first table that a request names, or an empty text."""
    found = _TABLE.search(body)
    return found[1].decode() if found else ""


def _item(table: str, raw: bytes, factor: int = 1) -> Item:
    units = factor if len(raw) <= UNIT_BYTES else factor * _units(raw)
    return Item(table, raw, _partition(raw), request_id_of(raw), units)


def _partition(raw: bytes) -> bytes | None:
    found = _PARTITION_KEY.search(raw)
    return found[1] if found else None


def request_id_of(raw: bytes) -> str | None:
    """Return what stands behind the time in a metric's sort key, or the attribute requestId."""
    partition = _partition(raw)
    if partition is not None and partition.startswith(b'"U#'):
        sort = _SORT_KEY.search(raw)
        if sort and b"Z#" in sort[1]:
            return _text_of(sort[1]).partition("Z#")[2]
    found = _REQUEST_ID.search(raw)
    return _text_of(found[1]) if found else None


def _units(raw: bytes) -> int:
    """Return the write units of an item whose JSON is longer than one; it is never shorter."""
    decoded = msgspec.json.decode(raw)
    item = decoded.get("PutRequest", decoded)
    return max(1, ceil(item_bytes(item.get("Item") or item.get("Key") or {}) / UNIT_BYTES))


def item_bytes(item: Mapping[str, Any]) -> int:
    """Return the size of an item by DynamoDB's rules: names and values in UTF-8.

    A number takes a byte for two digits and one more; a list or map 3 and one for each element.
    An approximation as good as AWS documents it ("DynamoDB item sizes and formats").
    """
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    return sum(_SIZES[kind](one) for one in (content if kind in _SETS else [content]))


_SETS = ("SS", "NS", "BS")
_SIZES: dict[str, Any] = {
    "S": lambda text: len(text.encode()),
    "N": lambda text: ceil(len(text.strip("-").replace(".", "").strip("0")) / 2) + 1,
    "B": lambda text: len(text) * 3 // 4,
    "BOOL": lambda _: 1,
    "NULL": lambda _: 1,
    "L": lambda content: 3 + len(content) + sum(map(_value_bytes, content)),
    "M": lambda content: 3 + len(content) + item_bytes(content),
}
_SIZES |= {"SS": _SIZES["S"], "NS": _SIZES["N"], "BS": _SIZES["B"]}


def unprocessed(body: bytes) -> dict[str, list[Raw]]:
    """Return the UnprocessedItems of a reply by table. What cannot be read has none."""
    if b'"UnprocessedItems"' not in body or b'"UnprocessedItems":{}' in body:
        return {}
    try:
        return _batch_of(_pieces_of(body)["UnprocessedItems"])
    except (msgspec.MsgspecError, KeyError):
        return {}


def without(count: int, these: Collection[int]) -> list[int]:
    """Return the numbers below ``count`` but for these."""
    return [index for index in range(count) if index not in these]
