"""Making a table, and telling whether one is ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from receipt_dynamo.dynamo_faults import code_of, explain, is_missing_table, is_passing
from receipt_dynamo.dynamo_registry import Call, Nothing, Registry
from receipt_dynamo.errors import ConfigurationError, StoreError
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.table import (
    MAX_SHARDS,
    START_OF_TIME,
    TTL_ATTRIBUTE,
    Shards,
    definition,
    differences,
)
from receipt_dynamo.utils.clock import Clock

__all__ = ["TableAdmin", "TableDescription"]

T = TypeVar("T")

_ACTIVE_SECONDS = 300.0
_log = safe_logger("receipt_dynamo.table")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDescription:
    """What a table is. ``items`` and ``size_bytes`` are DynamoDB's, up to six hours old.

    ``identity`` tells the table from one that has or had its name. ``indexes`` are names and
    states. ``differences`` say in words how the table differs from what this library needs; none:
    it is ours. ``shards`` is None in a table that nobody wrote to.
    """

    name: str
    identity: str
    arn: str
    status: str
    billing: str
    items: int
    size_bytes: int
    indexes: Mapping[str, str]
    ttl_attribute: str | None
    shards: int | None
    services: Sequence[str]
    differences: Sequence[str]


class _TableReply(msgspec.Struct):
    Table: dict[str, Any]


class _TtlReply(msgspec.Struct):
    TimeToLiveDescription: dict[str, Any]


class TableAdmin:
    """Creates and describes one table. Raises StoreError, ConfigurationError.

    ``call`` raises what botocore raises.
    """

    def __init__(
        self, call: Call, table_name: str, place: str, registry: Registry, clock: Clock
    ) -> None:
        self._call = call
        self._table = table_name
        self._place = place
        self._registry = registry
        self._clock = clock

    def create(self, shards: int, tries: int, wait_seconds: float) -> TableDescription:
        """Create the table, and what belongs to it, unless it is there; wait until it is ready."""
        if not 1 <= shards <= MAX_SHARDS:
            raise ConfigurationError(f"shards={shards} is out of range: 1 to {MAX_SHARDS}")
        if tries < 1 or wait_seconds < 0:
            raise ConfigurationError(
                f"tries={tries}, wait_seconds={wait_seconds}: at least 1 try, and no less than 0 s"
            )
        patience = _Patience(self._clock, self._place, tries, wait_seconds)
        self._registry.forget()  # whatever is known of a table that had this name
        patience.run(self._create)
        described = self._wait_until_active(patience)
        found = differences(described)
        ttl = patience.run(self._ttl)
        if ttl is not None:
            found += _differing_ttl(ttl)
        if found:
            raise StoreError(
                f"{self._place} has another schema: {'; '.join(found)}. "
                "Use another name, or delete that table."
            )
        if ttl is None:
            patience.run(self._switch_ttl_on)
        wanted = Shards(((START_OF_TIME, shards),))
        kept = patience.run(lambda: self._registry.claim_shards(self._call, wanted))
        if kept != wanted:
            _log.warning(
                "%s was made with other shards than %d, and keeps them", self._place, shards
            )
        return patience.run(lambda: self._description(described, TTL_ATTRIBUTE))

    def describe(self, tries: int, wait_seconds: float) -> TableDescription:
        """Return what the table is. Raises StoreError when there is none."""
        self._registry.forget()
        patience = _Patience(self._clock, self._place, tries, wait_seconds)
        described = patience.run(self._describe)
        return patience.run(lambda: self._description(described, self._ttl()))

    def _create(self) -> None:
        try:
            self._call("CreateTable", definition(self._table), Nothing)
        except Exception as error:
            if code_of(error) != "ResourceInUseException":  # it is there, or about to be
                raise

    def _describe(self) -> dict[str, Any]:
        return self._call("DescribeTable", {"TableName": self._table}, _TableReply).Table

    def _wait_until_active(self, patience: _Patience) -> dict[str, Any]:
        end = self._clock.monotonic() + _ACTIVE_SECONDS
        while True:
            described = patience.run(self._describe, also="ResourceNotFoundException")
            states = {described.get("TableStatus"), *_index_states(described).values()}
            if states == {"ACTIVE"}:
                return described
            if "DELETING" in states or self._clock.monotonic() >= end:
                shown = ", ".join(sorted(map(str, states)))
                raise StoreError(f"{self._place} does not become ready: it is {shown}")
            self._clock.sleep(patience.wait_seconds)

    def _ttl(self) -> str | None:
        reply = self._call("DescribeTimeToLive", {"TableName": self._table}, _TtlReply)
        told = reply.TimeToLiveDescription
        is_on = told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")
        return str(told.get("AttributeName")) if is_on else None

    def _switch_ttl_on(self) -> None:
        try:
            self._call(
                "UpdateTimeToLive",
                {
                    "TableName": self._table,
                    "TimeToLiveSpecification": {"Enabled": True, "AttributeName": TTL_ATTRIBUTE},
                },
                Nothing,
            )
        except Exception as error:
            if code_of(error) != "ValidationException" or self._ttl() != TTL_ATTRIBUTE:
                raise  # else another process was quicker

    def _description(self, described: Mapping[str, Any], ttl: str | None) -> TableDescription:
        known = self._registry.read(self._call)
        billing = described.get("BillingModeSummary") or {}
        shards = known.shards
        return TableDescription(
            name=self._table,
            identity=_identity(described),
            arn=str(described.get("TableArn", "")),
            status=str(described.get("TableStatus")),
            billing=str(billing.get("BillingMode", "PROVISIONED")),
            items=int(described.get("ItemCount", 0)),
            size_bytes=int(described.get("TableSizeBytes", 0)),
            indexes=_index_states(described),
            ttl_attribute=ttl,
            shards=None if shards is None else shards.latest,
            services=sorted(known.services),
            differences=[*differences(described), *_differing_ttl(ttl)],
        )


class _Patience:
    """Tries each step of an errand ``tries`` times, ``wait_seconds`` apart, then says why."""

    def __init__(self, clock: Clock, place: str, tries: int, wait_seconds: float) -> None:
        self._clock = clock
        self._place = place
        self._tries = tries
        self.wait_seconds = wait_seconds

    def run(self, step: Callable[[], T], also: str | None = None) -> T:
        """Return what ``step`` returns; an error of the code ``also`` may pass too."""
        tries = 0
        while True:
            try:
                return step()
            except Exception as error:
                tries += 1
                passing = is_passing(error) or code_of(error) == also
                if tries >= self._tries or not passing:
                    raise explain(error, self._place) from error
                self._say(error, tries)
            self._clock.sleep(self.wait_seconds)

    def _say(self, error: Exception, tries: int) -> None:
        """Tell who looks on what is waited for: the next try may be the one that works."""
        # What CreateTable has just made may be unknown for a while: nobody has to create it.
        new = is_missing_table(error)
        told = f"{self._place} is not to be seen yet" if new else explain(error, self._place)
        _log.warning(
            "try %d of %d: %s; the next one in %g s", tries, self._tries, told, self.wait_seconds
        )


def _identity(described: Mapping[str, Any]) -> str:
    """Return the table's id; engines for tests have none, but the time when it was made."""
    made = f"{described.get('TableArn')} of {described.get('CreationDateTime')}"
    return str(described.get("TableId") or made)


def _differing_ttl(attribute: str | None) -> list[str]:
    if attribute == TTL_ATTRIBUTE:
        return []
    found = "off" if attribute is None else f"on for {attribute!r}"
    return [f"TTL is {found}, not on for {TTL_ATTRIBUTE!r}"]


def _index_states(described: Mapping[str, Any]) -> dict[str, str]:
    return {
        index["IndexName"]: index.get("IndexStatus", "ACTIVE")
        for index in described.get("GlobalSecondaryIndexes") or ()
    }
