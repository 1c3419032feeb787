"""The context taken along: into threads, into processes, into programs that are started.

Threads and process pools get it with the work (``wrap_context``, ``executor.py``). A program gets
it through one environment variable, which its first record reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextvars import Context, copy_context
from functools import partial, update_wrapper, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from types import MappingProxyType, MethodType
from typing import Any, Generic, ParamSpec, TypeVar, cast

import msgspec

from receipt_dynamo import safe_logger
from receipt_label import context as contexts
from receipt_label.masking import mask

__all__ = ["CONTEXT_VARIABLE", "context_environment", "wrap_context"]

CONTEXT_VARIABLE = "RECEIPT_USAGE_CONTEXT"
"""The environment variable that hands a context to a program that is started."""

_MAX_VARIABLE = 64 * 1024

_log = safe_logger("receipt_label.context")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def wrap_context(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return ``function`` bound to the context in force now, for a thread or process without one.

    Each call runs in a copy of its own, so the result may be called by several threads at once. It
    can be pickled where ``function`` can, and then brings the fields of this context (not other
    ContextVars) to the process that calls it. A coroutine function stays one. Each step of a
    generator, also of an asynchronous one, runs in the context; between two steps its reader's own
    is in force.
    """
    if iscoroutinefunction(function):
        return cast("Callable[_P, _R]", _bound_coroutine(function))
    return _kind_of(function)(function, copy_context())


def first_step(generator: AsyncGenerator[Any, Any], argument: Any = None) -> Awaitable[Any]:
    """Return the first step of an asynchronous generator that stands within one of ours.

    The event loop is to close ours, which closes this one: if it knew both, it would close them at
    the same moment, and this one's clean-up would be lost.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.asend(argument)
    finally:
        sys.set_asyncgen_hooks(*hooks)


class _InContext(Generic[_P, _R]):
    """A function bound to a context; see ``wrap_context``."""

    def __init__(self, function: Callable[_P, _R], context: Context) -> None:
        update_wrapper(self, function)
        self._function = function
        self._context = context

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return self._context.copy().run(self._function, *args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._function, self._context.run(snapshot))


class _GeneratorInContext(_InContext[_P, Any]):
    """A generator function bound to a context."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        context = self._context.copy()
        return _steps(context, context.run(self._function, *args, **kwargs))


def _steps(context: Context, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    step: Callable[[Any], Any] = generator.send
    argument: Any = None
    while True:
        try:
            item = context.run(step, argument)
        except StopIteration as end:
            return end.value
        try:
            step, argument = generator.send, (yield item)
        except GeneratorExit:
            context.run(generator.close)
            raise
        except BaseException as error:
            step, argument = generator.throw, error


class _AsyncGeneratorInContext(_InContext[_P, Any]):
    """An asynchronous generator function bound to a context."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        frame = self._context.run(contexts.in_force)
        return _async_steps(frame, self._function(*args, **kwargs))


async def _async_steps(
    frame: contexts.Frame, generator: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    step: Callable[[Any], Awaitable[Any]] = partial(first_step, generator)
    argument: Any = None
    while True:
        before = contexts.in_force()
        contexts.put_in_force(frame)
        try:
            item = await step(argument)
        except StopAsyncIteration:
            return
        finally:
            frame = contexts.in_force()
            contexts.put_in_force(before)
        try:
            step, argument = generator.asend, (yield item)
        except GeneratorExit:
            before = contexts.in_force()
            contexts.put_in_force(frame)
            try:
                await generator.aclose()
            finally:
                contexts.put_in_force(before)
            raise
        except BaseException as error:
            step, argument = generator.athrow, error


class _AsyncCallableInContext(_InContext[_P, Any]):
    """An object whose ``__call__`` is a coroutine function, bound to a context."""

    async def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        frame = self._context.run(contexts.in_force)
        return await _awaited(frame, self._function, args, kwargs)


async def _awaited(
    frame: contexts.Frame, function: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    before = contexts.in_force()
    contexts.put_in_force(frame)
    try:
        return await function(*args, **kwargs)
    finally:
        contexts.put_in_force(before)


def _kind_of(function: Callable[..., Any]) -> type[_InContext[Any, Any]]:
    if isasyncgenfunction(function):
        return _AsyncGeneratorInContext
    if isgeneratorfunction(function):
        return _GeneratorInContext
    called = getattr(type(function), "__call__", None)  # noqa: B004 - of its class
    return _AsyncCallableInContext if iscoroutinefunction(called) else _InContext


def _bound_coroutine(
    function: Callable[_P, Coroutine[Any, Any, _R]],
) -> Callable[_P, Coroutine[Any, Any, _R]]:
    frame = contexts.in_force()

    @wraps(function)
    async def in_context(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return cast("_R", await _awaited(frame, function, args, kwargs))

    return in_context


def _rebuild(function: Callable[_P, _R], fields: Mapping[str, Any]) -> Callable[_P, _R]:
    context = Context()
    context.run(contexts.put_in_force, contexts.Frame(MappingProxyType(dict(fields))))
    return context.run(wrap_context, function)


def snapshot() -> dict[str, Any]:
    """Return the fields in force as a dict that can be pickled."""
    return dict(contexts.current())


def run_within(
    fields: Mapping[str, Any], function: Callable[..., _R], args: Any, kwargs: Any
) -> _R:
    """Call ``function`` with another process's fields in force; what it leaves is put back."""
    before = contexts.in_force()
    contexts.put_in_force(contexts.Frame(MappingProxyType(dict(fields))))
    try:
        return function(*args, **kwargs)
    finally:
        contexts.put_in_force(before)


def context_environment() -> dict[str, str]:
    """Return the variable that starts a program within the context in force here.

        subprocess.run(command, env={**os.environ, **context_environment()})

    The program's records carry its fields wherever no scope of its own says otherwise. Metadata is
    masked first (``mask``), and left out, which is logged, where the variable would have more than
    64 kB: systems start no program with a much longer one.
    """
    fields = snapshot()
    for left_out in ("metadata", "price_context", None):
        try:
            if "metadata" in fields:
                fields["metadata"] = mask(fields["metadata"], keep_content=False)
            text = msgspec.json.encode(fields)
            if len(text) <= _MAX_VARIABLE:
                return {CONTEXT_VARIABLE: text.decode()}
            why = f"it would have {len(text)} bytes, more than {_MAX_VARIABLE}"
        except Exception as error:  # a text that is no Unicode
            why = type(error).__name__
        if left_out is not None and fields.pop(left_out, None):
            _log.warning("%s goes without %s: %s", CONTEXT_VARIABLE, left_out, why)
    return {}


def fields_of_process() -> dict[str, Any]:
    """Return the fields that this process was started with. What cannot be read is logged."""
    text = os.environ.get(CONTEXT_VARIABLE)
    if not text:
        return {}
    try:
        given = msgspec.json.decode(text, type=dict[str, Any])
        known = {name: value for name, value in given.items() if name in contexts.CONTEXT_FIELDS}
        fields = contexts.fields_of_no_tracker(
            CONTEXT_VARIABLE, known, lambda what: _log.warning("%s", what)
        )
    except Exception as error:
        _log.warning("%s cannot be read and is ignored: %s", CONTEXT_VARIABLE, error)
        return {}
    if known.keys() != given.keys():  # a newer version's
        _log.warning(
            "%s names fields unknown here, which are ignored: %s",
            CONTEXT_VARIABLE,
            ", ".join(sorted(given.keys() - known.keys())),
        )
    return fields
