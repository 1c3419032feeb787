"""Directories and files that belong to us alone, and the locks between processes.

Directories are 0700 and files 0600 whatever the umask. A directory of another owner, or one that
others may write to, is refused: records in it could be read, forged or removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from receipt_dynamo.errors import DirectoryRefusedError, StoreBusyError
from receipt_dynamo.forks import on_fork

__all__ = [
    "READ_FLAGS",
    "FileLock",
    "check_private_file",
    "create_private_file",
    "secure_directory",
    "sync_directory",
]

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
READ_FLAGS = os.O_RDONLY | _FLAGS | os.O_NONBLOCK
"""For a look at a file: a pipe that lies in its place keeps nobody waiting."""

_POLL_SECONDS = 0.005
_NOT_FOR_DIRECTORIES = frozenset({errno.EINVAL, errno.ENOTSUP})
"""What some network file systems answer to a sync of a directory."""


def secure_directory(path: Path, *, sync: bool = True) -> Path:
    """Return ``path`` as a directory of ours, made where missing. Raises DirectoryRefusedError.

    With ``sync`` a directory that was made survives a power cut.
    """
    try:
        _make_private(path, sync)
        found = os.lstat(path)
    except OSError as error:
        raise DirectoryRefusedError(
            f"cannot use the directory {path}: {error.strerror}. "
            "Set RECEIPT_USAGE_DIR to a directory of yours."
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise DirectoryRefusedError(
            f"{path} is no directory (a file or a symbolic link). Set RECEIPT_USAGE_DIR elsewhere."
        )
    _check_owner(path, found)
    return path


def _make_private(path: Path, sync: bool) -> None:
    """Make ``path`` and what is missing above it, all 0700: ``parents=True`` would obey the umask,
    and who may write to a parent may put another directory in our place."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        if os.path.exists(path.parent):  # a place where nobody can make directories
            raise
        _make_private(path.parent, sync)
        _make_private(path, sync)
        return
    os.chmod(path, 0o700)
    if sync:
        with suppress(OSError):  # a directory above that we may not read
            sync_directory(path.parent)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise DirectoryRefusedError(
            f"{path} belongs to user id {found.st_uid}, not to yours ({os.geteuid()}). "
            "Run as its owner, or set RECEIPT_USAGE_DIR to a directory of yours."
        )
    if found.st_mode & 0o022:
        raise DirectoryRefusedError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}). "
            f"Run: chmod go-w {path}"
        )


def check_private_file(path: Path) -> bool:
    """Return whether ``path`` exists; raise DirectoryRefusedError when it is not a file of ours."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise DirectoryRefusedError(f"{path} is no regular file. Move it away.")
    _check_owner(path, found)
    return True


def create_private_file(path: Path, flags: int) -> int:
    """Open ``path`` with ``flags``, created 0600 whatever the umask; return the descriptor.

    A pipe in its place keeps nobody waiting. Raises OSError.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NONBLOCK | _FLAGS, 0o600)
    if os.fstat(descriptor).st_mode & 0o777 != 0o600:  # noqa: PLR2004 - the mode just asked for
        os.fchmod(descriptor, 0o600)
    return descriptor


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk itself. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_DIRECTORIES:
            raise
    finally:
        os.close(descriptor)


class FileLock:
    """An exclusive flock on a file of its own. The kernel frees it when its holder dies.

    Not reentrant; one holder per object. A child of a fork closes the descriptor that it
    inherits: while any copy is open the lock lives on. It never unlocks: that frees the parent's.
    """

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        _locks.add(self)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def is_gone(self) -> bool:
        """Return whether the file was removed: whoever locks its name now locks another one."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether it is held now. Raises OSError."""
        if self._descriptor is not None:
            return True
        descriptor = create_private_file(self.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        self._descriptor = descriptor
        return True

    def acquire(self, timeout: float) -> None:
        """Take the lock within ``timeout`` seconds. Raises StoreBusyError, OSError."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                waited = f"{max(timeout, 0):.0f} s"
                raise StoreBusyError(
                    f"{self.path} was held by another process for {waited}. Try again."
                )
            time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Free the lock. Does nothing when it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)

    def forget(self) -> None:
        """Close the descriptor without unlocking: what the child of a fork does."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_locks):
        lock.forget()


on_fork(_forget_all)
