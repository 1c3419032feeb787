"""Directories and files are ours alone, and the locks between processes hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from receipt_dynamo import DirectoryRefusedError, StoreBusyError
from receipt_dynamo.files import (
    FileLock,
    check_private_file,
    create_private_file,
    secure_directory,
)
from tests.support import in_fork, make_metric, only_segment, quiet_fork

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture(params=[0, 0o777], ids=["careless", "strict"])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """The most careless umask there is, and the strictest."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("any_umask")
def test_directories_are_private_whatever_the_umask_also_those_above(tmp_path: Path) -> None:
    """Nobody can read, forge or replace what lies in any directory that we made."""
    secure_directory(tmp_path / "a" / "b" / "c")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3


@pytest.mark.usefixtures("any_umask")
def test_files_are_private_whatever_the_umask(tmp_path: Path, open_client) -> None:
    """Spool, store and locks hold what users do: 0600 files in 0700 directories."""
    client = open_client()
    client.put_ai_usage_metric(make_metric())
    client.summarize()
    client.put_ai_usage_metric(make_metric())
    client.flush()
    made = list((tmp_path / "usage").rglob("*"))
    assert {path.name for path in made} >= {"usage.db", "store.lock", "spool", "local"}
    assert only_segment(client.settings.spool_dir) in made
    for path in made:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


@as_root
@pytest.mark.parametrize("what", ["usage", "usage/spool", "usage/spool/local"])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, open_client, what: str) -> None:
    """Records in it could be read or forged; the message names both users and the remedy."""
    path = tmp_path / what
    path.mkdir(parents=True, mode=0o700)
    for made in (path, *path.parents[: what.count("/")]):
        made.chmod(0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(DirectoryRefusedError, match=rf"12345, not to yours \({os.geteuid()}\)"):
        open_client()


@as_root
def test_a_store_of_another_user_is_refused(tmp_path: Path, open_client) -> None:
    """A planted database is never read."""
    client = open_client()
    client.put_ai_usage_metric(make_metric())
    client.summarize()
    os.chown(tmp_path / "usage" / "usage.db", 12345, 12345)
    with pytest.raises(DirectoryRefusedError, match="12345"):
        client.summarize()


@pytest.mark.parametrize("writable", [0o770, 0o702, 0o777])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, writable: int) -> None:
    """The message says which mode it has and how to mend it."""
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(writable)
    with pytest.raises(DirectoryRefusedError, match=f"mode {writable:04o}.*chmod go-w"):
        secure_directory(path)


def test_a_directory_that_others_can_only_read_is_used(tmp_path: Path) -> None:
    """An existing directory keeps its mode as long as nobody else can write there."""
    path = tmp_path / "readable"
    path.mkdir(mode=0o755)
    assert secure_directory(path) == path


def test_links_and_files_in_the_place_of_a_directory_are_refused(tmp_path: Path) -> None:
    """A symbolic link could lead anywhere tomorrow."""
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").write_text("x")
    for name in ("link", "file"):
        with pytest.raises(DirectoryRefusedError, match="no directory"):
            secure_directory(tmp_path / name)
    with pytest.raises(DirectoryRefusedError, match="cannot use"):
        secure_directory(tmp_path / "file" / "below")


def test_links_in_the_place_of_a_file_are_never_followed(tmp_path: Path) -> None:
    """Nobody makes us write into a file of theirs."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        create_private_file(tmp_path / "link", os.O_RDWR)
    with pytest.raises(DirectoryRefusedError, match="no regular file"):
        check_private_file(tmp_path / "link")
    assert target.read_text() == "precious"
    assert not check_private_file(tmp_path / "missing")


def test_one_holder_at_a_time_and_the_next_when_it_lets_go(tmp_path: Path) -> None:
    """Locks exclude between objects of one process as between processes."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.try_acquire()
    assert first.try_acquire()
    assert not second.try_acquire()
    with pytest.raises(StoreBusyError, match=r"lock was held by another process for 0 s"):
        second.acquire(0)
    first.release()
    first.release()
    with second:
        assert second.try_acquire()
    assert not second.held


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    """A lock never outlives its holder, however it died."""
    lock = FileLock(tmp_path / "lock")
    assert in_fork(lambda: FileLock(tmp_path / "lock").acquire(1)) == 0
    assert lock.try_acquire()
    lock.release()


def test_a_forked_child_closes_its_copy_of_a_lock_but_never_unlocks_it(tmp_path: Path) -> None:
    """The parent holds its lock through a fork, and no child keeps it alive afterwards."""
    lock = FileLock(tmp_path / "lock")
    lock.acquire(0)

    def child() -> None:
        assert not lock.held
        lock.release()
        assert not FileLock(tmp_path / "lock").try_acquire()

    assert in_fork(child) == 0
    assert not FileLock(tmp_path / "lock").try_acquire()

    ready, go = os.pipe(), os.pipe()
    pid = quiet_fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.release()
    try:
        assert FileLock(tmp_path / "lock").try_acquire()
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)
