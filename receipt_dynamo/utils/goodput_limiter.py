"""How fast to send to a service that refuses what is too much for it.

    limiter = GoodputLimiter()
    slot = limiter.acquire()
    if isinstance(slot, Wait):
        sleep(slot.seconds)                                   # and ask again
    else:
        accepted = send(take(slot.size))
        sleep(limiter.record(slot, sent=slot.size, accepted=accepted))

The service is taken for a token bucket that many clients share. A refusal tells that it is empty at
this moment; so what was accepted between two refusals, over the time between, is this client's
share of the capacity, whatever the bucket held in between. The limiter sends at that rate. When it
has met no refusal for a while it probes: one batch after the other without a pause, small ones at
first, until something is refused. That collects what has gathered, measures the capacity anew and
wastes a part of one small batch. docs/goodput.md has the figures.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.clock import Clock, SystemClock
from receipt_dynamo.utils.settings_checks import check_number

__all__ = ["GoodputLimiter", "GoodputLimiterSettings", "GoodputSnapshot", "Slot", "Wait"]

_MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputLimiterSettings:
    """Pace and probes. Times are seconds, rates items a second.

    ``refusals_least`` of the last ``refusals_among`` answers say that the service is at its limit:
    one that refuses now and then, at any pace, is not helped by a slower one. Slots have at most
    ``max_items``, for each of ``workers`` senders. A rate is measured over
    ``measure_least`` and ``measure_items`` at least, and ``measure_most`` at most; it is never less
    than ``floor``. A probe begins after ``probe_after`` without a refusal, give or take a share of
    ``probe_jitter`` (a service that keeps unused capacity for a second loses none), with
    ``probe_share`` of a second's items, doubled after each ``probe_steps`` that pass; one that is
    not recorded counts no more after ``probe_lease``. A batch that is refused whole pauses its
    sender, with full jitter from ``refusal_base`` up to ``refusal_cap``, or for a server's hint,
    ``hint_slack`` longer at most. After ``off_after`` without a refusal there is no limit.
    """

    max_items: int = 25
    workers: int = 4
    refusals_least: int = 2
    refusals_among: int = 5
    measure_least: float = 0.25
    measure_items: int = 8
    measure_most: float = 3.0
    floor: float = 0.5
    probe_after: float = 1.2
    probe_jitter: float = 0.3
    probe_share: float = 0.02
    probe_steps: int = 4
    probe_lease: float = 30.0
    refusal_base: float = 0.05
    refusal_cap: float = 5.0
    hint_slack: float = 5.0
    off_after: float = 60.0

    def __post_init__(self) -> None:
        check_number(
            self, "max_items", "workers", "measure_items", "probe_steps", least=1, whole=True
        )
        check_number(self, "refusals_least", least=1, whole=True)
        check_number(self, "refusals_among", least=self.refusals_least, whole=True)
        times = ("measure_least", "probe_after", "probe_lease", "refusal_base", "off_after")
        check_number(self, *times, "floor", above=0)
        check_number(self, "measure_most", least=self.measure_least)
        check_number(self, "refusal_cap", least=self.refusal_base)
        check_number(self, "hint_slack", least=0)
        check_number(self, "probe_jitter", "probe_share", least=0, most=1)


@dataclass(frozen=True, slots=True)
class Slot:
    """Leave to send up to ``size`` items now, in one call."""

    number: int
    size: int
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """No leave yet: ask again after ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputSnapshot:
    """The limiter at one moment. ``rate`` None: nothing was refused lately, there is no limit."""

    rate: float | None
    probing: int
    sent: int
    accepted: int
    refusals: int


class GoodputLimiter:
    """The pace of all senders to one table. Thread-safe; holds no thread and sleeps never.

    Off until the first refusal. After a fork the owner calls ``after_fork`` in the child.
    """

    def __init__(
        self,
        settings: GoodputLimiterSettings | None = None,
        *,
        clock: Clock | None = None,
        chance: Chance = system_chance,
    ) -> None:
        self._settings = settings or GoodputLimiterSettings()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._reset()

    def _reset(self) -> None:
        now = self._clock.monotonic()
        self._lock = threading.RLock()  # reentrant: a signal handler may ask for a snapshot
        # Guarded by _lock:
        self._rate: float | None = None
        self._next_at = now
        self._measured_from = now
        self._measured = 0.0
        self._last_refusal = now
        self._probe_after = self._settings.probe_after
        self._probes: dict[int, float] = {}  # when each was granted
        self._probe_size = 1
        self._probes_passed = 0  # at this size
        self._refused_in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=self._settings.refusals_among)
        self._last_slot = 0
        self._sent = self._accepted = self._refusals = 0

    def acquire(self) -> Slot | Wait:
        """Return leave for one batch, or how long to wait before asking again."""
        with self._lock:
            now = self._clock.monotonic()
            if self._rate is not None and now - self._last_refusal >= self._settings.off_after:
                self._rate = None
            if self._rate is None:
                return self._slot_locked(self._settings.max_items)
            until_probe = self._last_refusal + self._probe_after - now
            if until_probe <= 0 and self._may_probe_locked(now):
                slot = self._slot_locked(self._probe_size, probe=True)
                self._probes[slot.number] = now
                return slot
            if now < self._next_at:
                wait = self._next_at - now
                return Wait(min(wait, until_probe) if until_probe > 0 else wait)
            size = self._size_locked(self._rate)
            self._next_at = now + size / self._rate
            return self._slot_locked(size)

    def record(
        self, slot: Slot, *, sent: int, accepted: int | None, hint: float | None = None
    ) -> float:
        """Take in what became of a slot; return for how many seconds its sender should pause.

        ``accepted`` of ``sent`` items were taken; None: the answer did not tell, as with a timeout.
        ``hint`` is what the server asked for, in seconds.
        """
        with self._lock:
            now = self._clock.monotonic()
            self._probes.pop(slot.number, None)
            if self._rate is not None and not slot.probe and sent < slot.size:
                self._next_at -= (slot.size - sent) / self._rate
            if accepted is None:
                return 0.0
            self._sent += sent
            self._accepted += accepted
            self._measure_locked(now, accepted)
            self._recent.append(accepted < sent)
            if accepted < sent and sum(self._recent) >= self._settings.refusals_least:
                self._refused_locked(now)
            elif slot.probe:
                self._probe_passed_locked()
            if accepted or not sent:
                self._refused_in_a_row = 0
                return 0.0
            return self._pause_locked(hint)

    @property
    def rate(self) -> float | None:
        """The pace in items a second, probes apart; None: no limit."""
        return self._rate

    def snapshot(self) -> GoodputSnapshot:
        """Return the pace and the counts since the start."""
        with self._lock:
            return GoodputSnapshot(
                rate=self._rate,
                probing=len(self._probes),
                sent=self._sent,
                accepted=self._accepted,
                refusals=self._refusals,
            )

    def after_fork(self) -> None:
        """Make a forked child's copy its own, without a limit."""
        self._reset()

    def __repr__(self) -> str:
        rate = "no limit" if self._rate is None else f"{self._rate:.1f} items/s"
        return f"<GoodputLimiter {rate}, accepted {self._accepted} of {self._sent} sent>"

    def _slot_locked(self, size: int, probe: bool = False) -> Slot:
        self._last_slot += 1
        return Slot(self._last_slot, size, probe)

    def _size_locked(self, rate: float) -> int:
        """Return how many items a batch has, so that each sender has two a second at least."""
        return max(1, min(self._settings.max_items, int(rate / (2 * self._settings.workers)) + 1))

    def _may_probe_locked(self, now: float) -> bool:
        """Return whether another probe may fly: one, and more when full batches keep passing."""
        for number, granted in list(self._probes.items()):
            if now - granted >= self._settings.probe_lease:
                del self._probes[number]
        full = self._probes_passed if self._probe_size >= self._settings.max_items else 0
        return len(self._probes) < min(self._settings.workers, 1 + full // 2)

    def _probe_passed_locked(self) -> None:
        self._probes_passed += 1
        largest = self._settings.max_items
        if self._probe_size < largest and self._probes_passed >= self._settings.probe_steps:
            self._probe_size = min(largest, 2 * self._probe_size)
            self._probes_passed = 0

    def _measure_locked(self, now: float, accepted: int) -> None:
        """Count what was accepted; what is older than ``measure_most`` fades by halves."""
        self._measured += accepted
        elapsed = now - self._measured_from
        if elapsed > 2 * self._settings.measure_most:
            self._measured *= self._settings.measure_most / elapsed
            self._measured_from = now - self._settings.measure_most

    def _refused_locked(self, now: float) -> None:
        """The bucket is empty now: take the measure, and wait until our share of it is a batch."""
        settings = self._settings
        self._refusals += 1
        self._last_refusal = now
        self._probe_after = settings.probe_after * (
            1 + settings.probe_jitter * (2 * self._chance() - 1)
        )
        elapsed = now - self._measured_from
        enough = self._measured >= settings.measure_items or elapsed >= settings.measure_most
        if self._rate is None or (enough and elapsed >= settings.measure_least):
            measured = self._measured / max(elapsed, settings.measure_least)
            self._rate = max(settings.floor, measured)
            self._measured_from, self._measured = now, 0.0
        self._probe_size = max(1, min(settings.max_items, round(self._rate * settings.probe_share)))
        self._probes_passed = 0
        self._next_at = max(self._next_at, now + self._size_locked(self._rate) / self._rate)

    def _pause_locked(self, hint: float | None) -> float:
        settings = self._settings
        doubled = settings.refusal_base * 2.0 ** min(self._refused_in_a_row, _MAX_DOUBLINGS)
        self._refused_in_a_row += 1
        pause = self._chance() * min(settings.refusal_cap, doubled)
        if hint is not None:
            pause = max(pause, min(hint, pause + settings.hint_slack))
        return pause
