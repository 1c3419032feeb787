"""What a sync promises, and who may interrupt it: threads that share one, handlers, forks in C."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.bounds import SpoolBounds, SpoolFullError
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import fork_in_c, only_segment, payloads_of


def everything(directory: Path) -> list[bytes]:
    return [record for path in list_segments(directory) for record in payloads_of(path)]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_all_who_wait_for_a_failed_sync_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one fdatasync could not bring to the disk, the next one does not prove to be there."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 20, fsync=True)
    written, failures = threading.Barrier(4), []
    real = os.fdatasync

    def fail_once(descriptor: int) -> None:
        if not failures:
            failures.append(descriptor)
            raise OSError(errno.EIO, "I/O error")
        real(descriptor)

    wait = SpoolWriter._wait_for_disk

    def wait_together(self: SpoolWriter, commit: object, count: int) -> None:
        written.wait(10)
        wait(self, commit, count)  # type: ignore[arg-type]

    answers: list[str] = []

    def record(n: int) -> None:
        try:
            writer.append(b'{"n":%d}' % n)
            answers.append("stored")
        except OSError:
            answers.append("refused")

    monkeypatch.setattr(writer_module.os, "fdatasync", fail_once)
    monkeypatch.setattr(SpoolWriter, "_wait_for_disk", wait_together)
    threads = [threading.Thread(target=record, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["refused"] * 4
    assert (writer.records, writer.fsync_errors) == (0, 1)
    monkeypatch.setattr(SpoolWriter, "_wait_for_disk", wait)
    writer.append(b'{"n":"after"}')
    assert writer.records == 1


def test_a_handler_that_records_within_an_append_never_waits_for_another_threads_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread holds the lock that the syncing thread waits for: it syncs by itself."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 20, fsync=True)
    writer.append(b'{"n":0}')
    syncing, synced = threading.Event(), []
    real_sync, real_write = os.fdatasync, os.write
    other = threading.Thread(target=lambda: (writer._sync_lock.acquire(), syncing.set(),
                                             writer._lock.acquire(), writer._lock.release(),
                                             writer._sync_lock.release()))  # fmt: skip

    def interrupted(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(writer_module.os, "write", real_write)
        other.start()
        assert syncing.wait(10)
        signal.raise_signal(signal.SIGUSR1)  # the handler runs before this returns
        return real_write(descriptor, data)

    def handler(*_: object) -> None:
        before = len(synced)
        writer.append(b'{"n":"handler"}')
        assert len(synced) > before
        writer.sync()  # a flush within a handler: left to those who can

    monkeypatch.setattr(
        writer_module.os, "fdatasync", lambda fd: (real_sync(fd), synced.append(fd))
    )
    monkeypatch.setattr(writer_module.os, "write", interrupted)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        writer.append(b'{"n":1}')
    finally:
        signal.signal(signal.SIGUSR1, before)
        other.join(10)
    assert sorted(everything(tmp_path / "spool")) == [b'{"n":"handler"}', b'{"n":0}', b'{"n":1}']
    assert writer.records == 3


def test_every_sealed_segment_is_synced_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second of records may fill many segments: none of them is forgotten, none stays open."""
    synced: list[int] = []
    monkeypatch.setattr(
        writer_module.os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_ino)
    )
    writer = SpoolWriter(tmp_path / "spool", 4096)
    open_before = descriptors()
    for n in range(40):
        writer.append(b'{"n":"%04096d"}' % n)
    assert descriptors() <= open_before + 1
    files = {path.stat().st_ino for path in list_segments(tmp_path / "spool")}
    list_segments(tmp_path / "spool")[3].unlink()  # delivered meanwhile
    writer.sync()
    assert len(files - set(synced)) == 1
    writer.sync()
    assert writer.fsync_errors == 0


def test_a_segment_that_was_torn_and_removed_harms_no_later_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The torn line is copied as well: the next record does not become a part of it."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 20)
    writer.append(b'{"n":1}')
    real = os.write
    monkeypatch.setattr(writer_module.os, "write", lambda fd, data: real(fd, data[:12]))
    with pytest.raises(OSError, match="short write"):
        writer.append(b'{"n":"torn"}')
    monkeypatch.undo()
    only_segment(tmp_path / "spool").unlink()
    writer.sync()
    writer.append(b'{"n":2}')
    with SegmentReader(only_segment(tmp_path / "spool")) as segment:
        lines = segment.read(29, 10)
    assert (lines.payloads, lines.damaged) == ([b'{"n":1}', b'{"n":2}'], [])


@pytest.mark.parametrize("call", ["seal", "close", "sync", "end_line", "refill"])
def test_a_child_forked_in_c_frees_nothing_of_its_parents(tmp_path: Path, call: str) -> None:
    """Whatever it calls first: the parent's segment stays locked and unharmed."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 20)
    writer.append(b'{"parent":1}')
    mine = only_segment(tmp_path / "spool")
    writer._active.torn = True  # type: ignore[union-attr]
    before = mine.read_bytes()
    pid = fork_in_c()
    if pid == 0:
        try:
            getattr(writer, call)()
            os._exit(0 if writer.active_segment is None else 3)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with SegmentReader(mine) as segment:
        assert not segment.is_sealed()
    assert mine.read_bytes() == before


def test_a_child_that_lives_on_keeps_no_lock_of_a_sealed_segment(tmp_path: Path) -> None:
    """It may hold a copy of the descriptor without knowing; sealing frees the lock all the same."""
    writer = SpoolWriter(tmp_path / "spool", 1 << 20)
    writer.append(b"{}")
    copy = os.dup(writer._active.descriptor)  # type: ignore[union-attr]
    writer.seal()
    with SegmentReader(only_segment(tmp_path / "spool")) as segment:
        assert segment.is_sealed()
    fcntl.flock(copy, fcntl.LOCK_UN)
    os.close(copy)


def make_bounds(directory: Path, max_bytes: int) -> SpoolBounds:
    return SpoolBounds(directory, max_bytes=max_bytes, min_free_bytes=0, grant_bytes=4096)


@pytest.mark.parametrize("size", [50, 900, 5000])
def test_one_writer_alone_never_passes_the_bound(tmp_path: Path, size: int) -> None:
    """Headers and records longer than a segment are counted before they are written."""
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    writer = SpoolWriter(directory, 4096, make_bounds(directory, 20_000))
    record, stored = b'{"x":"%b"}' % (b"x" * size), 0
    with suppress(SpoolFullError):
        while True:
            writer.append(record)
            stored += 1
    held = sum(path.stat().st_size for path in list_segments(directory))
    assert 20_000 - size - 100 <= held <= 20_000
    assert stored == len(everything(directory))


def test_refusals_that_are_believed_gather_nothing(tmp_path: Path) -> None:
    """However many puts one refusal answers, none of them leaves a traceback behind."""
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    writer = SpoolWriter(directory, 4096, make_bounds(directory, 0))
    depths = []
    for _ in range(3):
        with pytest.raises(SpoolFullError) as caught:
            writer.append(b"{}")
        depths.append(len(caught.traceback))
    assert depths[2] == depths[1]


def test_what_is_appended_while_the_directory_is_measured_is_not_granted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant covers what was there when it was measured, and what came meanwhile."""
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    writer = SpoolWriter(directory, 4096, make_bounds(directory, 1 << 20))
    record = b'{"x":"%b"}' % (b"x" * 500)
    for _ in range(5):
        writer.append(record)
    left = writer._allowance.bytes
    grant: Callable[..., int] = SpoolBounds.grant

    def slow(self: SpoolBounds, need: int = 1) -> int:
        granted = grant(self, need)
        writer.append(record)
        return granted

    monkeypatch.setattr(SpoolBounds, "grant", slow)
    writer.refill()
    assert left < 2048
    assert writer._allowance.bytes == 4096 - len(record) - 10


def test_what_has_been_synced_is_not_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A background thread syncs every second, though nothing came."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    writer = SpoolWriter(tmp_path / "spool", 1 << 20)
    writer.append(b'{"n":1}')
    writer.sync()
    once = len(synced)
    assert once
    writer.sync()
    assert len(synced) == once
    writer.append(b'{"n":2}')
    writer.sync()
    assert len(synced) == once + 1
    writer.seal()
    writer.sync()
    assert len(synced) == once + 1
