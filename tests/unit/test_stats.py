"""Figures that outlive their process: a page for each process, merged when it is gone."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from receipt_dynamo import stats as module
from receipt_dynamo import stats_files
from receipt_dynamo.figures import Figures
from receipt_dynamo.files import secure_directory
from receipt_dynamo.stats import StatsFile, merge_stats, read_stats
from receipt_dynamo.stats_files import PAGE_BYTES, TOTAL, process_files
from tests.support import FakeClock, in_fork, leave_stats


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "stats"


@pytest.fixture
def process(directory: Path, clock: FakeClock) -> StatsFile:
    """The file of a process that runs."""
    return StatsFile(directory, clock)


def only_file(directory: Path) -> Path:
    (name,) = process_files(directory)
    return directory / name


def test_figures_outlive_their_process_and_its_file(directory: Path, clock: FakeClock) -> None:
    """Killed or closed, merged or not: what was counted stays counted, once."""
    leave_stats(directory, Figures(stored=5, dropped={"disk": 2}))
    closed = StatsFile(directory, clock)
    closed.retire(Figures(stored=7, delivered=3))
    running = StatsFile(directory, clock)
    running.save(Figures(stored=1))
    expected = Figures(stored=13, delivered=3, dropped={"disk": 2})
    for _ in range(2):
        found = read_stats(directory)
        assert (found.stored, found.delivered, found.dropped) == (13, 3, expected.dropped)
        merge_stats(directory, clock.now())
    assert process_files(directory) == [running.name]


def test_a_file_is_one_page_rewritten_in_place_and_private(
    process: StatsFile, directory: Path, clock: FakeClock
) -> None:
    """Its size and its place on the disk never change, and nobody else reads it."""
    before_umask = os.umask(0)
    try:
        process.save(Figures(stored=1))
    finally:
        os.umask(before_umask)
    before = only_file(directory).stat()
    clock.advance(1)
    process.save(Figures(stored=10**15, dropped={"disk": 3}))
    after = only_file(directory).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, PAGE_BYTES)
    assert after.st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert read_stats(directory).stored == 10**15


def test_figures_are_written_once_a_second_at_most_and_only_news(
    process: StatsFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy drainer does not write a page for each batch, and an idle one writes none."""
    written: list[int] = []
    real = stats_files.os.pwrite
    monkeypatch.setattr(stats_files.os, "pwrite", lambda *a: written.append(len(a[1])) or real(*a))
    for count in range(1, 11):
        process.save(Figures(stored=count))
    assert len(written) == 1
    clock.advance(1)
    process.save(Figures(stored=10))
    assert len(written) == 2
    clock.advance(100)
    process.save(Figures(stored=10))
    process.save(Figures(stored=10), at_once=True)
    assert len(written) == 2
    process.save(Figures(stored=11), at_once=True)
    process.save(Figures(stored=12), at_once=True)
    assert len(written) == 4
    assert set(written) == {PAGE_BYTES}


def test_nothing_is_made_where_nothing_was_counted(process: StatsFile, directory: Path) -> None:
    """A command that only looks leaves no trace."""
    process.save(Figures(), at_once=True)
    process.retire(Figures())
    assert not directory.exists()
    assert read_stats(directory) == Figures()


def test_what_a_killed_process_had_in_memory_is_lost_and_counted(
    directory: Path, process: StatsFile, clock: FakeClock
) -> None:
    """Alive, its records are in memory; dead, they are dropped; put they were in both."""
    process.save(Figures(stored=1, memory=3, refused="no room"))
    alive = read_stats(directory)
    assert (alive.memory, alive.lost(), alive.recorded(), alive.refused) == (3, 0, 4, "no room")
    process._close_file()
    for _ in range(2):
        dead = read_stats(directory)
        assert (dead.memory, dead.dropped, dead.recorded()) == (0, {"memory": 3}, 4)
        assert (dead.refused, dead.last_drop is not None) == (None, True)
        merge_stats(directory, clock.now())
    assert process_files(directory) == []


def test_own_figures_count_once_whatever_lies_in_the_file(
    process: StatsFile, directory: Path, clock: FakeClock
) -> None:
    """This process counts as it is now, not as it was when it saved; the others as they saved."""
    StatsFile(directory, clock).retire(Figures(stored=100))
    assert process.together(Figures(stored=1)).stored == 101
    process.save(Figures(stored=2))
    assert process.together(Figures(stored=3)).stored == 103
    process.retire(Figures(stored=3))
    assert process.together(Figures(stored=3)).stored == 103
    process.save(Figures(stored=5), at_once=True)
    assert process.together(Figures(stored=6)).stored == 106
    assert read_stats(directory).stored == 105
    process.retire(Figures(stored=6))
    assert read_stats(directory).stored == 106
    assert process_files(directory) == []


def test_a_file_that_somebody_removes_is_made_again(
    process: StatsFile, directory: Path, clock: FakeClock
) -> None:
    """Nothing that this process has counted goes with it."""
    process.save(Figures(stored=1))
    only_file(directory).unlink()
    clock.advance(1)
    process.save(Figures(stored=2))
    assert read_stats(directory).stored == 2


def test_times_are_those_of_the_changes(process: StatsFile, clock: FakeClock) -> None:
    """The last loss, failed sync and damaged line are as old as the look that first saw them."""
    start = clock.now()
    process.current(Figures(dropped={"disk": 1}, last_error="no"))
    clock.advance(10)
    now = process.current(Figures(dropped={"disk": 1}, fsync_errors=1, last_error="no"))
    assert (now.last_drop, now.last_error_at) == (start, start)
    assert (now.last_fsync_error, now.last_corrupt_line) == (clock.now(), None)
    clock.advance(10)
    later = process.current(Figures(dropped={"disk": 2}, fsync_errors=1, corrupt_lines=1))
    assert (later.last_drop, later.last_corrupt_line) == (clock.now(), clock.now())
    assert (later.last_error, later.last_error_at) == (None, None)


@pytest.mark.parametrize(("called", "shown"), [(-3600, -10), (-4, -4), (3600, 0), (None, 0)])
def test_the_last_record_came_since_the_last_look(
    process: StatsFile, clock: FakeClock, called: int | None, shown: int
) -> None:
    """A call that is imported years later was recorded now, not then."""
    process.current(Figures())
    clock.advance(10)
    time = None if called is None else clock.now() + timedelta(seconds=called)
    seen = process.current(Figures(stored=1, last_record=time))
    assert seen.last_record == clock.now() + timedelta(seconds=shown)
    clock.advance(10)
    again = process.current(Figures(stored=1, last_record=time))
    assert again.last_record == seen.last_record


def test_any_number_of_reasons_and_any_text_fits_into_the_page(
    process: StatsFile, directory: Path
) -> None:
    """The commonest reasons keep their names; no loss is forgotten."""
    dropped = {f"\0reason {n} " + "x" * 100: n for n in range(1, 1001)}
    figures = Figures(dropped=dropped, last_error="\0" * 10_000, refused="ü" * 10_000)
    process.save(figures)
    found = read_stats(directory)
    assert found.lost() == figures.lost()
    assert found.last_error
    assert only_file(directory).stat().st_size == PAGE_BYTES
    clean = StatsFile(directory.with_name("other"), FakeClock())
    clean.save(Figures(dropped={f"reason {n}": n for n in range(1, 101)}))
    assert read_stats(clean._directory).dropped["reason 100"] == 100


def _fail(code: int) -> Callable[..., int]:
    def failing(*_args: object, **_kwargs: object) -> int:
        raise OSError(code, os.strerror(code))

    return failing


@pytest.mark.parametrize(
    ("code", "level"), [(errno.ENOSPC, logging.INFO), (errno.EACCES, logging.WARNING)]
)
def test_a_disk_that_refuses_disturbs_nobody_and_is_said_once(
    process: StatsFile,
    directory: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    level: int,
) -> None:
    """Nothing is raised, nothing half-made stays, and it heals by itself."""
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as full:
        full.setattr(stats_files.os, "pwrite", _fail(code))
        for count in range(1, 5):
            process.save(Figures(stored=count))
            clock.advance(1)
    assert [record.levelno for record in caplog.records] == [level]
    assert process_files(directory) == []
    process.save(Figures(stored=5))
    assert read_stats(directory).stored == 5


def test_a_short_write_is_no_page(
    process: StatsFile, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes only the beginning leaves no file that nobody can read."""
    with monkeypatch.context() as full:
        full.setattr(stats_files.os, "pwrite", lambda *_: 100)
        process.save(Figures(stored=1))
    assert process_files(directory) == []


def test_on_a_full_disk_a_file_that_is_there_goes_on(
    process: StatsFile, directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its page is rewritten in place, which needs no room; only merging waits."""
    process.save(Figures(stored=1))
    leave_stats(directory, Figures(stored=10))
    with monkeypatch.context() as full:
        full.setattr(module, "create_private_file", _fail(errno.ENOSPC))
        full.setattr(stats_files, "create_private_file", _fail(errno.ENOSPC))
        clock.advance(60)
        process.save(Figures(stored=2, memory=1))
        process.merge()
        assert read_stats(directory).stored == 12
        assert len(process_files(directory)) == 2
    clock.advance(60)
    process.merge()
    assert (read_stats(directory).stored, len(process_files(directory))) == (12, 1)


def test_a_directory_that_is_none_is_no_fault(tmp_path: Path, clock: FakeClock) -> None:
    """A file in the way costs the figures only."""
    (tmp_path / "stats").write_text("in the way")
    process = StatsFile(tmp_path / "stats", clock)
    process.save(Figures(stored=1))
    assert process.together(Figures(stored=1)).stored == 1
    process.retire(Figures(stored=1))


def test_a_symbolic_link_is_not_followed(
    process: StatsFile, directory: Path, tmp_path: Path, clock: FakeClock
) -> None:
    """Neither to read figures from elsewhere, nor to write them there."""
    leave_stats(tmp_path / "elsewhere", Figures(stored=1))
    secure_directory(directory)
    foreign = only_file(tmp_path / "elsewhere")
    (directory / foreign.name).symlink_to(foreign)
    (directory / f"{TOTAL}.new").symlink_to(tmp_path / "victim")
    assert read_stats(directory) == Figures()
    leave_stats(directory, Figures(stored=2))
    process.merge(at_once=True)
    assert not (tmp_path / "victim").exists()
    assert foreign.exists()


def test_a_child_starts_at_zero_and_leaves_its_parents_file_alone(
    process: StatsFile, directory: Path, clock: FakeClock
) -> None:
    """Its file is its own, and its parent's stays locked: that one is still alive."""
    process.save(Figures(stored=5, memory=1))

    def child() -> None:
        assert process.name is None
        process.save(Figures(), at_once=True)
        assert len(process_files(directory)) == 1
        process.save(Figures(stored=2), at_once=True)
        assert process.name is not None
        assert process.together(Figures(stored=3)).stored == 8

    assert in_fork(child) == 0
    found = read_stats(directory)
    assert (found.stored, found.memory) == (7, 1)
    merge_stats(directory, clock.now())
    assert process_files(directory) == [process.name]
    process.save(Figures(stored=6, memory=1), at_once=True)
    assert read_stats(directory).stored == 8


def test_a_fork_in_c_is_noticed_by_the_process_id(tmp_path: Path) -> None:
    """No hook runs in such a child: what its parent had counted is not counted again."""
    script = """
        import ctypes, os, sys
        from pathlib import Path
        from receipt_dynamo import Settings, open_usage_client
        from tests.support import make_metric

        settings = Settings(usage_dir=Path(sys.argv[1]), drain="manual")
        client = open_usage_client(settings)
        client.put_ai_usage_metrics([make_metric() for _ in range(5)])
        client.put_ai_usage_metric(None)
        client.flush()
        pid = ctypes.PyDLL(None).fork()
        client.put_ai_usage_metrics([make_metric() for _ in range(2)])
        client.put_ai_usage_metric(None)
        client.flush()
        if pid == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        health = client.health()
        assert (health.stored, dict(health.dropped)) == (9, {"invalid": 3}), health
        assert health.delivered == 9, health
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "usage")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_signal_handler_within_a_save_leaves_it_alone(
    process: StatsFile, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds a file half-made, and makes no second one."""
    real = module.write_page

    def interrupted(descriptor: int, figures: Figures) -> None:
        process.save(Figures(stored=9), at_once=True)
        process.retire(Figures(stored=9))
        assert process.together(Figures(stored=1)).stored == 1
        real(descriptor, figures)

    monkeypatch.setattr(module, "write_page", interrupted)
    process.save(Figures(stored=1))
    assert read_stats(directory).stored == 1
    assert process_files(directory) == [process.name]


def test_a_reader_that_holds_the_lock_delays_a_file_until_the_next_save(
    process: StatsFile,
    directory: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever looks whether the process lives may do so at the moment it is born."""
    real = fcntl.flock
    with monkeypatch.context() as busy:
        busy.setattr(module.fcntl, "flock", _fail(errno.EWOULDBLOCK))
        process.save(Figures(stored=1))
    assert process_files(directory) == []
    assert module.fcntl.flock is real
    clock.advance(1)
    process.save(Figures(stored=1))
    assert read_stats(directory).stored == 1
    assert caplog.text == ""
