"""Reading partitions of a table to their last page, several at a time.

A page that cannot be read is an error for whoever asked, never an end: no sum is part of one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, islice
from typing import Any, TypeVar

import msgspec

from receipt_dynamo.dynamo_registry import Call, key_values
from receipt_dynamo.dynamo_wire import Item, Value, key_of
from receipt_dynamo.errors import CorruptReplyError, StoreError
from receipt_dynamo.table import (
    END_OF_TIME,
    PARTITION_KEY,
    SORT_KEY,
    START_OF_TIME,
    Key,
    service_of,
    split_sort_key,
)

__all__ = ["Pages", "Partition"]

T = TypeVar("T")
S = TypeVar("S")

_KEYS_A_REQUEST = 100  # what one BatchGetItem takes
_ROUNDS_WITHOUT_PROGRESS = 5
_PAGE_ITEMS = 1000
_OPEN_ITEMS = 8000  # of all partitions that are open at once: what a long answer keeps in memory
_decode_item: Callable[[bytes | msgspec.Raw], Item] = msgspec.json.Decoder(
    dict[str, dict[str, Any]]
).decode


@dataclass(frozen=True, slots=True)
class Partition:
    """One run of items by time: a partition of the table, or a shard of one key of an index.

    ``equal`` are the values of its keys; ``since`` is included, ``until`` is not.
    """

    equal: Mapping[str, Value]
    since: str = START_OF_TIME
    until: str = END_OF_TIME
    index: str | None = None


class _Page(msgspec.Struct):
    Items: list[msgspec.Raw]
    LastEvaluatedKey: msgspec.Raw = msgspec.Raw()


class _Found(msgspec.Struct):
    Responses: dict[str, list[dict[str, dict[str, Any]]]]
    UnprocessedKeys: dict[str, Any] | None = None


class Pages:
    """Reads one table with at most ``readers`` requests at a time. Thread-safe.

    ``ask`` raises StoreError when DynamoDB does not answer in spite of repeated tries.
    """

    def __init__(self, ask: Call, table_name: str, readers: int) -> None:
        self._ask = ask
        self._table = table_name
        self._readers = readers

    def each(self, work: Callable[[S], T], things: Iterable[S]) -> Iterator[T]:
        """Yield ``work(thing)`` in order, several at a time. What one raises is raised here."""
        with self._pool() as pool:
            yield from _ahead(pool, work, things, 2 * self._readers)

    def items(
        self, partition: Partition, attributes: Collection[str] | None = None
    ) -> Iterator[Item]:
        """Yield the items of a partition by SK; of each only ``attributes``, or all."""
        start = msgspec.Raw()
        while True:
            page = self._page(partition, attributes, start)
            yield from map(_decode, page.Items)
            start = page.LastEvaluatedKey
            if not start:
                return

    def in_order(
        self, groups: Iterable[Sequence[Partition]], attributes: Collection[str] | None = None
    ) -> Iterator[Item]:
        """Yield the items of groups that follow each other in time, by time, service and id.

        The next groups are read while one is looked at.
        """

        def opened(group: Sequence[Partition]) -> Iterator[_Opening]:
            limit = min(_PAGE_ITEMS, max(50, _OPEN_ITEMS // max(1, len(group))))
            return (_Opening(partition, limit, group) for partition in group)

        def first(opening: _Opening) -> tuple[_Opening, _Page]:
            return opening, self._page(opening.partition, attributes, msgspec.Raw(), opening.limit)

        with self._pool() as pool:
            openings = (opening for group in groups for opening in opened(group))
            pages = _ahead(pool, first, openings, 2 * self._readers)
            for _, group in groupby(pages, key=lambda found: id(found[0].group)):
                streams = [self._stream(pool, *found, attributes) for found in group]
                yield from merge(*streams, key=_order)

    def _stream(
        self,
        pool: ThreadPoolExecutor,
        opening: _Opening,
        page: _Page,
        attributes: Collection[str] | None,
    ) -> Iterator[Item]:
        """Yield the items of a partition in the order of an answer, one page ahead."""
        process = os.getpid()

        def items(page: _Page) -> Iterator[Item]:
            while page.LastEvaluatedKey:
                coming = pool.submit(
                    self._page,
                    opening.partition,
                    attributes,
                    page.LastEvaluatedKey,
                    opening.limit,
                )
                yield from map(_decode, page.Items)
                page = _result(coming, process)
            yield from map(_decode, page.Items)

        if opening.partition.index is None:  # of one service
            yield from items(page)
            return
        for _, at_once in groupby(items(page), key=_time):
            yield from sorted(at_once, key=_order)

    def fetch(self, keys: Iterable[Key]) -> Iterator[Item]:
        """Yield the items of the table under ``keys``, in their order; those that are gone are not.

        Consistent, whatever index the keys come from.
        """
        for items in self.each(self._fetch, _chunks(keys, _KEYS_A_REQUEST)):
            yield from items

    def _fetch(self, keys: Sequence[Key]) -> list[Item]:
        found: dict[Key, Item] = {}
        wanted: list[Any] = [key_values(key) for key in keys]
        barren = 0
        while wanted:
            request = {self._table: {"Keys": wanted, "ConsistentRead": True}}
            reply = self._ask("BatchGetItem", {"RequestItems": request}, _Found)
            items = [item for some in reply.Responses.values() for item in some]
            found.update((key_of(item), item) for item in items)
            left = reply.UnprocessedKeys or {}
            wanted = [key for part in left.values() for key in part["Keys"]]
            barren = 0 if items else barren + 1
            if wanted and barren >= _ROUNDS_WITHOUT_PROGRESS:
                raise StoreError(
                    f"the table {self._table} is throttled: {len(wanted)} items could not be read. "
                    "Try again later."
                )
        return [found[key] for key in keys if key in found]

    def _page(
        self,
        partition: Partition,
        attributes: Collection[str] | None,
        start: msgspec.Raw,
        limit: int = _PAGE_ITEMS,
    ) -> _Page:
        names = {"#sort": SORT_KEY}
        values: dict[str, Value] = {
            ":since": {"S": partition.since},
            ":until": {"S": partition.until},
        }
        conditions = []
        for number, (attribute, value) in enumerate(partition.equal.items()):
            names[f"#key{number}"] = attribute
            values[f":key{number}"] = value
            conditions.append(f"#key{number} = :key{number}")
        conditions.append("#sort BETWEEN :since AND :until")
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": " AND ".join(conditions),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "Limit": limit,
        }
        if partition.index is None:
            request["ConsistentRead"] = True
        else:
            request["IndexName"] = partition.index
        if attributes is not None:
            wanted = sorted({PARTITION_KEY, SORT_KEY, *attributes})
            names.update((f"#a{number}", name) for number, name in enumerate(wanted))
            request["ProjectionExpression"] = ", ".join(f"#a{n}" for n in range(len(wanted)))
        if start:
            request["ExclusiveStartKey"] = start
        return self._ask("Query", request, _Page)

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(self._readers, thread_name_prefix="receipt-usage-read")
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Opening:
    partition: Partition
    limit: int
    group: Sequence[Partition]


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[S], T], things: Iterable[S], depth: int
) -> Iterator[T]:
    """Yield ``work(thing)`` in order, with up to ``depth`` of them begun."""
    process = os.getpid()
    begun: deque[Future[T]] = deque()
    for thing in things:
        begun.append(pool.submit(work, thing))
        if len(begun) >= depth:
            yield _result(begun.popleft(), process)
    while begun:
        yield _result(begun.popleft(), process)


def _result(future: Future[T], process: int) -> T:
    if os.getpid() != process:  # a child has none of its parent's threads: it would wait for ever
        raise StoreError("this answer was begun before a fork, in the parent: ask again")
    return future.result()


def _chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while chunk := list(islice(rest, size)):
        yield chunk


def _decode(item: msgspec.Raw) -> Item:
    try:
        found = _decode_item(item)
        key_of(found)
    except (msgspec.MsgspecError, KeyError) as error:
        raise CorruptReplyError(f"Query answered an item that cannot be read: {error}") from error
    return found


def _time(item: Item) -> str:
    return split_sort_key(item[SORT_KEY]["S"])[0]


def _order(item: Item) -> tuple[str, str, str]:
    """Sort metrics as every store does: by time, service and id."""
    key = key_of(item)
    time, name = split_sort_key(key.sort)
    return time, service_of(key), name
