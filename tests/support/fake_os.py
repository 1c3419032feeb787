"""Processes on the fake file system, and the ``os``, ``fcntl`` and ``time`` that the spool sees.

Every call is counted and named; faults make one fail, cut a write short, or kill its process
before or after it. A process that was killed can call nothing any more: whatever its code would
still do in a ``finally`` has no effect, as it has none after SIGKILL.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import pkgutil
import posixpath
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import receipt_dynamo.spool
from receipt_dynamo.utils.clock import Clock
from tests.support.fake_fs import FakeDisk, Inode, OpenFile, fail

_LAYER = ("receipt_dynamo.files", "receipt_dynamo.spool.")
_REAL = frozenset("strerror fspath".split())
MAY_FAIL = tuple(
    "open dup write pwrite read pread ftruncate fsync fdatasync stat lstat fstat rename unlink "
    "mkdir chmod fchmod scandir statvfs flock utime".split()
)
"""Calls that a disk or a kernel may refuse. To close or to unlock always has its effect."""
_pids = itertools.count(1000)


class Killed(BaseException):
    """The process dies here: nothing behind this line has any effect."""


@dataclass(eq=False)
class FakeProcess:
    """Somebody who calls: descriptors, a umask, and perhaps its end."""

    pid: int = field(default_factory=lambda: next(_pids))
    uid: int = 0
    umask: int = 0o022
    most_descriptors: int = 1024
    descriptors: dict[int, OpenFile] = field(default_factory=dict)
    hooks: tuple[Callable[[], None], ...] = ()
    """What a child of a fork in C does once it notices the fork."""
    dead: bool = False


@dataclass(eq=False)
class Fault:
    """What happens to the call that comes after ``passing`` others of its kind.

    ``calls`` are names of calls (none: every call). ``error`` is raised in its place, or ``late``:
    after its effect. ``keep`` is how many bytes a write takes. ``kill`` ends the process
    ``"before"`` or ``"after"`` it. ``act`` is run before it: what others do meanwhile.
    ``lasting``: also to every later one.
    """

    calls: tuple[str, ...] = ()
    passing: int = 0
    error: int | None = None
    late: bool = False
    keep: int | None = None
    kill: str | None = None
    act: Callable[[], object] | None = None
    lasting: bool = False
    happened: int = 0

    def strikes(self, name: str) -> bool:
        """Return whether this call is the one."""
        if (self.calls and name not in self.calls) or (self.happened and not self.lasting):
            return False
        if self.passing:
            self.passing -= 1
            return False
        self.happened += 1
        return True


class FakeMark:
    """What a process of the system has in memory, and a child sees emptied."""

    def __init__(self, system: FakeSystem) -> None:
        self._system = system
        self._pid = system.current.pid

    def __getitem__(self, _index: int, /) -> int:
        return int(self._system.current.pid == self._pid)

    def __deepcopy__(self, _memo: object) -> FakeMark:
        return self  # a fork: what it says depends on who asks


class FakeSystem:
    """A disk, the processes that use it, and which of them runs now."""

    def __init__(self, clock: Clock, capacity: int = 1 << 40) -> None:
        self.disk = FakeDisk(capacity)
        self.disk.now_ns = lambda: int(clock.now().timestamp() * 1e9)
        self.current = FakeProcess()
        self.calls: list[str] = []
        self.os = FakeOs(self)
        self.fcntl = FakeFcntl(self)
        self.time = SimpleNamespace(
            monotonic=clock.monotonic,
            sleep=clock.sleep,
            time_ns=lambda: int(clock.now().timestamp() * 1e9),
        )
        self._faults: list[Fault] = []

    @contextmanager
    def installed(self) -> Iterator[FakeSystem]:
        """Put this system under every module of the spool, in place of the real one."""
        for module in pkgutil.iter_modules(receipt_dynamo.spool.__path__, "receipt_dynamo.spool."):
            importlib.import_module(module.name)
        with ExitStack() as stack:
            for name, module in list(sys.modules.items()):
                if name.startswith(_LAYER):
                    for part in ("os", "fcntl", "time", "notice_fork", "process_mark"):
                        if hasattr(module, part):
                            stack.enter_context(
                                mock.patch.object(module, part, getattr(self, part))
                            )
            yield self

    def process_mark(self) -> FakeMark:
        return FakeMark(self)

    @contextmanager
    def running(self, process: FakeProcess) -> Iterator[None]:
        """Let ``process`` run, then whoever ran before."""
        before, self.current = self.current, process
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def faults(self, *faults: Fault) -> Iterator[None]:
        """Let these happen to calls of whoever runs."""
        before, self._faults = self._faults, [*self._faults, *faults]
        try:
            yield
        finally:
            self._faults = before

    def spawn(self) -> FakeProcess:
        """Start a process that has nothing open."""
        return FakeProcess()

    def fork(self, parent: FakeProcess) -> FakeProcess:
        """Start a child: every descriptor is the very same open file."""
        for file in parent.descriptors.values():
            file.shared += 1
        return FakeProcess(uid=parent.uid, umask=parent.umask, descriptors={**parent.descriptors})

    def notice_fork(self) -> None:
        """Run the hooks of a child that was forked in C, once; a handler within one, the rest."""
        process = self.current
        while process.hooks:
            process.hooks[0]()
            process.hooks = process.hooks[1:]

    def kill(self, process: FakeProcess) -> None:
        """End a process: its descriptors close, its locks are free, the page cache stays."""
        process.dead = True
        while process.descriptors:
            self.disk.close(process.descriptors.popitem()[1])

    def call(self, name: str, work: Callable[[int | None], Any]) -> Any:
        """Do one call of the current process, as faults will have it."""
        process = self.current
        if process.dead:
            raise Killed
        self.calls.append(name)
        keep, late, killed = None, None, False
        for fault in [fault for fault in self._faults if fault.strikes(name)]:
            if fault.act is not None:
                fault.act()
            if fault.kill == "before":
                self.kill(process)
                raise Killed
            if fault.error is not None and not fault.late:
                raise fail(fault.error)
            keep, late, killed = fault.keep, fault.error, fault.kill == "after"
        try:
            result = work(keep)
        finally:
            if killed:
                self.kill(process)
                raise Killed
        if late is not None:
            raise fail(late)
        return result


class _Namespace:
    def __init__(self, system: FakeSystem) -> None:
        self._system = system
        self._disk = system.disk

    def _file(self, descriptor: int) -> OpenFile:
        try:
            return self._system.current.descriptors[descriptor]
        except KeyError:
            raise fail(errno.EBADF) from None

    def _number(self, file: OpenFile) -> int:
        process = self._system.current
        number = next(n for n in itertools.count(3) if n not in process.descriptors)
        process.descriptors[number] = file
        return number

    def _check_room(self) -> None:
        process = self._system.current
        if len(process.descriptors) >= process.most_descriptors:
            raise fail(errno.EMFILE)


class FakeFcntl(_Namespace):
    """``fcntl`` as far as the spool uses it."""

    LOCK_EX, LOCK_SH, LOCK_NB, LOCK_UN = 2, 1, 4, 8

    def flock(self, descriptor: int, operation: int) -> None:
        name = "unlock" if operation & self.LOCK_UN else "flock"
        self._system.call(name, lambda _: self._disk.lock(self._file(descriptor), operation))


class FakeOs(_Namespace):
    """``os`` as far as the spool uses it; anything else is an AttributeError."""

    def __init__(self, system: FakeSystem) -> None:
        super().__init__(system)
        self.path = SimpleNamespace(
            exists=lambda path: self._exists(self.stat, path),
            lexists=lambda path: self._exists(self.lstat, path),
            join=posixpath.join,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("O_") or name in _REAL:
            return getattr(os, name)
        raise AttributeError(f"the fake file system has no os.{name}")

    # Files

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        def work(_: object) -> int:
            self._check_room()
            masked = mode & ~self._system.current.umask
            return self._number(self._disk.open(str(path), flags, masked))

        return int(self._system.call("open", work))

    def close(self, descriptor: int) -> None:
        def work(_: object) -> None:
            file = self._file(descriptor)
            del self._system.current.descriptors[descriptor]
            self._disk.close(file)

        self._system.call("close", work)

    def dup(self, descriptor: int) -> int:
        def work(_: object) -> int:
            file = self._file(descriptor)
            self._check_room()
            file.shared += 1
            return self._number(file)

        return int(self._system.call("dup", work))

    def write(self, descriptor: int, data: bytes) -> int:
        def work(keep: int | None) -> int:
            return self._disk.write(self._file(descriptor), data[:keep])

        return int(self._system.call("write", work))

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        def work(keep: int | None) -> int:
            return self._disk.write(self._file(descriptor), data[:keep], offset)

        return int(self._system.call("pwrite", work))

    def read(self, descriptor: int, size: int) -> bytes:
        return bytes(
            self._system.call("read", lambda _: self._disk.read(self._file(descriptor), size))
        )

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        def work(_: object) -> bytes:
            return self._disk.read(self._file(descriptor), size, offset)

        return bytes(self._system.call("pread", work))

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._system.call("ftruncate", lambda _: self._disk.truncate(self._file(descriptor), size))

    def fsync(self, descriptor: int) -> None:
        self._system.call("fsync", lambda _: self._file(descriptor).inode.sync())

    def fdatasync(self, descriptor: int) -> None:
        self._system.call("fdatasync", lambda _: self._file(descriptor).inode.sync())

    # Names

    def stat(self, path: Any) -> Any:
        return self._system.call("stat", lambda _: _stat(self._disk.find(str(path))))

    def lstat(self, path: Any) -> Any:
        return self._system.call("lstat", lambda _: _stat(self._disk.find(str(path), follow=False)))

    def fstat(self, descriptor: int) -> Any:
        return self._system.call("fstat", lambda _: _stat(self._file(descriptor).inode))

    def rename(self, old: Any, new: Any) -> None:
        self._system.call("rename", lambda _: self._disk.rename(str(old), str(new)))

    def unlink(self, path: Any) -> None:
        self._system.call("unlink", lambda _: self._disk.unlink(str(path)))

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        masked = mode & ~self._system.current.umask
        self._system.call("mkdir", lambda _: self._disk.mkdir(str(path), masked))

    def chmod(self, path: Any, mode: int) -> None:
        self._system.call("chmod", lambda _: _chmod(self._disk.find(str(path)), mode))

    def fchmod(self, descriptor: int, mode: int) -> None:
        self._system.call("fchmod", lambda _: _chmod(self._file(descriptor).inode, mode))

    def utime(self, path: Any, *, ns: tuple[int, int], follow_symlinks: bool = True) -> None:
        def work(_: object) -> None:
            self._disk.find(str(path), follow=follow_symlinks).mtime_ns = ns[1]

        self._system.call("utime", work)

    @contextmanager
    def scandir(self, path: Any) -> Iterator[Iterator[Any]]:
        """Names come in no order, as a real directory has them."""

        def work(_: object) -> list[Any]:
            found = self._disk.find(str(path))
            if not found.is_directory:
                raise fail(errno.ENOTDIR, path)
            names = sorted(found.entries, key=lambda name: name[::-1])
            return [SimpleNamespace(name=name, path=str(Path(path) / name)) for name in names]

        yield iter(self._system.call("scandir", work))

    def statvfs(self, path: Any) -> Any:
        def work(_: object) -> Any:
            self._disk.find(str(path))
            free = max(0, self._disk.capacity - self._disk.used())
            return SimpleNamespace(f_bavail=free, f_blocks=self._disk.capacity, f_frsize=1)

        return self._system.call("statvfs", work)

    def _exists(self, look: Callable[[Any], Any], path: Any) -> bool:
        try:
            look(path)
        except OSError:
            return False
        return True

    # Processes

    def getpid(self) -> int:
        return self._system.current.pid

    def geteuid(self) -> int:
        return self._system.current.uid

    def urandom(self, size: int) -> bytes:
        return next(_pids).to_bytes(size, "big")  # as unique as chance, and the same in every run


def _chmod(inode: Inode, mode: int) -> None:
    inode.mode = inode.mode & ~0o7777 | mode


def _stat(inode: Inode) -> Any:
    return SimpleNamespace(
        st_mode=inode.mode,
        st_ino=inode.number,
        st_nlink=inode.links,
        st_uid=inode.uid,
        st_size=len(inode.data) or len(inode.target),
        st_mtime_ns=inode.mtime_ns,
        st_mtime=inode.mtime_ns / 1e9,
    )
