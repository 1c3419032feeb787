"""The answers of a table: metrics and sums, the same as those of the embedded store.

A question about a job, batch, pull request, user or conversation goes to its index; any other one
to the partitions of the hours that the registry names, with consistent reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from receipt_dynamo.dynamo_pages import Pages, Partition
from receipt_dynamo.dynamo_questions import (
    Conditions,
    Question,
    Window,
    index_for,
    is_expired,
    is_utf8,
)
from receipt_dynamo.dynamo_registry import Call, Registry, key_values
from receipt_dynamo.dynamo_wire import Item, Value, gap_of, key_of, metric_of
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.checks import check_timestamp
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.entities.item import format_timestamp, parse_timestamp
from receipt_dynamo.errors import StoreError
from receipt_dynamo.store import DroppedSummary, Identity, UsageQuery, UsageSummary
from receipt_dynamo.sums import Group, Sums, counts_for, sum_gaps, summaries
from receipt_dynamo.table import (
    PARTITION_KEY,
    SHARD,
    SORT_KEY,
    TTL_ATTRIBUTE,
    Index,
    Shards,
    gap_partition,
    metric_key,
    metric_partition,
    month_of,
    service_of,
    split_sort_key,
)
from receipt_dynamo.utils.clock import Clock

__all__ = ["TableReader"]


def _services(query: UsageQuery) -> tuple[str] | None:
    return None if query.service is None else (query.service,)


class _GetReply(msgspec.Struct):
    Item: dict[str, dict[str, object]] | None = None


class TableReader:
    """Answers questions from one table. Thread-safe. Raises StoreError."""

    def __init__(
        self, ask: Call, table_name: str, registry: Registry, clock: Clock, readers: int
    ) -> None:
        self._ask = ask
        self._table = table_name
        self._registry = registry
        self._clock = clock
        self._pages = Pages(ask, table_name, readers)

    def get(self, service: str, timestamp: datetime, request_id: str) -> AIUsageMetric | None:
        """Return the metric of an identity, or None. A consistent read."""
        moment = check_timestamp("timestamp", timestamp)
        if not (is_utf8(service) and is_utf8(request_id)):
            return None  # no metric has such a name
        key = metric_key(service.lower(), format_timestamp(moment), request_id, self._shards())
        request = {"TableName": self._table, "Key": key_values(key), "ConsistentRead": True}
        item = self._ask("GetItem", request, _GetReply).Item
        if item is None or is_expired(item, self._now()):
            return None
        return self._metric(item)

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """Return the metrics of these identities, each under its own. Consistent."""
        shards = self._shards()
        keys = (
            metric_key(service, format_timestamp(time.astimezone(UTC)), request_id, shards)
            for service, time, request_id in set(identities)
        )
        now = self._now()
        items = (item for item in self._pages.fetch(keys) if not is_expired(item, now))
        return {metric.identity: metric for metric in map(self._metric, items)}

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield the metrics that match, by time, service and request id."""
        window = Window.of(query)
        if window.is_empty:
            return
        conditions = Conditions(query, self._now())
        for item in self._items(query, window):
            if conditions.hold(item):
                yield self._metric(item)

    def _items(self, query: UsageQuery, window: Window) -> Iterator[Item]:
        """Yield whole items of the table, more than match, in the order of an answer."""
        asked = index_for(query)
        if asked is None:
            return self._pages.in_order(self._by_hour(_services(query), window))
        found = self._pages.in_order([self._of_index(*asked, window)], attributes=())
        return self._pages.fetch(key_of(item) for item in found)

    def summarize(
        self, query: UsageQuery, by: Sequence[str], timezone: str = "UTC"
    ) -> list[UsageSummary]:
        """Return the sums per group, ordered by group."""
        question = Question(query, by, timezone, self._now())
        window = Window.of(query)
        groups: dict[Group, Sums] = {}
        if window.is_empty:
            return summaries(groups, by)
        asked = index_for(query)
        if asked is not None and not question.can_be_asked(asked[0]):
            self._add_up(question, self._items(query, window), groups)
            return summaries(groups, by)
        partitions: Iterable[Partition]
        if asked is None:
            hours = self._by_hour(_services(query), window)
            partitions = (partition for hour in hours for partition in hour)
        else:
            partitions = self._of_index(*asked, window)

        def work(partition: Partition) -> dict[Group, Sums]:
            items = self._pages.items(partition, question.attributes)
            return self._add_up(question, items, {})

        for part in self._pages.each(work, partitions):
            for group, sums in part.items():
                if group in groups:
                    groups[group].merge(sums)
                else:
                    groups[group] = sums
        return summaries(groups, by)

    def _add_up(
        self, question: Question, items: Iterable[Item], groups: dict[Group, Sums]
    ) -> dict[Group, Sums]:
        for item in items:
            with self._naming(item):
                question.add(groups, item)
        return groups

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Return what was lost, by the time range of ``query``, its service and its model."""
        window = Window.of(query)
        gaps: dict[str, Gap] = {}
        if not window.is_empty:
            for found in self._pages.each(self._gaps, self._of_gaps(window)):
                gaps.update((gap.gap, gap) for gap in found)  # an id counts once, wherever it lies
        return sum_gaps(gap for gap in gaps.values() if counts_for(gap, query))

    def _of_gaps(self, window: Window) -> list[Partition]:
        months = sorted(self._registry.read(self._ask).gap_months)
        first, last = month_of(window.since), month_of(window.until)
        return [
            Partition({PARTITION_KEY: {"S": gap_partition(month)}}, window.since, window.until)
            for month in months
            if first <= month <= last
        ]

    def _gaps(self, partition: Partition) -> list[Gap]:
        now = self._now()
        gaps: list[Gap] = []
        for item in self._pages.items(partition):
            if not is_expired(item, now):
                with self._naming(item):
                    gaps.append(gap_of(item))
        return gaps

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id) that the table has.

        No key of the table begins with a request id: this reads all metrics of the services named.
        """
        wanted = frozenset(keys)
        now = self._now()

        def work(partition: Partition) -> dict[tuple[str, str], str]:
            found: dict[tuple[str, str], str] = {}
            for item in self._pages.items(partition, (TTL_ATTRIBUTE,)):
                key = key_of(item)
                time, request_id = split_sort_key(key.sort)
                name = service_of(key), request_id
                if name in wanted and name not in found and not is_expired(item, now):
                    found[name] = time
            return found

        groups = self._by_hour(frozenset(service for service, _ in wanted), Window())
        earliest: dict[tuple[str, str], datetime] = {}
        for found in self._pages.each(work, (partition for hour in groups for partition in hour)):
            for name, time in found.items():
                first = parse_timestamp(time)
                earliest[name] = min(first, earliest.get(name, first))
        return earliest

    def _shards(self) -> Shards:
        return self._registry.shards_known(self._ask)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _by_hour(
        self, services: Collection[str] | None, window: Window
    ) -> Iterator[Sequence[Partition]]:
        """Yield the partitions of each hour in which any of ``services`` has anything, in order.

        None means all services.
        """
        known = self._registry.read(self._ask)
        shards = known.shards or Shards()
        named = known.services if services is None else known.services.intersection(services)
        found: dict[str, list[str]] = defaultdict(list)

        def hours(service: str) -> list[str]:
            return self._registry.hours(self._ask, service, window.since, window.until)

        for service, of_service in zip(
            sorted(named), self._pages.each(hours, sorted(named)), strict=True
        ):
            for hour in of_service:
                found[hour].append(service)
        for hour in sorted(found):
            count = shards.most_between(hour, f"{hour}~")
            yield [
                Partition(
                    {PARTITION_KEY: {"S": metric_partition(service, hour, shard)}},
                    window.since,
                    window.until,
                )
                for service in found[hour]
                for shard in range(count)
            ]

    def _of_index(self, index: Index, key: Value | None, window: Window) -> list[Partition]:
        """Return the shards of one key of an index; none for a key that no metric can have."""
        if key is None:
            return []
        count = self._shards().most_between(window.since, window.until)
        return [
            Partition(
                {index.attribute: key, SHARD: {"N": str(shard)}},
                window.since,
                window.until,
                index.name,
            )
            for shard in range(count)
        ]

    def _metric(self, item: Item) -> AIUsageMetric:
        with self._naming(item):
            return metric_of(item)

    @contextmanager
    def _naming(self, item: Item) -> Iterator[None]:
        """Name an item that is none of ours: a sum without it would be too low, and say nothing."""
        try:
            yield
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            key = " / ".join(str(item.get(name)) for name in (PARTITION_KEY, SORT_KEY))
            raise StoreError(
                f"the table {self._table} holds an item that cannot be read, {key}: {error}. "
                "Mend or delete it."
            ) from error
