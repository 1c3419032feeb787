"""The context that travels with the caller: who a call is made for.

One ContextVar holds an immutable chain of the entries in force. Each asyncio task and each thread
sees its own; a new thread starts without one, so work handed to a pool takes it along with
``wrap_context`` or ``ContextThreadPoolExecutor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from functools import wraps
from types import MappingProxyType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar

__all__ = ["CONTEXT_FIELDS", "ContextScope", "current", "wrap_context"]

CONTEXT_FIELDS = frozenset(
    {
        "user_id",
        "job_id",
        "batch_id",
        "github_pr",
        "conversation_id",
        "session_id",
        "tool",
        "skill",
        "subagent",
        "environment",
        "deployment_version",
        "metadata",
    }
)
"""What a context may carry: the attribution of a metric, and metadata (merged key by key)."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class _Frame:
    """One entry of a scope: the fields in force from there on, and what was in force before."""

    __slots__ = ("fields", "outer", "scope")

    def __init__(
        self, fields: Mapping[str, Any], scope: ContextScope | None, outer: _Frame | None
    ) -> None:
        self.fields = fields
        self.scope = scope
        self.outer = outer


_NOTHING = _Frame(_EMPTY, None, None)
_context: ContextVar[_Frame] = ContextVar("receipt_usage_context", default=_NOTHING)


def current() -> Mapping[str, Any]:
    """Return the fields in force here; read-only."""
    return _context.get().fields


class ContextScope:
    """Fields that hold within a ``with`` or ``async with`` block, on top of those outside.

    May be entered again, also while it is entered, also by other tasks and threads at once: it
    keeps nothing of its own, every entry lies in the context that it was made in.

    An exit restores what its entry found, and takes what was entered since and never left (an
    abandoned generator's scope) with it. Where its entry is no longer in force (a generator that
    another task finishes, or one that ends after the scope around it) there is nothing to restore.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __enter__(self) -> Self:
        outer = _context.get()
        _context.set(_Frame(_merged(outer.fields, self._fields), self, outer))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        frame = _context.get()
        while frame.outer is not None:
            if frame.scope is self:
                _context.set(frame.outer)
                return
            frame = frame.outer


def _merged(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = {**outer, **inner}
    if "metadata" in outer and "metadata" in inner:
        fields["metadata"] = {**outer["metadata"], **inner["metadata"]}
    return MappingProxyType(fields)


def wrap_context(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return ``function`` bound to the context in force now, for a thread that has none.

    Each call runs in a copy of its own, so the result may be called by several threads at once.
    """
    context = copy_context()

    @wraps(function)
    def in_context(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return context.copy().run(function, *args, **kwargs)

    return in_context
