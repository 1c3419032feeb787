"""What waits in a spool: counted by lines, as the drainer would find it, and its age."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.spool import pending as module
from receipt_dynamo.spool.pending import (
    Extent,
    PendingCount,
    backlog,
    count_left,
    left_of,
    oldest_age,
    pending_records,
)
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import NOON, encode, make_metric, only_segment

RECORD = encode_line(encode(make_metric(request_id="r-1")))
GAP = encode_line(encode(Gap(gap="g-1", timestamp=NOON, reason="disk", count=3)))


def write_segment(directory: Path, body: bytes, *, ack: int = HEADER_BYTES, begun: int = 1) -> Path:
    """Write a segment as a dead process left it."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{begun:019d}-1-aa.seg"
    path.write_bytes(format_header(ack) + body)
    return path


def torn(line: bytes, cut: int, end: bytes) -> bytes:
    """Return what a short write leaves, once the writer has ended it."""
    return line[: min(cut, len(line) - 3)] + end


PIECES: dict[str, tuple[bytes, int]] = {
    "record": (RECORD, 1),
    "gap": (GAP, 0),
    "damaged record": (RECORD.replace(b"gpt", b"gqt"), 1),
    "record without its newline": (RECORD[:-1] + b"\n\n", 1),
    "gap without its newline": (GAP[:-1] + b"\n\n", 0),
    "torn at the first byte": (torn(RECORD, 1, b"\n\n"), 0),
    "torn in the CRC": (torn(RECORD, 5, b"\n\n"), 0),
    "torn in the first key": (torn(GAP, 13, b"\n\n"), 0),
    "torn late": (torn(RECORD, 10**6, b"\n\n"), 0),
    "torn gap": (torn(GAP, 40, b"\n\n"), 0),
    "torn, and its end torn as well": (torn(RECORD, 50, b"\n\n\n"), 0),
}


@given(
    before=st.lists(st.sampled_from(sorted(PIECES)), max_size=4),
    behind=st.lists(st.sampled_from(sorted(PIECES)), max_size=12),
    tail=st.sampled_from(
        [(b"", 0), (RECORD[:-1], 1), (GAP[:-1], 0), (RECORD[:-2], 1), (RECORD[:-3], 0)]
    ),
    chunk=st.integers(len(RECORD) + 2, 2 * len(RECORD)),
)
def test_every_whole_record_behind_the_ack_counts_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[str],
    behind: list[str],
    tail: tuple[bytes, int],
    chunk: int,
) -> None:
    """Gaps, torn lines and empty ones are no records, wherever the chunks that are read end."""
    acked, rest = (b"".join(PIECES[name][0] for name in names) for names in (before, behind))
    directory = tmp_path_factory.mktemp("spool")
    write_segment(directory, acked + rest + tail[0], ack=HEADER_BYTES + len(acked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk)
        assert pending_records(directory) == sum(PIECES[n][1] for n in behind) + tail[1]


def test_a_stretch_without_a_newline_is_damage_and_ends(tmp_path: Path) -> None:
    """Megabytes of rubbish are passed over, and the records behind them counted."""
    rubbish = b"x" * (2 * module.CHUNK_BYTES + 5) + b"\n"
    write_segment(tmp_path, RECORD + rubbish + RECORD)
    assert pending_records(tmp_path) == 3, "its end is one damaged line"


def test_a_backlog_is_what_lay_there_at_that_moment(tmp_path: Path) -> None:
    """What is recorded later is not part of it; what is acked or unlinked is left no more."""
    old = write_segment(tmp_path, RECORD * 3)
    writer = SpoolWriter(tmp_path, 1 << 20)
    writer.append(RECORD[9:-1])
    snapshot = backlog(tmp_path)
    writer.append(RECORD[9:-1])
    assert left_of(snapshot) == 4
    assert pending_records(tmp_path) == 5
    old.write_bytes(format_header(HEADER_BYTES + 2 * len(RECORD)) + RECORD * 3)
    assert left_of(snapshot) == 2
    old.unlink()
    assert left_of(snapshot) == 1
    assert left_of([*snapshot, Extent(tmp_path, 100)]) == 1, "what cannot be read holds nothing"


def test_when_time_is_up_the_rest_is_told_from_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chunk is counted however late it is; the answer says that it is an estimate."""
    for begun in range(1, 6):
        write_segment(tmp_path, RECORD * 100, begun=begun)
    snapshot = backlog(tmp_path)
    assert count_left(snapshot, lambda: False) == PendingCount(500)
    assert count_left(snapshot, lambda: True) == PendingCount(500, estimated=True)
    late = itertools.chain([False], itertools.repeat(True))
    assert count_left(snapshot, lambda: next(late)).estimated
    monkeypatch.setattr(module, "_OPENED", 2)
    monkeypatch.setattr(module, "_opened", Mock(wraps=module._opened))
    assert count_left(snapshot, lambda: True) == PendingCount(500, estimated=True)
    assert module._opened.call_count == 2, "and no more of them is opened than a few"
    damaged = tmp_path / "damaged"
    for begun in (1, 2):
        write_segment(damaged, GAP * 1000, begun=begun)
    assert 0 < count_left(backlog(damaged), lambda: True).records < 1000


def test_a_look_changes_nothing_and_needs_no_right_to_write(tmp_path: Path) -> None:
    """A spool that can only be read is counted, and the file is left as it was."""
    path = write_segment(tmp_path, RECORD * 2)
    path.chmod(0o400)
    before = path.stat()
    assert pending_records(tmp_path) == 2
    after = path.stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def _at(seconds: float, **fields: object) -> bytes:
    metric = make_metric(timestamp=NOON + timedelta(seconds=seconds), **fields)
    return encode_line(encode(metric))


@pytest.mark.parametrize(
    ("bodies", "age"),
    [
        ({-500: _at(-400) + _at(-10)}, 400),
        ({-500: GAP + GAP + _at(-30)}, 30),
        ({-500: _at(-(10**8))}, 500),
        ({-500: _at(+60)}, 0),
        ({-500: b"rubbish\n" + _at(-30)}, 30),
        ({-500: b"rubbish\n"}, 500),
        ({-500: GAP}, None),
        ({-500: _at(-20), -300: _at(-250), -100: _at(-90)}, 250),
        ({-500: GAP, -300: b"", -100: encode_line(b"{}")}, 100),
    ],
    ids=[
        "the first unsent record",
        "gaps are no records",
        "an imported call is as old as its segment",
        "a clock that ran ahead",
        "damage is passed over",
        "nothing but damage",
        "nothing but gaps",
        "the oldest of several segments",
        "a record without a time",
    ],
)
def test_the_oldest_unsent_record_is_as_old_as_can_be_told(
    tmp_path: Path, bodies: dict[int, bytes], age: float | None
) -> None:
    """Its own time, but no earlier than the segment it lies in was begun."""
    for seconds, body in bodies.items():
        begun = int((NOON.timestamp() + seconds) * 1e9)
        write_segment(tmp_path, body, begun=begun)
    assert oldest_age(tmp_path, NOON) == (None if age is None else pytest.approx(age, abs=0.01))


def test_a_long_lived_segment_is_as_old_as_its_first_unsent_record(tmp_path: Path) -> None:
    """A process that records a little all day does not make its newest record a day old."""
    day = int((NOON.timestamp() - 86_400) * 1e9)
    body = _at(-86_000) * 100
    write_segment(tmp_path, body + _at(-5), ack=HEADER_BYTES + len(body), begun=day)
    assert oldest_age(tmp_path, NOON) == pytest.approx(5, abs=0.01)


def test_the_age_of_a_segment_with_a_foreign_name_is_that_of_its_last_change(
    tmp_path: Path,
) -> None:
    """A name that tells no time is no reason to fail."""
    write_segment(tmp_path, encode_line(b"{}")).rename(tmp_path / "copied.seg")
    changed = only_segment(tmp_path).stat().st_mtime
    age = oldest_age(tmp_path, NOON)
    assert age == pytest.approx(max(0.0, NOON.timestamp() - changed), abs=0.01)


def test_a_disk_that_cannot_be_read_makes_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question about the spool is answered, not raised."""
    write_segment(tmp_path, RECORD)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module.os, "pread", fail)
    assert pending_records(tmp_path) == 0
    assert oldest_age(tmp_path, NOON) is None
