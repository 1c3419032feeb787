"""A repair that lacks room, fails, is killed or meets others leaves a store that is whole."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from receipt_dynamo import StoreBusyError, StoreError
from receipt_dynamo import sqlite_connect as connecting
from receipt_dynamo import sqlite_repair as repairing
from receipt_dynamo.sqlite_aside import corrupt_stores
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import in_fork, make_metric, quiet_fork
from tests.support.pristine import (
    ALL,
    ROWS,
    Pristine,
    batch,
    copy_of,
    ids,
    lost,
    page_of_kind,
    zero,
)
from tests.support.sqlite_files import write


def test_without_room_for_a_second_store_it_stays_as_it_is(
    store: SqliteStore, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To try would fill the disk for those who record; when there is room it is salvaged."""
    zero(store, page_of_kind(pristine, 13, 5))
    real = os.statvfs

    def full(path: Any) -> Any:
        found = real(path)
        return SimpleNamespace(
            f_flag=0, f_frsize=1, f_bavail=len(pristine.data) - 1, f_blocks=found.f_blocks
        )

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", full)
        patch.setattr(connecting, "_ROOM_BYTES", 0)
        with pytest.raises(StoreError, match=r"damaged.*needs \d+ bytes.*Free some space"):
            list(store.query(ALL))
    assert corrupt_stores(store.path.parent) == []
    assert len(ids(store)) > ROWS - 50


def test_a_repair_that_fails_leaves_the_store_and_no_rest(
    store: SqliteStore, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up meanwhile: the next one starts again."""
    zero(store, page_of_kind(pristine, 13, 5))

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(repairing, "salvage", fail)
        with pytest.raises(StoreError, match="disk is full"):
            list(store.query(ALL))
    assert not list(store.path.parent.glob("*.partial*"))
    assert len(ids(store)) > ROWS - 50


def test_two_that_notice_at_once_salvage_once(
    store: SqliteStore, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds a store that is whole, whether it reads or delivers."""
    # A reader waits 5 s for the one that repairs; on a busy machine that may take longer.
    monkeypatch.setattr("receipt_dynamo.sqlite_store._PATIENCE_SECONDS", 60.0)
    zero(store, page_of_kind(pristine, 13, 5))
    children = []
    for n in range(4):
        pid = quiet_fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if len(ids(store)) > ROWS - 50 else 2
                write(store, make_metric(request_id=f"new-{n}"), segment=f"{n}.seg")
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert len(corrupt_stores(store.path.parent)) == 1
    assert {f"new-{n}" for n in range(4)} <= ids(store)


STEPS = ("rename", "replace", "unlink")


def test_a_kill_at_any_step_of_a_repair_loses_nothing(
    tmp_path: Path, pristine: Pristine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one that opens the store finishes, or starts again."""
    page = page_of_kind(pristine, 13, 5)
    gone = {name for name, pages in pristine.pages.items() if page in pages}
    step, survived = 0, False
    while not survived:
        step += 1
        store = copy_of(pristine, tmp_path / str(step))
        zero(store, page)

        def killed(store: SqliteStore = store, step: int = step) -> None:
            left = iter(range(step))
            for owner, name in (
                *((Path, name) for name in STEPS),
                (os, "fsync"),
                (repairing, "salvage"),
            ):
                monkeypatch.setattr(owner, name, _fatal(getattr(owner, name), left))
            list(store.query(ALL))

        survived = in_fork(killed) == 0
        assert not (store.path.parent / "usage.db.partial-wal").exists()
        assert ids(store) == set(pristine.metrics) - gone, step
        assert lost(store) == len(gone)
        (aside,) = corrupt_stores(store.path.parent)
        assert aside.stat().st_size == len(pristine.data)
        assert not list(store.path.parent.glob("*.partial"))
    assert step > 6


def _fatal(real: Callable[..., Any], left: Iterator[int]) -> Callable[..., Any]:
    """Return ``real``, after which the process dies when nothing is ``left``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if next(left, None) is None:
            os._exit(9)
        return answer

    return call


def test_another_program_that_holds_the_database_delays_nobody_longer_than_they_wait(
    store: SqliteStore,
) -> None:
    """A sqlite3 shell with an open transaction: the lock's timeout holds for it too."""
    started = time.monotonic()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as shell:
        shell.execute("PRAGMA journal_mode = WAL")
        shell.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(StoreBusyError, match="held by another program"),
            store.exclusive(0.2),
        ):
            store.write(batch("new"))
    assert time.monotonic() - started < 5
    with store.exclusive(5):
        store.write(batch("new"))
