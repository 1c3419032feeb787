"""Try again, after a while, and not for ever.

    @retry_with_backoff(on=TimeoutError)
    def send(batch): ...

    retry_with_backoff(send, on=TimeoutError, quota=quota)(batch)    # the same, as a function

Delays have full jitter: anything between zero and a bound that doubles. Three limits hold at once:
a number of attempts, a deadline that counts the coming sleep, and a quota that many calls share, so
that a service in trouble is not given the load of its own failures. Tenacity is the engine.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.clock import Clock, SystemClock
from receipt_dynamo.utils.settings_checks import check_number

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Backoff", "RetryQuota", "RetrySchedule", "RetrySettings", "retry_with_backoff"]

P = ParamSpec("P")
R = TypeVar("R")
_MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Limits of one call and of the quota. Times are seconds.

    The delay before retry k (from 0) is uniform between 0 and ``min(cap, base * 2**k)``. A server's
    hint raises it, by ``hint_slack`` at most. No attempt begins later than ``deadline`` after the
    first. Of ``quota`` tokens a retry takes ``retry_cost``, a call that succeeds brings back
    ``success_refund``: in the long run a tenth of load is added at most.
    """

    attempts: int = 5
    base: float = 0.025
    cap: float = 5.0
    deadline: float = 15.0
    hint_slack: float = 5.0
    quota: float = 50.0
    retry_cost: float = 5.0
    success_refund: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "attempts", least=1, whole=True)
        check_number(self, "base", "cap", "deadline", above=0)
        check_number(self, "hint_slack", "quota", "retry_cost", "success_refund", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """That a call is worth another attempt, and how; None is the settings' value.

    ``hint`` is what the server asks for, in seconds; ``cost`` what the retry takes of the quota;
    ``attempts`` how many there may be in all.
    """

    base: float | None = None
    hint: float | None = None
    cost: float | None = None
    attempts: int | None = None


class RetryQuota:
    """Retry tokens that the calls to one service share. Thread-safe."""

    def __init__(self, settings: RetrySettings | None = None) -> None:
        self._settings = settings or RetrySettings()
        self._lock = threading.RLock()  # reentrant: see CircuitBreaker
        self._tokens = self._settings.quota  # Guarded by _lock

    def take(self, cost: float | None = None) -> bool:
        """Pay for a retry; False: too few tokens are left, and none was taken."""
        price = self._settings.retry_cost if cost is None else cost
        with self._lock:
            if price > self._tokens:
                return False
            self._tokens -= price
            return True

    def succeeded(self) -> None:
        """Bring back what a call that succeeded is worth."""
        with self._lock:
            refunded = self._tokens + self._settings.success_refund
            self._tokens = min(self._settings.quota, refunded)

    @property
    def tokens(self) -> float:
        """How many tokens are left."""
        return self._tokens

    def after_fork(self) -> None:
        """Make a forked child's copy its own, with a full quota."""
        self._lock = threading.RLock()
        self._tokens = self._settings.quota

    def __repr__(self) -> str:
        return f"<RetryQuota {self._tokens:g} of {self._settings.quota:g} tokens>"


class RetrySchedule:
    """The decisions of one call: whether to try again, and after how long. Sleeps never.

    Used by one thread. The call begins when the schedule is made.
    """

    def __init__(
        self, settings: RetrySettings, quota: RetryQuota, clock: Clock, chance: Chance
    ) -> None:
        self._settings = settings
        self._quota = quota
        self._clock = clock
        self._chance = chance
        self._started = clock.monotonic()

    def delay(self, attempt: int, backoff: Backoff) -> float:
        """Return the seconds to wait after ``attempt`` (from 1): full jitter, raised by a hint."""
        base = self._settings.base if backoff.base is None else backoff.base
        bound = min(self._settings.cap, base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
        delay = self._chance() * bound
        if backoff.hint is not None:
            delay = max(delay, min(backoff.hint, delay + self._settings.hint_slack))
        return delay

    def may_retry(self, attempt: int, backoff: Backoff, delay: float) -> bool:
        """Return whether an attempt may follow ``delay`` after this one; a yes takes its tokens."""
        attempts = self._settings.attempts
        if backoff.attempts is not None:
            attempts = min(attempts, backoff.attempts)
        ends = self._clock.monotonic() - self._started + delay
        return (
            attempt < attempts
            and ends <= self._settings.deadline
            and self._quota.take(backoff.cost)
        )

    def next_delay(self, attempt: int, backoff: Backoff) -> float | None:
        """Return the seconds to wait after ``attempt``, or None if it was the last."""
        delay = self.delay(attempt, backoff)
        return delay if self.may_retry(attempt, backoff, delay) else None


Judge = Callable[[Exception], "Backoff | bool | None"]
On = type[Exception] | tuple[type[Exception], ...] | Judge


class _Call:
    """What tenacity asks during one call."""

    def __init__(
        self,
        schedule: RetrySchedule,
        quota: RetryQuota,
        judge: Judge,
        judge_result: Callable[[Any], Backoff | bool | None] | None,
    ) -> None:
        self._schedule = schedule
        self._quota = quota
        self._judge = judge
        self._judge_result = judge_result
        self._backoff = Backoff()

    def retry(self, state: RetryCallState) -> bool:
        outcome = state.outcome
        if outcome is None:
            return False
        error = outcome.exception()
        if isinstance(error, Exception):
            wanted = self._judge(error)
        elif error is not None or self._judge_result is None:
            wanted = None  # KeyboardInterrupt and its like are nobody's to retry
        else:
            wanted = self._judge_result(outcome.result())
        if error is None and not wanted:
            self._quota.succeeded()
        self._backoff = wanted if isinstance(wanted, Backoff) else Backoff()
        return bool(wanted)

    def wait(self, state: RetryCallState) -> float:
        return self._schedule.delay(state.attempt_number, self._backoff)

    def stop(self, state: RetryCallState) -> bool:
        return not self._schedule.may_retry(
            state.attempt_number, self._backoff, state.upcoming_sleep
        )


def _last_outcome(state: RetryCallState) -> Any:
    return state.outcome and state.outcome.result()  # raises what the last attempt raised


@overload
def retry_with_backoff(
    function: Callable[P, R],
    /,
    *,
    on: On,
    on_result: Callable[[R], Backoff | bool | None] | None = None,
    settings: RetrySettings | None = None,
    quota: RetryQuota | None = None,
    clock: Clock | None = None,
    chance: Chance = system_chance,
) -> Callable[P, R]: ...


@overload
def retry_with_backoff(
    function: None = None,
    /,
    *,
    on: On,
    on_result: Callable[[Any], Backoff | bool | None] | None = None,
    settings: RetrySettings | None = None,
    quota: RetryQuota | None = None,
    clock: Clock | None = None,
    chance: Chance = system_chance,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def retry_with_backoff(
    function: Callable[..., Any] | None = None,
    /,
    *,
    on: On,
    on_result: Callable[[Any], Backoff | bool | None] | None = None,
    settings: RetrySettings | None = None,
    quota: RetryQuota | None = None,
    clock: Clock | None = None,
    chance: Chance = system_chance,
) -> Any:
    """Return ``function`` such that a call of it retries; without one, a decorator that does so.

    ``on`` says which exceptions are worth another attempt: their class or classes, or a function
    that answers a Backoff, True, or None for no. ``on_result`` judges what is returned alike. When
    no attempt is left, the last one's exception is raised, or its result returned, as it was.
    Without ``quota`` the calls of this function share one of their own. Sleeps through ``clock``.
    Thread-safe. Raises TypeError for a coroutine function: its waits would block the event loop.
    """
    chosen = settings or RetrySettings()
    shared = quota or RetryQuota(chosen)
    timer = clock or SystemClock()
    judge: Judge = _judge_classes(on) if isinstance(on, (type, tuple)) else on

    def wrap(called: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(called):
            name = getattr(called, "__qualname__", called)
            raise TypeError(f"{name} is a coroutine function: retry_with_backoff would block it")

        @functools.wraps(called)
        def retrying(*args: Any, **kwargs: Any) -> Any:
            import tenacity

            call = _Call(RetrySchedule(chosen, shared, timer, chance), shared, judge, on_result)
            engine = tenacity.Retrying(
                retry=call.retry,
                wait=call.wait,
                stop=call.stop,
                sleep=timer.sleep,
                retry_error_callback=_last_outcome,
            )
            return engine(called, *args, **kwargs)

        return retrying

    return wrap if function is None else wrap(function)


def _judge_classes(classes: type[Exception] | tuple[type[Exception], ...]) -> Judge:
    return lambda error: isinstance(error, classes)
