"""What a child does before anything else, whether Python forked it or a program in C did.

Python runs at-fork hooks. A program in C that embeds Python (uWSGI) forks without them. So whoever
records, delivers or closes asks first whether this is a child that no hook has seen.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack

__all__ = ["notice_fork", "on_fork"]

_hooks: list[Callable[[], None]] = []
_pid = os.getpid()
_noticing = threading.RLock()  # held by children only, while they run their hooks


def on_fork(hook: Callable[[], None]) -> None:
    """Run ``hook`` in every child, before it uses anything of ours. Hooks run in their order."""
    _hooks.append(hook)


def notice_fork() -> None:
    """Run the hooks now in a child that was forked in C. Thread-safe; elsewhere one ``getpid``."""
    if os.getpid() != _pid:
        with _noticing:
            if os.getpid() != _pid:
                _run_hooks()


def _run_hooks() -> None:
    """Run every hook, also when one of them raises."""
    global _pid  # noqa: PLW0603 - a fact of the process
    with ExitStack() as hooks:
        for hook in reversed(_hooks):
            hooks.callback(hook)
    _pid = os.getpid()


os.register_at_fork(after_in_child=_run_hooks)
