"""Write capacity as DynamoDB grants it: token buckets for the table and for each partition key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from benchmarks.chaos.faults import Faults
from benchmarks.chaos.schedule import Schedule
from benchmarks.chaos.writes import Item

__all__ = ["KEY_LIMIT", "TABLE_LIMIT", "Capacity"]

TABLE_LIMIT = "TableWriteProvisionedThroughputExceeded"
KEY_LIMIT = "TableWriteKeyRangeThroughputExceeded"


class _Bucket:
    """Tokens that come at the rate that a schedule grants, up to what ``burst_seconds`` bring."""

    def __init__(self, rate: Callable[[Faults], float | None]) -> None:
        self._rate = rate
        self._at = 0.0
        self._tokens: float | None = None  # None: no limit so far
        self._most = 0.0

    def fill(self, schedule: Schedule, now: float) -> None:
        """Add what has come until ``now``."""
        if self._tokens is None and self._at == 0.0:
            self._turn(schedule.at(0.0))
        for start, end, faults in schedule.spans(self._at, now):
            self._turn(faults)
            if self._tokens is not None:
                gained = (self._rate(faults) or 0.0) * (end - start)
                self._tokens = min(self._most, self._tokens + gained)
        self._turn(schedule.at(now))
        self._at = max(self._at, now)

    def _turn(self, faults: Faults) -> None:
        """Go over to the limit of ``faults``; what is in the bucket stays, as far as it fits."""
        rate = self._rate(faults)
        if rate is None:
            self._tokens = None
            return
        self._most = rate * faults.burst_seconds
        full = 0.0 if faults.bucket_starts_empty else self._most
        self._tokens = full if self._tokens is None else min(self._tokens, self._most)

    def holds(self, units: int) -> bool:
        """Return whether there is enough. A full bucket is, even for more than it ever holds."""
        return self._tokens is None or self._tokens >= min(units, self._most) - 1e-9

    def take(self, units: int) -> None:
        if self._tokens is not None:
            self._tokens -= units


class Capacity:
    """The buckets of all tables and partition keys. Time is the caller's; not thread-safe.

    What is accepted of a table from t0 to t1 is at most what its bucket held at t0 and gained
    since: bursts end where DynamoDB's would, after ``burst_seconds``, not after its 300.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._tables: dict[str, _Bucket] = defaultdict(lambda: _Bucket(lambda f: f.table_units))
        self._keys: dict[tuple[str, bytes | None], _Bucket] = defaultdict(
            lambda: _Bucket(lambda f: f.key_units)
        )

    def refusal(self, item: Item, now: float) -> str | None:
        """Take the units of an item, or return the reason why there are none and take nothing."""
        buckets = self._of(item, self._schedule.at(now))
        for bucket, reason in buckets:
            bucket.fill(self._schedule, now)
            if not bucket.holds(item.units):
                return reason
        for bucket, _ in buckets:
            bucket.take(item.units)
        return None

    def give_back(self, items: Iterable[Item]) -> None:
        """Put back what was just taken for these items."""
        for item in items:
            for bucket in (self._tables.get(item.table), self._keys.get((item.table, item.key))):
                if bucket is not None:
                    bucket.take(-item.units)

    def _of(self, item: Item, faults: Faults) -> list[tuple[_Bucket, str]]:
        buckets = []
        if faults.table_units is not None:
            buckets.append((self._tables[item.table], TABLE_LIMIT))
        if faults.key_units is not None and item.key is not None:
            buckets.append((self._keys[item.table, item.key], KEY_LIMIT))
        return buckets
