"""What ``track`` and ``tool`` put around a function, a generator or a block.

The function that comes out is of the kind that went in: what ``inspect`` and its callers see is
its name, its signature, and whether it is a coroutine function or a generator.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from decimal import Decimal
from functools import partial, wraps
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from receipt_dynamo import AIUsageMetric
from receipt_label import context as contexts
from receipt_label.carry import first_step
from receipt_label.operations import Operation, Plan, Run, counting

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["Tracked"]

F = TypeVar("F", bound=Callable[..., Any])

_ID_ARGUMENTS = ("user_id", "job_id", "batch_id", "github_pr", "conversation_id", "session_id")


class Tracked:
    """A decorator, and a context manager for ``with`` and ``async with``. Thread-safe.

    May decorate any number of functions and be entered any number of times. What it records, and
    what it takes, is said where it is made: ``AIUsageTracker.track`` and ``tool``.
    """

    def __init__(
        self,
        tracker: Callable[[], AIUsageTracker | None],
        plan: Plan,
        *,
        ids_from_arguments: bool = False,
    ) -> None:
        self._tracker = tracker
        self._plan = plan
        self._ids_from_arguments = ids_from_arguments
        self._open: dict[int, tuple[FrameType, Run]] = {}  # by id(run); Guarded by counting()
        self._blocks: dict[FrameType, dict[int, Run]] = {}  # Guarded by counting()

    def __call__(self, function: F) -> F:
        """Return ``function``, tracked: each call, or each run of a generator, is one operation.

        Raises TypeError for what is no function: a class, an instance.
        """
        if isinstance(function, (classmethod, staticmethod)):
            return cast("F", type(function)(self(function.__func__)))
        if not callable(function) or inspect.isclass(function):
            raise TypeError(f"{function!r} is no function: decorate a function or a method")
        own_name = getattr(function, "__qualname__", type(function).__qualname__)
        name: str = self._plan.name or own_name
        ids = _id_arguments(function) if self._ids_from_arguments else None

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | None:
            return self._begin(name, _ids_of(ids, args, kwargs) if ids is not None else {})

        return cast("F", _wrapper_of(function)(function, begin))

    def _begin(self, name: str, ids: Mapping[str, Any]) -> Run | None:
        """Return a run that has not begun, or None where it cannot be tracked. Raises nothing."""
        tracker = self._tracker()
        if tracker is None:
            return None
        try:
            if ids:
                ids = tracker.checked(name, ids)
            return Run(self._plan, tracker, name, ids)
        except Exception as fault:
            if tracker.strict:
                raise
            tracker.faults.log(f"an operation could not be tracked: {fault!r}")
            return None

    def __enter__(self) -> Operation:
        return self._enter(sys._getframe(1))  # noqa: SLF001 - see _leave

    def _enter(self, block: FrameType) -> Operation:
        name = self._plan.name
        if name is None:
            raise TypeError("a block has no name of its own: with tracker.track('its-name')")
        run = self._begin(name, {})
        if run is None:
            return Operation(self._tracker(), name)
        run.__enter__()
        with counting():
            self._open[id(run)] = block, run
            self._blocks.setdefault(block, {})[id(run)] = run
        return run.operation

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit(sys._getframe(1), kind, error, trace)  # noqa: SLF001 - see _leave

    def _exit(
        self,
        block: FrameType,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        run = self._leave(block)
        if run is None:
            return
        run.__exit__(kind, error, trace)
        if error is None:
            run.succeed()
        elif isinstance(error, GeneratorExit):
            run.stop()
        else:
            run.fail(error)

    async def __aenter__(self) -> Operation:
        return self._enter(sys._getframe(1))  # noqa: SLF001 - see _leave

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit(sys._getframe(1), kind, error, trace)  # noqa: SLF001 - see _leave

    def _leave(self, block: FrameType) -> Run | None:
        """Return the run that ends here: the newest that this very ``block`` began, told by the
        frame of its function (held, or its address could be another's).

        Where another function ends it (an ExitStack), the newest of ours in force, else (another
        task ends what one began) the newest of all.
        """
        frame: contexts.Frame | None = contexts.in_force()
        with counting():
            ours = self._blocks.get(block)
            if ours:
                return self._taken(_newest(ours))
            while frame is not None:
                if id(frame.scope) in self._open:
                    return self._taken(id(frame.scope))
                frame = frame.outer
            if not self._open:
                return None
            return self._taken(_newest(self._open))

    def _taken(self, key: int) -> Run:
        """Return an open run, which is no longer."""
        block, run = self._open.pop(key)
        ours = self._blocks[block]
        del ours[key]
        if not ours:
            del self._blocks[block]
        return run


def _newest(entries: dict[int, Any]) -> int:
    """Return the last key. What ``reversed`` would pass again and again, ``popitem`` passes once:
    the places of those that were taken before it."""
    key, entry = entries.popitem()
    entries[key] = entry
    return key


def track(
    tracker: AIUsageTracker,
    operation: str | Callable[..., Any] | None,
    *,
    service: str | None,
    model: str | None,
    reply: Callable[[Any], object] | None,
    error_messages: bool,
    fields: Mapping[str, Any],
) -> Any:
    """Return what ``AIUsageTracker.track`` returns."""
    plan = Plan(
        name=operation if isinstance(operation, str) else None,
        service=service,
        model=model,
        reply=reply,
        error_messages=error_messages,
        fields=fields,
    )
    tracked = Tracked(lambda: tracker, plan)
    return tracked if operation is None or isinstance(operation, str) else tracked(operation)


def tool(
    tracker: AIUsageTracker,
    name: str | None,
    *,
    cost: Decimal | int | str | None,
    service: str,
    bill_failures: bool,
    error_messages: bool,
    fields: Mapping[str, Any],
) -> Tracked:
    """Return what ``AIUsageTracker.tool`` returns. Raises ValueError for a bad cost."""
    exact: dict[str, Any] = {} if cost is None else {"cost_usd": cost}
    probe = AIUsageMetric(service, "tool", "execute_tool", contexts.EPOCH, "-", **exact)
    plan = Plan(
        name=name,
        service=probe.service,
        operation="execute_tool",
        is_tool=True,
        cost=probe.cost_usd,
        bill_failures=bill_failures,
        error_messages=error_messages,
        fields=fields,
    )
    return Tracked(lambda: tracker, plan)


_Begin = Callable[[tuple[Any, ...], dict[str, Any]], Run | None]


def _wrapper_of(function: Callable[..., Any]) -> Callable[[Callable[..., Any], _Begin], Any]:
    if inspect.isasyncgenfunction(function):
        return _async_generator
    if inspect.isgeneratorfunction(function):
        return _generator
    called = getattr(type(function), "__call__", None)  # noqa: B004 - of its class
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return _coroutine
    return _function


def _function(function: Callable[..., Any], begin: _Begin) -> Callable[..., Any]:
    @wraps(function)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        run = begin(args, kwargs)
        if run is None:
            return function(*args, **kwargs)
        try:
            with run:
                result = function(*args, **kwargs)
        except BaseException as error:
            run.fail(error)
            raise
        run.succeed(result)
        return result

    return tracked


def _coroutine(function: Callable[..., Any], begin: _Begin) -> Callable[..., Any]:
    @wraps(function)
    async def tracked(*args: Any, **kwargs: Any) -> Any:
        run = begin(args, kwargs)
        if run is None:
            return await function(*args, **kwargs)
        try:
            with run:
                result = await function(*args, **kwargs)
        except BaseException as error:
            run.fail(error)
            raise
        run.succeed(result)
        return result

    return tracked


def _generator(function: Callable[..., Any], begin: _Begin) -> Callable[..., Any]:
    @wraps(function)
    def tracked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = begin(args, kwargs)
        generator = function(*args, **kwargs)
        if run is None:
            return (yield from generator)
        step, argument = generator.send, None
        while True:
            try:
                with run:
                    item = step(argument)
            except StopIteration as end:
                run.succeed(end.value)
                return end.value
            except BaseException as error:
                run.fail(error)
                raise
            try:
                step, argument = generator.send, (yield item)
            except GeneratorExit:
                with _closing(run), run:
                    generator.close()
                raise
            except BaseException as error:
                step, argument = generator.throw, error

    return tracked


def _async_generator(function: Callable[..., Any], begin: _Begin) -> Callable[..., Any]:
    @wraps(function)
    async def tracked(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        run = begin(args, kwargs)
        generator = function(*args, **kwargs)
        step, argument = partial(first_step, generator), None
        while True:
            try:
                if run is None:
                    item = await step(argument)
                else:
                    with run:
                        item = await step(argument)
            except StopAsyncIteration:
                if run is not None:
                    run.succeed()
                return
            except BaseException as error:
                if run is not None:
                    run.fail(error)
                raise
            try:
                step, argument = generator.asend, (yield item)
            except GeneratorExit:
                if run is None:
                    await generator.aclose()
                else:
                    with _closing(run), run:
                        await generator.aclose()
                raise
            except BaseException as error:
                step, argument = generator.athrow, error

    return tracked


class _closing:  # noqa: N801 - a context manager, used as contextlib's are
    """The end of a generator whose reader stopped: partial, or what its own clean-up raises."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._run.stop()
        else:
            self._run.fail(error)


def _id_arguments(function: Callable[..., Any]) -> dict[str, int | None]:
    """Return which ids ``function`` takes as arguments, each with its position if it has one."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return {}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found: dict[str, int | None] = {
        parameter.name: place if parameter.kind in positional else None
        for place, parameter in enumerate(parameters)
        if parameter.name in _ID_ARGUMENTS
    }
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        found.update((name, None) for name in _ID_ARGUMENTS if name not in found)
    return found


def _ids_of(
    ids: Mapping[str, int | None], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, place in ids.items():
        if name in kwargs:
            given[name] = kwargs[name]
        elif place is not None and place < len(args):
            given[name] = args[place]
    return given
