"""Broken variants of the parts of delivery: tests of the tests of breaker, queue and dispatcher.

Most do what the named library does, or did. ``BREAKERS`` and ``QUEUES`` say which macro rule of the
model goes where the fault shows; ``DISPATCHERS`` which test of the simulation does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from receipt_dynamo import dispatch, failures
from receipt_dynamo.failures import Key, Kind, Verdict
from receipt_dynamo.guards import Blockage, HeadOfLineGuard, PoisonStormGuard
from receipt_dynamo.utils.batch_queue import BatchQueue, Lease, Reentry
from receipt_dynamo.utils.circuit_breaker import (
    CircuitBreaker,
    CircuitState,
    Outcome,
    Permit,
    Rejected,
)

LEASE = 10.0
Item = tuple[Key, int, bool]


class NoGenerations(CircuitBreaker):
    """resilience4j, Polly, failsafe-go: a result counts in whatever state it arrives."""

    def record(self, permit: Permit, outcome: Outcome, *, reason: str = "") -> bool:
        probe = self._state is CircuitState.HALF_OPEN
        if self._state not in (CircuitState.CLOSED, CircuitState.HALF_OPEN) or (
            probe and self._probe_until is None
        ):
            return super().record(permit, outcome, reason=reason)
        return super().record(Permit(self._generation, probe), outcome, reason=reason)


class NoProbeLease(CircuitBreaker):
    """gobreaker, resilience4j by default: a probe that never answers keeps its slot for ever."""

    def _try_acquire_locked(self, now: float) -> Permit | Rejected:
        answer = super()._try_acquire_locked(now)
        if isinstance(answer, Permit) and answer.probe:
            self._probe_until = inf
        return answer


class ManyProbes(CircuitBreaker):
    """resilience4j, gobreaker: several probes at a time."""

    def _try_acquire_locked(self, now: float) -> Permit | Rejected:
        if self._state is CircuitState.HALF_OPEN:
            self._probe_until = now + LEASE
            return Permit(self._generation, probe=True)
        return super()._try_acquire_locked(now)


class NeutralCloses(CircuitBreaker):
    """Polly: an outcome that nobody handles closes the circuit."""

    def _record_locked(self, permit: Permit, outcome: Outcome, reason: str, now: float) -> None:
        if permit.probe and outcome is Outcome.NEUTRAL:
            self._probe_successes = self._settings.probe_successes
            outcome = Outcome.SUCCESS
        super()._record_locked(permit, outcome, reason, now)


class NeutralKeepsTheSlot(CircuitBreaker):
    """powertools: an ignored outcome holds the probe's slot until its lease ends."""

    def _record_locked(self, permit: Permit, outcome: Outcome, reason: str, now: float) -> None:
        held = self._probe_until
        super()._record_locked(permit, outcome, reason, now)
        if permit.probe and outcome is Outcome.NEUTRAL:
            self._probe_until = held


class NeutralTrips(CircuitBreaker):
    """The catastrophic one: throttles count as failures."""

    def _record_locked(self, permit: Permit, outcome: Outcome, reason: str, now: float) -> None:
        if outcome is Outcome.NEUTRAL:
            outcome = Outcome.FAILURE
        super()._record_locked(permit, outcome, reason, now)


class OneSuccessCloses(CircuitBreaker):
    """pybreaker: a single lucky call ends the outage."""

    def _count_probe_locked(self, now: float) -> None:
        self._probe_successes += 1
        super()._count_probe_locked(now)


class ForgetsTrips(CircuitBreaker):
    """Most of them: flapping starts from the shortest break each time."""

    def _open_locked(self, reason: str, now: float, base: float) -> None:
        self._trips = 0
        super()._open_locked(reason, now, base)


class TripsLate(CircuitBreaker):
    """A run of failures opens it one failure late."""

    def _count_failure_locked(self, now: float) -> None:
        self._run -= self._run == self._settings.consecutive_failures - 2
        super()._count_failure_locked(now)


class AsksTooEarly(CircuitBreaker):
    """A clock that is rounded: the probe comes before the break has ended."""

    def _try_acquire_locked(self, now: float) -> Permit | Rejected:
        if self._state is CircuitState.OPEN and now < self._open_until <= now + 0.2:
            self._open_until = now
        return super()._try_acquire_locked(now)


class LeaseEndsLate(CircuitBreaker):
    """At the very end of its lease a probe still counts as live."""

    def _try_acquire_locked(self, now: float) -> Permit | Rejected:
        if self._probe_until == now:
            return Rejected(self._state, 0.001)
        return super()._try_acquire_locked(now)


class NeverSaysWhen(CircuitBreaker):
    """Polly, unless somebody calls: between two probes nobody is told that the next is due."""

    def _next_probe_at_locked(self) -> float | None:
        due = super()._next_probe_at_locked()
        return None if self._state is CircuitState.HALF_OPEN and not self._probe_until else due


BREAKERS: dict[type[CircuitBreaker], str] = {
    NoGenerations: "outage",
    NoProbeLease: "lease_edge",
    ManyProbes: "lease_edge",
    NeutralCloses: "probe_is_cancelled",
    NeutralKeepsTheSlot: "probe_is_cancelled",
    NeutralTrips: "probe_is_cancelled",
    OneSuccessCloses: "recovers",
    ForgetsTrips: "outage",
    TripsLate: "outage",
    AsksTooEarly: "break_ends",
    LeaseEndsLate: "lease_edge",
    NeverSaysWhen: "recovers",
}


# The queue.


class NoMute(BatchQueue[Key, Item]):
    """boto3, PynamoDB: nothing keeps a key out of a second batch while the first is in flight."""

    def put(self, key: Key, item: Item, size: int) -> bool:
        held, self._in_flight = self._in_flight, set()
        taken = super().put(key, item, size)
        self._in_flight |= held
        return taken


class BackToTheEnd(BatchQueue[Key, Item]):
    """boto3's batch_writer: what was not processed goes behind all that came later."""

    def settle(self, lease: Any, *, acked: Any = (), dead: Any = (), rest: Any = None) -> Any:
        rest = Reentry.BEHIND if rest in (None, Reentry.FRONT) else rest
        return super().settle(lease, acked=acked, dead=dead, rest=rest)


class LosesABatch(BatchQueue[Key, Item]):
    """boto3's batch_writer: a batch that raised is gone."""

    def _return_locked(self, entries: Any, lease: Any, rest: Any) -> None:
        self._leave_locked(entries)


class NoLease(BatchQueue[Key, Item]):
    """litequeue: a batch that nobody settles is never seen again."""

    def _expire_locked(self, now: float) -> None:
        pass


class BelievesLateAcks(BatchQueue[Key, Item]):
    """Queues without generations: an old lease settles what is in flight anew."""

    def settle(self, lease: Any, **how: Any) -> Any:
        if lease.number not in self._flights:
            for number, flight in self._flights.items():
                if set(flight.entries) == set(lease.items):
                    return super().settle(Lease(number, lease.items, 0, 0, 0), **how)
        return super().settle(lease, **how)


class ForgetsTheSuperseded(BatchQueue[Key, Item]):
    """An item that was replaced in the queue is never settled."""

    def _leave_locked(self, entries: Any) -> Any:
        gone = []
        for entry in entries:
            gone.append(entry.items[-1])
            super()._leave_locked([entry])
        return tuple(gone)


class OlderWins(BatchQueue[Key, Item]):
    """What comes back is sent as it was, although a newer one waits."""

    def _return_locked(self, entries: Any, lease: Any, rest: Any) -> None:
        for entry in entries:
            newer = self._muted.get(entry.key)
            if newer is not None:
                newer.items.reverse()
                newer.items[-1] = entry.items[-1]
        super()._return_locked(entries, lease, rest)


class NeverSplits(BatchQueue[Key, Item]):
    """A refused batch is sent whole again, for ever."""

    def settle(self, lease: Any, *, acked: Any = (), dead: Any = (), rest: Any = None) -> Any:
        return super().settle(lease, acked=acked, dead=dead)


class LingersOn(BatchQueue[Key, Item]):
    """A flush that waits as any other batch does."""

    def _flushing_locked(self) -> bool:
        return False


class InheritsTheParents(BatchQueue[Key, Item]):
    """A forked child, or a restart, that goes on with counts of what it no longer holds."""

    def after_fork(self) -> None:
        held = self._held_items
        super().after_fork()
        self._held_items = held


class BehindIsFront(BatchQueue[Key, Item]):
    """A batch that fails every probe is the next to probe again."""

    def _return_locked(self, entries: Any, lease: Any, rest: Any) -> None:
        super()._return_locked(entries, lease, Reentry.FRONT if rest is Reentry.BEHIND else rest)


QUEUES: dict[type[BatchQueue[Key, Item]], str] = {
    NoMute: "newer_behind_one_in_flight",
    BackToTheEnd: "linger_and_take",
    LosesABatch: "settles",
    NoLease: "lease_edge",
    BelievesLateAcks: "lease_edge",
    ForgetsTheSuperseded: "put_many",
    OlderWins: "newer_behind_one_in_flight",
    NeverSplits: "settles",
    LingersOn: "flush",
    InheritsTheParents: "crash",
    BehindIsFront: "failed_probe",
}


# The dispatcher, and the tables and guards that it decides by.

Break = Callable[[pytest.MonkeyPatch], None]
DISPATCHERS: dict[str, tuple[Break, str]] = {}


def _caught_by(test: str) -> Callable[[Break], Break]:
    def register(mutant: Break) -> Break:
        DISPATCHERS[mutant.__name__] = mutant, test
        return mutant

    return register


@_caught_by("test_throttling_alone_never_opens_the_breaker")
def throttles_trip(patch: pytest.MonkeyPatch) -> None:
    """The catastrophic one: what the table refuses for now counts as a failure."""
    real = Verdict.outcome

    def outcome(self: Verdict, permit: Permit, *, again: bool = False) -> Outcome:
        return Outcome.FAILURE if self.kind is Kind.THROTTLED else real(self, permit, again=again)

    patch.setattr(Verdict, "outcome", outcome)


@_caught_by("test_nothing_is_lost_whatever_happens")
def an_empty_reply_is_believed(patch: pytest.MonkeyPatch) -> None:
    """boto3's own way: what a reply does not name as unprocessed is written."""
    patch.setattr(failures, "_unprocessed", lambda reply, _: frozenset())


@_caught_by("test_nothing_is_lost_whatever_happens")
def what_was_left_is_acked(patch: pytest.MonkeyPatch) -> None:
    """A reply in part acknowledges the whole batch."""
    real = dispatch.Sender.answered

    def answered(self: Any, verdict: Verdict) -> Any:
        if verdict.kind is Kind.PARTIAL:
            verdict = replace(verdict, unprocessed=frozenset())
        return real(self, verdict)

    patch.setattr(dispatch.Sender, "answered", answered)


@_caught_by("test_no_retry_hammers_a_service_that_was_found_down")
def retries_hammer_an_open_breaker(patch: pytest.MonkeyPatch) -> None:
    """Retry outside, and never asks again: each batch has all its attempts."""
    patch.setattr(CircuitBreaker, "still_valid", lambda *_: True)


@_caught_by("test_after_an_outage_the_load_returns_by_steps")
def all_senders_come_back_at_once(patch: pytest.MonkeyPatch) -> None:
    """No slow start."""
    patch.setattr(CircuitBreaker, "_concurrency_locked", lambda self: self._settings.workers)


@_caught_by("test_a_table_with_another_schema_buries_no_more_than_three_batches")
def every_refusal_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A wrong table sends all that there is to dead/."""
    patch.setattr(PoisonStormGuard, "judge", lambda _, verdict: verdict)


@_caught_by("test_a_record_that_the_server_fails_on_each_time_blocks_nobody")
def a_bad_batch_stays_whole(patch: pytest.MonkeyPatch) -> None:
    """Nobody is ever suspected."""
    patch.setattr(HeadOfLineGuard, "failed", lambda *_, **__: Blockage.BEHIND)
