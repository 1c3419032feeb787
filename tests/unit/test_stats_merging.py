"""Merging the figures of ended processes: each counts once, wherever a merge dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import stats as module
from receipt_dynamo import stats_files
from receipt_dynamo.figures import Figures
from receipt_dynamo.files import FileLock, secure_directory
from receipt_dynamo.stats import StatsFile, merge_stats, read_stats
from receipt_dynamo.stats_files import TOTAL, process_files
from tests.support import FakeClock, damage, leave_stats


@pytest.fixture
def process(directory: Path, clock: FakeClock) -> StatsFile:
    """The file of a process that runs."""
    return StatsFile(directory, clock)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "stats"


def only_file(directory: Path) -> Path:
    (name,) = process_files(directory)
    return directory / name


def test_damage_costs_the_damaged_file_only(
    directory: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A torn page is passed over; once its process is gone for long it is removed."""
    leave_stats(directory, Figures(stored=1))
    damage(only_file(directory), 20, b"\0\0")
    leave_stats(directory, Figures(stored=10))
    assert read_stats(directory).stored == 10
    ancient = clock.now().timestamp() - 3600
    for name in process_files(directory):
        os.utime(directory / name, (ancient, ancient))
    merge_stats(directory, clock.now())
    assert read_stats(directory).stored == 10
    assert process_files(directory) == []
    assert "damaged" in caplog.text


def test_an_empty_file_may_be_about_to_be_locked(directory: Path, clock: FakeClock) -> None:
    """A merge leaves it alone for a minute: its process has just made it."""
    secure_directory(directory)
    young = directory / "17-0123abcd.json"
    young.touch()
    os.utime(young, (clock.now().timestamp(), clock.now().timestamp()))
    merge_stats(directory, clock.now())
    assert young.exists()
    clock.advance(61)
    merge_stats(directory, clock.now())
    assert not young.exists()


def test_a_damaged_total_is_kept_aside_and_the_rest_goes_on(
    directory: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Rubbish where the sums were is said, and stops nobody."""
    leave_stats(directory, Figures(stored=1))
    merge_stats(directory, clock.now())
    (directory / TOTAL).write_bytes(b"\0" * 100)
    leave_stats(directory, Figures(stored=10))
    assert read_stats(directory).stored == 10
    merge_stats(directory, clock.now())
    assert read_stats(directory).stored == 10
    assert (directory / f"{TOTAL}.damaged").read_bytes() == b"\0" * 100
    assert "total.json is damaged" in caplog.text


def test_who_reads_while_another_merges_sees_every_figure_once(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the total and the look at a file, that file may move into the total."""
    leave_stats(directory, Figures(stored=1))
    leave_stats(directory, Figures(stored=10))
    real = module.process_files
    merges = iter([True])

    def list_and_merge(where: Path) -> list[str]:
        names = real(where)
        if next(merges, False):
            monkeypatch.setattr(module, "process_files", real)
            merge_stats(directory, clock.now())
        return names

    monkeypatch.setattr(module, "process_files", list_and_merge)
    assert read_stats(directory).stored == 11


def test_one_process_merges_at_a_time(directory: Path, clock: FakeClock) -> None:
    """Who finds another merging leaves it to that one; a stopped one cannot overwrite its work."""
    leave_stats(directory, Figures(stored=1))
    with FileLock(directory / "merge.lock") as other:
        assert other.try_acquire()
        merge_stats(directory, clock.now())
        assert len(process_files(directory)) == 1
    merge_stats(directory, clock.now())
    assert process_files(directory) == []


def test_a_leader_merges_once_a_minute(
    process: StatsFile, directory: Path, clock: FakeClock
) -> None:
    """Files of ended processes do not pile up, and a busy leader does not look all the time."""
    leave_stats(directory, Figures(stored=1))
    process.merge()
    assert len(process_files(directory)) == 1
    clock.advance(60)
    process.merge()
    assert process_files(directory) == []


class _Killed(BaseException):
    """The process ends here: SIGKILL."""


@contextmanager
def killed_at(call: int) -> Iterator[list[str]]:
    """Let every call that changes a file pass until the one numbered ``call``, and none after it:
    what would clean up is dead as well."""
    calls: list[str] = []

    def guarded(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def guard(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) > call:
                raise _Killed(name)
            return real(*args, **kwargs)

        return guard

    with pytest.MonkeyPatch.context() as patch:
        for module_, name in (
            (stats_files, "create_private_file"),
            (stats_files.os, "write"),
            (stats_files.os, "fdatasync"),
            (Path, "replace"),
            (stats_files, "sync_directory"),
            (Path, "unlink"),
        ):
            patch.setattr(module_, name, guarded(getattr(module_, name), name))
        yield calls


steps = st.one_of(
    st.tuples(st.just("dies"), st.integers(1, 1000)),
    st.tuples(st.just("closes"), st.integers(1, 1000)),
    st.tuples(st.just("merge dies"), st.integers(0, 12)),
    st.tuples(st.just("merge"), st.just(0)),
)


@given(history=st.lists(steps, max_size=12))
def test_merging_loses_and_doubles_nothing_wherever_it_dies(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
) -> None:
    """Killed between any two calls that change a file, again and again: the sum stays exact."""
    directory = tmp_path_factory.mktemp("spool") / "stats"
    clock = FakeClock()
    expected = 0
    for what, number in history:
        if what == "dies":
            leave_stats(directory, Figures(stored=number), clock)
            expected += number
        elif what == "closes":
            StatsFile(directory, clock).retire(Figures(stored=number))
            expected += number
        elif what == "merge":
            merge_stats(directory, clock.now())
        else:
            with killed_at(number), suppress(_Killed):
                merge_stats(directory, clock.now())
        assert read_stats(directory).stored == expected, what
    merge_stats(directory, clock.now())
    assert process_files(directory) == []
    assert read_stats(directory).stored == expected


def test_every_step_of_a_merge_is_one_that_it_may_die_at(directory: Path, clock: FakeClock) -> None:
    """The test above means something: these are the calls, in this order."""
    leave_stats(directory, Figures(stored=1))
    with killed_at(1000) as calls:
        merge_stats(directory, clock.now())
    assert calls == [
        "create_private_file",
        "write",
        "fdatasync",
        "replace",
        "sync_directory",
        "fdatasync",
        "unlink",
    ]
