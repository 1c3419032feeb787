"""Retry: which answers, how long between, and the three limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.utils.retry_with_backoff import (
    Backoff,
    RetryQuota,
    RetrySchedule,
    RetrySettings,
    retry_with_backoff,
)
from tests.support import FakeClock
from tests.support.simulation import seeded


class Clock(FakeClock):
    """Time that notes how long it was slept."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        super().sleep(seconds)


@pytest.fixture
def clock() -> Clock:
    """Time that notes how long it was slept."""
    return Clock()


class Service:
    """Answers what it is told to, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls = 0

    def __call__(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else "ok"
        if isinstance(answer, BaseException):
            raise answer
        return answer


LONGEST = 0.999999


def test_it_tries_again_until_it_succeeds(clock: Clock) -> None:
    """The delays double; what was passed is passed each time; the result comes back."""
    seen: list[tuple[Any, ...]] = []
    service = Service(TimeoutError(), TimeoutError(), TimeoutError())

    @retry_with_backoff(on=TimeoutError, clock=clock, chance=lambda: LONGEST)
    def send(batch: str, *, table: str) -> Any:
        """Send it."""
        seen.append((batch, table))
        return service()

    assert send("b", table="t") == "ok"
    assert seen == [("b", "t")] * 4
    assert clock.slept == pytest.approx([0.025, 0.05, 0.1], rel=1e-4)
    assert (send.__name__, send.__doc__) == ("send", "Send it.")


def test_it_is_a_function_as_well(clock: Clock) -> None:
    """What cannot be decorated can be wrapped."""
    service = Service(ConnectionError())
    assert (
        retry_with_backoff(service, on=(ConnectionError, ValueError), clock=clock)("batch") == "ok"
    )
    assert service.calls == 2


def test_the_last_exception_comes_out_as_it_was(clock: Clock) -> None:
    """Five attempts, and no wrapper around the error."""
    errors = [TimeoutError(str(number)) for number in range(9)]
    service = Service(*errors)
    with pytest.raises(TimeoutError) as caught:
        retry_with_backoff(service, on=TimeoutError, clock=clock)()
    assert caught.value is errors[4]
    assert (service.calls, len(clock.slept)) == (5, 4)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_other_exceptions_pass_at_once(clock: Clock, error: BaseException) -> None:
    """What was not asked for is not retried, and an interrupt never is."""
    service = Service(error)
    with pytest.raises(type(error)):
        retry_with_backoff(service, on=TimeoutError, clock=clock)()
    assert (service.calls, clock.slept) == (1, [])


def test_an_interrupt_is_not_even_shown_to_the_judge(clock: Clock) -> None:
    """A judge that says yes to everything cannot keep the program from ending."""
    with pytest.raises(KeyboardInterrupt):
        retry_with_backoff(Service(KeyboardInterrupt()), on=lambda _: True, clock=clock)()


def test_a_judge_says_how(clock: Clock) -> None:
    """Its own base, a hint, a number of attempts; None, False and nothing are no."""
    said: list[Backoff | bool | None] = [Backoff(base=1.0), Backoff(hint=3.0), None]
    service = Service(*[ConnectionError() for _ in range(5)])
    with pytest.raises(ConnectionError):
        retry_with_backoff(service, on=lambda _: said.pop(0), clock=clock, chance=lambda: 0.5)()
    assert clock.slept == [0.5, 3.0]


def test_one_retry_means_one(clock: Clock) -> None:
    """Expired credentials are worth a second signing, not a third."""
    service = Service(*[ConnectionError() for _ in range(5)])
    with pytest.raises(ConnectionError):
        retry_with_backoff(service, on=lambda _: Backoff(attempts=2), clock=clock)()
    assert service.calls == 2


def test_results_are_judged_as_well(clock: Clock) -> None:
    """A reply may ask for another attempt; the last one is returned, whatever it says."""
    service = Service("busy", "busy")
    judge: Callable[[str], bool] = lambda result: result == "busy"  # noqa: E731
    assert retry_with_backoff(service, on=(), on_result=judge, clock=clock)() == "ok"
    service = Service(*["busy"] * 9)
    assert retry_with_backoff(service, on=(), on_result=judge, clock=clock)() == "busy"
    assert service.calls == 5


def test_the_deadline_counts_the_coming_sleep(clock: Clock) -> None:
    """A retry that would begin after it is not slept for: stamina and others overshoot by one."""
    settings = RetrySettings(attempts=100, base=1.0, cap=4.0, deadline=10.0, quota=1000)
    service = Service(*[ConnectionError() for _ in range(100)])
    with pytest.raises(ConnectionError):
        retry_with_backoff(
            service, on=ConnectionError, settings=settings, clock=clock, chance=lambda: LONGEST
        )()
    assert clock.slept == pytest.approx([1, 2, 4], rel=1e-4)


def test_a_slow_call_uses_the_deadline_up(clock: Clock) -> None:
    """The time of the attempts counts, not only that of the sleeps."""

    def slow() -> None:
        clock.advance(20)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        retry_with_backoff(slow, on=ConnectionError, clock=clock)()
    assert clock.slept == []


def test_there_is_jitter_at_the_cap_too() -> None:
    """Libraries that add jitter and then clip have none there: all callers come back at once."""
    settings = RetrySettings()
    chance = seeded(1).random
    schedule = RetrySchedule(settings, RetryQuota(), FakeClock(), chance)
    delays = {round(schedule.delay(40, Backoff()), 3) for _ in range(1000)}
    assert len(delays) > 900
    assert max(delays) <= settings.cap


@given(
    attempt=st.integers(1, 10_000),
    base=st.none() | st.floats(0.001, 10),
    hint=st.none() | st.floats(0, 1e9),
    lot=st.floats(0, LONGEST),
)
def test_a_delay_is_within_its_bounds(
    attempt: int, base: float | None, hint: float | None, lot: float
) -> None:
    """Full jitter below a doubling bound; a hint raises it by five seconds at most."""
    settings = RetrySettings()
    schedule = RetrySchedule(settings, RetryQuota(), FakeClock(), lambda: lot)
    bound = min(settings.cap, (base or settings.base) * 2 ** min(attempt - 1, 20))
    plain = schedule.delay(attempt, Backoff(base=base))
    assert plain == pytest.approx(lot * bound)
    hinted = schedule.delay(attempt, Backoff(base=base, hint=hint))
    assert plain <= hinted <= plain + settings.hint_slack
    if hint is not None:
        assert hinted >= min(hint, plain + settings.hint_slack)


def test_the_quota_bounds_what_an_outage_adds(clock: Clock) -> None:
    """Ten retries for all calls together, then one attempt each: no storm."""
    service = Service(*[ConnectionError() for _ in range(1000)])
    call = retry_with_backoff(service, on=ConnectionError, clock=clock)
    for _ in range(100):
        with pytest.raises(ConnectionError):
            call()
    assert service.calls == 110


def test_success_refills_the_quota_up_to_its_bound(clock: Clock) -> None:
    """Ten successes pay for a retry: in the long run a tenth of load is added."""
    quota = RetryQuota()
    call = retry_with_backoff(Service(), on=ConnectionError, quota=quota, clock=clock)
    call()
    assert quota.tokens == 50
    assert all(quota.take() for _ in range(10))
    assert not quota.take()
    for _ in range(10):
        call()
    assert (quota.take(), quota.take()) == (True, False)


def test_a_throttled_retry_costs_nothing(clock: Clock) -> None:
    """The limiter paces those, or the pause does; an empty quota does not stop them."""
    quota = RetryQuota(RetrySettings(quota=0))
    service = Service(ConnectionError(), ConnectionError())
    judge: Callable[[Exception], Backoff] = lambda _: Backoff(base=1.0, cost=0.0)  # noqa: E731
    assert retry_with_backoff(service, on=judge, quota=quota, clock=clock)() == "ok"


def test_a_failed_call_takes_no_tokens_for_a_retry_that_is_not_made(clock: Clock) -> None:
    """Where the attempts or the time are used up, the quota is left to others."""
    quota = RetryQuota()
    settings = RetrySettings(attempts=1)
    with pytest.raises(ConnectionError):
        retry_with_backoff(
            Service(ConnectionError()), on=ConnectionError, settings=settings, quota=quota
        )()
    assert quota.tokens == 50


def test_calls_are_apart_and_share_only_the_quota(clock: Clock) -> None:
    """Each call has its own count and deadline, also when two threads are in the same function."""
    inner = Service(ConnectionError(), ConnectionError())
    outer_answers: Iterator[Exception] = iter([ConnectionError()])

    @retry_with_backoff(on=ConnectionError, clock=clock)
    def work(depth: int) -> str:
        if depth:
            error = next(outer_answers, None)
            if error is not None:
                raise error
            other: list[str] = []
            thread = threading.Thread(target=lambda: other.append(work(0)))
            thread.start()
            thread.join()
            return other[0]
        return str(inner())

    assert work(1) == "ok"
    assert inner.calls == 3


def test_a_coroutine_function_is_refused() -> None:
    """A sleep within would stop the whole event loop."""

    async def send() -> None: ...

    with pytest.raises(TypeError, match="send is a coroutine function"):
        retry_with_backoff(send, on=ConnectionError)


def test_a_forked_child_has_a_quota_of_its_own() -> None:
    """Full again, and with a lock that no thread of the parent's holds."""
    quota = RetryQuota()
    quota.take(30)
    holder = threading.Thread(target=quota._lock.acquire)
    holder.start()
    holder.join()
    quota.after_fork()
    assert quota.take(50)
    assert repr(quota) == "<RetryQuota 0 of 50 tokens>"


@pytest.mark.parametrize(
    ("field", "value"), [("attempts", 0), ("base", 0), ("cap", -1), ("deadline", float("nan"))]
)
def test_settings_are_checked_at_once(field: str, value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(ConfigurationError, match=f"RetrySettings.{field}={value!r} is not"):
        RetrySettings(**{field: value})
