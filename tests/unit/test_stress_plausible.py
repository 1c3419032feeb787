"""A run in which nothing happened proves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.stress.ledger import Answer
from benchmarks.stress.plausible import doubts
from benchmarks.stress.truth import Truth
from tests.unit.test_stress_measures import PROFILE, STEADY, call, evidence, failed, write

ALL = list(range(80))
LOG = [
    write(1.0, ALL, left=tuple(range(40, 80))),
    failed(5.0, ALL[40:], "outage"),
    write(7.0, ALL[40:]),
]
TOLD = [{"dropped": 0, "pending": 0, "dead": 0}]


def doubt(log: list[Any] = LOG, calls: list[Any] = STEADY, **changes: Any) -> list[str]:
    return doubts(evidence(calls, log, **{"told": TOLD, **changes}))


def test_a_run_that_met_its_faults_is_not_doubted() -> None:
    """The table was at its limit, the outage was met, and everything arrived."""
    assert doubt() == []


def test_each_fault_must_have_struck() -> None:
    """A limit that was never reached, an outage in which nobody called."""
    assert doubt([write(1.0, ALL), LOG[1]]) == ["the table was never at its limit"]
    assert doubt([LOG[0], LOG[2]]) == ["nothing was sent during the outage"]


def test_an_empty_store_is_no_success() -> None:
    """Nothing lost of nothing."""
    truth = Truth(stored=frozenset(), lost=[], duplicated=0)
    assert "no record reached the store" in doubt(truth=truth)


def test_a_profile_of_kills_must_have_killed() -> None:
    """And a full disk must have been full: recording has kept something in memory by then."""
    killing = replace(PROFILE, kill_every=1.0)
    assert doubt(profile=killing) == ["nothing was killed"]
    assert doubt(profile=killing, kills=1) == []
    full = replace(PROFILE, disk_full=((2.0, 3.0),))
    assert doubt(profile=full) == ["the disk was never full"]
    memory = [*STEADY[:25], call(25, 2.5, Answer.MEMORY), *STEADY[26:]]
    assert doubt(calls=memory, profile=full) == []


def test_what_the_client_says_of_itself_is_held_against_the_ledgers() -> None:
    """A drop that nobody counted, a count of what was never dropped, a record that still waits."""
    dropped = [*STEADY[:79], call(79, 7.9, Answer.DROPPED)]
    assert doubt(calls=dropped) == ["1 calls were dropped, and 0 counted"]
    assert doubt(calls=dropped, told=[{**TOLD[0], "dropped": 1}]) == []
    assert doubt(told=[{**TOLD[0], "dropped": 2}]) == ["0 calls were dropped, and 2 counted"]
    assert doubt(told=[{**TOLD[0], "pending": 3}]) == ["3 records wait or are dead after all"]
