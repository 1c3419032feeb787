"""The fake file system behaves as the real one, and the spool calls nothing beside it."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import receipt_dynamo
from tests.support import FakeClock
from tests.support.fake_fs import fail
from tests.support.fake_os import FakeSystem, Fault, Killed

NAMES = st.sampled_from(["a", "b", "c", "d", "d/a", "d/b", "link", "d/x/y", "a/b"])
HANDLES = st.integers(0, 3)
SIZES = st.integers(0, 12)
FLAGS = st.builds(
    lambda mode, others: mode | sum(others),
    st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY]),
    st.sets(st.sampled_from([os.O_CREAT, os.O_EXCL, os.O_APPEND, os.O_NOFOLLOW]))
    | st.just({os.O_DIRECTORY}),
)
LOCKS = st.sampled_from([fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN])
MODES = st.sampled_from([0o600, 0o640, 0o777])
CALLS = st.one_of(
    st.tuples(st.just("open"), NAMES, FLAGS, MODES),
    st.tuples(st.just("open"), NAMES, st.just(os.O_RDWR | os.O_CREAT | os.O_APPEND), MODES),
    st.tuples(st.just("write"), HANDLES, SIZES),
    st.tuples(st.just("pwrite"), HANDLES, SIZES, SIZES),
    st.tuples(st.just("pread"), HANDLES, SIZES, st.integers(-1, 20)),
    st.tuples(st.just("read"), HANDLES, SIZES),
    st.tuples(st.just("ftruncate"), HANDLES, SIZES),
    st.tuples(st.just("fstat"), HANDLES),
    st.tuples(st.sampled_from(["stat", "lstat", "unlink", "scandir"]), NAMES),
    st.tuples(st.just("mkdir"), st.sampled_from(["d", "d/x", "a", "link"]), MODES),
    st.tuples(st.just("rename"), st.sampled_from(["a", "b", "d/a", "c"]), NAMES),
    st.tuples(st.just("chmod"), st.sampled_from(["a", "d"]), MODES),
    st.tuples(st.just("fchmod"), HANDLES, MODES),
    st.tuples(st.sampled_from(["dup", "close", "fsync", "fdatasync"]), HANDLES),
    st.tuples(st.just("flock"), HANDLES, LOCKS),
)


class Caller:
    """Does the same calls with one ``os`` or another; tells what came of each."""

    def __init__(self, os_: Any, fcntl_: Any, root: str) -> None:
        self.os, self.fcntl, self.root = os_, fcntl_, root
        self.handles: list[int] = []

    def do(self, name: str, *arguments: Any) -> object:
        """Return what a call returned, or the number of its error."""
        first, *rest = arguments
        if isinstance(first, str):
            first = f"{self.root}/{first}"
        elif first >= len(self.handles):
            return "no such handle"
        try:
            return self._do(name, first, *rest)
        except OSError as error:
            return errno.errorcode[error.errno]  # type: ignore[index]

    def _do(self, name: str, first: Any, *rest: Any) -> object:
        if name == "scandir":
            with self.os.scandir(first) as entries:
                return sorted(entry.name for entry in entries)
        if name == "rename":
            rest = (f"{self.root}/{rest[0]}",)
        elif name in ("write", "pwrite"):
            rest = (b"0123456789ab"[: rest[0]], *rest[1:])
        elif name == "flock":
            rest = (rest[0] | fcntl.LOCK_NB,)
        handle = self.handles[first] if isinstance(first, int) else first
        found = getattr(self.fcntl if name == "flock" else self.os, name)(handle, *rest)
        if name in ("open", "dup"):
            self.handles.append(found)
            return "opened"
        if name == "close":
            self.handles.remove(handle)
        return self._stat(found) if name.endswith("stat") else found

    def _stat(self, found: Any) -> tuple[Any, ...]:
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFLNK:
            return (kind,)
        if kind == stat.S_IFDIR:
            return kind, stat.S_IMODE(found.st_mode)
        return kind, stat.S_IMODE(found.st_mode), found.st_size, found.st_nlink, found.st_uid

    def close(self) -> None:
        for handle in self.handles:
            self.os.close(handle)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.no_cover
@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused nothing")
@pytest.mark.usefixtures("umask")
@given(st.lists(CALLS, min_size=5, max_size=40))
@settings(max_examples=250)
def test_every_call_answers_as_the_real_one_does(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[Any, ...]]
) -> None:
    """The same random calls, on a real directory and on the fake: the same answers and errors."""
    directory = tmp_path_factory.mktemp("real")
    system = FakeSystem(FakeClock())
    system.disk.mkdir("/r", 0o755)
    real, fake = Caller(os, fcntl, str(directory)), Caller(system.os, system.fcntl, "/r")
    (directory / "link").symlink_to(directory / "c")
    system.disk.symlink("/r/c", "/r/link")
    try:
        for call in calls:
            if call[0] == "rename" and (directory / call[1]).is_dir():
                continue
            assert fake.do(*call) == real.do(*call), call
    finally:
        real.close()


def make_file(system: FakeSystem, path: str, data: bytes = b"") -> int:
    descriptor = system.os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    if data:
        assert system.os.write(descriptor, data) == len(data)
    return descriptor


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem(FakeClock(), capacity=100)


def test_a_full_disk_takes_what_fits_and_then_nothing(system: FakeSystem) -> None:
    """A short write, then ENOSPC; in place there is always room; removed files give it back."""
    one, two = make_file(system, "/one", b"x" * 70), make_file(system, "/two")
    assert system.os.write(two, b"y" * 50) == 30
    with pytest.raises(OSError, match="No space left"):
        system.os.write(two, b"y")
    plain = system.os.open("/one", os.O_RDWR)
    assert system.os.pwrite(plain, b"z" * 70, 0) == 70
    system.os.unlink("/one")
    with pytest.raises(OSError, match="No space left"):
        system.os.write(two, b"y")  # it is still open
    system.os.close(one)
    system.os.close(plain)
    assert system.os.write(two, b"y" * 50) == 50
    assert system.os.statvfs("/").f_bavail == 20


def test_the_dead_hold_nothing_and_do_nothing(system: FakeSystem) -> None:
    """What a killed process wrote is in the page cache; its locks are free."""
    victim, other = system.spawn(), system.spawn()
    with system.running(victim):
        mine = make_file(system, "/f", b"written")
        system.fcntl.flock(mine, fcntl.LOCK_EX)
        with system.faults(Fault(("write",), kill="after", keep=3)), pytest.raises(Killed):
            system.os.write(mine, b"torn")
        with pytest.raises(Killed):
            system.os.unlink("/f")
    with system.running(other):
        theirs = system.os.open("/f", os.O_RDONLY)
        system.fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert system.os.pread(theirs, 100, 0) == b"writtentor"


def test_a_child_shares_what_its_parent_has_open(system: FakeSystem) -> None:
    """A lock lives as long as one of them has the file open, and either can free it for both."""
    parent = system.current
    descriptor = make_file(system, "/f")
    system.fcntl.flock(descriptor, fcntl.LOCK_EX)
    child = system.fork(parent)
    system.kill(parent)
    with system.running(system.spawn()):
        other = system.os.open("/f", os.O_RDONLY)
        with pytest.raises(OSError, match="temporarily unavailable"):
            system.fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with system.running(child):
            assert system.os.getpid() != parent.pid
            system.fcntl.flock(descriptor, fcntl.LOCK_UN)
        system.fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@given(st.data())
def test_a_power_cut_leaves_what_was_synced(data: st.DataObject) -> None:
    """Contents and names that were synced are there; of the rest anything may be."""
    system = FakeSystem(FakeClock())
    synced, unnamed = make_file(system, "/synced", b"1"), make_file(system, "/unnamed", b"2")
    system.os.fdatasync(synced)
    system.os.fdatasync(unnamed)
    system.os.unlink("/unnamed")
    system.os.rename("/synced", "/renamed")
    system.os.fdatasync(system.os.open("/", os.O_RDONLY))
    system.os.write(synced, b"later")
    make_file(system, "/young", b"abc")
    system.kill(system.current)
    system.disk.power_cut(lambda most: data.draw(st.integers(0, most)))
    found = {path: bytes(inode.data) for path, inode in system.disk.walk()}
    assert set(found) - {"/young"} == {"/renamed"}
    assert found["/renamed"] in [b"1later"[:size] for size in range(1, 7)]
    assert found.get("/young", b"") in (b"", b"a", b"ab", b"abc")


def test_faults_strike_the_call_that_they_name(system: FakeSystem) -> None:
    """The nth of a kind, once or for as long as it lasts; what others do comes before it."""
    descriptor, seen = make_file(system, "/f"), []
    last = Fault(("write",), passing=1, error=errno.EIO, act=lambda: seen.append("act"))
    with system.faults(last):
        assert system.os.write(descriptor, b"1") == 1
        with pytest.raises(OSError, match="Input/output"):
            system.os.write(descriptor, b"2")
        assert system.os.write(descriptor, b"3") == 1
    assert seen == ["act"]
    with system.faults(Fault(error=errno.EMFILE, lasting=True)):
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open"):
                system.os.stat("/f")
    assert system.os.read(descriptor, 5) == b""
    assert fail(errno.EROFS).errno == errno.EROFS


PATH_CALLS = frozenset(
    "exists stat lstat mkdir chmod unlink rename touch open read_bytes write_bytes read_text "
    "write_text iterdir glob rglob is_file is_dir is_symlink rmdir symlink_to".split()
)


def test_the_spool_calls_the_file_system_through_os_only() -> None:
    """What went around ``os`` would not be seen by any test that puts the fake below it."""
    package = Path(receipt_dynamo.__file__).parent
    for path in [package / "files.py", *(package / "spool").glob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                owner, _, name = ast.unparse(call.func).rpartition(".")
                assert name not in PATH_CALLS or owner in ("os", "os.path"), ast.unparse(call)
