"""A gate between forks and code that must not be forked in the middle.

SQLite keeps locks and open files for the whole process. A child forked while another thread is
inside it inherits its mutexes locked for ever, and then hangs in its first call, with the store's
lock in its hands: every process would wait for it. So a fork waits until all threads are out.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from receipt_dynamo.forks import on_fork

__all__ = ["ForkGate"]

_PATIENCE_SECONDS = 10.0


class ForkGate:
    """A context manager: while any thread is within it, a fork waits (at most 10 s).

    Reentrant; any number of threads may be within at once. Make one for a module, and keep it.
    """

    def __init__(self) -> None:
        self.is_unsafe = False
        """Whether this process was forked while a thread was within: what is guarded is not to be
        used in it."""
        self._reset()
        os.register_at_fork(before=self._close, after_in_parent=self._open)
        on_fork(self._in_child)

    def _in_child(self) -> None:
        self.is_unsafe = self.is_unsafe or self._inside > 0
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        # Guarded by _changed
        self._inside = 0
        self._forks = 0
        self._mine = threading.local()

    def _depth(self) -> int:
        return getattr(self._mine, "depth", 0)

    def __enter__(self) -> None:
        depth = self._depth()
        if depth == 0:
            with self._changed:
                self._changed.wait_for(lambda: self._forks == 0, _PATIENCE_SECONDS)
                self._inside += 1
        self._mine.depth = depth + 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        depth = self._depth()
        if depth == 0:  # the child of a fork from within: its gate is new
            return
        self._mine.depth = depth - 1
        if depth == 1:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _close(self) -> None:
        own = 1 if self._depth() else 0
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= own, _PATIENCE_SECONDS)

    def _open(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()
