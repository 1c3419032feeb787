"""tracker.track: a function stays what it was, and each run of it leaves one true record."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
)
from receipt_label.context import current
from tests.support import NOON
from tests.support.tracked import asynchronous, chat, coroutine, generator, only, plain, record

# What a function is


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
