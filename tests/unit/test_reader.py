"""The reading end of the spool: which records wait, and whose segment it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from receipt_dynamo.spool.pending import oldest_age, pending_records
from receipt_dynamo.spool.reader import (
    CHUNK_BYTES,
    SegmentReader,
    list_segments,
    spool_bytes,
)
from receipt_dynamo.spool.segment import (
    HEADER_BYTES,
    UnknownFormatError,
    encode_line,
    format_header,
)
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import NOON, damage, only_segment, quiet_fork
from tests.support.fake_programs import find_lines


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def writer(directory: Path) -> SpoolWriter:
    """A writer with three records."""
    writer = SpoolWriter(directory, 1 << 22)
    for n in range(3):
        writer.append(b'{"n":%d}' % n)
    return writer


def test_segments_are_listed_oldest_first_and_nothing_else(
    writer: SpoolWriter, directory: Path
) -> None:
    """Hidden beginnings, locks and directories are no segments; no directory is no error."""
    assert writer.active_segment is not None
    for name in ("0000000000000000001-1-aa.seg", "0000000000000000002-1-aa.new", "drain.lock"):
        (directory / name).touch()
    (directory / "dead").mkdir()
    paths = list_segments(directory)
    assert [path.name for path in paths] == [
        "0000000000000000001-1-aa.seg",
        writer.active_segment.name,
    ]
    assert list_segments(directory / "missing") == []
    (directory / "gone.seg").symlink_to("missing")
    held = writer.active_segment.stat().st_size
    assert (spool_bytes(directory), spool_bytes(directory / "missing")) == (held, 0)


def test_a_segment_is_sealed_when_its_writer_let_go_or_died(
    writer: SpoolWriter, directory: Path
) -> None:
    """The lock is the only sign, and the kernel keeps it."""
    with SegmentReader(only_segment(directory)) as segment:
        assert not segment.is_sealed()
        writer.seal()
        assert segment.is_sealed()
        with SegmentReader(segment.path) as other:
            assert not other.is_sealed()


def test_a_child_forked_while_a_segment_is_read_does_not_keep_it(
    writer: SpoolWriter, directory: Path
) -> None:
    """The child's copy of the descriptor holds no lock once the reader has closed it."""
    writer.seal()
    ready, go = os.pipe(), os.pipe()
    segment = SegmentReader(only_segment(directory))
    assert segment.is_sealed()
    pid = quiet_fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    segment.close()
    try:
        with SegmentReader(segment.path) as other:
            assert other.is_sealed()
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)


def test_an_ack_lies_in_the_segment_itself(writer: SpoolWriter, directory: Path) -> None:
    """Acking changes the header in place, no other byte, and the writer goes on."""
    path = only_segment(directory)
    before = path.read_bytes()
    with SegmentReader(path) as segment:
        end = segment.read(HEADER_BYTES, 2).end
        segment.ack(end)
        assert segment.acked() == end
    writer.append(b'{"n":3}')
    assert path.read_bytes()[HEADER_BYTES:] == before[HEADER_BYTES:] + encode_line(b'{"n":3}')
    assert pending_records(directory) == 2


@pytest.mark.parametrize(
    "ack",
    [HEADER_BYTES + 3, 10**9, 10**12 - 1, 0, HEADER_BYTES + 2 * len(encode_line(b'{"n":0}')) + 1],
)
@pytest.mark.usefixtures("writer")
def test_an_ack_that_no_record_ends_at_is_damage_and_all_is_sent_again(
    directory: Path, ack: int
) -> None:
    """A flipped digit may cause a repetition, which is harmless, but no loss."""
    with SegmentReader(only_segment(directory)) as segment:
        segment.ack(ack)
        assert segment.acked() == HEADER_BYTES
    assert pending_records(directory) == 3


@pytest.mark.usefixtures("writer")
def test_pending_counts_whole_records_and_never_fails(directory: Path, tmp_path: Path) -> None:
    """Unknown versions, torn tails and missing directories are no error of the question."""
    path = only_segment(directory)
    with path.open("ab") as file:
        file.write(b"0000 torn")
    assert pending_records(directory) == 3
    assert oldest_age(directory, NOON) is not None
    damage(path, 0, b"#spool2")
    assert pending_records(directory) == 0
    assert oldest_age(directory, NOON) is None
    with SegmentReader(path) as segment, pytest.raises(UnknownFormatError):
        segment.acked()
    assert pending_records(tmp_path / "missing") == 0
    (tmp_path / "file").touch()
    assert pending_records(tmp_path / "file") == 0


def test_the_oldest_record_is_as_old_as_its_segment(directory: Path) -> None:
    """The age comes from the name, which says when the segment was begun."""
    directory.mkdir()
    begun = int(NOON.timestamp() * 1e9) - 90 * 10**9
    writer = SpoolWriter(directory, 4096)
    writer.append(b"{}")
    writer.seal()
    only_segment(directory).rename(directory / f"{begun:019d}-1-aa.seg")
    assert oldest_age(directory, NOON) == pytest.approx(90)


def test_a_stretch_without_a_newline_never_stops_a_reader(directory: Path) -> None:
    """Megabytes of rubbish come out as bad lines, and the records behind them are found."""
    writer = SpoolWriter(directory, 1 << 24)
    writer.append(b'{"n":1}')
    with only_segment(directory).open("ab") as file:
        file.write(b"x" * (2 * CHUNK_BYTES + 5) + b"\n")
    writer.append(b'{"n":2}')
    found, bad, offset = [], 0, HEADER_BYTES
    with SegmentReader(only_segment(directory)) as segment:
        for _ in range(10):
            lines = segment.read(offset, 100)
            found += lines.payloads
            bad += sum(map(len, lines.bad))
            offset = lines.end
        assert offset == segment.size()
    assert found == [b'{"n":1}', b'{"n":2}']
    assert bad == 2 * CHUNK_BYTES + 5


def test_a_segment_that_was_removed_says_so(writer: SpoolWriter, directory: Path) -> None:
    """A second drainer that still has it open sends nothing again."""
    writer.seal()
    path = only_segment(directory)
    with SegmentReader(path) as first, SegmentReader(path) as second:
        first.remove()
        first.remove()
        assert second.is_gone()
    with pytest.raises(FileNotFoundError):
        SegmentReader(path)


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_the_observer_of_the_models_reads_what_a_drainer_reads(directory: Path, size: int) -> None:
    """Whichever bytes rot, a last brace and its newline among them: else a model would hold the
    spool to what no reader restores, or believe it what every reader does."""
    records = [b'{"n":1}', b'{"n":{"of":22}}', b'{"gap":3}']
    sound = format_header(HEADER_BYTES) + b"".join(encode_line(record) for record in records)
    directory.mkdir(0o700)
    path = directory / "1-1-aa.seg"
    for at in range(HEADER_BYTES, len(sound) - size + 1):
        rotten = sound[:at] + b"?" * size + sound[at + size :]
        path.write_bytes(rotten)
        found, offset = [], HEADER_BYTES
        with SegmentReader(path) as segment:
            while (lines := segment.read(offset, 100, sealed=True)).end > offset:
                found += lines.payloads
                offset = lines.end
        assert found == [payload for _, _, payload in find_lines(rotten) if payload], rotten
