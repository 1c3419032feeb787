"""The writing end of the spool: what was appended is there, whatever else goes wrong."""

from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.bounds import SpoolBounds, SpoolFullError
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import fork_in_c, in_fork, only_segment, payloads_of


@pytest.fixture
def writer(tmp_path: Path) -> SpoolWriter:
    return SpoolWriter(tmp_path / "spool", 4096)


def everything(directory: Path) -> list[bytes]:
    return [record for path in list_segments(directory) for record in payloads_of(path)]


@pytest.fixture
def short_writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | OSError], None]:
    """Let the next os.write take only so many bytes, or fail."""
    real, plan = os.write, []

    def write(descriptor: int, data: bytes) -> int:
        if not plan:
            return real(descriptor, data)
        step = plan.pop(0)
        if isinstance(step, OSError):
            raise step
        return real(descriptor, data[:step]) if step else 0

    monkeypatch.setattr(writer_module.os, "write", write)
    return plan.append


def test_a_segment_is_its_header_and_one_line_a_record(writer: SpoolWriter, tmp_path: Path) -> None:
    """The file holds exactly the documented bytes, nothing buffered elsewhere."""
    writer.append(b'{"a":1}')
    writer.append(b'{"b":2}')
    path = only_segment(tmp_path / "spool")
    expected = format_header(HEADER_BYTES) + encode_line(b'{"a":1}') + encode_line(b'{"b":2}')
    assert path.read_bytes() == expected
    assert path == writer.active_segment
    assert path.name.split("-")[1] == str(os.getpid())
    assert writer.records == 2


def test_every_record_is_one_write(
    writer: SpoolWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRC, record and newline go out together: nothing can come between them."""
    writer.append(b"{}")
    calls: list[bytes] = []
    real = os.write
    monkeypatch.setattr(
        writer_module.os, "write", lambda fd, data: (calls.append(data), real(fd, data))[1]
    )
    writer.append(b'{"a":1}')
    assert calls == [encode_line(b'{"a":1}')]
    assert everything(tmp_path / "spool") == [b"{}", b'{"a":1}']


def test_nothing_is_synced_or_listed_while_recording(
    writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fsync and no directory scan lie on the way of a record."""
    for name in ("fsync", "fdatasync", "sync", "scandir", "listdir"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("called while recording"))
    for _ in range(200):
        writer.append(b'{"a":"%s"}' % (b"x" * 100))


def test_a_full_segment_is_followed_by_the_next(writer: SpoolWriter, tmp_path: Path) -> None:
    """Segments stay near their size, in the order of their names, and the old one is sealed."""
    records = [b'{"n":%d,"fill":"%s"}' % (n, b"x" * 400) for n in range(50)]
    for record in records:
        writer.append(record)
    paths = list_segments(tmp_path / "spool")
    assert len(paths) > 3
    assert everything(tmp_path / "spool") == records
    assert max(path.stat().st_size for path in paths) < 4096 + 500
    for path in paths:
        with SegmentReader(path) as segment:
            assert segment.is_sealed() == (path != writer.active_segment)


@pytest.mark.parametrize("kept", [0, 1, 8, 9, 12])
def test_a_short_write_never_harms_its_neighbours(
    writer: SpoolWriter, tmp_path: Path, short_writes: Callable[[int], None], kept: int
) -> None:
    """A torn record is an error for its caller; those before and after come out whole."""
    writer.append(b'{"n":1}')
    short_writes(kept)
    with pytest.raises(OSError, match=f"short write: {kept} of") as caught:
        writer.append(b'{"n":"torn"}')
    assert caught.value.errno == errno.ENOSPC
    writer.append(b'{"n":2}')
    writer.append(b'{"n":3}')
    assert everything(tmp_path / "spool") == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert writer.records == 3


@pytest.mark.parametrize("then", ["append", "seal", "kill", "tear"])
def test_a_record_that_lacks_only_its_newline_is_stored_and_counted_once(
    writer: SpoolWriter, tmp_path: Path, short_writes: Callable[[int], None], then: str
) -> None:
    """All of it is in the file, so it is not refused: it would come out beside its own drop."""
    line = encode_line(b'{"n":1}')
    short_writes(HEADER_BYTES)
    short_writes(len(line) - 1)
    writer.append(b'{"n":1}')
    if then == "tear":
        short_writes(5)
        with pytest.raises(OSError, match="short write"):
            writer.append(b'{"n":"torn"}')
    if then in ("seal", "kill"):
        if then == "seal":
            writer.seal()
        with SegmentReader(only_segment(tmp_path / "spool")) as segment:
            ended = [b'{"n":1}'] if then == "seal" else []
            assert segment.read(HEADER_BYTES, 10).payloads == ended
            assert segment.read(HEADER_BYTES, 10, sealed=True).payloads == [b'{"n":1}']
        return
    writer.append(b'{"n":2}')
    assert everything(tmp_path / "spool") == [b'{"n":1}', b'{"n":2}']
    assert writer.records == 2


def test_a_disk_that_refuses_and_recovers_costs_only_what_it_refused(
    writer: SpoolWriter, tmp_path: Path, short_writes: Callable[[OSError], None]
) -> None:
    """ENOSPC, EIO and EDQUOT reach the caller as OSError; recording resumes by itself."""
    writer.append(b'{"n":1}')
    for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        short_writes(OSError(code, os.strerror(code)))
        with pytest.raises(OSError, match="Errno"):
            writer.append(b'{"n":"refused"}')
    writer.append(b'{"n":2}')
    assert everything(tmp_path / "spool") == [b'{"n":1}', b'{"n":2}']


def test_a_segment_that_cannot_be_opened_leaves_nothing_behind(
    writer: SpoolWriter, tmp_path: Path, short_writes: Callable[[int], None]
) -> None:
    """No headless and no hidden file stays, and the next record tries again."""
    short_writes(7)
    with pytest.raises(OSError, match="no room for a segment"):
        writer.append(b"{}")
    assert list((tmp_path / "spool").iterdir()) == []
    writer.append(b"{}")
    assert everything(tmp_path / "spool") == [b"{}"]


def test_a_removed_segment_is_written_anew(writer: SpoolWriter, tmp_path: Path) -> None:
    """Somebody who clears the spool loses nothing of it: the next sync puts it back."""
    writer.append(b'{"n":1}')
    only_segment(tmp_path / "spool").unlink()
    (tmp_path / "spool").rmdir()
    writer.sync()
    writer.append(b'{"n":2}')
    assert everything(tmp_path / "spool") == [b'{"n":1}', b'{"n":2}']


@pytest.mark.parametrize("threads", [1, 8])
def test_with_fsync_an_append_returns_when_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Every record is covered by a sync that began after its write; waiting callers share one."""
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            size = os.fstat(descriptor).st_size
            real(descriptor)
            synced.append(size)

    monkeypatch.setattr(writer_module.os, "fdatasync", fdatasync)
    writer = SpoolWriter(tmp_path / "spool", 1 << 20, fsync=True)

    def record(thread: int) -> None:
        for n in range(20):
            writer.append(b'{"id":"%d-%d"}' % (thread, n))
            assert synced

    workers = [threading.Thread(target=record, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(everything(tmp_path / "spool")) == 20 * threads
    assert synced[-1] == only_segment(tmp_path / "spool").stat().st_size
    assert len(synced) <= 20 * threads


def test_a_sealed_segment_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation leaves nothing behind that a power cut could take for longer than a tick."""
    synced: list[int] = []
    monkeypatch.setattr(
        writer_module.os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino)
    )
    writer = SpoolWriter(tmp_path / "spool", 4096)
    for n in range(300):
        writer.append(b'{"n":"%060d"}' % n)
    files = {path.stat().st_ino for path in (tmp_path / "spool").iterdir()}
    writer.sync()
    assert files <= set(synced)


def test_a_failed_fsync_seals_the_segment(
    writer: SpoolWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed fsync never heals by repetition: later records go elsewhere."""
    writer.append(b'{"n":1}')
    first = writer.active_segment

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(writer_module.os, "fdatasync", fail)
    with pytest.raises(OSError, match="I/O"):
        writer.sync()
    writer.append(b'{"n":2}')
    assert writer.active_segment != first
    assert everything(tmp_path / "spool") == [b'{"n":1}', b'{"n":2}']


def test_threads_share_one_segment_and_lose_nothing(tmp_path: Path) -> None:
    """Eight threads append at once, over many rotations: each record comes out once and whole."""
    writer = SpoolWriter(tmp_path / "spool", 8192)

    def append(thread: int) -> None:
        for n in range(300):
            writer.append(b'{"id":"%d-%d"}' % (thread, n))

    threads = [threading.Thread(target=append, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = everything(tmp_path / "spool")
    assert len(found) == len(set(found)) == writer.records == 2400


def test_a_signal_handler_may_record_while_its_thread_records(tmp_path: Path) -> None:
    """Recording is reentrant: an alarm in the middle of an append appends too, without waiting."""
    writer = SpoolWriter(tmp_path / "spool", 4096)
    interrupted = written = 0

    def handler(*_: object) -> None:
        nonlocal interrupted
        interrupted += 1
        writer.append(b'{"signal":%d}' % interrupted)

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        while interrupted < 10:
            writer.append(b'{"n":%d}' % (written := written + 1))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    found = everything(tmp_path / "spool")
    assert len(found) == len(set(found)) == written + interrupted


def test_a_child_goes_on_in_a_segment_of_its_own(writer: SpoolWriter, tmp_path: Path) -> None:
    """A fork shares no file: parent and child write side by side, and the parent's stays locked."""
    writer.append(b'{"parent":1}')
    mine = writer.active_segment

    def child() -> None:
        assert writer.records == 0
        writer.append(b'{"child":1}')
        assert writer.active_segment != mine

    assert in_fork(child) == 0
    with SegmentReader(mine) as segment:
        assert not segment.is_sealed()
    writer.append(b'{"parent":2}')
    assert payloads_of(mine) == [b'{"parent":1}', b'{"parent":2}']
    assert len(everything(tmp_path / "spool")) == 3


def test_a_fork_that_no_hook_saw_is_noticed(writer: SpoolWriter, tmp_path: Path) -> None:
    """uWSGI forks in C: the child notices by its process id before it writes."""
    writer.append(b'{"parent":1}')
    mine = writer.active_segment
    pid = fork_in_c()
    if pid == 0:
        try:
            writer.append(b'{"child":1}')
            os._exit(0 if writer.active_segment != mine else 3)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(everything(tmp_path / "spool")) == [b'{"child":1}', b'{"parent":1}']


def test_forks_beside_recording_threads_never_hang(tmp_path: Path) -> None:
    """A child forked while another thread holds the lock records at once."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 20)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            writer.append(b'{"thread":1}')

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_fork(lambda: writer.append(b'{"child":1}')) for _ in range(20)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 20
    assert everything(tmp_path / "spool").count(b'{"child":1}') == 20


def test_a_forgotten_writer_frees_its_segment_only_when_sealed(
    writer: SpoolWriter, tmp_path: Path
) -> None:
    """Sealing is repeatable, and makes all of the segment free to be taken."""
    writer.append(b"{}")
    for _ in range(2):
        writer.seal()
    assert writer.active_segment is None
    with SegmentReader(only_segment(tmp_path / "spool")) as segment:
        assert segment.is_sealed()
    gc.collect()


def test_what_the_bounds_refuse_piles_up_nothing(tmp_path: Path) -> None:
    """Each refused append gets an error of its own: none grows by the frames of all before it."""
    bounds = SpoolBounds(tmp_path / "spool", max_bytes=0, min_free_bytes=0, grant_bytes=4096)
    writer = SpoolWriter(tmp_path / "spool", 4096, bounds)
    lengths = []
    for _ in range(5):
        with pytest.raises(SpoolFullError) as refused:
            writer.append(b"{}")
        assert refused.value.reason == "max_bytes"
        lengths.append(len(refused.traceback))
    assert len(set(lengths[1:])) == 1
