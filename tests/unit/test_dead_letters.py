"""Dead letters are looked at, sent again or given up; whatever happens, each counts once."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from receipt_dynamo import DeadLetterError
from receipt_dynamo.dead_letter import DeadLetter
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.spool.aside import Letter
from receipt_dynamo.store import UsageQuery
from tests.support import NOON, encode
from tests.support.letters_bench import COST, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_letter_says_where_it_lies_and_all_that_is_known_of_it(bench: Bench) -> None:
    """File, line, id, reason and time; of the record service, model, tokens and cost."""
    bench.bury(b"unreadable")
    (name,) = bench.bury(bench.metric("a"))
    (first, letter) = bench.letters.letters()
    assert letter == bench.letters.letter(name)
    assert letter == DeadLetter(
        id=name,
        file=bench.dead_dir / "1-1-aa.seg.jsonl",
        line=2,
        reason="it is poison",
        died=NOON,
        record=bench.metric("a").decode(),
        fault=None,
        service="openai",
        model="gpt-4o",
        operation="chat",
        timestamp=NOON,
        request_id="a",
        input_tokens=10,
        output_tokens=5,
        cost_usd=COST,
    )
    assert (first.line, first.service, first.record) == (1, None, "unreadable")
    assert first.fault


@pytest.mark.parametrize(
    ("record", "known"),
    [
        (b"[]", {}),
        (b"{", {}),
        (b'{"service":"x","model":7,"input_tokens":-1,"output_tokens":2}', {"service": "x"}),
        (b'{"timestamp":"noon","cost_usd":"ten","operation":""}', {}),
        (b'{"timestamp":5,"cost_usd":0.5,"request_id":"r"}', {"request_id": "r"}),
        (b'{"timestamp":"2026-11-21T12:00:00+00:00","cost_usd":"1"}', {"timestamp": NOON}),
        (b'{"cost_usd":"0.125","input_tokens":10}', {"cost_usd": COST, "input_tokens": 10}),
        (b'{"gap":"g","count":-1,"service":"s"}', {"service": "s", "count": 1}),
    ],
)
def test_of_a_record_that_is_none_what_can_be_read_is_known(
    bench: Bench, record: bytes, known: dict[str, Any]
) -> None:
    """Field by field: one that makes no sense hides no other."""
    bench.bury(record)
    (letter,) = bench.letters.letters()
    assert letter.fault
    assert {name: getattr(letter, name) for name in known} == known
    for name in {"service", "model", "input_tokens", "cost_usd", "timestamp"} - set(known):
        if name == "cost_usd" and b'"cost_usd":"1"' in record:
            continue
        assert getattr(letter, name) is None, name


def test_without_any_letter_there_is_nothing_to_do(bench: Bench) -> None:
    """A spool that never saw a dead record: no error, and nothing is made."""
    assert bench.letters.letters() == []
    assert bench.letters.retry() == []
    assert bench.letters.drop() == []
    assert bench.letters.quarantined() == {}
    assert list(bench.spool_dir.iterdir()) == []


def test_a_letter_that_is_retried_is_delivered_and_gone(bench: Bench) -> None:
    """Once its store takes it, the record is in the store, and the file goes with its last one."""
    first, second = bench.bury(bench.metric("a"), bench.metric("b"))
    assert [letter.id for letter in bench.letters.retry([first])] == [first]
    assert bench.ids == [second]
    assert bench.deliver() == ["a"]
    assert len(bench.letters.retry()) == 1
    assert bench.deliver() == ["a", "b"]
    assert bench.ids == []
    assert list(bench.dead_dir.iterdir()) == []


def test_a_letter_that_is_dropped_is_counted_as_lost(bench: Bench) -> None:
    """Its tokens and cost stay in every total of losses, at the time of the call."""
    names = bench.bury(bench.metric("a"), bench.metric("b", timestamp=NOON - timedelta(days=9)))
    assert len(bench.letters.drop(names)) == 2
    assert bench.ids == []
    lost = bench.lost()
    assert (lost.count, lost.input_tokens, lost.output_tokens) == (2, 20, 10)
    assert (lost.cost_usd, lost.by_reason) == (2 * COST, {"dead": 2})
    assert bench.lost(UsageQuery(since=NOON)).count == 1
    assert bench.lost(UsageQuery(model="gpt-4o")).count == 2
    assert bench.lost(UsageQuery(model="o3")).count == 0
    assert bench.deliver() == []


def test_a_gap_that_died_keeps_its_count(bench: Bench) -> None:
    """A letter may be the record of many losses: retried or dropped, all of them stay counted."""
    gaps = [Gap(f"g{n}", NOON, "disk", 7, cost_usd=Decimal("1e130")) for n in range(2)]
    first, second = bench.bury(*map(encode, gaps))
    bench.letters.retry([first])
    bench.letters.drop([second])
    lost = bench.lost()
    assert lost.by_reason == {"dead": 7, "disk": 7}
    assert lost.cost_usd == Decimal("2e130")


def test_a_record_that_is_none_cannot_be_retried(bench: Bench) -> None:
    """The answer says why and what can be done; the others stay where they are, too."""
    sound, junk = bench.bury(bench.metric("a"), b'{"service":"openai"}')
    with pytest.raises(DeadLetterError, match=f"{junk} is no record.*model.*dead drop {junk}"):
        bench.letters.retry([sound, junk])
    assert bench.ids == [sound, junk]
    assert bench.spooled() == []
    assert [letter.id for letter in bench.letters.retry()] == [sound]
    assert bench.ids == [junk]
    bench.letters.drop([junk])
    assert bench.lost(UsageQuery(service="openai")).count == 1


def test_a_record_that_was_mended_by_hand_can_be_retried(bench: Bench) -> None:
    """What parses now is a record, however it is laid out."""
    bench.bury(bench.metric("a").replace(b'"model"', b'"mode"'))
    (path,) = bench.dead_dir.iterdir()
    letter = msgspec.json.decode(path.read_bytes(), type=Letter)
    mended = letter.record.replace('"mode"', '\n"model"')
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(letter, record=mended)))
    bench.letters.retry()
    assert bench.deliver() == ["a"]


@pytest.mark.parametrize("action", ["letter", "retry", "drop"])
def test_an_unknown_id_changes_nothing(bench: Bench, action: str) -> None:
    """All or nothing: the message names the id, and where ids are to be found."""
    known = bench.bury(bench.metric("a"))
    names: Any = "0123456789ab" if action == "letter" else [*known, "0123456789ab"]
    with pytest.raises(DeadLetterError, match=r"'0123456789ab'. See: receipt-usage dead list"):
        getattr(bench.letters, action)(names)
    assert bench.ids == known
    assert bench.spooled() == []


def test_a_record_that_died_twice_is_one_letter(bench: Bench) -> None:
    """A crash may leave it in two files: it is listed once, and counted as lost once."""
    names = {
        *bench.bury(bench.metric("a"), bench.metric("b"), segment="1-1-aa.seg"),
        *bench.bury(bench.metric("a"), segment="2-1-aa.seg"),
        *bench.bury(bench.metric("a"), segment="memory"),
    }
    assert len(names) == len(bench.ids) == 2
    (name,) = names - set(bench.bury(bench.metric("b"), segment="1-1-aa.seg"))
    bench.letters.drop([name])
    assert len(bench.ids) == 1
    assert bench.lost().count == 1


def test_lines_keep_their_numbers_and_removed_ones_their_place(bench: Bench) -> None:
    """Removing overwrites with blanks: other tools still read what is left, line by line."""
    names = bench.bury(*(bench.metric(name) for name in "abc"))
    size = (bench.dead_dir / "1-1-aa.seg.jsonl").stat().st_size
    bench.letters.drop([names[1]])
    assert [letter.line for letter in bench.letters.letters()] == [1, 3]
    data = (bench.dead_dir / "1-1-aa.seg.jsonl").read_bytes()
    assert len(data) == size
    assert data.splitlines()[1].strip() == b""
    bench.bury(bench.metric("d"))
    assert [letter.line for letter in bench.letters.letters()] == [1, 3, 4]
