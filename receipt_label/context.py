"""The context that travels with the caller: who a call is made for.

One ContextVar holds an immutable mapping. Each asyncio task and each thread sees its own; a new
thread starts without one, so work handed to a pool takes it along with ``wrap_context`` or
``ContextThreadPoolExecutor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token, copy_context
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
_context: ContextVar[Mapping[str, Any]] = ContextVar("receipt_usage_context", default=_EMPTY)


def current() -> Mapping[str, Any]:
    """Return the fields in force here; read-only."""
    return _context.get()


class ContextScope:
    """Fields that hold within a ``with`` or ``async with`` block, on top of those outside.

    May be entered again, also while it is entered, also by other tasks and threads: every entry
    restores on its exit what it found.
    """

    __slots__ = ("_fields", "_tokens")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._tokens: list[Token[Mapping[str, Any]]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_context.set(_merged(_context.get(), self._fields)))
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
        """Undo the newest entry that was made in this context.

        A generator may be finished by another task than the one that entered here; its entry then
        belongs to a context that is gone, and there is nothing to restore.
        """
        for index in range(len(self._tokens) - 1, -1, -1):
            try:
                _context.reset(self._tokens[index])
            except ValueError:
                continue
            del self._tokens[index]
            return
        if self._tokens:
            self._tokens.pop()


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
