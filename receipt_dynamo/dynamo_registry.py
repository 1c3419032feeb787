"""The registry of a table: which services and hours hold anything, and how many shards there are.

A reader asks the registry first, so whatever it does not name is in no report. A writer therefore
names a service, an hour or a month of gaps before it first puts a record of it, once a process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.errors import CorruptReplyError
from receipt_dynamo.table import (
    HOURS_ATTRIBUTE,
    PARTITION_KEY,
    REGISTRY_KEY,
    SORT_KEY,
    START_OF_TIME,
    Key,
    Shards,
    hour_by_number,
    hour_of,
    hours_partition,
    month_of,
    number_of_hour,
)

__all__ = ["Call", "Known", "Nothing", "Registry", "key_values"]

T = TypeVar("T")


class Call(Protocol):
    """A call of DynamoDB's: operation and parameters in, its reply as a ``form`` out."""

    def __call__(self, operation: str, request: Mapping[str, Any], form: type[T]) -> T:
        """Raise CorruptReplyError for a reply that has not this form."""


_ONE_SHARD = Shards(((START_OF_TIME, 1),))
_SERVICES, _SHARDS, _GAP_MONTHS = "services", "shards", "gapMonths"


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry's first item says. ``shards`` is None in a table that nobody wrote to."""

    services: frozenset[str] = frozenset()
    gap_months: frozenset[str] = frozenset()
    shards: Shards | None = None


class Nothing(msgspec.Struct):
    """The form of a reply of which only its arrival matters."""


class _GetReply(msgspec.Struct):
    Item: dict[str, Any] | None = None


class _UpdateReply(msgspec.Struct):
    Attributes: dict[str, Any]


class _HoursReply(msgspec.Struct):
    Items: list[dict[str, Any]]
    LastEvaluatedKey: msgspec.Raw = msgspec.Raw()


def key_values(key: Key) -> dict[str, Any]:
    """Return a primary key as DynamoDB's JSON has it."""
    return {PARTITION_KEY: {"S": key.partition}, SORT_KEY: {"S": key.sort}}


class Registry:
    """The registry of one table. Thread-safe without a lock: to name a thing twice does no harm.

    ``call`` is given to each method: who writes wants the errors as they are, who reads does not.
    """

    def __init__(self, table_name: str) -> None:
        self._table = table_name
        self.forget()

    def forget(self) -> None:
        """Start anew: the table turned out to be gone, and its registry with it."""
        self._known = Known()
        self._hours: set[tuple[str, str]] = set()

    def shards(self, call: Call) -> Shards:
        """Return the table's shards, read once; a table that has none said is given one."""
        found = self._known.shards
        if found is None:
            found = self._learn(self.read(call)).shards or self.claim_shards(call, _ONE_SHARD)
        return found

    @property
    def shards_are_known(self) -> bool:
        """Whether ``shards`` asks nobody."""
        return self._known.shards is not None

    def claim_shards(self, call: Call, shards: Shards) -> Shards:
        """Give the table ``shards`` unless it has some; return those that it has."""
        return self._add(call, (), (), shards).shards or shards

    def shards_known(self, call: Call) -> Shards:
        """Return the table's shards as ``shards`` does, but write nothing."""
        return self._known.shards or self.read(call).shards or Shards()

    def announce(self, call: Call, puts: Iterable[Put]) -> None:
        """Name what ``puts`` are the first of. When it raises, none of them may be put yet."""
        services: set[str] = set()
        months: set[str] = set()
        hours: set[tuple[str, str]] = set()
        known = self._known
        for put in puts:
            if put.service is None:
                months.add(month_of(put.key.sort))
            else:
                services.add(put.service)
                hours.add((put.service, hour_of(put.key.sort)))
        hours = {hour for hour in hours if hour not in self._hours}
        # A service is named again with every new hour: the table may be another one by now, made
        # anew while this process had nothing to put.
        services = (services - known.services) | {service for service, _ in hours}
        months -= known.gap_months
        if services or months:
            self._add(call, services, months)
        if hours:
            self._add_hours(call, hours)

    def _add(
        self,
        call: Call,
        services: Collection[str],
        months: Collection[str],
        shards: Shards = _ONE_SHARD,
    ) -> Known:
        added = {_SERVICES: services, _GAP_MONTHS: months}
        added = {name: words for name, words in added.items() if words}
        update = "SET #shards = if_not_exists(#shards, :shards)"
        if added:
            update += " ADD " + ", ".join(f"#{name} :{name}" for name in added)
        reply = call(
            "UpdateItem",
            {
                "TableName": self._table,
                "Key": key_values(REGISTRY_KEY),
                "UpdateExpression": update,
                "ExpressionAttributeNames": {f"#{name}": name for name in (_SHARDS, *added)},
                "ExpressionAttributeValues": {
                    ":shards": _write_shards(shards),
                    **{f":{name}": {"SS": sorted(words)} for name, words in added.items()},
                },
                "ReturnValues": "ALL_NEW",
            },
            _UpdateReply,
        )
        self._learn(Known(frozenset(services), frozenset(months)))
        return self._learn(self._read_known(reply.Attributes))

    def _add_hours(self, call: Call, hours: Iterable[tuple[str, str]]) -> None:
        by_month: dict[Key, list[tuple[str, str]]] = defaultdict(list)
        for service, hour in sorted(hours):
            by_month[Key(hours_partition(service), month_of(hour))].append((service, hour))
        for key, added in by_month.items():
            numbers = [str(number_of_hour(hour)) for _, hour in added]
            call(
                "UpdateItem",
                {
                    "TableName": self._table,
                    "Key": key_values(key),
                    "UpdateExpression": "ADD #hours :hours",
                    "ExpressionAttributeNames": {"#hours": HOURS_ATTRIBUTE},
                    "ExpressionAttributeValues": {":hours": {"NS": numbers}},
                },
                Nothing,
            )
            self._hours.update(added)  # at once: what follows may fail

    def read(self, call: Call) -> Known:
        """Return what the registry says now, beyond what this process has named."""
        reply = call(
            "GetItem",
            {"TableName": self._table, "Key": key_values(REGISTRY_KEY), "ConsistentRead": True},
            _GetReply,
        )
        return Known() if reply.Item is None else self._read_known(reply.Item)

    def hours(self, call: Call, service: str, since: str, until: str) -> list[str]:
        """Return the hours of ``service`` between two times that hold anything, in order."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "ConsistentRead": True,
            "KeyConditionExpression": "PK = :pk AND SK BETWEEN :since AND :until",
            "ExpressionAttributeValues": {
                ":pk": {"S": hours_partition(service)},
                ":since": {"S": month_of(since)},
                ":until": {"S": month_of(until)},
            },
        }
        found: list[str] = []
        while True:
            page = call("Query", request, _HoursReply)
            for item in page.Items:
                found += self._read_hours(item)
            if not page.LastEvaluatedKey:
                break
            request["ExclusiveStartKey"] = page.LastEvaluatedKey
        return sorted(hour for hour in found if hour_of(since) <= hour < until)

    def _read_known(self, item: Mapping[str, Any]) -> Known:
        try:
            shards = item.get(_SHARDS)
            return Known(
                frozenset(item.get(_SERVICES, {"SS": ()})["SS"]),
                frozenset(item.get(_GAP_MONTHS, {"SS": ()})["SS"]),
                None
                if shards is None
                else Shards(
                    tuple(
                        (entry["M"]["from"]["S"], int(entry["M"]["shards"]["N"]))
                        for entry in shards["L"]
                    )
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptReplyError(
                f"the registry of {self._table} cannot be read: {error!r}"
            ) from error

    def _read_hours(self, item: Mapping[str, Any]) -> list[str]:
        try:
            month = item[SORT_KEY]["S"]
            return [hour_by_number(month, int(number)) for number in item[HOURS_ATTRIBUTE]["NS"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptReplyError(
                f"the hours of a service in {self._table} cannot be read: {error!r}"
            ) from error

    def _learn(self, known: Known) -> Known:
        before = self._known
        self._known = learned = Known(
            before.services | known.services,
            before.gap_months | known.gap_months,
            known.shards or before.shards,
        )
        return learned


def _write_shards(shards: Shards) -> Any:
    """Return the shards as the registry keeps them: a list of maps, by time."""
    return {
        "L": [
            {"M": {"from": {"S": since}, "shards": {"N": str(count)}}}
            for since, count in shards.entries
        ]
    }
