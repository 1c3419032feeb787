"""What is sent when, and what becomes of it: queue, breaker, limiter, retries and guards as one.

    dispatcher = Dispatcher()
    dispatcher.put(key, record, size)
    sender = dispatcher.sender()                            # one for each thread
    step = sender.next()
    if isinstance(step, Wait):
        wait(step.seconds)                                  # less, where something was put
    else:
        try:
            verdict = classify(send(step.items), sent=step.items)
        except BaseException as error:
            verdict = classify(error, sent=step.items)
        settled = sender.answered(verdict)                  # records that left, and how

It holds no thread, does no I/O and sleeps never: whoever has threads and sockets drives it, in
virtual time as well. docs/semantics.md says what each answer leads to.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from receipt_dynamo.dispatch_types import Dispatch, DispatchSettings, DispatchSnapshot, Settled
from receipt_dynamo.failures import Fate, Key, Kind, Rule, Verdict
from receipt_dynamo.guards import Blockage, HeadOfLineGuard, PoisonStormGuard
from receipt_dynamo.utils.batch_queue import BatchQueue, Lease, Reentry
from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.circuit_breaker import (
    CircuitBreaker,
    CircuitTransition,
    Outcome,
    Permit,
    Rejected,
)
from receipt_dynamo.utils.clock import Clock, SystemClock
from receipt_dynamo.utils.goodput_limiter import GoodputLimiter, Slot, Wait
from receipt_dynamo.utils.retry_with_backoff import Backoff, RetryQuota, RetrySchedule

__all__ = [
    "Dispatch",
    "DispatchSettings",
    "DispatchSnapshot",
    "Dispatcher",
    "Sender",
    "Settled",
    "Wait",
]

T = TypeVar("T")

_LONGEST_WAIT = 1.0  # a driver that is told of nothing still asks once a second
_BUSY_WAIT = 0.1  # where as many batches are in flight as should be
_FRUITLESS = Backoff(base=0.1)  # the pause after a batch that came to nothing, doubled each time
_TO_THE_END = frozenset({Kind.CONFIG, Kind.AUTH})  # in a storm, good records come to the front
_NOBODYS_FAULT = frozenset({Kind.THROTTLED, Kind.INTERRUPTED})


class Dispatcher(Generic[T]):
    """Decides over the records that are on their way to one table. Thread-safe.

    ``listeners`` are told of the breaker's transitions. It promises no durability: what is put here
    lies elsewhere until it is settled. After a fork the owner calls ``after_fork`` in the child.
    """

    def __init__(
        self,
        settings: DispatchSettings | None = None,
        *,
        clock: Clock | None = None,
        chance: Chance = system_chance,
        listeners: Iterable[Callable[[CircuitTransition], object]] = (),
    ) -> None:
        self._parts: _Parts[T] = _Parts(
            settings or DispatchSettings(), clock or SystemClock(), chance, listeners
        )

    def put(self, key: Key, record: T, size: int, *, alone: bool = False) -> bool:
        """Take in a record of ``size`` bytes; False: there is no room, and it is not in it.

        ``alone``: it is sent in a batch of its own, as befits one that was parked.
        """
        return self._parts.queue.put(key, record, size, alone=alone)

    def flush(self) -> int:
        """Make everything ready that is held now; return a mark for ``unsettled``."""
        return self._parts.queue.flush()

    def unsettled(self, mark: int) -> int:
        """Return how many records put before ``flush`` returned ``mark`` have not left."""
        return self._parts.queue.unsettled(mark)

    def sender(self) -> Sender[T]:
        """Return what one thread asks."""
        return Sender(self._parts)

    def clear(self) -> None:
        """Let go of all that is held: it lies elsewhere. What is in flight comes back too late."""
        self._parts.queue.clear()

    @property
    def in_flight(self) -> int:
        """How many batches senders have, those that wait for a retry among them."""
        return self._parts.queue.leases

    @property
    def breaker(self) -> CircuitBreaker:
        """The breaker, for calls to the same table that are no batches."""
        return self._parts.breaker

    def snapshot(self) -> DispatchSnapshot:
        """Return the state and counts of all parts."""
        return self._parts.snapshot()

    def after_fork(self) -> None:
        """Empty a forked child's copy: what it holds is the parent's to send. Senders are void.

        A break of the breaker's is kept: the service is no better in the child.
        """
        self._parts.after_fork()

    def __len__(self) -> int:
        return len(self._parts.queue)

    def __repr__(self) -> str:
        parts = self._parts
        return f"<Dispatcher {parts.queue!r} {parts.breaker!r} {parts.limiter!r}>"


@dataclass(slots=True)
class _Flight(Generic[T]):
    """One batch, from its lease to its settlement."""

    permit: Permit
    slot: Slot
    lease: Lease[Key, T]
    schedule: RetrySchedule
    attempt: int = 0
    is_out: bool = False  # else it waits for its retry


class Sender(Generic[T]):
    """One thread's way through the dispatcher: ``next``, send, ``answered``, and again.

    Retries and pauses are within ``next``. Used by one thread; made by ``Dispatcher.sender``.
    """

    def __init__(self, parts: _Parts[T]) -> None:
        self._parts = parts
        self._flight: _Flight[T] | None = None
        self._rests_until = parts.clock.monotonic()
        self._before: Rule | None = None  # of the last answer
        self._fruitless = 0  # batches in a row that came to nothing

    def next(self) -> Dispatch[T] | Wait:
        """Return the batch to send now, or how long to wait, a second at most.

        A wait may be cut short when something was put or answered. Raises RuntimeError where the
        batch before has no answer yet.
        """
        flight = self._flight
        if flight is not None and flight.is_out:
            raise RuntimeError("the batch before was not answered: call answered() first")
        if flight is not None and not self._parts.may_go_on(flight):
            self.close()
            flight = None
        rest = self._rests_until - self._parts.clock.monotonic()
        if rest > 0:
            return Wait(min(rest, _LONGEST_WAIT))
        if flight is None:
            begun = self._parts.begin()
            if isinstance(begun, Wait):
                return begun
            flight = self._flight = begun
        flight.attempt += 1
        flight.is_out = True
        return Dispatch(flight.lease.items, flight.attempt)

    def answered(self, verdict: Verdict) -> Settled[T]:
        """Take in what the batch came to; return what left the queue by that.

        ``verdict`` is of the whole batch: ``classify(..., sent=dispatch.items)``. Raises
        RuntimeError where no batch is out.
        """
        flight = self._flight
        if flight is None or not flight.is_out:
            raise RuntimeError("no batch was sent: call next() first")
        verdict = self._parts.storm.judge(verdict)
        again, self._before = verdict.rule is self._before, verdict.rule
        self._parts.note(flight, verdict, again)
        flight.is_out = False
        pause = self._parts.retry_in(flight, verdict)
        if pause is not None:
            self._rest(pause)
            return Settled(verdict=verdict)
        self._flight = None
        pause, settled = self._parts.settle(flight, verdict)
        if verdict.fate() not in (Fate.FRONT, Fate.KEEP) or settled.parked:
            self._fruitless = 0
        elif verdict.kind is not Kind.THROTTLED:  # of those the limiter knows better
            self._fruitless += 1
            pause = max(pause, flight.schedule.delay(self._fruitless, _FRUITLESS))
        self._rest(pause)
        return settled

    @property
    def holds_batch(self) -> bool:
        """Whether a batch is out, or waits here for its retry."""
        return self._flight is not None

    def close(self) -> None:
        """Give back what the sender holds. It may be used again."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._parts.give_back(flight)

    def _rest(self, seconds: float) -> None:
        self._rests_until = self._parts.clock.monotonic() + seconds


class _Parts(Generic[T]):
    """What all senders share, and the decisions over one batch."""

    def __init__(
        self,
        settings: DispatchSettings,
        clock: Clock,
        chance: Chance,
        listeners: Iterable[Callable[[CircuitTransition], object]],
    ) -> None:
        workers = settings.workers
        self.clock = clock
        self.queue: BatchQueue[Key, T] = BatchQueue(settings.queue, clock=clock, chance=chance)
        self.breaker = CircuitBreaker(
            replace(settings.breaker, workers=workers),
            clock=clock,
            chance=chance,
            listeners=listeners,
        )
        self.limiter = GoodputLimiter(
            replace(settings.limiter, workers=workers), clock=clock, chance=chance
        )
        self.storm = PoisonStormGuard(settings.guards)
        self._head_of_line: HeadOfLineGuard[Key] = HeadOfLineGuard(settings.guards)
        self._retry = settings.retry
        self._quota = RetryQuota(settings.retry)
        self._chance = chance
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may ask for a snapshot
        # Guarded by _lock:
        self._answers: Counter[Kind] = Counter()
        self._throttled_table = self._throttled_partition = 0
        self._last_failure: str | None = None

    def begin(self) -> _Flight[T] | Wait:
        """Take a batch, and leave to send it; or say how long to wait."""
        now = self.clock.monotonic()
        ready = self.queue.ready_at()
        if ready is None or ready > now:
            return Wait(_LONGEST_WAIT if ready is None else min(ready - now, _LONGEST_WAIT))
        permit = self.breaker.try_acquire()
        if isinstance(permit, Rejected):
            return Wait(min(permit.retry_after, _LONGEST_WAIT))
        # Probes are one at a time by themselves, whatever still hangs from before the outage.
        most = None if permit.probe else self.breaker.concurrency
        slot = self.limiter.acquire()
        if isinstance(slot, Wait):
            self.breaker.record(permit, Outcome.NEUTRAL)
            return Wait(min(slot.seconds, _LONGEST_WAIT))
        lease = self.queue.take(slot.size, max_leases=most)
        if lease is None:
            self.limiter.record(slot, sent=0, accepted=None)
            self.breaker.record(permit, Outcome.NEUTRAL)
            return Wait(_BUSY_WAIT)
        schedule = RetrySchedule(self._retry, self._quota, self.clock, self._chance)
        return _Flight(permit, slot, lease, schedule)

    def may_go_on(self, flight: _Flight[T]) -> bool:
        """Whether a batch may be sent again by who has it.

        Not if others have found the service down, nor if the queue has let go of it: then newer
        records of the same keys may have been sent since.
        """
        return self.breaker.still_valid(flight.permit) and self.queue.holds(flight.lease)

    def note(self, flight: _Flight[T], verdict: Verdict, again: bool) -> None:
        """Tell breaker, quota and counts of one answer."""
        outcome = verdict.outcome(flight.permit, again=again)
        self.breaker.record(flight.permit, outcome, reason=str(verdict))
        acknowledges = verdict.kind in (Kind.OK, Kind.PARTIAL)
        if acknowledges:
            self._quota.succeeded()
        with self._lock:
            self._answers[verdict.kind] += 1
            if verdict.throttling:
                self._throttled_partition += verdict.hot_partition
                self._throttled_table += not verdict.hot_partition
            if not acknowledges:
                self._last_failure = str(verdict)

    def retry_in(self, flight: _Flight[T], verdict: Verdict) -> float | None:
        """Return after how many seconds the same call is made again; None: it is not."""
        backoff = verdict.backoff(paced=True)
        if backoff is None or flight.permit.probe or not self.breaker.still_valid(flight.permit):
            return None
        if self._head_of_line.suspects(flight.lease.items):
            return None
        return flight.schedule.next_delay(flight.attempt, backoff)

    def settle(self, flight: _Flight[T], verdict: Verdict) -> tuple[float, Settled[T]]:
        """End a flight; return for how long its sender pauses, and what left the queue."""
        pause = self.limiter.record(
            flight.slot,
            sent=len(flight.lease.items),
            accepted=verdict.accepted,
            hint=verdict.retry_after,
        )
        lease, fate = flight.lease, verdict.fate()
        if fate in (Fate.ACK, Fate.ACK_REST):
            keys = [key for key in lease.items if key not in verdict.unprocessed]
            self.storm.accepted()
            self._head_of_line.settled(keys)
            acked = self.queue.settle(lease, acked=keys).acked
            return pause, Settled(verdict=verdict, acked=acked)
        if fate is Fate.DEAD:
            self.storm.refused_alone(lease.family, lease.family_size, verdict.message)
            self._head_of_line.settled(lease.items)
            dead = self.queue.settle(lease, dead=lease.items).dead
            return pause, Settled(verdict=verdict, dead=dead)
        if fate is Fate.BISECT:
            self.queue.settle(lease, rest=Reentry.SPLIT)
            return pause, Settled(verdict=verdict)
        return pause, Settled(verdict=verdict, parked=self._try_later(flight, verdict))

    def _try_later(self, flight: _Flight[T], verdict: Verdict) -> tuple[T, ...]:
        """Put a batch back where it blocks nobody; return what is parked instead."""
        lease = flight.lease
        if verdict.kind in _NOBODYS_FAULT:
            self.queue.settle(lease)
            return ()
        if verdict.kind in _TO_THE_END:
            self.queue.settle(lease, rest=Reentry.BEHIND)
            return ()
        # A failure that opens no breaker meets no probes either: others have to pass it by.
        behind = flight.permit.probe or verdict.rule.breaker is Outcome.NEUTRAL
        held = self.queue.keys()
        blockage = self._head_of_line.failed(lease.items, probe=behind, held=held)
        if blockage is not Blockage.PARK:
            self.queue.settle(lease, rest=Reentry(blockage.value))
            return ()
        return self.queue.settle(lease, dead=lease.items).dead

    def give_back(self, flight: _Flight[T]) -> None:
        """End a flight without a verdict: its batch goes to its old place."""
        self.breaker.record(flight.permit, Outcome.NEUTRAL)
        self.limiter.record(flight.slot, sent=len(flight.lease.items), accepted=None)
        self.queue.settle(flight.lease)

    def snapshot(self) -> DispatchSnapshot:
        """Return the state and counts of all parts."""
        with self._lock:
            return DispatchSnapshot(
                breaker=self.breaker.snapshot(),
                queue=self.queue.snapshot(),
                limiter=self.limiter.snapshot(),
                retry_tokens=self._quota.tokens,
                storm=self.storm.storm,
                answers=dict(self._answers),
                throttled_table=self._throttled_table,
                throttled_partition=self._throttled_partition,
                last_failure=self._last_failure,
            )

    def after_fork(self) -> None:
        """Make a forked child's copy its own."""
        self.queue.after_fork()
        self.breaker.after_fork()
        self.limiter.after_fork()
        self.storm.after_fork()
        self._head_of_line.after_fork()
        self._quota.after_fork()
        self._reset()
