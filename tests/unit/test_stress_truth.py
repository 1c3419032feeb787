"""The harness's proof: what is in the store, held against what was said to be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stress.ledger import Answer, Entry, Ledger, last_number, read_ledger
from benchmarks.stress.records import metric_of, record_id, table_item
from benchmarks.stress.truth import Truth, compare

IDS = [record_id(0, number) for number in range(5)]


def entries(*answers: Answer) -> dict[int, Sequence[Entry]]:
    """Return the calls of one worker."""
    return {0: [Entry(number, number, 1, answer) for number, answer in enumerate(answers)]}


def items(*numbers: int) -> list[dict[str, Any]]:
    """Return what the engine gives back of these records."""
    return [table_item(metric_of(0, number)) for number in numbers]


def truth_of(found: list[dict[str, Any]], calls: int = 5, applied: Sequence[str] = IDS) -> Truth:
    return compare(found, entries(*[Answer.ACCEPTED] * calls), applied)


def test_a_whole_store_proves_the_count() -> None:
    """Nothing is lost, nothing is there twice, nothing is left to explain."""
    found = truth_of(items(0, 1, 2, 3, 4))
    assert (found.lost, found.duplicated, found.problems) == ([], 0, [])
    assert found.stored == set(IDS)


def test_a_record_that_is_not_there_is_lost_by_name() -> None:
    """However many others are there."""
    assert truth_of(items(0, 1, 2, 4), applied=[*IDS[:3], IDS[4]]).lost == [IDS[3]]


@pytest.mark.parametrize("answer", [Answer.DROPPED, Answer.RAISED])
def test_what_was_refused_is_not_lost(answer: Answer) -> None:
    """The pipeline was told."""
    found = compare(items(0), entries(Answer.ACCEPTED, answer), IDS[:1])
    assert (found.lost, found.problems) == ([], [])


def test_memory_counts_as_accepted() -> None:
    """MEMORY is a promise as well, as long as the process lives."""
    assert compare([], entries(Answer.MEMORY), []).lost == [IDS[0]]


def test_one_record_under_two_keys_is_there_twice() -> None:
    """Whatever the keys are: the call is what counts."""
    again = {**items(1)[0], "SK": "elsewhere"}
    found = truth_of([*items(0, 1, 2, 3, 4), again])
    assert found.duplicated == 1
    assert found.problems, "and not where a report would look for it"


@pytest.mark.parametrize("name", ["inputTokens", "costUSD", "jobId", "model", "PK", "SK", "sh"])
def test_a_figure_that_differs_is_a_problem(name: str) -> None:
    """Also a missing one, and one too many."""
    changed = items(0, 1, 2, 3, 4)
    changed[2][name] = "another"
    (problem,) = truth_of(changed).problems
    assert "other figures" in problem
    assert IDS[2] in problem
    del changed[2][name]
    assert truth_of(changed).problems
    assert truth_of([*items(0, 1, 2, 3), {**items(4)[0], "more": 1}]).problems


def test_what_nobody_recorded_is_a_problem() -> None:
    """But for the one call that a killed worker could not note."""
    assert compare(items(0, 1), entries(Answer.ACCEPTED), IDS[:2]).problems == []
    (problem,) = compare(items(0, 1, 2), entries(Answer.ACCEPTED), IDS[:3]).problems
    assert IDS[2] in problem
    stranger = {**items(0)[0], "requestId": "abc"}
    assert any("no record" in each for each in truth_of([stranger], applied=["abc"]).problems)


def test_proxy_and_engine_must_tell_of_the_same_records() -> None:
    """Two witnesses that differ prove nothing."""
    (missing,) = truth_of(items(0, 1, 2, 3, 4), applied=IDS[:4]).problems
    assert "never passed" in missing
    (gone,) = truth_of(items(0, 1, 2, 3)).problems
    assert "are gone" in gone


def test_items_that_are_no_metrics_are_passed_over() -> None:
    """The registry and the gaps lie in the same table."""
    beside = [{"PK": "REGISTRY", "SK": "services"}, {"PK": "H#openai"}, {"PK": "G#2026-11"}]
    assert truth_of([*items(0, 1, 2, 3, 4), *beside]).problems == []
    (strange,) = truth_of([*items(0, 1, 2, 3, 4), {"PK": "U#openai#x#0", "costUSD": 1}]).problems
    assert "no records at all" in strange


def test_a_write_that_nobody_saw_answered_proves_nothing_either_way() -> None:
    """It may be in the store or not; if not, it is lost all the same."""
    found = compare(items(0), entries(Answer.ACCEPTED, Answer.ACCEPTED), [], IDS[:2])
    assert (found.lost, found.problems) == ([IDS[1]], [])


def test_what_the_table_must_hold_is_spelled_out() -> None:
    """Names of attributes and keys as docs/dynamodb.md has them: the library's own table of names
    is what is to be proven."""
    assert table_item(metric_of(1, 3)) == {
        "PK": "U#openai#2026-11-21T12#0",
        "SK": "2026-11-21T12:00:00.300001Z#w1-0000003",
        "sh": 0,
        "service": "openai",
        "model": "model-3",
        "operation": "chat",
        "timestamp": "2026-11-21T12:00:00.300001Z",
        "requestId": "w1-0000003",
        "apiCalls": 1,
        "inputTokens": 1003,
        "cachedInputTokens": 3,
        "outputTokens": 3,
        "totalTokens": 1006,
        "costUSD": Decimal("3E-7"),
        "priceSource": "caller",
        "latencyMs": 803,
        "status": "complete",
        "jobId": "labels-1",
        "environment": "production",
        "metadata": {"attempt": 2},
    }


def test_a_ledger_goes_on_where_it_ends(tmp_path: Path) -> None:
    """The next worker appends; an entry that was cut off is none."""
    path = tmp_path / "0.ledger"
    assert last_number(path) == -1
    for number in range(3):
        ledger = Ledger(path)
        ledger.write(number, 10 + number, 5, Answer.ACCEPTED)
        ledger.close()
    with path.open("ab") as file:
        file.write(b"half")
    assert [entry.number for entry in read_ledger(path)] == [0, 1, 2]
    assert last_number(path) == 2
    assert next(read_ledger(path)) == Entry(0, 10, 5, Answer.ACCEPTED)
