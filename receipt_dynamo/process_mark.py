"""A byte that is 1 in the process that asked for it, and 0 in a child, however that was forked.

Python's at-fork hooks do not run where a program in C forks (uWSGI), so what must not be shared
with a parent asks each time. ``os.getpid`` is a system call: short, but what stands behind it finds
the processor's caches and predictions spoiled, which costs each record some microseconds
(docs/performance.md). On Linux the kernel gives a child an emptied page instead (MADV_WIPEONFORK
of madvise(2), since 4.14), so that a look at memory is enough.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Protocol

__all__ = ["ProcessMark", "process_mark"]

_MADV_WIPEONFORK = 18  # mmap has no name for it
_NO_ADVICE = -1


class ProcessMark(Protocol):
    """``mark[0]``: 1 here, 0 in a child. A child makes one of its own."""

    def __getitem__(self, index: int, /) -> int: ...


class _AskedMark:
    """The same by the number of the process."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _index: int, /) -> int:
        return int(os.getpid() == self._pid)


def process_mark() -> ProcessMark:
    """Return a mark of this process. Thread-safe. Raises nothing."""
    if sys.platform != "linux":
        return _AskedMark()
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
        if not _refuses(page, _NO_ADVICE):  # an emulator (qemu) that takes any advice and none
            return _AskedMark()
    except Exception:  # an older kernel, no memory, an audit hook
        return _AskedMark()
    page[0] = 1
    return page


def _refuses(page: mmap.mmap, advice: int) -> bool:
    try:
        page.madvise(advice)
    except OSError:
        return True
    return False
