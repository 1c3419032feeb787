"""DynamoClient: metrics in a DynamoDB table, the store of pipelines that share one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from receipt_dynamo.dynamo_admin import TableAdmin, TableDescription
from receipt_dynamo.dynamo_connection import DynamoConnection
from receipt_dynamo.dynamo_faults import explain, is_missing_table, is_refusal, persist
from receipt_dynamo.dynamo_read import TableReader
from receipt_dynamo.dynamo_registry import Registry
from receipt_dynamo.dynamo_wire import Put, batch_body, put_of, unprocessed
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.errors import ConfigurationError, CorruptReplyError, StoreError, UsageError
from receipt_dynamo.payload import encode_payload
from receipt_dynamo.store import (
    Batch,
    DroppedSummary,
    Identity,
    Rejection,
    StoredRecord,
    UsageQuery,
    UsageSummary,
    WriteOutcome,
)
from receipt_dynamo.table import BATCH_ITEMS, Key
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = ["DynamoClient"]

T = TypeVar("T")

_REQUEST_BYTES = 1 << 20  # of 16 MiB: what is sent again after a fault stays small
_DAY_SECONDS = 86_400
_THROTTLED_SECONDS, _CAP_SECONDS = 1.0, 5.0
_encode = msgspec.json.Encoder().encode


class DynamoClient:
    """Metrics in one DynamoDB table. Thread-safe; a forked child connects anew.

    Fulfils ``UsageStore``: a later arrival of the same identity replaces an earlier one. Nothing is
    asked of AWS before the first call. Credentials are those of boto3's usual chain.

    ``region`` and ``endpoint_url`` default to what the environment says. After ``retention_days``
    DynamoDB deletes a metric; None keeps it for ever. ``readers`` requests of a question run at a
    time, ``tries`` times each. Raises StoreError, in one line, when the table cannot be used; never
    a part of an answer.
    """

    def __init__(
        self,
        table_name: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        retention_days: float | None = None,
        readers: int = 8,
        connections: int = 10,
        tries: int = 5,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        if retention_days is not None and not 0 < retention_days < float("inf"):
            raise ConfigurationError(f"retention_days={retention_days} is no duration: above 0")
        for name, value in (("readers", readers), ("connections", connections), ("tries", tries)):
            if value < 1:
                raise ConfigurationError(f"{name}={value} is too small: at least 1")
        self.table_name = table_name
        self._keep_seconds = None if retention_days is None else int(retention_days * _DAY_SECONDS)
        self._tries = tries
        self._clock = clock or SystemClock()
        self._rng = rng or Random()  # noqa: S311 - spreads waits, keeps no secret
        self._connection = DynamoConnection(
            table_name, region=region, endpoint_url=endpoint_url, connections=connections
        )
        self._registry = Registry(table_name)
        self._reader = TableReader(self._ask, table_name, self._registry, self._clock, readers)

    # -- the table itself --------------------------------------------------------------------

    def create_table(
        self, shards: int = 1, tries: int = 5, wait_seconds: float = 2.0
    ) -> TableDescription:
        """Create the table unless it is there, and return when it is ready for use.

        ``shards`` spread the metrics of each service and hour over so many partitions; they belong
        to the table for good. What fails and may pass is tried ``tries`` times, ``wait_seconds``
        apart. Raises StoreError that says what differs when a table of that name is not ours.
        """
        return self._admin().create(shards, tries, wait_seconds)

    def describe_table(self) -> TableDescription:
        """Return what the table is, and how it differs from what it should be."""
        return self._admin().describe(self._tries, 1.0)

    def _admin(self) -> TableAdmin:
        return TableAdmin(
            self._call, self.table_name, self._connection.place, self._registry, self._clock
        )

    # -- writing -----------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether it is known all that ``prepare`` needs to know of the table."""
        return self._registry.shards_are_known

    def get_ready(self) -> None:
        """Learn it: how many shards the table has. Raises what ``send`` raises."""
        self._registry.shards(self._call)

    def explain(self, error: BaseException) -> UsageError:
        """Return ``error`` as one of this library's, in one line that names table and remedy."""
        return explain(error, self._connection.place)

    def prepare(self, payload: bytes) -> Put:
        """Return a record of the spool made ready to be sent, as often as it takes.

        Raises ValueError for what is no record. The first call asks the table for its shards, and
        raises what ``send`` raises.
        """
        return put_of(payload, self._registry.shards(self._call), self._keep_seconds)

    def send(self, puts: Sequence[Put]) -> list[Put]:
        """Put up to 25 records of different keys with one request; return those not taken now.

        Before the first record of a service, hour or month these are registered; while that fails
        nothing is sent. Raises botocore's errors as they are (ClientError, HTTPClientError, ...),
        CorruptReplyError when it is not known what was taken: to send again does no harm.
        """
        try:
            self._registry.announce(self._call, puts)
            reply = self._connection.call("BatchWriteItem", batch_body(self.table_name, puts))
        except Exception as error:
            if is_missing_table(error):  # and its registry with it, should it come back
                self._registry.forget()
            raise
        return unprocessed(reply, puts)

    def write(self, batch: Batch) -> WriteOutcome:
        """Take in a batch. Raises StoreError; then some of it may be in the table, and all of it
        may be sent again.

        What DynamoDB will never take is found by halving, and rejected; the rest goes in.
        """
        records: list[StoredRecord | Gap] = [*batch.records, *batch.gaps]
        try:
            rejected = self._write(records)
        except Exception as error:
            raise explain(error, self._connection.place) from error
        dead = sum(isinstance(found.record, StoredRecord) for found in rejected)
        return WriteOutcome(acknowledged=len(batch.records) - dead, rejected=rejected)

    def _write(self, records: Iterable[StoredRecord | Gap]) -> list[Rejection]:
        rejected: list[Rejection] = []
        self._persist(lambda: self._registry.shards(self._call))
        waiting: dict[Key, tuple[Put, StoredRecord | Gap]] = {}
        size = 0
        for record in records:
            try:
                put = self.prepare(encode_payload(record))
            except ValueError as error:
                rejected.append(Rejection(record, str(error)))
                continue
            full = len(waiting) == BATCH_ITEMS or size + len(put.body) > _REQUEST_BYTES
            if waiting and (full or put.key in waiting):
                rejected += self._settle(waiting)
                waiting, size = {}, 0
            waiting[put.key] = put, record
            size += len(put.body)
        if waiting:
            rejected += self._settle(waiting)
        return rejected

    def _settle(self, waiting: Mapping[Key, tuple[Put, StoredRecord | Gap]]) -> list[Rejection]:
        """Send until all is taken but what never will be. Raises as ``send`` does, StoreError."""
        left = [put for put, _ in waiting.values()]
        barren = 0
        while left:
            before = left
            try:
                left = self._persist(partial(self.send, before))
            except Exception as error:
                if not is_refusal(error):
                    raise
                return self._halve(waiting, before, error)
            if not left:
                break
            barren = barren + 1 if len(left) == len(before) else 0
            if barren >= self._tries:
                raise StoreError(
                    f"{self._connection.place} is throttled: it takes none of {len(left)} records. "
                    "Try again later."
                )
            seconds = min(_CAP_SECONDS, _THROTTLED_SECONDS * 2**barren)
            self._clock.sleep(self._rng.uniform(0, seconds))
        return []

    def _halve(
        self,
        waiting: Mapping[Key, tuple[Put, StoredRecord | Gap]],
        left: Sequence[Put],
        error: Exception,
    ) -> list[Rejection]:
        if len(left) == 1:
            return [Rejection(waiting[left[0].key][1], f"DynamoDB refuses it: {error}")]
        middle = len(left) // 2
        return [
            rejection
            for half in (left[:middle], left[middle:])
            for rejection in self._settle({put.key: waiting[put.key] for put in half})
        ]

    # -- questions ---------------------------------------------------------------------------

    def get_ai_usage_metric(
        self, service: str, timestamp: datetime, request_id: str
    ) -> AIUsageMetric | None:
        """Return the metric of an identity, or None. A consistent read of one item."""
        return self._reader.get(service, timestamp, request_id)

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield the metrics that match, by time, service and request id, read a little ahead.

        Consistent, but for questions about a job, batch, pull request, user or conversation: an
        index may lag behind the table by about a second.
        """
        return self._reader.query(query)

    def summarize(
        self, query: UsageQuery, by: Sequence[str], timezone: str = "UTC"
    ) -> list[UsageSummary]:
        """Return the sums per group, ordered by group; see ``query`` for what may lag behind."""
        return self._reader.summarize(query, by, timezone)

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Return what was lost, by the time range of ``query``, its service and its model."""
        return self._reader.dropped(query)

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """Return the metrics that the table has under these identities. Consistent."""
        return self._reader.recorded(identities)

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id) that the table has.

        Reads the keys of all metrics of the services named: no index is worth this rare question.
        """
        return self._reader.recorded_times(keys)

    # -- what a store of one machine needs, and a table does not -------------------------------

    @contextmanager
    def exclusive(self, timeout: float) -> Iterator[None]:
        """Yield at once: any number of processes may write to a table."""
        yield

    def position(self, segment: str) -> None:
        """Return None: the segment's own ack counts."""

    def prune_positions(self, segments: Collection[str]) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Close the connections. The client may be used again."""
        self._connection.close()

    def _call(self, operation: str, request: Mapping[str, Any], form: type[T]) -> T:
        reply = self._connection.call(operation, _encode(request))
        try:
            return msgspec.json.decode(reply, type=form)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptReplyError(
                f"{operation} was answered with what cannot be read: {error}"
            ) from error

    def _ask(self, operation: str, request: Mapping[str, Any], form: type[T]) -> T:
        """Call, try again what may pass, and say the rest in words."""
        try:
            return self._persist(lambda: self._call(operation, request, form))
        except Exception as error:
            raise explain(error, self._connection.place) from error

    def _persist(self, call: Callable[[], T]) -> T:
        return persist(call, tries=self._tries, clock=self._clock, rng=self._rng)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DynamoClient of {self._connection.place}>"
