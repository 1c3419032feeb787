"""Tests of the tests of breaker, queue and dispatcher: each broken variant is caught.

They run in this process, under the very models and simulations that hold the real parts.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from receipt_dynamo.failures import Key
from receipt_dynamo.utils.batch_queue import BatchQueue
from receipt_dynamo.utils.circuit_breaker import CircuitBreaker
from tests.simulation import test_delivery
from tests.stateful.test_breaker_model import BreakerModel
from tests.stateful.test_queue_model import Item, QueueModel
from tests.support.part_mutants import BREAKERS, DISPATCHERS, QUEUES

SEARCH = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
BREAKER_RULES = {"outage", "break_ends", "lease_edge", "probe_is_cancelled", "recovers"}
QUEUE_RULES = {
    "put_many",
    "linger_and_take",
    "lease_edge",
    "newer_behind_one_in_flight",
    "failed_probe",
    "crash",
    "flush",
    "settles",
}


def fails(model: Any, **broken: Any) -> bool:
    """Return whether the model catches a part that is broken."""
    with suppress(AssertionError, ExceptionGroup, KeyError):
        run_state_machine_as_test(type("Mutated", (model,), broken), settings=SEARCH)
        return False
    return True


def test_every_macro_rule_has_a_mutant() -> None:
    """A rule that finds nothing is not worth its time; the names are those of the models."""
    assert set(BREAKERS.values()) == BREAKER_RULES
    assert set(QUEUES.values()) == QUEUE_RULES
    for model, rules in ((BreakerModel, BREAKER_RULES), (QueueModel, QUEUE_RULES)):
        assert all(hasattr(getattr(model, rule), "hypothesis_stateful_rule") for rule in rules)


@pytest.mark.parametrize("mutant", BREAKERS)
def test_the_model_catches_a_broken_breaker(mutant: type[CircuitBreaker]) -> None:
    """Within 300 examples."""
    assert fails(BreakerModel, breaker_class=mutant)


@pytest.mark.parametrize("mutant", QUEUES)
def test_the_model_catches_a_broken_queue(mutant: type[BatchQueue[Key, Item]]) -> None:
    """Within 300 examples."""
    assert fails(QueueModel, queue_class=mutant)


@pytest.mark.parametrize("name", DISPATCHERS)
def test_the_simulation_catches_a_broken_dispatcher(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the test that is there for it; of the seeds, by one of the first twenty."""
    broken, test = DISPATCHERS[name]
    run = getattr(test_delivery, test)
    broken(monkeypatch)
    arguments: list[tuple[Any, ...]] = [()]
    if test == "test_nothing_is_lost_whatever_happens":
        arguments = [(seed,) for seed in range(20)]
    for given in arguments:
        try:
            run(*given)
        except AssertionError:
            return
    pytest.fail(f"{name} was not caught by {test}")
