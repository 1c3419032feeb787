"""Batches out of a stream of keyed items, for a service that takes a few at a time.

    queue = BatchQueue()
    queue.put("a", item, size=600)
    lease = queue.take()                      # None: nothing is ready before queue.ready_at()
    if lease is not None:
        accepted = send(lease.items)          # {key: item}, in order
        queue.settle(lease, acked=accepted)   # the rest goes back to the front

An item waits until a batch is full, or until it has lingered. No key is twice in a batch, nor in
two batches in flight: what comes later under the same key waits, and supersedes what comes back.
The queue holds no thread and calls nothing; it promises no durability either, so what is put here
lies elsewhere until it is settled.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, TypeVar

from receipt_dynamo.utils.batch_types import (
    BatchQueueSettings,
    BatchQueueSnapshot,
    Lease,
    Reentry,
    Settlement,
)
from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = [
    "BatchQueue",
    "BatchQueueSettings",
    "BatchQueueSnapshot",
    "Lease",
    "Reentry",
    "Settlement",
]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[K, T]):
    """One key, with the item to send last in ``items`` and those that it superseded before it."""

    key: K
    items: list[T]
    numbers: list[int]  # of each item, in the order of arrival
    size: int  # of the item to send
    held: int  # of all of them
    place: int
    since: float
    group: _Group | None = None

    def supersede(self, newer: _Entry[K, T]) -> None:
        self.items += newer.items
        self.numbers += newer.numbers
        self.size = newer.size
        self.held += newer.held


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Entries that are sent together and with no others."""

    family: int
    family_size: int


@dataclass(slots=True)
class _Flight(Generic[K, T]):
    entries: dict[K, _Entry[K, T]]
    lease: Lease[K, T]


@dataclass(slots=True)
class _Waiting(Generic[K, T]):
    """Entries that may be sent, by place. Not thread-safe."""

    by_key: dict[K, _Entry[K, T]] = field(default_factory=dict)
    heap: list[tuple[int, _Entry[K, T]]] = field(default_factory=list)  # places are unique
    bytes: int = 0

    def push(self, entry: _Entry[K, T]) -> None:
        self.by_key[entry.key] = entry
        heappush(self.heap, (entry.place, entry))
        self.bytes += entry.size

    def pop(self) -> _Entry[K, T]:
        entry = heappop(self.heap)[1]
        del self.by_key[entry.key]
        self.bytes -= entry.size
        return entry

    def supersede(self, newer: _Entry[K, T]) -> None:
        entry = self.by_key[newer.key]
        self.bytes += newer.size - entry.size
        entry.supersede(newer)


class BatchQueue(Generic[K, T]):
    """A bounded queue of keyed items that are sent in batches. Thread-safe.

    Every item is in one place: waiting, in flight under a lease, or settled. After a fork the owner
    calls ``after_fork`` in the child.
    """

    def __init__(
        self,
        settings: BatchQueueSettings | None = None,
        *,
        clock: Clock | None = None,
        chance: Chance = system_chance,
    ) -> None:
        self._settings = settings or BatchQueueSettings()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._lock = threading.RLock()  # reentrant: a signal handler may ask for a snapshot
        # Guarded by _lock:
        self._waiting: _Waiting[K, T] = _Waiting()
        self._muted: dict[K, _Entry[K, T]] = {}  # their key is in flight
        self._in_flight: set[K] = set()
        self._flights: dict[int, _Flight[K, T]] = {}
        self._last_item = 0
        self._last_place = 0
        self._last_lease = 0
        self._flush_through = 0
        self._held_items = 0
        self._held_bytes = 0
        self._linger = self._draw_linger()
        self._expired_leases = 0
        self._late_settlements = 0

    def put(self, key: K, item: T, size: int, *, alone: bool = False) -> bool:
        """Take in an item of ``size`` bytes; False: the queue is full, and the item not in it.

        It supersedes an item of the same key, which is settled with it. ``alone``: it is sent in a
        batch of its own, without lingering, if nothing of its key was there.
        """
        with self._lock:
            if not self._has_room_locked(size):
                return False
            self._last_item += 1
            self._last_place += 1
            now, group = self._clock.monotonic(), _Group(0, 1) if alone else None
            # In the order of the fields: names would cost a third more, for each item.
            entry = _Entry(key, [item], [self._last_item], size, size, self._last_place, now, group)
            self._held_items += 1
            self._held_bytes += size
            if key in self._muted:
                self._muted[key].supersede(entry)
            elif key in self._in_flight:
                self._muted[key] = entry
            elif key in self._waiting.by_key:
                self._waiting.supersede(entry)
            else:
                self._waiting.push(entry)
            return True

    def has_room(self, size: int = 0) -> bool:
        """Return whether an item of ``size`` bytes would be taken in."""
        with self._lock:
            return self._has_room_locked(size)

    def take(
        self, max_items: int | None = None, *, max_leases: int | None = None
    ) -> Lease[K, T] | None:
        """Return the next batch, of at most ``max_items``, or None if none is ready yet.

        None as well where ``max_leases`` batches are in flight already.
        """
        with self._lock:
            now = self._clock.monotonic()
            self._expire_locked(now)
            if max_leases is not None and len(self._flights) >= max_leases:
                return None
            limit = self._limit(max_items)
            due = self._due_locked(limit)
            if due is None or now < due:
                return None
            entries = self._pop_batch_locked(limit)
            self._linger = self._draw_linger()
            self._last_lease += 1
            group = next(iter(entries.values())).group
            lease = Lease(
                number=self._last_lease,
                items={key: entry.items[-1] for key, entry in entries.items()},
                expires_at=now + self._settings.lease,
                family=self._last_lease if group is None else group.family,
                family_size=len(entries) if group is None else group.family_size,
            )
            self._in_flight.update(entries)
            self._flights[lease.number] = _Flight(entries, lease)
            return lease

    def ready_at(self, max_items: int | None = None) -> float | None:
        """Return when (monotonic seconds) ``take`` may have a batch; None: nothing is held.

        The time may lie in the past. Whoever drives the queue sleeps until then.
        """
        with self._lock:
            due = self._due_locked(self._limit(max_items))
            ends = [flight.lease.expires_at for flight in self._flights.values()]
            return min(ends if due is None else [due, *ends], default=None)

    def settle(
        self,
        lease: Lease[K, T],
        *,
        acked: Collection[K] = (),
        dead: Collection[K] = (),
        rest: Reentry = Reentry.FRONT,
    ) -> Settlement[T]:
        """End a lease: ``acked`` and ``dead`` keys leave the queue, the others go back.

        Raises ValueError for a key that is not of this lease, and for one that is both.
        """
        leaving, dying = dict.fromkeys(acked), dict.fromkeys(dead)
        if unknown := (leaving.keys() | dying.keys()) - lease.items.keys():
            raise ValueError(f"key {unknown.pop()!r} is not of lease {lease.number}")
        if both := leaving.keys() & dying.keys():
            raise ValueError(f"key {both.pop()!r} cannot be both acked and dead")
        with self._lock:
            flight = self._flights.pop(lease.number, None)
            if flight is None:
                self._late_settlements += 1
                return Settlement(late=True)
            entries = flight.entries
            gone_acked = self._leave_locked([entries.pop(key) for key in leaving])
            gone_dead = self._leave_locked([entries.pop(key) for key in dying])
            self._return_locked(list(entries.values()), lease, rest)
            return Settlement(gone_acked, gone_dead)

    def holds(self, lease: Lease[K, T]) -> bool:
        """Return whether a lease counts: it has not ended, expired, or been let go."""
        with self._lock:
            return lease.number in self._flights

    def keys(self) -> list[K]:
        """Return the keys that wait or are in flight."""
        with self._lock:
            return [*self._waiting.by_key, *self._in_flight]

    def flush(self) -> int:
        """Make everything ready that is in the queue now; return a mark for ``unsettled``."""
        with self._lock:
            self._flush_through = self._last_item
            return self._flush_through

    def unsettled(self, mark: int) -> int:
        """Return how many of the items put before ``flush`` returned ``mark`` are not settled."""
        with self._lock:
            return sum(
                number <= mark for entry in self._entries_locked() for number in entry.numbers
            )

    def snapshot(self) -> BatchQueueSnapshot:
        """Return the queue's counts."""
        with self._lock:
            now = self._clock.monotonic()
            oldest = min((entry.since for entry in self._entries_locked()), default=None)
            return BatchQueueSnapshot(
                items=self._held_items,
                bytes=self._held_bytes,
                muted=len(self._muted),
                in_flight=len(self._in_flight),
                leases=len(self._flights),
                expired_leases=self._expired_leases,
                late_settlements=self._late_settlements,
                oldest_seconds=None if oldest is None else now - oldest,
            )

    def __len__(self) -> int:
        return self._held_items

    def __repr__(self) -> str:
        seen = self.snapshot()
        return (
            f"<BatchQueue {seen.items} items, {seen.bytes} bytes, "
            f"{seen.in_flight} in flight in {seen.leases} leases, {seen.muted} muted>"
        )

    @property
    def leases(self) -> int:
        """How many batches are in flight."""
        return len(self._flights)

    def clear(self) -> None:
        """Let go of everything. A batch in flight is settled too late, which changes nothing."""
        with self._lock:
            self._waiting = _Waiting()
            self._muted.clear()
            self._in_flight.clear()
            self._flights.clear()
            self._held_items = self._held_bytes = self._flush_through = 0

    def after_fork(self) -> None:
        """Empty a forked child's copy: what it holds is the parent's to send."""
        self._lock = threading.RLock()
        self.clear()

    def _draw_linger(self) -> float:
        """Spread the lingering, so that many processes do not send at the same moment."""
        return self._settings.linger * (1 + self._settings.linger_jitter * (2 * self._chance() - 1))

    def _limit(self, max_items: int | None) -> int:
        if max_items is None:
            return self._settings.max_items
        return max(1, min(max_items, self._settings.max_items))

    def _entries_locked(self) -> Iterable[_Entry[K, T]]:
        yield from self._waiting.by_key.values()
        yield from self._muted.values()
        for flight in self._flights.values():
            yield from flight.entries.values()

    def _has_room_locked(self, size: int) -> bool:
        if self._held_items == 0:
            return True  # an item larger than the whole queue still has to leave
        return (
            self._held_items < self._settings.capacity_items
            and self._held_bytes + size <= self._settings.capacity_bytes
        )

    def _due_locked(self, limit: int) -> float | None:
        """Return when the first batch is ready, or None if nothing may be sent."""
        waiting = self._waiting
        if not waiting.heap:
            return None
        head = waiting.heap[0][1]
        full = (
            len(waiting.heap) >= limit
            or waiting.bytes >= self._settings.max_bytes
            or head.group is not None
            or not self._has_room_locked(1)
            or self._flushing_locked()
        )
        return head.since if full else head.since + self._linger

    def _flushing_locked(self) -> bool:
        if self._flush_through and self.unsettled(self._flush_through) == 0:
            self._flush_through = 0
        return self._flush_through > 0

    def _pop_batch_locked(self, limit: int) -> dict[K, _Entry[K, T]]:
        heap = self._waiting.heap
        first = self._waiting.pop()
        entries = {first.key: first}
        size = first.size
        while heap and len(entries) < limit:
            candidate = heap[0][1]
            size += candidate.size
            if candidate.group is not first.group or size > self._settings.max_bytes:
                break
            entries[candidate.key] = self._waiting.pop()
        return entries

    def _expire_locked(self, now: float) -> None:
        expired = [n for n, flight in self._flights.items() if flight.lease.expires_at <= now]
        for number in expired:
            flight = self._flights.pop(number)
            self._expired_leases += 1
            self._return_locked(list(flight.entries.values()), flight.lease, Reentry.FRONT)

    def _leave_locked(self, entries: Collection[_Entry[K, T]]) -> tuple[T, ...]:
        """Let entries go, with all that they superseded; what waited for their key may be sent."""
        gone = tuple([item for entry in entries for item in entry.items])
        self._held_items -= len(gone)
        self._held_bytes -= sum([entry.held for entry in entries])
        self._in_flight.difference_update([entry.key for entry in entries])
        if self._muted:
            for entry in entries:
                newer = self._muted.pop(entry.key, None)
                if newer is not None:
                    self._waiting.push(newer)
        return gone

    def _return_locked(
        self, entries: list[_Entry[K, T]], lease: Lease[K, T], rest: Reentry
    ) -> None:
        if rest is Reentry.SPLIT:
            middle = (len(entries) + 1) // 2
            for half in (entries[:middle], entries[middle:]):
                group = _Group(lease.family, lease.family_size)
                for entry in half:
                    entry.group = group
        self._in_flight.difference_update([entry.key for entry in entries])
        for entry in entries:
            newer = self._muted.pop(entry.key, None)
            if newer is not None:
                entry.supersede(newer)
            if rest is Reentry.BEHIND:
                self._last_place += 1
                entry.place = self._last_place
            self._waiting.push(entry)
