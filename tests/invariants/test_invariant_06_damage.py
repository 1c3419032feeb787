"""Invariant 6: a flipped or missing byte costs at most the records it touches, each one counted;
delivery ends, and other segments are delivered."""

from __future__ import annotations

from pathlib import Path

import pytest  # noqa: TC002
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo.delivery import Delivery
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import FakeClock, encode, make_metric
from tests.support.stores import MemoryStore

DAMAGED = [f"a{n}" for n in range(6)]
SOUND = [f"b{n}" for n in range(4)]


def spooled(directory: Path) -> tuple[Path, list[int]]:
    """Write two segments; return the first, and the offset behind each of its records."""
    ends = []
    for ids in (DAMAGED, SOUND):
        writer = SpoolWriter(directory, 1 << 22)
        for request_id in ids:
            writer.append(encode(make_metric(request_id=request_id)))
            if ids is DAMAGED:
                ends.append(list_segments(directory)[0].stat().st_size)
        writer.seal()
    return list_segments(directory)[0], ends


def deliver(directory: Path) -> tuple[set[str], int]:
    """Deliver all; return the ids in the store, and how many records are counted as corrupt."""
    store = MemoryStore()
    delivery = Delivery(directory, store, FakeClock())  # type: ignore[arg-type]
    for _ in range(2):
        assert delivery.run(float("inf")).finished
    assert list_segments(directory) == []
    lost = sum(gap.count for gap in store.gaps.values() if gap.reason == "corrupt")
    return {metric.request_id for metric in store.metrics.values()}, lost


def test_invariant_06_truncated_at_every_byte(tmp_path: Path) -> None:
    """What lies whole before the cut arrives (its last brace and its newline can be restored), and
    so does the other segment. A record that was cut
    looks like one that was never answered: it is no loss that could be counted."""
    probe, _ = spooled(tmp_path / "probe")
    size = probe.stat().st_size
    for cut in range(size + 1):
        directory = tmp_path / f"cut{cut}"
        path, ends = spooled(directory)
        with path.open("r+b") as file:
            file.truncate(cut)
        found, lost = deliver(directory)
        whole = {name for name, end in zip(DAMAGED, ends, strict=True) if end - 2 <= cut}
        assert found == whole | set(SOUND), cut
        assert lost == 0


@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=5)
)
def test_invariant_06_flipped_bits(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]]
) -> None:
    """Every record that no flip touched arrives; of those that one touched, each is counted."""
    directory = tmp_path_factory.mktemp("six") / "spool"
    path, ends = spooled(directory)
    data = bytearray(path.read_bytes())
    before = bytes(data)
    version = range(len(b"#spool"), len(b"#spool1"))
    for place, flip in places:
        at = place % len(data)
        if at not in version:  # a header of another version is left alone on purpose
            data[at] ^= flip
    path.write_bytes(data)
    starts = [HEADER_BYTES, *ends[:-1]]
    sound = {
        name
        for name, start, end in zip(DAMAGED, starts, ends, strict=True)
        if data[start:end] == before[start:end]
    }
    newline_gone = {
        name for name, end in zip(DAMAGED, ends, strict=True) if data[end - 1] != before[end - 1]
    }
    found, lost = deliver(directory)
    assert sound | set(SOUND) <= found | _glued(newline_gone)
    assert found <= set(DAMAGED) | set(SOUND)
    missing = len(DAMAGED) + len(SOUND) - len(found)
    assert missing <= lost + _torn_tail(data), "a loss was not counted"
    assert lost <= len(set(DAMAGED) - sound) + len(newline_gone)


def _glued(names: set[str]) -> set[str]:
    """Return the neighbours of records whose newline is gone: the flip touches both."""
    return {DAMAGED[DAMAGED.index(name) + 1] for name in names if name != DAMAGED[-1]}


def _torn_tail(data: bytearray) -> int:
    """A last line without its newline may be a record that was never answered: it is no loss."""
    return 0 if data.endswith(b"\n") else 1
