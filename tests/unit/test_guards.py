"""The guards: a table that refuses everything, and a batch that fails each time."""

from __future__ import annotations

import threading

import pytest
from botocore.exceptions import ClientError

from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.failures import Fate, Kind, Verdict, classify
from receipt_dynamo.guards import Blockage, GuardSettings, HeadOfLineGuard, PoisonStormGuard
from receipt_dynamo.utils.circuit_breaker import Outcome, Permit

MESSAGE = "the item is refused"
FRONT, BEHIND, SPLIT, PARK = Blockage


def refused(message: str = MESSAGE, code: str = "ValidationException") -> Verdict:
    reply = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return classify(ClientError(reply, "BatchWriteItem"), sent=[("p", "s")])  # type: ignore[arg-type]


def refuse_whole(guard: PoisonStormGuard, family: int, message: str = MESSAGE) -> None:
    for _ in range(4):
        guard.refused_alone(family, 4, message)


def test_three_batches_refused_whole_are_a_storm() -> None:
    """From then on poison is configuration: kept, fatal, and nothing more goes to dead/."""
    guard = PoisonStormGuard()
    for family in (1, 2):
        refuse_whole(guard, family)
        assert guard.storm is None
    assert guard.judge(refused()).fate() is Fate.DEAD
    refuse_whole(guard, 3)
    assert guard.storm == MESSAGE
    verdict = guard.judge(refused())
    assert (verdict.kind, verdict.fate()) == (Kind.CONFIG, Fate.KEEP)
    assert verdict.outcome(Permit(1, probe=False)) is Outcome.FATAL
    assert (verdict.code, verdict.message) == ("ValidationException", MESSAGE)


def test_one_record_that_the_table_takes_ends_the_storm() -> None:
    """Before it and in the middle of it."""
    guard = PoisonStormGuard()
    refuse_whole(guard, 1)
    refuse_whole(guard, 2)
    guard.accepted()
    refuse_whole(guard, 3)
    assert guard.storm is None
    refuse_whole(guard, 4)
    refuse_whole(guard, 5)
    assert guard.storm is not None
    guard.accepted()
    assert guard.storm is None
    assert guard.judge(refused()).fate() is Fate.DEAD


def test_a_batch_that_is_not_refused_whole_counts_for_nothing() -> None:
    """One bad record in each of many batches is just that."""
    guard = PoisonStormGuard()
    for family in range(20):
        guard.refused_alone(family, 4, MESSAGE)
    assert guard.storm is None


def test_different_messages_are_no_storm() -> None:
    """Within a batch, or from one batch to the next: then the records themselves are bad."""
    guard = PoisonStormGuard()
    for family in range(5):
        guard.refused_alone(family, 2, "one")
        guard.refused_alone(family, 2, "two")
    for family, message in enumerate(["a", "a", "b", "b", "a"]):
        refuse_whole(guard, 10 + family, message)
    assert guard.storm is None
    refuse_whole(guard, 20, "a")
    refuse_whole(guard, 21, "a")
    assert guard.storm == "a"


def test_what_is_no_poison_passes_a_storm_unchanged() -> None:
    """An outage in the middle of it is still an outage."""
    guard = PoisonStormGuard(GuardSettings(storm_batches=1))
    refuse_whole(guard, 1)
    verdict = classify(OSError(), sent=[("p", "s")])
    assert guard.judge(verdict) is verdict
    assert guard.judge(refused(code="NewRefusal")).kind is Kind.CONFIG


def test_in_an_outage_nobody_is_suspected() -> None:
    """Everything fails, nothing passes: a hundred failures are one strike."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    assert {guard.failed(["a", "b"]) for _ in range(100)} == {FRONT}


def test_a_batch_that_failed_a_probe_lets_the_next_one_probe() -> None:
    """Else it could fail every probe, and the breaker would never close."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    assert guard.failed(["a"], probe=True) is BEHIND


def fail_alone(guard: HeadOfLineGuard[str], key: str) -> list[Blockage]:
    """Let a record fail alone until it is parked, with another that passes in between."""
    answers = []
    while not answers or answers[-1] is not PARK:
        assert len(answers) < 100
        answers.append(guard.failed([key], probe=True))
        guard.settled(["other"])
    return answers


def test_a_batch_that_fails_while_others_pass_is_halved_and_the_record_parked() -> None:
    """Three strikes with a success between each; halves are suspect from the start; eight park."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    batch = ["a", "b", "c", "d"]
    answers = []
    for _ in range(3):
        answers.append(guard.failed(batch))
        guard.settled(["other"])
        assert guard.suspects(["a", "new"]) == (len(answers) == 3)
    assert answers == [FRONT, FRONT, SPLIT]
    guard.settled(["c", "d"])
    assert guard.failed(["a", "b"]) is SPLIT
    guard.settled(["b"])
    assert fail_alone(guard, "a") == [BEHIND] * 7 + [PARK]


def test_a_suspect_is_not_convicted_by_an_outage() -> None:
    """It was halved to a record alone, and then nothing passes any more: that proves nothing."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    for _ in range(3):
        guard.failed(["a"])
        guard.settled(["other"])
    assert {guard.failed(["a"], probe=True) for _ in range(100)} == {BEHIND}


def test_two_suspects_are_halved_although_nothing_else_is_left_to_pass() -> None:
    """Accused while others passed, they are searched; parked when something passes again."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    for _ in range(3):
        guard.failed(["a", "b"])
        guard.failed(["c", "d"])
        guard.settled(["other"])
    assert guard.failed(["a", "b"], probe=True) is SPLIT
    assert guard.failed(["c", "d"], probe=True) is SPLIT
    assert fail_alone(guard, "a")[-1] is PARK


def test_the_last_batch_is_halved_although_nothing_else_can_pass() -> None:
    """A quiet pipeline has no other batch to compare with; a lone record is not parked for that."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    batch = ["a", "b"]
    assert [guard.failed(batch, probe=True, held=batch) for _ in range(3)] == [
        BEHIND,
        BEHIND,
        SPLIT,
    ]
    assert {guard.failed(["a"], probe=True, held=batch) for _ in range(100)} == {BEHIND}
    guard.settled(["b"])
    assert guard.failed(["a"]) is FRONT


def test_what_was_not_tried_as_often_keeps_a_batch_whole() -> None:
    """In an outage with a long queue nothing is halved before all of it was tried in vain."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    ours, others = ["a", "b"], ["c", "d"]
    assert {guard.failed(ours, probe=True, held=[*ours, *others]) for _ in range(100)} == {BEHIND}
    answers = [guard.failed(others, probe=True, held=[*ours, *others]) for _ in range(3)]
    assert answers == [BEHIND, BEHIND, SPLIT]
    assert guard.failed(ours, probe=True, held=[*ours, *others]) is SPLIT


def test_a_parked_record_is_parked_again_by_its_next_failure() -> None:
    """Tried after an hour it costs one call, which is not repeated."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard()
    fail_alone(guard, "a")
    assert guard.suspects(["a"])
    assert guard.failed(["a"]) is PARK


def test_a_key_that_passes_is_no_longer_suspect() -> None:
    """Strikes are forgotten with success; the next trouble counts anew."""
    guard: HeadOfLineGuard[str] = HeadOfLineGuard(GuardSettings(strikes=2))
    guard.failed(["a", "b"])
    guard.settled(["a"])
    assert guard.failed(["a"]) is FRONT
    assert guard.failed(["b", "c"]) is SPLIT


def test_forked_children_have_guards_of_their_own() -> None:
    """Empty, and with locks that no thread of the parent's holds."""
    storm, line = PoisonStormGuard(GuardSettings(storm_batches=1)), HeadOfLineGuard[str]()
    refuse_whole(storm, 1)
    line.failed(["a"])
    for lock in (storm._lock, line._lock):
        holder = threading.Thread(target=lock.acquire)
        holder.start()
        holder.join()
    storm.after_fork()
    line.after_fork()
    assert storm.storm is None
    assert line.failed(["a"]) is FRONT


def test_settings_are_checked_at_once() -> None:
    """The error names the field and the value."""
    with pytest.raises(ConfigurationError, match=r"GuardSettings\.strikes=0 is not"):
        GuardSettings(strikes=0)
