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
_last: list[Callable[[], None]] = []
_pid = os.getpid()
_ran: tuple[int, list[Callable[[], None]]] = _pid, []  # which hooks a child has run
_noticing = threading.RLock()  # held by children only, while they run their hooks


def on_fork(hook: Callable[[], None], *, last: bool = False) -> None:
    """Run ``hook`` in every child, before it uses anything of ours. Hooks run in their order.

    ``last``: behind all others. From there on the child records as itself, and must have forgotten
    whatever a record could go into.
    """
    (_last if last else _hooks).append(hook)


def notice_fork() -> None:
    """Run the hooks now in a child that was forked in C. Thread-safe; elsewhere one ``getpid``."""
    if os.getpid() != _pid:
        with _noticing:
            if os.getpid() != _pid:
                _run_hooks()


def _run_hooks() -> None:
    """Run every hook, also when one of them raises.

    A signal handler may come in between and record. It has the rest run first, and they are not
    run again behind it, for they would forget what it has recorded.
    """
    global _pid, _ran  # noqa: PLW0603 - facts of the process
    pid = os.getpid()
    if _ran[0] != pid:
        _ran = pid, []
    with ExitStack() as hooks:
        for hook in reversed(_hooks + _last):
            hooks.callback(_run_once, hook, _ran[1])
    _pid = pid


def _run_once(hook: Callable[[], None], ran: list[Callable[[], None]]) -> None:
    if hook not in ran:
        hook()
        ran.append(hook)


os.register_at_fork(after_in_child=_run_hooks)
