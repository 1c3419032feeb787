"""Invariant 6: damage costs at most the records it touches, each counted, and stops nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.invariants.conftest import OpenBench
from tests.support import encode, make_metric
from tests.support.fake_programs import HEADER, plant
from tests.support.spool_bench import SpoolBench

RECORDS = [encode(make_metric(request_id=f"old{n}", tool="x" * n)) for n in range(4)]
NAMES = [f"old{n}" for n in range(4)]
VERSION = len(b"#spool")
"""Where the digit of the format lies: other digits there mean another format, left alone."""


@pytest.fixture(scope="module")
def segment() -> bytes:
    """A segment of four records, as a writer leaves it."""
    from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header

    assert HEADER_BYTES == HEADER
    return format_header(HEADER_BYTES) + b"".join(map(encode_line, RECORDS))


def deliver(bench: SpoolBench, data: bytes) -> tuple[set[str], int, int]:
    """Deliver a segment of these bytes and a sound one behind it.

    Returns what arrived of the first, how many losses were counted, and how many bad lines lie in
    ``quarantine/``.
    """
    plant(bench.system, "0000000000000000001-1-aa.seg", data)
    (program,) = bench.programs
    with bench.acting(program):
        bench.put_some(program)
        program.spool.writer.seal()
        report = program.delivery.run(float("inf"))
    assert report.finished
    (sound,) = bench.stored
    arrived = set(bench.store.records)
    assert sound in arrived, "one segment has stopped another"
    counted = sum(gap.count for gap in bench.store.gaps.values())
    kept = [
        line
        for path, inode in bench.system.disk.walk()
        if path.endswith(".bad")
        for line in bytes(inode.data).split(b"\n")[:-1]
    ]
    return arrived - {sound}, counted, len(kept)


@pytest.mark.parametrize("positions", [True, False])
def test_invariant_06_truncated_at_any_byte(
    open_bench: OpenBench, segment: bytes, positions: bool
) -> None:
    """All records before the cut arrive; one that is cut through lies in quarantine.

    It counts as no loss: a writer killed within its write leaves the same, and answered nobody.
    """
    lines = segment.split(b"\n")[1:-1]
    ends = [HEADER + sum(len(line) + 1 for line in lines[: n + 1]) for n in range(4)]
    for size in range(len(segment) + 1):
        arrived, counted, kept = deliver(open_bench(positions=positions), segment[:size])
        whole = [name for name, end in zip(NAMES, ends, strict=True) if size >= end - 2]
        assert arrived == set(whole), size
        rest = size - max([HEADER, *ends[: len(whole)]])
        assert (counted, kept) == (0, int(rest > 0)), size


def test_invariant_06_any_byte_overwritten(open_bench: OpenBench, segment: bytes) -> None:
    """Every byte in turn becomes another: the other records arrive, a lost one is counted."""
    for at in range(len(segment)):
        for value in (segment[at] ^ 1 << at % 8, ord("\n")):
            check_damage(open_bench(positions=at % 2 == 0), segment, at, value)


@given(data=st.data())
@settings(max_examples=150)
def test_invariant_06_random_bits_flipped(
    open_bench: OpenBench, segment: bytes, data: st.DataObject
) -> None:
    """Any bit, on a store of either kind."""
    bit = data.draw(st.integers(0, len(segment) * 8 - 1))
    at = bit // 8
    bench = open_bench(positions=data.draw(st.booleans()))
    check_damage(bench, segment, at, segment[at] ^ 1 << bit % 8)


def check_damage(bench: SpoolBench, segment: bytes, at: int, value: int) -> None:
    harmed = segment[:at] + bytes([value]) + segment[at + 1 :]
    if at == VERSION and harmed[at : at + 1].isdigit() and harmed != segment:
        plant(bench.system, "0000000000000000001-1-aa.seg", harmed)
        bench.run_drainer(bench.programs[0])
        assert bench.segments()[0].inode.data == harmed, "a segment of another format was touched"
        return
    arrived, counted, kept = deliver(bench, harmed)
    touched = {NAMES[segment.count(b"\n", HEADER, at)]} if at >= HEADER else set()
    lost = set(NAMES) - arrived
    assert lost <= touched, (at, value)
    assert len(lost) <= counted, (at, value)
    assert bool(counted) <= bool(kept), (at, value)
