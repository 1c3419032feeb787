"""Invariant 10: a disk that refuses, for real: full, read-only, gone, out of files or of length.

STORED is kept, what is dropped is counted with its tokens and cost, delivery goes on and makes
room, and recording resumes without a restart. Each scene is a process of its own.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import PutResult, Settings, UsageClient, UsageQuery
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import UsageStore
from tests.support import make_metric
from tests.support.file_store import FileStore
from tests.support.small_disk import SmallDisk
from tests.support.zygote import PATIENCE_SECONDS, Tell, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STORED, MEMORY, DROPPED = PutResult.STORED, PutResult.MEMORY, PutResult.DROPPED
DISK_BYTES = 4 << 20


class Recorder:
    """A client on a disk that is about to refuse, and what it was answered, id by id."""

    def __init__(self, directory: Path, store: UsageStore, **changes: Any) -> None:
        chosen: dict[str, Any] = {
            "drain": "manual",
            "segment_bytes": 1 << 16,
            "min_free_bytes": 0,
            **changes,
        }
        self.client = UsageClient(Settings(usage_dir=directory, **chosen), store)
        self.store = store
        self.answers: dict[str, PutResult] = {}

    def put(self, count: int = 1) -> list[PutResult]:
        """Record so many metrics, each with 3 tokens and a cost of 0.01; return the answers."""
        answers = []
        for _ in range(count):
            metric = make_metric(
                request_id=f"r{len(self.answers)}",
                input_tokens=2,
                output_tokens=1,
                cost_usd="0.01",
                metadata={"text": "x" * 300},
            )
            answers.append(self.client.put_ai_usage_metric(metric))
            self.answers[metric.request_id] = answers[-1]
        return answers

    def put_until(self, answer: PutResult) -> int:
        """Record until that is the answer; return how many records it took."""
        for count in range(1, 100_000):
            if self.put() == [answer]:
                return count
        raise AssertionError(f"never {answer}: {Counter(self.answers.values())}")

    @property
    def kept(self) -> list[str]:
        return [name for name, answer in self.answers.items() if answer is not DROPPED]

    def assert_all_is_there(self) -> None:
        """Deliver; every record that was kept is in the store once, and every other is counted."""
        report = self.client.flush(PATIENCE_SECONDS)
        assert report.pending == 0, self.client.health()
        stored = [metric.request_id for metric in self.store.query(UsageQuery())]
        assert sorted(stored) == sorted(self.kept)
        lost, dropped = self.store.dropped(UsageQuery()), len(self.answers) - len(self.kept)
        assert set(lost.by_reason) <= {"disk", "min_free"}
        assert lost.count == sum(lost.by_reason.values()) == dropped
        assert (lost.input_tokens, lost.output_tokens) == (2 * dropped, dropped)
        assert lost.cost_usd == (dropped * Decimal("0.01") if dropped else None)


def on_small_disk(tell: Tell, path: Path, scene: Callable[[SmallDisk, Path], None]) -> None:
    """Play a scene with a small disk and a directory on another one, or tell why it cannot be."""
    try:
        disk = SmallDisk(path / "small", DISK_BYTES)
    except OSError as error:
        tell(f"a small file system cannot be mounted here: {error}")
        return
    scene(disk, path)


def delivered_elsewhere(disk: SmallDisk, elsewhere: Path) -> None:
    recorder = Recorder(disk.path / "usage", FileStore(elsewhere / "usage.jsonl"))
    spool = recorder.client.settings.spool_dir
    assert set(recorder.put(500)) == {STORED}
    disk.fill()
    recorder.put_until(MEMORY)
    recorder.put_until(DROPPED)
    assert set(recorder.put(300)) == {DROPPED}
    segments = len(list_segments(spool))
    assert segments > 1
    assert disk.room() == 0

    assert recorder.client.ship() > 500  # nothing was there to write with: acks need no room
    assert len(list_segments(spool)) == 1, "what was delivered was not removed"
    assert disk.room() > 0
    assert set(recorder.put(50)) == {STORED}, "recording did not resume"
    recorder.assert_all_is_there()


def delivered_to_the_same_disk(disk: SmallDisk, _: Path) -> None:
    directory = disk.path / "usage"
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"))
    assert set(recorder.put(100)) == {STORED}
    recorder.client.flush()
    assert set(recorder.put(100)) == {STORED}
    disk.fill()
    recorder.put_until(DROPPED)
    for _attempt in range(3):
        report = recorder.client.flush()
        assert report.delivered + report.pending >= 100
        recorder.put(10)
    disk.free()
    recorder.put_until(STORED)
    recorder.assert_all_is_there()


def freed_under_a_running_thread(disk: SmallDisk, _: Path) -> None:
    directory = disk.path / "usage"
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"), drain="thread")
    recorder.put()
    disk.fill()
    recorder.put_until(DROPPED)
    disk.free()
    end = time.monotonic() + PATIENCE_SECONDS
    while recorder.put() != [STORED]:
        assert time.monotonic() < end, recorder.client.health()
        time.sleep(0.01)
    recorder.assert_all_is_there()


def read_only_for_a_while(disk: SmallDisk, _: Path) -> None:
    directory = disk.path / "usage"
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"))
    assert recorder.put() == [STORED]
    recorder.client._pipeline.spool.writer.seal()
    disk.set_read_only(on=True)
    assert set(recorder.put(20)) == {MEMORY}
    assert recorder.client.flush().pending == 21
    disk.set_read_only(on=False)
    assert set(recorder.put(20)) == {STORED}
    recorder.assert_all_is_there()


SCENES = [
    delivered_elsewhere,
    delivered_to_the_same_disk,
    freed_under_a_running_thread,
    read_only_for_a_while,
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_invariant_10_a_small_disk_that_refuses(
    zygote: Zygote, tmp_path: Path, scene: Callable[[SmallDisk, Path], None]
) -> None:
    """A file system of 4 MB, really full or read-only: nothing that was kept is lost, what was
    dropped is counted, and recording resumes as soon as there is room."""
    worker = zygote.run(on_small_disk, tmp_path, scene)
    if worker.told:
        pytest.skip(worker.told[0])


def out_of_files(directory: Path) -> None:
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"), segment_bytes=4096)
    assert recorder.put() == [STORED]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    assert recorder.put_until(MEMORY) > 1, "the open segment was not used"
    report = recorder.client.flush()
    assert (report.delivered, report.pending) == (0, len(recorder.answers))
    for descriptor in taken:
        os.close(descriptor)
    assert recorder.put() == [STORED]
    recorder.assert_all_is_there()


def limited_in_length(directory: Path) -> None:
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"))
    assert recorder.put() == [STORED]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    assert recorder.put_until(MEMORY) > 1
    assert set(recorder.put(5)) == {MEMORY}
    recorder.client.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(recorder.put(5)) == {STORED}
    recorder.assert_all_is_there()


def without_its_spool(directory: Path) -> None:
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"))
    assert set(recorder.put(5)) == {STORED}
    shutil.rmtree(directory / "spool")
    assert set(recorder.put(5)) == {STORED}
    recorder.assert_all_is_there()
    assert set(recorder.put(5)) == {STORED}
    recorder.assert_all_is_there()


def without_its_directory(directory: Path) -> None:
    recorder = Recorder(directory, SqliteStore(directory / "usage.db"))
    assert set(recorder.put(5)) == {STORED}
    shutil.rmtree(directory)
    assert set(recorder.put(5)) == {STORED}
    recorder.assert_all_is_there()


def in_process(_: Tell, path: Path, scene: Callable[[Path], None]) -> None:
    scene(path / "usage")


@pytest.mark.parametrize(
    "scene",
    [out_of_files, limited_in_length, without_its_spool, without_its_directory],
    ids=lambda scene: scene.__name__,
)
def test_invariant_10_a_process_that_is_refused(
    zygote: Zygote, tmp_path: Path, scene: Callable[[Path], None]
) -> None:
    """Too many open files, a limit on their length, a directory that vanished: nothing is lost."""
    zygote.run(in_process, tmp_path, scene)
