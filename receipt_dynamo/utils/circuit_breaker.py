"""When to stop calling a service that is down, and how to find out that it is back.

    breaker = CircuitBreaker()
    answer = breaker.try_acquire()
    if isinstance(answer, Rejected):
        wait(answer.retry_after)
    else:
        try:
            send()
        except TimeoutError:
            breaker.record(answer, Outcome.FAILURE)
        else:
            breaker.record(answer, Outcome.SUCCESS)

The breaker holds no thread, calls nothing and sleeps never. Beside success and failure an outcome
may be NEUTRAL (it tells nothing about the service: a refused record, a throttle, a cancelled call)
or FATAL (no later call can succeed either: no permission, no table).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from math import inf

from receipt_dynamo.logs import safe_logger
from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.circuit_types import (
    CircuitBreakerSettings,
    CircuitSnapshot,
    CircuitState,
    CircuitTransition,
    Outcome,
    Permit,
    Rejected,
)
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = [
    "CircuitBreaker",
    "CircuitBreakerSettings",
    "CircuitSnapshot",
    "CircuitState",
    "CircuitTransition",
    "Outcome",
    "Permit",
    "Rejected",
]

_MAX_DOUBLINGS = 30  # 2**30 s is beyond every max_break; keeps a year of trips from an overflow
_log = safe_logger("receipt_dynamo.circuit_breaker")


class _Window:
    """Attempts and failures of the last ``seconds``, in buckets. Not thread-safe."""

    __slots__ = ("_buckets", "_count", "_width")

    def __init__(self, seconds: float, count: int) -> None:
        self._width = seconds / count
        self._count = count
        self._buckets: deque[list[int]] = deque()  # [bucket number, attempts, failures]

    def add(self, now: float, failed: bool) -> None:
        number = int(now // self._width)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed

    def counts(self, now: float) -> tuple[int, int]:
        oldest = int(now // self._width) - self._count
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
        return sum(b[1] for b in self._buckets), sum(b[2] for b in self._buckets)

    def clear(self) -> None:
        self._buckets.clear()


class CircuitBreaker:
    """A circuit breaker with three-way outcomes, fenced results and one probe at a time.

    Thread-safe; raises nothing. Listeners are called outside the lock, in the order of the
    transitions, on the thread that caused them or one that did so just before; what they raise is
    logged. After a fork the owner calls ``after_fork`` in the child.
    """

    def __init__(
        self,
        settings: CircuitBreakerSettings | None = None,
        *,
        clock: Clock | None = None,
        chance: Chance = system_chance,
        listeners: Iterable[Callable[[CircuitTransition], object]] = (),
    ) -> None:
        self._settings = settings or CircuitBreakerSettings()
        self._clock = clock or SystemClock()
        self._chance = chance
        self._listeners = tuple(listeners)
        self._lock = threading.RLock()  # reentrant: a signal handler may ask for a snapshot
        # Guarded by _lock:
        self._state = CircuitState.CLOSED
        self._reason = ""
        self._generation = 0
        self._trips = 0
        self._run = 0
        self._window = _Window(self._settings.window, self._settings.buckets)
        self._closed_since = -inf
        self._open_until = -inf
        self._probe_until: float | None = None  # the live probe's lease; None: the slot is free
        self._probe_successes = 0
        self._concurrency = self._settings.workers
        self._late_results = 0
        self._undelivered: deque[CircuitTransition] = deque()
        self._delivering = False

    def try_acquire(self) -> Permit | Rejected:
        """Return leave for one call, or why there is none and for how long."""
        with self._lock:
            answer = self._try_acquire_locked(self._clock.monotonic())
        self._deliver()
        return answer

    def record(self, permit: Permit, outcome: Outcome, *, reason: str = "") -> bool:
        """Take in what one attempt under ``permit`` came to; False: too late, it changed nothing.

        To be called for every attempt, retries included. ``reason`` says in words why a FATAL one
        cannot succeed.
        """
        with self._lock:
            counted = permit.generation == self._generation and (
                not permit.probe or self._probe_until is not None
            )
            if counted:
                self._record_locked(permit, outcome, reason, self._clock.monotonic())
            else:
                self._late_results += 1
        self._deliver()
        return counted

    def still_valid(self, permit: Permit) -> bool:
        """Return whether an attempt may begin under ``permit``. To be asked before each retry."""
        with self._lock:
            if permit.generation != self._generation:
                return False
            if not permit.probe:
                return True
            return self._probe_until is not None and self._clock.monotonic() < self._probe_until

    def force_open(self, reason: str = "forced open") -> None:
        """Admit nothing until ``release``, whatever the service does."""
        with self._lock:
            if self._state is not CircuitState.FORCED_OPEN:
                self._change_locked(CircuitState.FORCED_OPEN, reason, self._clock.monotonic())
        self._deliver()

    def release(self) -> None:
        """End ``force_open``: the service is probed at once. Does nothing in other states."""
        with self._lock:
            if self._state is CircuitState.FORCED_OPEN:
                self._change_locked(CircuitState.HALF_OPEN, "released", self._clock.monotonic())
        self._deliver()

    @property
    def state(self) -> CircuitState:
        """The state as of the last call; an OPEN one whose break has ended still says OPEN."""
        return self._state

    @property
    def concurrency(self) -> int:
        """How many calls should run at a time: 0 while open, 1 while probing, few after that.

        Advice for the caller; ``try_acquire`` admits every call while CLOSED.
        """
        with self._lock:
            return self._concurrency_locked()

    @property
    def next_probe_at(self) -> float | None:
        """When (monotonic seconds) ``try_acquire`` will grant a probe; None: none is due.

        Half-opening is lazy: whoever drives the breaker sleeps until then and asks.
        """
        with self._lock:
            return self._next_probe_at_locked()

    def snapshot(self) -> CircuitSnapshot:
        """Return the breaker's state and counts."""
        with self._lock:
            now = self._clock.monotonic()
            attempts, failures = self._window.counts(now)
            due = self._next_probe_at_locked()
            return CircuitSnapshot(
                state=self._state,
                reason=self._reason,
                generation=self._generation,
                trips=self._trips,
                consecutive_failures=self._run,
                attempts=attempts,
                failures=failures,
                probing=self._probe_until is not None,
                concurrency=self._concurrency_locked(),
                late_results=self._late_results,
                seconds_until_probe=None if due is None else max(0.0, due - now),
            )

    def after_fork(self) -> None:
        """Make a forked child's copy its own: new lock, no probe, older permits void.

        An OPEN break is kept: the service is no better in the child.
        """
        self._lock = threading.RLock()
        self._generation += 1
        self._probe_until = None
        self._undelivered.clear()
        self._delivering = False

    def __repr__(self) -> str:
        seen = self.snapshot()
        words = str(seen.state)
        if seen.state is CircuitState.OPEN:
            words += f" for {seen.seconds_until_probe:.1f} s"
        elif seen.state is CircuitState.HALF_OPEN:
            words += ", probing" if seen.probing else ", no probe"
        elif seen.state is CircuitState.CLOSED:
            words += f", failures={seen.failures}/{seen.attempts}, run={seen.consecutive_failures}"
        return f"<CircuitBreaker {words}, trips={seen.trips}, gen={seen.generation}>"

    def _try_acquire_locked(self, now: float) -> Permit | Rejected:
        if self._state is CircuitState.CLOSED:
            return Permit(self._generation, probe=False)
        if self._state is CircuitState.FORCED_OPEN:
            return Rejected(self._state, inf)
        if self._state is CircuitState.OPEN:
            if now < self._open_until:
                return Rejected(self._state, self._open_until - now)
            self._change_locked(CircuitState.HALF_OPEN, "the break has ended", now)
        if self._probe_until is not None and now < self._probe_until:
            return Rejected(self._state, self._probe_until - now)
        self._generation += 1  # each probe has its own: what a replaced one says comes too late
        self._probe_until = now + self._settings.probe_lease
        return Permit(self._generation, probe=True)

    def _record_locked(self, permit: Permit, outcome: Outcome, reason: str, now: float) -> None:
        if permit.probe:
            self._probe_until = None
        if outcome is Outcome.FATAL:
            self._open_locked(reason or "a fatal outcome", now, self._settings.fatal_break)
        elif outcome is Outcome.FAILURE:
            if permit.probe:
                self._open_locked(reason or "a probe failed", now, self._settings.base_break)
            else:
                self._count_failure_locked(now)
        elif outcome is Outcome.SUCCESS:
            if permit.probe:
                self._count_probe_locked(now)
            else:
                self._run = 0
                self._window.add(now, failed=False)
                self._concurrency = min(self._settings.workers, 2 * self._concurrency)

    def _count_failure_locked(self, now: float) -> None:
        self._run += 1
        self._window.add(now, failed=True)
        attempts, failures = self._window.counts(now)
        base = self._settings.base_break
        if self._run >= self._settings.consecutive_failures:
            self._open_locked(f"{self._run} failures in a row", now, base)
        elif (
            attempts >= self._settings.minimum_attempts
            and failures >= self._settings.failure_rate * attempts
        ):
            self._open_locked(f"{failures} of {attempts} attempts failed", now, base)

    def _count_probe_locked(self, now: float) -> None:
        self._probe_successes += 1
        if self._probe_successes >= self._settings.probe_successes:
            self._run = 0
            self._window.clear()
            self._closed_since = now
            self._concurrency = 1
            self._change_locked(CircuitState.CLOSED, "the service answers", now)

    def _open_locked(self, reason: str, now: float, base: float) -> None:
        stable = (
            self._state is CircuitState.CLOSED
            and now - self._closed_since >= self._settings.stable_after
        )
        self._trips = 1 if stable else self._trips + 1
        doubled = base * 2 ** min(self._trips - 1, _MAX_DOUBLINGS)
        longest = min(self._settings.max_break, doubled)
        self._open_until = now + longest * (0.5 + 0.5 * self._chance())
        self._change_locked(CircuitState.OPEN, reason, now)

    def _change_locked(self, after: CircuitState, reason: str, now: float) -> None:
        before, self._state = self._state, after
        self._reason = reason
        self._generation += 1
        self._probe_until = None
        self._probe_successes = 0
        until = self._open_until if after is CircuitState.OPEN else None
        self._undelivered.append(
            CircuitTransition(before, after, reason, now, self._generation, self._trips, until)
        )

    def _concurrency_locked(self) -> int:
        if self._state is CircuitState.CLOSED:
            return self._concurrency
        return 1 if self._state is CircuitState.HALF_OPEN else 0

    def _next_probe_at_locked(self) -> float | None:
        if self._state is CircuitState.OPEN:
            return self._open_until
        if self._state is CircuitState.HALF_OPEN:
            return self._clock.monotonic() if self._probe_until is None else self._probe_until
        return None

    def _deliver(self) -> None:
        """Hand transitions to the listeners, one thread at a time, so that their order holds."""
        while True:
            with self._lock:
                if self._delivering or not self._undelivered:
                    return
                transition = self._undelivered.popleft()
                self._delivering = True
            try:
                for listener in self._listeners:
                    try:
                        listener(transition)
                    except Exception:
                        _log.exception("a listener of the circuit breaker failed")
            finally:
                with self._lock:
                    self._delivering = False
