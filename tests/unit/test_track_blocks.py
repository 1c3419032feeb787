"""tracker.track as a block: each is its own, whoever opens it and whoever ends it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
    Operation,
    tracking,
)
from receipt_label import context as contexts
from receipt_label.context import current
from tests.support.tracked import chat, only, record


def test_a_block_yields_its_operation(tracker: AIUsageTracker, client: UsageClient) -> None:
    """Replies are handed to it, its figures are read from it, metadata is put into it."""
    with tracker.track("label") as operation:
        assert isinstance(operation, Operation)
        operation.record_response(chat())
        operation.record(service="x", model="m", operation="o", cost_usd=Decimal("0.1"))
        assert (operation.calls, operation.cost_usd) == (2, Decimal("0.1035"))
        assert (operation.input_tokens, operation.output_tokens) == (1000, 100)
        operation.metadata["receipts"] = 3
        assert "calls=2" in repr(operation)
    metrics = {metric.service: metric for metric in client.query()}
    assert metrics["action"].metadata["receipts"] == 3
    assert metrics["openai"].metadata["operation_id"] == metrics["action"].request_id


def test_one_tracked_object_serves_many_blocks_at_once(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Within itself, in eight threads and in two hundred tasks: each block is its own."""
    shared = tracker.track("shared")

    async def task(n: int) -> None:
        async with tracker.context(job_id=f"t{n}"), shared as operation:
            await asyncio.sleep(0)
            record(tracker, request_id=f"t{n}-x")
            async with shared:
                await asyncio.sleep(0)
                record(tracker, request_id=f"t{n}-y")
            assert current()["metadata"]["operation_id"] == operation.operation_id
            assert operation.calls == 2

    async def tasks() -> None:
        await asyncio.gather(*(task(n) for n in range(200)))

    def work(n: int) -> None:
        for _ in range(25):
            with tracker.context(job_id=f"w{n}"), shared as operation:
                record(tracker)
                assert operation.calls == 1

    asyncio.run(tasks())
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics = list(client.query())
    by_id = {m.request_id: m for m in metrics}
    for metric in metrics:
        if metric.service == "openai":
            assert by_id[metric.metadata["operation_id"]].job_id == metric.job_id
        if metric.request_id.endswith(("-x", "-y")):
            assert metric.job_id == metric.request_id[:-2]
    assert len(metrics) == 200 * 4 + 8 * 25 * 2
    assert dict(current()) == {}


def test_two_blocks_of_one_tracked_object_end_in_any_order(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Two generators read in turns: the one that was begun first ends first, as itself."""
    shared = tracker.track("shared")

    def work(name: str, items: int) -> Iterator[None]:
        with shared as operation:
            operation.metadata["name"] = name
            record(tracker, request_id=name)
            for _ in range(items):
                yield

    first, second = work("first", 1), work("second", 2)
    next(first)
    next(second)
    assert list(first) == []
    (ended,) = [metric for metric in client.query() if metric.service == "action"]
    assert ended.metadata["name"] == "first"
    list(second)
    names = {m.request_id: m.metadata.get("name") for m in client.query() if m.service == "action"}
    within = [metric for metric in client.query() if metric.service == "openai"]
    assert {names[m.metadata["operation_id"]]: m.request_id for m in within} == {
        "first": "first",
        "second": "second",
    }


def test_blocks_that_a_stack_of_contexts_opens_are_told_by_their_tasks(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """An ExitStack begins and ends them in functions of its own, which are gone by then."""
    shared = tracker.track("shared")

    async def task(n: int) -> None:
        with ExitStack() as stack:
            operation = stack.enter_context(shared)
            operation.metadata["n"] = n
            await asyncio.sleep(0)
            record(tracker, request_id=f"call-{n}")
            if n % 2:
                await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task(n) for n in range(20)))

    asyncio.run(tasks())
    names = {m.request_id: m.metadata.get("n") for m in client.query() if m.service == "action"}
    within = [metric for metric in client.query() if metric.service == "openai"]
    assert len(within) == 20
    for metric in within:
        assert metric.request_id == f"call-{names[metric.metadata['operation_id']]}"


def test_a_dropped_generator_ends_its_block(tracker: AIUsageTracker, client: UsageClient) -> None:
    """At once, as before: that its frame is held does not keep it alive."""
    shared = tracker.track("shared")

    def work() -> Iterator[None]:
        with shared:
            yield

    generator = work()
    next(generator)
    del generator
    assert only(client).status == "partial"
    assert not shared._open
    assert not shared._blocks


@pytest.mark.parametrize("own", [True, False], ids=["a block", "a stack of contexts"])
def test_the_end_of_a_block_looks_at_no_other_that_is_open(
    tracker: AIUsageTracker, own: bool
) -> None:
    """As many steps among a thousand as among ten."""
    shared = tracker.track("shared")
    module = tracking.__file__
    steps = 0

    def work() -> Iterator[None]:
        with shared if own else ExitStack() as entered:
            if isinstance(entered, ExitStack):
                entered.enter_context(shared)
            yield

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != module:
            return None
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return count

    def to_end_the_oldest_of(blocks: int) -> int:
        nonlocal steps
        opened = [work() for _ in range(blocks)]
        for generator in opened:
            next(generator)
        steps, before = 0, sys.gettrace()
        sys.settrace(count)
        try:
            opened[0].close()
        finally:
            sys.settrace(before)
        taken = steps
        for generator in reversed(opened):
            generator.close()
        assert not shared._open
        return taken

    assert 0 < to_end_the_oldest_of(1000) <= to_end_the_oldest_of(10) + 50


def test_two_threads_that_end_blocks_of_others_end_two(
    tracker: AIUsageTracker, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in force nor begun there: both take the newest, one while the other looks."""
    shared = tracker.track("shared")
    stack = ExitStack()
    contextvars.copy_context().run(stack.enter_context, shared)
    contextvars.copy_context().run(stack.enter_context, shared)
    look = contexts.in_force
    meanwhile = [threading.Thread(target=shared.__exit__, args=(None, None, None))]

    def looked() -> contexts.Frame:
        while meanwhile:
            thread = meanwhile.pop()
            thread.start()
            thread.join()
        return look()

    monkeypatch.setattr(contexts, "in_force", looked)
    shared.__exit__(None, None, None)
    monkeypatch.undo()
    assert [metric.status for metric in client.query()] == ["complete", "complete"]
    assert not shared._open


@pytest.mark.parametrize("asynchronous", [False, True], ids=["with", "async with"])
def test_blocks_that_other_tasks_end_keep_their_own_data(
    tracker: AIUsageTracker, client: UsageClient, asynchronous: bool
) -> None:
    """Two streams of one service, each begun by one task and read to its end by another."""
    shared = tracker.track("shared")

    async def stream(name: str) -> AsyncIterator[None]:
        if asynchronous:
            async with shared as operation:
                operation.metadata["name"] = name
                yield
        else:
            with shared as operation:
                operation.metadata["name"] = name
                yield

    async def begin(one: Any) -> None:
        await anext(one)

    async def finish(one: Any, failure: bool) -> None:
        with suppress(StopAsyncIteration, ValueError):
            await (one.athrow(ValueError()) if failure else anext(one))

    async def run() -> None:
        first, second = stream("first"), stream("second")
        await asyncio.create_task(begin(first))
        await asyncio.create_task(begin(second))
        await asyncio.create_task(finish(first, True))
        await asyncio.create_task(finish(second, False))

    asyncio.run(run())
    assert {m.metadata["name"]: m.status for m in client.query()} == {
        "first": "aborted",
        "second": "complete",
    }


def test_a_block_that_another_task_ends_is_recorded_and_disturbs_nobody(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """An asynchronous generator that is finished elsewhere: no token, no "Failed to detach"."""

    async def stream() -> AsyncIterator[int]:
        async with tracker.track("stream", job_id="s"):
            yield 1
            yield 2

    async def handed_over() -> None:
        numbers = stream()

        async def first() -> None:
            assert await anext(numbers) == 1

        async def rest() -> None:
            async with tracker.context(user_id="reader"):
                assert [n async for n in numbers] == [2]
                assert dict(current()) == {"user_id": "reader"}

        await asyncio.create_task(first())
        await asyncio.create_task(rest())

    asyncio.run(handed_over())
    metric = only(client)
    assert (metric.model, metric.job_id, metric.user_id) == ("stream", "s", None)
