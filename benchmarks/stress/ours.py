"""This library as a contender, its variants, and three defects that a run must find.

Variants replace a part before the client is made, in a worker's process of its own.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.pacing import FullJitter
from benchmarks.stress.contenders import Contender, Place, Recorder
from benchmarks.stress.ledger import Answer
from receipt_dynamo import AIUsageMetric, PutResult, ResilientDynamoClient
from receipt_dynamo.utils.circuit_breaker import CircuitBreakerSettings, Outcome
from receipt_dynamo.utils.goodput_limiter import GoodputLimiterSettings, Slot, Wait

__all__ = ["Ours", "full_jitter", "no_breaker"]

_ANSWERS = {
    PutResult.STORED: Answer.ACCEPTED,
    PutResult.MEMORY: Answer.MEMORY,
    PutResult.DROPPED: Answer.DROPPED,
}
_FLUSH_SECONDS, _PAUSE_SECONDS = 2.0, 0.1
_ONE_IN = 1000


class Ours:
    """ResilientDynamoClient with its defaults."""

    def __init__(self, place: Place, **settings: Any) -> None:
        self._interruptions = _Interruptions()
        self.client = ResilientDynamoClient(
            place.table,
            region="us-east-1",
            endpoint_url=place.endpoint,
            spool_dir=place.directory,
            environment="development",
            **settings,
        )

    def recorder(self) -> Recorder:
        return self

    def prepare(self, metric: AIUsageMetric) -> Any:
        return metric

    def record(self, prepared: Any) -> Answer:
        return _ANSWERS[self.client.put_ai_usage_metric(prepared)]

    def close(self) -> None:
        """The client is of all workers."""

    def finish(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while self.client.flush(_FLUSH_SECONDS).pending and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)  # while the store is known to be gone it returns at once
        health = self.client.health()
        self.client.close()
        return {
            "breaker_openings": self._interruptions.count,
            "pending": health.pending,
            "dead": health.dead_ever,
            "dropped": sum(health.dropped.values()),
        }


class _Interruptions(logging.Handler):
    """Counts how often delivery said that it is interrupted: the breaker has opened."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        logging.getLogger("receipt_dynamo.client").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "is interrupted" in record.getMessage()


class _JitterForAll:
    """Full jitter for each sender, with the face of the limiter of all."""

    def __init__(
        self, settings: GoodputLimiterSettings, *, clock: object, chance: Callable[[], float]
    ) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._free = [FullJitter(chance, 1.0, 5.0) for _ in range(settings.workers)]
        self._taken: dict[int, FullJitter] = {}
        self._numbers = itertools.count()

    def acquire(self) -> Slot | Wait:
        with self._lock:
            if not self._free:
                return Wait(0.01)
            number = next(self._numbers)
            pacer = self._taken[number] = self._free.pop()
            return replace(pacer.acquire(), number=number)

    def record(
        self, slot: Slot, *, sent: int, accepted: int | None, hint: float | None = None
    ) -> float:
        with self._lock:
            pacer = self._taken.pop(slot.number)
            self._free.append(pacer)
            return 0.0 if accepted is None else pacer.record(slot, sent=sent, accepted=accepted)


def full_jitter(place: Place) -> Contender:
    """This library with the baseline in place of its limiter."""
    from receipt_dynamo import dispatch

    dispatch.GoodputLimiter = _JitterForAll  # type: ignore[misc,assignment]
    return Ours(place)


def no_breaker(place: Place) -> Contender:
    """This library with a breaker that never opens."""
    from receipt_dynamo import table_delivery

    never = CircuitBreakerSettings(consecutive_failures=1 << 30, minimum_attempts=1 << 30)
    table_delivery.DispatchSettings = partial(  # type: ignore[misc,assignment]
        table_delivery.DispatchSettings, breaker=never
    )
    return Ours(place)


def mutant_drops(place: Place) -> Contender:
    """Answers STORED to one record in a thousand and keeps it nowhere."""
    ours = Ours(place)
    put, count = ours.client.put_ai_usage_metric, iter(range(1, 1 << 40))

    def lossy(metric: AIUsageMetric) -> PutResult:
        return PutResult.STORED if next(count) % _ONE_IN == 0 else put(metric)

    ours.client.put_ai_usage_metric = lossy  # type: ignore[method-assign]
    return ours


def mutant_acks_early(place: Place) -> Contender:
    """Takes a batch for written as soon as it is on its way."""
    from receipt_dynamo.dynamo_client import DynamoClient

    send = DynamoClient.send

    def hasty(self: DynamoClient, puts: Sequence[Any]) -> Sequence[Any]:
        threading.Thread(target=_quietly, args=(send, self, list(puts)), daemon=True).start()
        return []

    DynamoClient.send = hasty  # type: ignore[method-assign,assignment]
    return Ours(place)


def _quietly(send: Callable[..., object], *arguments: object) -> None:
    try:
        send(*arguments)
    except Exception:  # nobody listens any more: that is the defect
        logging.getLogger("benchmarks.stress").debug("a batch failed", exc_info=True)


def mutant_counts_throttles(place: Place) -> Contender:
    """Lets the breaker count what only says: slower."""
    from receipt_dynamo import senders
    from receipt_dynamo.failures import Kind, Verdict

    def counting(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def judged(*arguments: Any, **more: Any) -> Verdict:
            verdict = judge(*arguments, **more)
            if verdict.kind not in (Kind.THROTTLED, Kind.PARTIAL):
                return verdict
            rule = replace(verdict.rule, breaker=Outcome.FAILURE, probe=Outcome.FAILURE)
            return replace(verdict, rule=rule)

        return judged

    senders.classify = counting(senders.classify)
    senders.classify_left = counting(senders.classify_left)
    return Ours(place)
