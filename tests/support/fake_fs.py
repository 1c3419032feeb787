"""A POSIX file system in memory: what a disk and a kernel keep, and what a power cut leaves of it.

Inodes, open file descriptions, link counts, locks by description, a capacity in bytes. A file's
contents lie in the page cache until ``sync``; so do the names in a directory. ``power_cut`` keeps
what was synced, and of the rest whatever ``choose`` picks. There are no permissions: everybody is
root. ``fake_os`` puts it under the spool, with processes, faults and kills.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Choose = Callable[[int], int]
"""Return a whole number from 0 to the argument."""

_MOST_LINKS = 8
_numbers = itertools.count(2)


def fail(code: int, path: object = None) -> OSError:
    """Return the error that the kernel would raise."""
    return OSError(code, os.strerror(code), None if path is None else str(path))


@dataclass(eq=False)
class Inode:
    """A file, a directory or a symbolic link, in the page cache and on the disk."""

    mode: int
    uid: int = 0
    number: int = field(default_factory=lambda: next(_numbers))
    links: int = 0
    opened: int = 0
    mtime_ns: int = 0
    holders: dict[int, tuple[OpenFile, int]] = field(default_factory=dict)  # of its lock
    data: bytearray = field(default_factory=bytearray)
    target: str = ""
    entries: dict[str, Inode] = field(default_factory=dict)
    on_disk: bytes = b""
    entries_on_disk: dict[str, Inode] = field(default_factory=dict)
    changes: list[Callable[[Inode, int], None]] = field(default_factory=list)  # since the last sync

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def write(self, data: bytes, offset: int) -> None:
        """Write into the page cache."""

        def again(inode: Inode, size: int) -> None:
            _overwrite(inode.data, data[:size], offset)

        _overwrite(self.data, data, offset)
        self.changes.append(again)

    def truncate(self, size: int) -> None:
        """Cut or lengthen in the page cache."""

        def again(inode: Inode, _size: int) -> None:
            _resize(inode.data, size)

        again(self, 0)
        self.changes.append(again)

    def name(self, change: Callable[[dict[str, Inode]], None]) -> None:
        """Change the names of a directory, in the page cache."""
        change(self.entries)
        self.changes.append(lambda inode, _size: change(inode.entries))

    def sync(self) -> None:
        """Bring contents or names to the disk."""
        self.on_disk, self.entries_on_disk = bytes(self.data), dict(self.entries)
        self.changes.clear()

    def lose_power(self, choose: Choose) -> None:
        """Keep what was synced, and perhaps some of the changes since.

        Names survive in their order, as a journal has them. Pages do so in any order: what lies
        between them is then full of zeros. A write may be torn at any byte.
        """
        changes, self.changes = self.changes, []
        self.data, self.entries = bytearray(self.on_disk), dict(self.entries_on_disk)
        in_order = self.is_directory or choose(1) == 0
        survivors = changes[: choose(len(changes))] if in_order else changes
        for change in survivors:
            if in_order or choose(1):
                torn = change is survivors[-1] and not self.is_directory
                change(self, choose(2000) if torn else 1 << 62)
        self.sync()


def _overwrite(target: bytearray, data: bytes, offset: int) -> None:
    if data:
        if len(target) < offset:
            _resize(target, offset)
        target[offset : offset + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))


@dataclass(eq=False)
class OpenFile:
    """An open file description: what ``dup`` and ``fork`` share."""

    inode: Inode
    flags: int
    offset: int = 0
    shared: int = 1

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class FakeDisk:
    """The file system. ``capacity`` in bytes counts the contents of files only."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.root = Inode(stat.S_IFDIR | 0o755, links=2)
        self.now_ns: Callable[[], int] = lambda: 0
        self._orphans: set[Inode] = set()  # open, without a name

    # Paths

    def walk(self, inode: Inode | None = None, path: str = "") -> Iterator[tuple[str, Inode]]:
        """Yield every path below a directory, with its inode."""
        for name, found in (inode or self.root).entries.items():
            yield f"{path}/{name}", found
            if found.is_directory:
                yield from self.walk(found, f"{path}/{name}")

    def used(self) -> int:
        """Return how many bytes are taken, by files without a name as well."""
        return sum(len(inode.data) for inode in self._inodes())

    def _inodes(self) -> list[Inode]:
        """Return every inode once, in an order that does not change from run to run."""
        found = {self.root, *self._orphans, *(inode for _, inode in self.walk())}
        return sorted(found, key=lambda inode: inode.number)

    def find(self, path: str, *, follow: bool = True) -> Inode:
        """Return the inode at ``path``. Raises ENOENT, ENOTDIR, ELOOP."""
        inode = self._look(path, follow=follow)[2]
        if inode is None:
            raise fail(errno.ENOENT, path)
        return inode

    def _look(self, path: str, *, follow: bool, depth: int = 0) -> tuple[Inode, str, Inode | None]:
        """Return the directory, the name in it, and what has that name."""
        parts = [part for part in path.split("/") if part]
        here = self.root
        if not parts:
            return here, "", here
        for position, name in enumerate(parts):
            if not here.is_directory:
                raise fail(errno.ENOTDIR, path)
            found = here.entries.get(name)
            last = position == len(parts) - 1
            if found is not None and stat.S_ISLNK(found.mode) and (follow or not last):
                if depth == _MOST_LINKS:
                    raise fail(errno.ELOOP, path)
                onward = "/".join([found.target, *parts[position + 1 :]])
                return self._look(onward, follow=follow, depth=depth + 1)
            if last:
                return here, name, found
            if found is None:
                raise fail(errno.ENOENT, path)
            here = found
        raise AssertionError(path)

    # Files

    def open(self, path: str, flags: int, mode: int) -> OpenFile:
        """Open or create a file; ``mode`` with the umask applied."""
        exclusive = flags & os.O_CREAT and flags & os.O_EXCL
        follow = not (flags & os.O_NOFOLLOW or exclusive)
        parent, name, inode = self._look(path, follow=follow)
        if inode is None:
            if not flags & os.O_CREAT:
                raise fail(errno.ENOENT, path)
            inode = Inode(stat.S_IFREG | mode, mtime_ns=self.now_ns())
            self._link(parent, name, inode)
        elif exclusive:
            raise fail(errno.EEXIST, path)
        elif stat.S_ISLNK(inode.mode):
            raise fail(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP, path)
        elif inode.is_directory:
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                raise fail(errno.EISDIR, path)
        elif flags & os.O_DIRECTORY:
            raise fail(errno.ENOTDIR, path)
        inode.opened += 1
        return OpenFile(inode, flags)

    def close(self, file: OpenFile) -> None:
        """Let go of one of those who share a description; the last one frees its lock."""
        file.shared -= 1
        if not file.shared:
            file.inode.holders.pop(id(file), None)
            file.inode.opened -= 1
            if not file.inode.opened:
                self._orphans.discard(file.inode)

    def write(self, file: OpenFile, data: bytes, offset: int | None = None) -> int:
        """Write as much as there is room for; ENOSPC where there is none at all."""
        if not file.writes:
            raise fail(errno.EBADF)
        inode = file.inode
        at = file.offset if offset is None else offset
        if data and file.flags & os.O_APPEND:  # on Linux also where an offset is given
            at = len(inode.data)
        growth = at + len(data) - len(inode.data)
        room = self.capacity - self.used()
        if data and growth > room:
            data = data[: max(0, len(data) - (growth - max(0, room)))]
            if not data:
                raise fail(errno.ENOSPC)
        if data:
            inode.write(bytes(data), at)
            inode.mtime_ns = self.now_ns()
        if offset is None:
            file.offset = at + len(data)
        return len(data)

    def read(self, file: OpenFile, size: int, offset: int | None = None) -> bytes:
        """Read from an offset, or from where the last read ended."""
        if not file.reads:
            raise fail(errno.EBADF)
        if file.inode.is_directory:
            raise fail(errno.EISDIR)
        at = file.offset if offset is None else offset
        if at < 0:
            raise fail(errno.EINVAL)
        found = bytes(file.inode.data[at : at + size])
        if offset is None:
            file.offset += len(found)
        return found

    def truncate(self, file: OpenFile, size: int) -> None:
        """Cut or lengthen a file."""
        if not file.writes or size < 0:
            raise fail(errno.EINVAL)
        if size - len(file.inode.data) > self.capacity - self.used():
            raise fail(errno.ENOSPC)
        file.inode.truncate(size)
        file.inode.mtime_ns = self.now_ns()

    def lock(self, file: OpenFile, operation: int) -> None:
        """``flock``: by description. What would block for ever is a fault of the test."""
        holders = file.inode.holders
        if operation & fcntl.LOCK_UN:
            holders.pop(id(file), None)
            return
        kind = operation & (fcntl.LOCK_EX | fcntl.LOCK_SH)
        others = [held for key, (_, held) in holders.items() if key != id(file)]
        if any(fcntl.LOCK_EX in (kind, held) for held in others):
            holders.pop(id(file), None)  # converting a lock frees it first
            assert operation & fcntl.LOCK_NB, "this would block for ever"
            raise fail(errno.EWOULDBLOCK)
        holders[id(file)] = file, kind

    # Names

    def _link(self, parent: Inode, name: str, inode: Inode) -> None:
        parent.name(lambda entries: entries.update({name: inode}))
        inode.links += 1

    def _unlink(self, parent: Inode, name: str) -> None:
        inode = parent.entries[name]
        parent.name(lambda entries: _forget(entries, name))
        inode.links -= 1
        if inode.opened and not inode.links:
            self._orphans.add(inode)

    def unlink(self, path: str) -> None:
        """Remove a name of a file."""
        parent, name, inode = self._look(path, follow=False)
        if inode is None:
            raise fail(errno.ENOENT, path)
        if inode.is_directory:
            raise fail(errno.EISDIR, path)
        self._unlink(parent, name)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of what had it."""
        parent, name, inode = self._look(old, follow=False)
        new_parent, new_name, replaced = self._look(new, follow=False)
        if inode is None:
            raise fail(errno.ENOENT, old)
        assert not inode.is_directory, "the spool renames no directory"
        if replaced is inode:
            return
        if replaced is not None and replaced.is_directory:
            raise fail(errno.EISDIR, new)
        if replaced is not None:
            self._unlink(new_parent, new_name)
        if parent is new_parent:

            def change(entries: dict[str, Inode]) -> None:
                _forget(entries, name)
                entries[new_name] = inode

            parent.name(change)
            return
        parent.name(lambda entries: _forget(entries, name))
        new_parent.name(lambda entries: entries.update({new_name: inode}))

    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory; ``mode`` with the umask applied."""
        parent, name, inode = self._look(path, follow=False)
        if inode is not None:
            raise fail(errno.EEXIST, path)
        self._link(parent, name, Inode(stat.S_IFDIR | mode, links=1, mtime_ns=self.now_ns()))

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link to an absolute path."""
        parent, name, inode = self._look(path, follow=False)
        if inode is not None:
            raise fail(errno.EEXIST, path)
        self._link(parent, name, Inode(stat.S_IFLNK | 0o777, target=target))

    def remove_tree(self, path: str) -> None:
        """``rm -r``: what is open lives on without a name."""
        parent, name, inode = self._look(path, follow=False)
        assert inode is not None
        if inode.is_directory:
            for inner in list(inode.entries):
                self.remove_tree(f"{path}/{inner}")
        self._unlink(parent, name)

    # The end

    def power_cut(self, choose: Choose) -> None:
        """Leave what the disk itself holds. Every process must be dead."""
        for inode in self._inodes():
            inode.lose_power(choose)
            assert not inode.opened, "a process outlived the power cut"
        for _, inode in self.walk():
            inode.links = 0
        for _, inode in self.walk():
            inode.links += 2 if inode.is_directory else 1


def _forget(entries: dict[str, Inode], name: str) -> None:
    entries.pop(name, None)
