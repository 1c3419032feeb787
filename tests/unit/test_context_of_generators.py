"""wrap_context and track take generators and asynchronous callables as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, ai_usage_context, wrap_context
from receipt_label.carry import _rebuild
from receipt_label.context import current


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


def job() -> str | None:
    return current().get("job_id")


def spoken() -> Iterator[Any]:
    """Yield the job, what the reader sends and what it throws."""
    try:
        sent = yield job()
        try:
            yield (job(), sent)
        except KeyError:
            yield (job(), "thrown")
        return "end"
    finally:
        seen.append(job())


async def spoken_async() -> AsyncIterator[Any]:
    """The same."""
    try:
        await asyncio.sleep(0)
        sent = yield job()
        try:
            yield (job(), sent)
        except KeyError:
            yield (job(), "thrown")
    finally:
        await asyncio.sleep(0)
        seen.append(job())


class Asked:
    async def __call__(self, value: int) -> tuple[int, str | None]:
        await asyncio.sleep(0)
        return value, job()


seen: list[str | None] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def bound(tracker: AIUsageTracker, function: Any, *, pickled: bool) -> Any:
    """Bind to job U, as such or as another process gets it."""
    if pickled:
        return _rebuild(function, {"job_id": "U"})
    with tracker.context(job_id="U"):
        return wrap_context(function)


@pytest.mark.parametrize("pickled", [False, True])
def test_each_step_of_a_generator_runs_in_the_context(
    tracker: AIUsageTracker, pickled: bool
) -> None:
    """Its reader's own context is in force between two steps; what it says passes both ways."""
    function = bound(tracker, spoken, pickled=pickled)
    with tracker.context(job_id="reader"):
        generator = function()
        assert (next(generator), job()) == ("U", "reader")
        assert generator.send(5) == ("U", 5)
        assert generator.throw(KeyError()) == ("U", "thrown")
        with pytest.raises(StopIteration) as end:
            next(generator)
        assert end.value.value == "end"
        stopped = function()
        next(stopped)
        stopped.close()
        assert job() == "reader"
    assert seen == ["U", "U"]


@pytest.mark.parametrize("pickled", [False, True])
def test_each_step_of_an_asynchronous_generator_runs_in_the_context(
    tracker: AIUsageTracker, pickled: bool
) -> None:
    """As of any generator; errors of its own come out."""
    function = bound(tracker, spoken_async, pickled=pickled)

    async def main() -> None:
        with tracker.context(job_id="reader"):
            generator = function()
            assert (await anext(generator), job()) == ("U", "reader")
            assert await generator.asend(5) == ("U", 5)
            assert await generator.athrow(KeyError()) == ("U", "thrown")
            with pytest.raises(StopAsyncIteration):
                await anext(generator)
            stopped = function()
            await anext(stopped)
            await stopped.aclose()
            broken = function()
            await anext(broken)
            with pytest.raises(LookupError):
                await broken.athrow(LookupError())
            assert job() == "reader"

    asyncio.run(main())
    assert seen == ["U", "U", "U"]


@pytest.mark.parametrize("pickled", [False, True])
def test_an_object_that_is_awaited_when_called_runs_in_the_context(
    tracker: AIUsageTracker, pickled: bool
) -> None:
    """Not only the call that makes its coroutine."""
    function = bound(tracker, Asked(), pickled=pickled)

    async def main() -> None:
        with tracker.context(job_id="caller"):
            assert await function(7) == (7, "U")
            assert job() == "caller"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["bare", "tracked", "wrapped"])
@pytest.mark.parametrize("closed_by", ["loop", "break"])
def test_a_loop_that_ends_lets_an_asynchronous_generator_clean_up(
    tracker: AIUsageTracker, kind: str, closed_by: str
) -> None:
    """The loop closes ours, which closes the one within: the clean-up is awaited to its end."""
    decorate: dict[str, Callable[[Any], Any]] = {
        "bare": lambda function: function, "tracked": tracker.track, "wrapped": wrap_context,
    }  # fmt: skip
    done: list[str] = []
    faults: list[dict[str, Any]] = []
    kept: list[Any] = []

    @decorate[kind]
    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(5):
                yield number
                await asyncio.sleep(0)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            done.append("cleaned up")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        if closed_by == "break":
            async for _ in numbers():
                break
            for _ in range(9):  # the loop closes what is garbage in a task of its own
                await asyncio.sleep(0)
        else:
            kept.append(numbers())
            assert await anext(kept[0]) == 0

    asyncio.run(main())
    assert done == ["cleaned up"]
    assert faults == []


def test_a_scope_at_a_yield_is_its_reader_s_unless_the_generator_has_a_context_of_its_own(
    tracker: AIUsageTracker,
) -> None:
    """What docs/contexts.md warns of, and its remedies."""

    def rows() -> Iterator[str]:
        with ai_usage_context("read", job_id="rows"):
            yield "a"
            yield "b"

    def seen(generator: Iterator[str]) -> list[str | None]:
        return [current().get("job_id") for _ in generator]

    assert seen(rows()) == ["rows", "rows"]
    assert seen(wrap_context(rows)()) == [None, None]
    assert seen(tracker.track(rows)()) == [None, None]
    with tracker.context(job_id="outer"):
        assert seen(wrap_context(rows)()) == ["outer", "outer"]
        assert current()["job_id"] == "outer"
