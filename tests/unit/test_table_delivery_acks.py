"""Acks of delivery to a table pass nothing that is nowhere, and repeat nothing set aside."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo.delivery import LeadLostError
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import NOON, damage, encode, make_metric, only_segment
from tests.support.fake_table import Answer, fail, lose_reply, take, take_all
from tests.support.table_bench import TableBench as Bench
from tests.support.table_bench import names

ANSWERS: dict[str, Answer] = {
    "all": take_all,
    "half": take(7),
    "none": take(0),
    "throttled": fail("ThrottlingException"),
    "500": fail("InternalServerError", 500),
    "lost": lose_reply,
    "denied": fail("AccessDeniedException"),
    "conflict": fail("TransactionConflictException"),
    "odd": fail("NeverHeardOf", 400),
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_where_dead_cannot_be_written_nothing_is_acked_past_it(bench: Bench) -> None:
    """The record stays in the spool until its letter is on the disk."""
    bench.spool(10)
    bench.table.poison = {"00004"}
    (bench.directory / "dead").touch()
    report = bench.run()
    assert (report.failed_segments, report.finished) == (1, False)
    with SegmentReader(only_segment(bench.directory)) as segment:
        assert segment.acked() == HEADER_BYTES
    (bench.directory / "dead").unlink()
    assert bench.run().finished
    assert (bench.directory / "dead").is_dir()


def test_an_ack_that_fails_repeats_no_letter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to ``dead/`` is acked before anything else is set aside."""
    bench.spool(100)
    bench.table.poison = {"00003", "00060"}
    ack, failures = SegmentReader.ack, [OSError(errno.EIO, "the disk")] * 4

    def ack_at_last(segment: SegmentReader, offset: int) -> None:
        if failures:
            raise failures.pop()
        ack(segment, offset)

    monkeypatch.setattr(SegmentReader, "ack", ack_at_last)
    for _ in range(6):
        report = bench.run()
    assert report.finished
    assert bench.table.ids == [name for name in names(100) if name not in bench.table.poison]
    letters = [
        line
        for file in (bench.directory / "dead").glob("*.jsonl")
        for line in file.read_bytes().splitlines()
    ]
    assert len(letters) == 2


def test_many_settled_chunks_need_one_ack(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ack is a write, and a look at who leads: not for each batch."""
    bench.spool(1000)
    offsets: list[int] = []
    ack = SegmentReader.ack
    monkeypatch.setattr(
        SegmentReader, "ack", lambda seg, offset: (offsets.append(offset), ack(seg, offset))
    )
    assert bench.run().finished
    assert 1 <= len(offsets) <= 10
    assert offsets == sorted(offsets)


def test_damage_is_set_aside_and_counted(bench: Bench) -> None:
    """A flipped byte costs its record, which a gap in the table counts; the rest arrives."""
    bench.spool(30)
    damage(only_segment(bench.directory), HEADER_BYTES + 40, b"\x00")
    report = bench.run()
    assert (report.delivered, report.damaged_lines, report.finished) == (29, 1, True)
    assert len(bench.table.items) == 30
    assert any(name.endswith(f"seg-{HEADER_BYTES}") for name in bench.table.ids)


def test_whoever_lost_the_lead_acks_nothing(bench: Bench) -> None:
    """What it sent is sent again by the new leader, under the same keys."""
    bench.spool(30)
    with pytest.raises(LeadLostError):
        bench.run(may_ack=lambda: False)
    with SegmentReader(only_segment(bench.directory)) as segment:
        assert segment.acked() == HEADER_BYTES


@given(
    answers=st.lists(st.sampled_from(sorted(set(ANSWERS) - {"odd"})), max_size=40),
    copies=st.lists(st.integers(0, 150), max_size=20),
    poison=st.sets(st.integers(0, 150), max_size=3),
    deaths=st.lists(st.integers(1, 30), max_size=3),
)
def test_no_ack_passes_a_record_that_is_nowhere(
    tmp_path_factory: pytest.TempPathFactory,
    answers: list[str],
    copies: list[int],
    poison: set[int],
    deaths: list[int],
) -> None:
    """Whatever the table answers, and wherever the process dies: at every ack all that lies before
    it is in the table or in dead/, and at the end everything is, each with its last version."""
    bench = Bench(tmp_path_factory.mktemp("any"))
    writer = SpoolWriter(bench.directory, 20_000)
    last: dict[str, int] = {}
    for version, number in enumerate([*range(151), *copies]):
        name = f"{number:05d}"
        last[name] = version
        metric = make_metric(request_id=name, timestamp=NOON, input_tokens=version)
        writer.append(encode(metric))
    writer.seal()
    bench.table.answers.extend(ANSWERS[answer] for answer in answers)
    bench.table.poison = {f"{number:05d}" for number in poison}

    def safe(segment: SegmentReader, offset: int) -> None:
        here = {bench.table.request_id(bench.table.prepare(p)) for p in before(segment, offset)}
        assert here <= set(bench.table.ids) | bench.table.poison

    def before(segment: SegmentReader, offset: int) -> list[bytes]:
        payloads, start = [], HEADER_BYTES
        while start < offset:
            lines = segment.read(start, 1, sealed=True)
            payloads += lines.payloads
            start = lines.end
        return payloads

    with pytest.MonkeyPatch.context() as patch:
        watch(patch, safe, deaths)
        for _ in range(len(deaths) + 1):
            try:
                bench.run_out()
                break
            except KeyboardInterrupt:
                bench.delivery = bench.new_delivery()
    assert bench.table.ids == sorted(set(last) - bench.table.poison)
    for payload in bench.table.items.values():
        fields = bench.table.prepare(payload)
        assert b'"input_tokens":%d' % last[bench.table.request_id(fields)] in payload
    assert list_segments(bench.directory) == []


def watch(
    patch: pytest.MonkeyPatch, safe: Callable[[SegmentReader, int], None], deaths: list[int]
) -> None:
    """Look at every ack, and end the process at some of them."""
    ack, left = SegmentReader.ack, list(deaths)

    def watched(self: SegmentReader, offset: int) -> None:
        safe(self, offset)
        if left:
            left[0] -= 1
            if left[0] == 0:
                left.pop(0)
                raise KeyboardInterrupt
        ack(self, offset)

    patch.setattr(SegmentReader, "ack", watched)
