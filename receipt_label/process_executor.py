"""A process pool whose tasks keep the context of whoever submitted them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from receipt_label.carry import run_within, snapshot

__all__ = ["ContextProcessPoolExecutor"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ContextProcessPoolExecutor(ProcessPoolExecutor):
    """A ProcessPoolExecutor whose tasks run with the fields in force at their ``submit``.

    With every start method: fork, spawn and forkserver. The fields travel with each task, so
    workers may be used again and again. Other ContextVars stay behind, as with any process pool.
    """

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Schedule ``fn`` with the caller's fields. ``map`` goes through here too."""
        return super().submit(run_within, snapshot(), fn, args, kwargs)
