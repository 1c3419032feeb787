"""A thread pool whose tasks keep the context of whoever submitted them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

__all__ = ["ContextThreadPoolExecutor"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ContextThreadPoolExecutor(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose tasks run in a copy of the context of their ``submit``."""

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Schedule ``fn`` in a copy of the caller's context. ``map`` goes through here too."""
        run: Callable[..., _R] = copy_context().run
        return super().submit(run, fn, *args, **kwargs)
