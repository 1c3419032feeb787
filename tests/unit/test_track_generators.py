"""A tracked generator is one operation, and speaks with its reader as before."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
)
from receipt_label.context import current
from tests.support.tracked import only, record


def test_a_generator_is_one_operation_and_nothing_of_it_holds_between_its_steps(
    tracker: AIUsageTracker, client: UsageClient, watch: Callable[[float], None]
) -> None:
    """Its latency is the time within it; its reader's code runs in the reader's context."""

    @tracker.track("batches")
    def batches() -> Iterator[str]:
        for n in range(2):
            with tracker.context(batch_id=f"b{n}"):
                watch(1)
                yield current()["batch_id"]
                record(tracker, request_id=f"b{n}")

    with tracker.context(user_id="u"):
        for batch in batches():
            watch(100)
            assert dict(current()) == {"user_id": "u"}
            assert batch in ("b0", "b1")
    metrics = {metric.request_id: metric for metric in client.query()}
    assert (metrics["b0"].batch_id, metrics["b1"].batch_id) == ("b0", "b1")
    assert metrics["b0"].metadata["operation_type"] == "batches"
    (whole,) = (metric for metric in metrics.values() if metric.service == "action")
    assert (whole.latency_ms, whole.status, whole.user_id) == (2000.0, "complete", "u")
    assert whole.metadata["within"]["calls"] == 2


def test_a_generator_speaks_with_its_reader_as_before(tracker: AIUsageTracker) -> None:
    """``send``, ``throw``, ``close`` and the value of ``return`` all pass."""
    heard: list[Any] = []

    @tracker.track
    def talk() -> Iterator[Any]:
        heard.append((yield "ready"))
        try:
            yield "waiting"
        except LookupError as error:
            heard.append(error)
        try:
            yield "caught"
        finally:
            heard.append("closed")
        return "never"

    @tracker.track
    def ends() -> Iterator[Any]:
        yield 1
        return "the end"

    talker: Any = talk()
    failure = LookupError("x")
    assert (next(talker), talker.send("hello"), talker.throw(failure)) == (
        "ready", "waiting", "caught",
    )  # fmt: skip
    talker.close()
    assert heard == ["hello", failure, "closed"]

    def delegate() -> Iterator[Any]:
        heard.append((yield from ends()))

    assert list(delegate()) == [1]
    assert heard[-1] == "the end"


@pytest.mark.parametrize("ending", ["closed", "collected", "failed", "exhausted"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_end_of_a_generator_is_recorded_once(
    tracker: AIUsageTracker, client: UsageClient, ending: str, kind: str
) -> None:
    """complete, partial where its reader stopped, aborted with the type of its error."""

    def numbers() -> Iterator[int]:
        yield 1
        if ending == "failed":
            raise ConnectionError("x")
        yield 2

    async def numbers_async() -> AsyncIterator[int]:
        for number in numbers():
            yield number

    def read() -> None:
        reader = tracker.track("numbers")(numbers)()
        assert next(reader) == 1
        if ending == "closed":
            reader.close()  # type: ignore[attr-defined]
        elif ending != "collected":
            assert list(reader) == [2]

    async def read_async() -> None:
        reader = tracker.track("numbers")(numbers_async)()
        assert await anext(reader) == 1
        if ending == "closed":
            await reader.aclose()  # type: ignore[attr-defined]
        elif ending == "collected":
            del reader
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        else:
            assert [number async for number in reader] == [2]

    def run() -> None:
        asyncio.run(read_async()) if kind == "async" else read()

    if ending == "failed":
        with pytest.raises(ConnectionError):
            run()
    else:
        run()
    gc.collect()
    metric = only(client)
    expected = {"failed": ("aborted", "ConnectionError"), "exhausted": ("complete", None)}
    assert (metric.status, metric.error) == expected.get(ending, ("partial", None))
    assert dict(current()) == {}


def test_an_asynchronous_generator_speaks_with_its_reader_as_before(
    tracker: AIUsageTracker,
) -> None:
    """``asend`` and ``athrow`` pass, and its reader's context is the reader's."""
    heard: list[Any] = []

    @tracker.track("talk", job_id="j")
    async def talk() -> Any:
        heard.append((yield current()["job_id"]))
        try:
            yield 2
        except LookupError as error:
            heard.append(type(error))
            yield 3

    async def main() -> None:
        talker = talk()
        assert await anext(talker) == "j"
        assert dict(current()) == {}
        assert await talker.asend("hello") == 2
        assert await talker.athrow(LookupError()) == 3
        with pytest.raises(StopAsyncIteration):
            await anext(talker)

    asyncio.run(main())
    assert heard == ["hello", LookupError]


def test_other_context_variables_pass_through_a_generator_untouched(
    tracker: AIUsageTracker,
) -> None:
    """What the reader sets between two steps is seen within, as without a decorator."""
    variable = contextvars.ContextVar("variable", default=0)

    @tracker.track
    def read() -> Iterator[int]:
        yield variable.get()
        yield variable.get()

    reader = read()
    assert next(reader) == 0
    variable.set(5)
    assert next(reader) == 5
