"""Pools whose tasks keep the context of whoever submitted them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from receipt_label.carry import run_within, snapshot

__all__ = ["ContextProcessPoolExecutor", "ContextThreadPoolExecutor"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ContextThreadPoolExecutor(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose tasks run in a copy of the context of their ``submit``."""

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Schedule ``fn`` in a copy of the caller's context. ``map`` goes through here too."""
        run: Callable[..., _R] = copy_context().run
        return super().submit(run, fn, *args, **kwargs)


class ContextProcessPoolExecutor(ProcessPoolExecutor):
    """A ProcessPoolExecutor whose tasks run with the fields in force at their ``submit``.

    With every start method: fork, spawn and forkserver. The fields travel with each task, so
    workers may be used again and again. Other ContextVars stay behind, as with any process pool.
    """

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Schedule ``fn`` with the caller's fields. ``map`` goes through here too."""
        return super().submit(run_within, snapshot(), fn, args, kwargs)
