"""tracker.track: a function stays what it was, and each run of it leaves one true record."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import (
    AIUsageTracker,
    ContextThreadPoolExecutor,
    Operation,
    operations,
    tracking,
    wrap_context,
)
from receipt_label import context as contexts
from receipt_label.context import current
from tests.support import NOON, in_fork


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Turn by hand the time that operations take, in seconds."""
    time = [0.0]
    monkeypatch.setattr(operations, "perf_counter", lambda: time[0])

    def move(seconds: float) -> None:
        time[0] += seconds

    return move


def chat(response_id: str = "chatcmpl-0123456789abcdefghij", **changes: Any) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": 1_780_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        **changes,
    }


def only(client: UsageClient) -> AIUsageMetric:
    (metric,) = client.query()
    return metric


def record(tracker: AIUsageTracker, **fields: Any) -> None:
    call = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    tracker.record(**{**call, "input_tokens": 10, "output_tokens": 1, **fields})


# What a function is


def plain(a: int, /, b: str = "x", *, c: float) -> str:
    """Say what it does."""
    return f"{a}{b}{c}"


async def coroutine(a: int) -> int:
    return a


def generator(a: int) -> Iterator[int]:
    yield a


async def asynchronous(a: int) -> AsyncIterator[int]:
    yield a


@pytest.mark.parametrize("function", [plain, coroutine, generator, asynchronous])
@pytest.mark.parametrize("form", ["bare", "called", "named", "tool"])
def test_a_function_stays_what_it_was(
    tracker: AIUsageTracker, function: Callable[..., Any], form: str
) -> None:
    """Its name, its signature, its docstring and its kind, as ``inspect`` sees them."""
    decorate: Callable[..., Any] = {
        "bare": tracker.track,
        "called": tracker.track(),
        "named": tracker.track("name", job_id="j"),
        "tool": tracker.tool(cost=1),
    }[form]
    tracked = decorate(function)
    assert inspect.signature(tracked) == inspect.signature(function)
    assert (tracked.__name__, tracked.__doc__, tracked.__module__, tracked.__qualname__) == (
        function.__name__, function.__doc__, function.__module__, function.__qualname__,
    )  # fmt: skip
    for kind in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.isfunction,
    ):
        assert kind(tracked) == kind(function)


def test_methods_of_every_kind_keep_what_they_are_bound_to(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Methods, classmethods and staticmethods, with the decorator above or below."""

    class Labeler:
        def __init__(self, name: str) -> None:
            self.name = name

        @tracker.track
        def method(self) -> str:
            return self.name

        @tracker.track
        async def asynchronous(self) -> str:
            return self.name

        @tracker.track()
        @classmethod
        def above(cls) -> type:
            return cls

        @classmethod
        @tracker.track()
        def below(cls) -> type:
            return cls

        @tracker.track("static")
        @staticmethod
        def static(a: int) -> int:
            return a

        @staticmethod
        @tracker.track("static")
        def inner_static(a: int) -> int:
            return a

        @tracker.tool("called", cost=1)
        def __call__(self) -> str:
            return self.name

    class Child(Labeler):
        pass

    one = Child("one")
    assert (one.method(), one(), asyncio.run(one.asynchronous())) == ("one", "one", "one")
    assert (one.above(), Child.above(), one.below(), Child.below()) == (Child,) * 4
    assert (one.static(1), Child.static(2), one.inner_static(3)) == (1, 2, 3)
    assert len(list(client.query())) == 10


@pytest.mark.parametrize("nothing", [int, 5, object()])
def test_what_is_no_function_is_refused_where_it_is_decorated(
    tracker: AIUsageTracker, nothing: Any
) -> None:
    """A wrapped class would be no class any more; a mistake shows at once."""
    with pytest.raises(TypeError, match="is no function"):
        tracker.track(nothing)
    with pytest.raises(TypeError, match="no name of its own"):
        tracker.track().__enter__()
    with pytest.raises(TypeError, match="no field 'jobid'"):
        tracker.track("x", jobid="j")


def test_arguments_results_and_errors_pass_as_they_are(tracker: AIUsageTracker) -> None:
    """The very objects, whatever the function takes, returns or raises."""
    thing, failure = object(), KeyError("the pipeline's own")

    @tracker.track
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    @tracker.track
    def fails() -> None:
        raise failure

    (given,), named = echo(thing, operation=thing, tracker=thing)
    assert given is thing
    assert named == {"operation": thing, "tracker": thing}
    with pytest.raises(KeyError) as caught:
        fails()
    assert caught.value is failure
    assert dict(current()) == {}


# What is recorded


def test_a_run_leaves_one_record_that_stands_for_no_call(
    client: UsageClient, watch: Callable[[float], None]
) -> None:
    """Service action, the operation's name, its latency and time of beginning; it costs nothing."""
    tracker = AIUsageTracker(client, strict=True, now=lambda: NOON)

    @tracker.track("label", job_id="j", metadata={"a": 1})
    def label() -> None:
        watch(0.25)

    label()
    metric = only(client)
    assert (metric.service, metric.model, metric.operation) == ("action", "label", "label")
    assert (metric.latency_ms, metric.status, metric.error) == (250.0, "complete", None)
    assert (metric.timestamp, metric.api_calls, metric.job_id) == (NOON, 0, "j")
    assert (metric.cost_usd, metric.price_source) == (Decimal(0), "not_billable")
    assert (metric.total_tokens, metric.metadata) == (None, {"a": 1})


def test_an_error_is_recorded_by_its_type_and_its_message_only_on_demand(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """A message may hold what a customer wrote."""

    class RateLimitError(Exception):
        pass

    def fails() -> None:
        raise RateLimitError("secret")

    for tracked in (tracker.track(fails), tracker.track(error_messages=True)(fails)):
        with pytest.raises(RateLimitError):
            tracked()
    first, second = client.query()
    assert first.error.rpartition(".")[2] == "RateLimitError"
    assert second.error == f"{first.error}: secret"
    assert {first.status, second.status} == {"aborted"}


def test_calls_within_carry_the_operation_and_are_counted_once(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Usage stands on the calls alone; the operation's record has it in words only (trouble 30)."""

    @tracker.track("inner", user_id="u")
    def inner() -> None:
        record(tracker, request_id="deep")

    with tracker.track("outer", job_id="j") as operation:
        record(tracker, request_id="call")
        record(tracker, request_id="failed", error="timeout", input_tokens=None, output_tokens=None)
        inner()
    metrics = {metric.request_id: metric for metric in client.query()}
    call, deep = metrics["call"], metrics["deep"]
    assert call.metadata == {"operation_type": "outer", "operation_id": operation.operation_id}
    assert deep.metadata["operation_type"] == "inner"
    assert deep.metadata["parent_operation"] == "outer"
    assert (call.job_id, deep.job_id, call.user_id, deep.user_id) == ("j", "j", None, "u")
    outer = metrics[operation.operation_id]
    within = metrics[deep.metadata["operation_id"]]
    assert outer.metadata["within"] == {
        "calls": 3, "input_tokens": 20, "output_tokens": 2, "cost_usd": "0.00007",
        "failed_calls": 1, "unpriced_calls": 1,
    }  # fmt: skip
    assert within.metadata["operation_type"] == "outer"
    assert within.metadata["within"]["calls"] == 1
    total = client.summarize()[0]
    assert (total.calls, total.cost_usd) == (3, call.cost_usd * 2)
    assert total.input_tokens == 20


def test_attempts_of_one_operation_are_told_from_operations(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """A retry within shares the operation's id with the attempt before it (trouble 35)."""

    @tracker.track
    def with_retry() -> None:
        record(tracker, error="timeout")
        record(tracker)

    with_retry()
    with_retry()
    calls = [metric for metric in client.query() if metric.service == "openai"]
    ids = [metric.metadata["operation_id"] for metric in calls]
    assert [ids.count(one) for one in sorted(set(ids))] == [2, 2]


@pytest.mark.parametrize("kind", ["dict", "sdk", "extracted", "coroutine"])
def test_a_returned_reply_is_the_record_of_the_run(
    tracker: AIUsageTracker, client: UsageClient, watch: Callable[[float], None], kind: str
) -> None:
    """Tokens, cost and latency in one record, which carries the operation."""
    reply: Any = ChatCompletion.model_validate(chat()) if kind == "sdk" else chat()
    result = {"label": "food", "raw": reply} if kind == "extracted" else reply
    options: dict[str, Any] = {}
    if kind == "extracted":
        options = {"reply": lambda result: result["raw"]}

    def label() -> Any:
        watch(2)
        return result

    async def label_async() -> Any:
        watch(2)
        return result

    decorate = tracker.track("label", job_id="j", **options)
    got = asyncio.run(decorate(label_async)()) if kind == "coroutine" else decorate(label)()
    assert got is result
    metric = only(client)
    assert (metric.service, metric.operation, metric.latency_ms) == ("openai", "chat", 2000.0)
    assert (metric.input_tokens, metric.output_tokens, metric.job_id) == (1000, 100, "j")
    assert metric.cost_usd == Decimal("0.0035")
    assert metric.metadata["operation_type"] == "label"


@pytest.mark.parametrize("response_id", ["chatcmpl-0123456789abcdefghij", "short", None])
def test_a_returned_reply_that_was_recorded_within_is_not_recorded_again(
    tracker: AIUsageTracker, client: UsageClient, response_id: str | None
) -> None:
    """By a wrapped client or by hand, in the same function or in one it calls (trouble 31)."""
    reply = chat(response_id)  # type: ignore[arg-type]

    @tracker.track
    def inner() -> Any:
        tracker.record_response(reply)
        return reply

    @tracker.track
    def outer() -> Any:
        return inner()

    assert outer() is reply
    metrics = list(client.query())
    assert sorted(metric.service for metric in metrics) == ["action", "action", "openai"]
    assert client.summarize()[0].calls == 1


def test_a_returned_reply_beside_other_calls_is_one_more_call(
    tracker: AIUsageTracker, client: UsageClient, watch: Callable[[float], None]
) -> None:
    """Its latency is not that of all of them; the run has a record of its own."""

    @tracker.track("two")
    def two() -> Any:
        tracker.record_response(chat("chatcmpl-zyxwvutsrqponmlkjihg"))
        watch(3)
        return chat()

    two()
    metrics = {metric.response_id: metric for metric in client.query()}
    assert len(metrics) == 3
    run, returned = metrics[None], metrics["chatcmpl-0123456789abcdefghij"]
    assert (run.latency_ms, returned.latency_ms) == (3000.0, None)
    assert run.metadata["within"]["calls"] == 2
    assert returned.metadata["operation_id"] == run.request_id


@pytest.mark.parametrize(
    "result",
    [None, "text", '{"usage": 1}', {"usage": 5}, {"usage": {"disk": 1}}, [chat()], 7, object()],
)
def test_a_result_of_the_pipelines_own_is_left_alone(
    tracker: AIUsageTracker, client: UsageClient, result: Any
) -> None:
    """Whatever a function returns that is no vendor's reply is an action's result."""
    assert tracker.track("x")(lambda: result)() is result
    assert only(client).service == "action"


def test_a_reply_that_cannot_be_taken_out_costs_no_more_than_a_log_line(
    client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The pipeline gets its result, and the fault is said once."""
    tracker = AIUsageTracker(client)
    tracked = tracker.track("x", reply=lambda result: result["missing"])(lambda given: given)
    for _ in range(3):
        assert tracked({}) == {}
    assert len(caplog.records) == 1
    assert "KeyError" in caplog.text
    assert [metric.service for metric in client.query()] == ["action"] * 3


def test_a_run_with_a_service_is_a_call_of_its_own(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Priced by the price book, and unpriced where it failed."""
    with tracker.track("nearby", service="google_places", model="places_nearby"):
        pass
    with pytest.raises(ZeroDivisionError), tracker.track("nearby", service="google_places"):
        _ = 1 / 0
    good, bad = client.query()
    assert (good.cost_usd, good.price_source) == (Decimal("0.032"), "per_request")
    assert (good.model, good.api_calls) == ("places_nearby", 1)
    assert (bad.cost_usd, bad.unpriced_reason) == (None, "failed_call")


# Blocks


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


def test_an_operation_records_for_itself_from_a_thread_without_context(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """The thread's own context is as it was afterwards."""
    seen = []

    def work(operation: Operation) -> None:
        operation.record_response(chat())
        seen.append(dict(current()))

    with tracker.track("label", job_id="j") as operation:
        thread = threading.Thread(target=work, args=(operation,))
        thread.start()
        thread.join()
        assert operation.calls == 1
    assert seen == [{}]
    assert next(m for m in client.query() if m.service == "openai").job_id == "j"


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


# Generators


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


def test_a_cancelled_task_is_recorded_as_aborted(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """And the cancellation goes on."""

    @tracker.track("waits")
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (only(client).status, only(client).error) == ("aborted", "CancelledError")


def test_work_that_a_pool_does_within_counts_for_the_operation(
    tracker: AIUsageTracker,
) -> None:
    """Eight threads add to one operation's figures, exactly."""
    with tracker.track("label") as operation, ContextThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(record, tracker, cost_usd=Decimal("0.0000000001"))
        pool.shutdown()
        assert (operation.calls, operation.input_tokens) == (400, 4000)
        assert operation.cost_usd == Decimal("0.00000004")


def test_a_signal_handler_may_record_while_its_thread_adds_up(tracker: AIUsageTracker) -> None:
    """The lock of the figures is reentrant: a handler that waited would wait for ever."""
    with tracker.track("label") as operation:
        previous = signal.signal(signal.SIGUSR1, lambda *_: record(tracker))
        try:
            with operations.counting():
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert operation.calls == 1


def test_a_block_that_a_child_of_a_fork_leaves_is_its_parents_to_record(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """An exception in the child does not make a failure of the parent's run."""
    tracked = tracker.track("whole")
    with tracked as operation:

        def child() -> None:
            operation.metadata["child"] = True
            tracked.__exit__(KeyError, KeyError(), None)

        assert in_fork(child) == 0
        assert list(client.query()) == []
        operation.metadata["parent"] = True
    metric = only(client)
    assert (metric.status, metric.error) == ("complete", None)
    assert metric.metadata == {"parent": True}


def test_a_child_of_a_fork_records_within_its_parents_operation(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Also where another thread of the parent's held the lock; it carries the operation."""
    codes: list[int] = []
    with tracker.track("label", job_id="j") as operation:
        child = wrap_context(lambda: record(tracker, request_id="child"))
        with operations.counting():
            thread = threading.Thread(target=lambda: codes.append(in_fork(child)))
            thread.start()
            thread.join()
        assert (codes, operation.calls) == ([0], 0)
    metrics = {metric.request_id: metric for metric in client.query()}
    assert metrics["child"].job_id == "j"
    assert metrics["child"].metadata["operation_id"] == operation.operation_id


# Tools


def test_a_tool_costs_its_price_a_call_and_a_failing_call_nothing(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Exact money; its name is the model and the tool, also of calls within."""

    @tracker.tool("vat", cost=Decimal("0.01"))
    def look_up(number: int) -> int:
        record(tracker)
        return 10 // number

    assert look_up(5) == 2
    with pytest.raises(ZeroDivisionError):
        look_up(0)
    good, bad = (metric for metric in client.query() if metric.service == "tool")
    assert (good.model, good.tool, good.operation) == ("vat", "vat", "execute_tool")
    assert (good.cost_usd, good.price_source, good.api_calls) == (Decimal("0.01"), "caller", 1)
    assert (bad.cost_usd, bad.price_source) == (Decimal(0), "not_billable")
    assert (bad.status, bad.error) == ("aborted", "ZeroDivisionError")
    assert {m.tool for m in client.query() if m.service == "openai"} == {"vat"}


def test_a_tool_may_bill_failures_cost_nothing_or_be_of_a_service(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """What is said where it is decorated decides."""
    with (
        pytest.raises(ZeroDivisionError),
        tracker.tool("billed", cost="0.02", bill_failures=True, service="google_places"),
    ):
        _ = 1 / 0
    with tracker.tool("free"):
        pass
    metrics = {metric.model: metric for metric in client.query()}
    assert (metrics["billed"].service, metrics["billed"].cost_usd) == (
        "google_places", Decimal("0.02"),
    )  # fmt: skip
    assert metrics["free"].price_source == "not_billable"
    with pytest.raises(ValueError, match=r"cost_usd=0\.01 is not exact money"):
        tracker.tool("x", cost=0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sync", "async", "generator", "block"])
def test_a_tool_of_every_kind_is_billed_once(
    tracker: AIUsageTracker, client: UsageClient, kind: str
) -> None:
    """A generator that was begun was called, also where its reader stopped."""
    tool = tracker.tool("t", cost=1)
    if kind == "sync":
        tool(lambda: 1)()
    elif kind == "async":
        asyncio.run(tool(coroutine)(1))
    elif kind == "generator":
        next(tool(generator)(1))
        gc.collect()
    else:
        with tool:
            pass
    assert only(client).cost_usd == 1


# Tracking that fails


@pytest.mark.parametrize("broken", ["put", "now", "closed"])
def test_tracking_that_fails_changes_nothing_for_the_pipeline(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The same results and the same errors, of every kind of function."""

    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("tracking is broken")

    tracker = AIUsageTracker(client, now=breaks if broken == "now" else None)
    if broken == "put":
        monkeypatch.setattr(client, "put_ai_usage_metric", breaks)
    if broken == "closed":
        tracker.close()
    assert tracker.track("x")(lambda: 5)() == 5
    assert list(tracker.track("x")(generator)(1)) == [1]
    assert asyncio.run(tracker.track("x")(coroutine)(1)) == 1

    async def read() -> list[int]:
        return [number async for number in tracker.track("x")(asynchronous)(1)]

    assert asyncio.run(read()) == [1]
    with tracker.track("x") as operation:
        operation.metadata["a"] = 1
    with pytest.raises(KeyError), tracker.track("x"):
        raise KeyError("the pipeline's own")
    assert dict(current()) == {}
