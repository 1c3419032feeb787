"""A real file system of a few megabytes, mounted for one process alone.

Needs root, or user namespaces. Linux only. Nothing is left behind: the mount ends with its process.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 32, 1 << 14, 1 << 18
_FILL = b"\0" * 4096


class SmallDisk:
    """A tmpfs. Raises OSError where this process may not mount one. For a process of one thread."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._filler = path / "filler"
        _own_mounts(self._libc)
        _call(self._libc.mount, b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        path.mkdir(mode=0o700, exist_ok=True)
        _call(self._libc.mount, b"tmpfs", bytes(path), b"tmpfs", 0, b"mode=700,size=%d" % size)

    def fill(self) -> None:
        """Take all the room there is."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(_FILL) == len(_FILL):
                pass

    def free(self) -> None:
        """Give back what ``fill`` took."""
        self._filler.unlink()

    def room(self) -> int:
        """Return how many bytes are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def set_read_only(self, *, on: bool) -> None:
        """Mount it anew. Raises OSError while a file in it is open for writing."""
        flags = _MS_REMOUNT | (_MS_RDONLY if on else 0)
        _call(self._libc.mount, b"tmpfs", bytes(self.path), b"tmpfs", flags, None)


def _own_mounts(libc: ctypes.CDLL) -> None:
    """Leave the mounts of all others, as root or in a user namespace of one's own."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNS) == 0:
        return
    _call(libc.unshare, _CLONE_NEWNS | _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _call(function: object, *args: object) -> None:
    if function(*args) != 0:  # type: ignore[operator]
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
