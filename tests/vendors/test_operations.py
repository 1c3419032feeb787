"""Operations around the vendors' real clients: each call once, under the right job."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
    ContextProcessPoolExecutor,
    ContextThreadPoolExecutor,
    PrometheusExporter,
    batch_ai_usage_context,
    partial_failure_context,
)
from receipt_label.context import current
from tests.support.pool_work import call_model
from tests.support.vendor_server import VendorServer, error, reply
from tests.vendors.conftest import Make, Records

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


@pytest.fixture(autouse=True)
def _own_ids(server: VendorServer) -> None:
    server.own_ids = True


@pytest.fixture
def make(make: Make) -> Iterator[Make]:
    """Make clients that are closed in the end; asynchronous ones their test closes."""
    made: list[Any] = []

    def make_one(kind: str, **changes: Any) -> Any:
        client = make(kind, **changes)
        if not kind.startswith("Async"):
            made.append(client)
        return client

    yield make_one
    for client in made:
        client.close()


def calls_of(records: Records, *, repeated: bool = False) -> list[Any]:
    return [metric for metric in records(repeated=repeated) if metric.api_calls]


def test_a_tracked_function_counts_a_wrapped_call_once_and_a_bare_one_as_well(
    tracker: AIUsageTracker, make: Make, records: Records
) -> None:
    """The reply that it returns is the call that the wrapped client has recorded (trouble 31)."""
    wrapped, bare = tracker.wrap(make("OpenAI")), make("OpenAI")

    @tracker.track("label")
    def label(client: Any) -> Any:
        return client.chat.completions.create(**CHAT)

    @tracker.track("label_async")
    async def label_async(client: Any) -> Any:
        return await client.messages.create(max_tokens=9, **{**CHAT, "model": "claude-any"})

    async def both() -> None:
        async with make("AsyncAnthropic") as client:
            await label_async(tracker.wrap(client))
            await label_async(client)

    label(wrapped)
    label(bare)
    asyncio.run(both())
    found = records()
    calls = [metric for metric in found if metric.api_calls]
    assert Counter(call.metadata["operation_type"] for call in calls) == {
        "label": 2, "label_async": 2,
    }  # fmt: skip
    assert all(call.latency_ms and call.input_tokens for call in calls)
    assert len(found) == 6  # where the reply is the call's record, there is no other


@pytest.mark.parametrize("response_id", ["chatcmpl-0123456789abcdefghij", "chatcmpl-887"])
def test_a_reply_that_is_only_handed_on_stays_its_makers(
    tracker: AIUsageTracker,
    server: VendorServer,
    make: Make,
    records: Records,
    response_id: str,
) -> None:
    """By its id, and by the object where the id is too short to tell calls apart."""
    server.own_ids = False
    body = {
        "id": response_id, "object": "chat.completion", "created": 1_780_000_000,
        "model": "gpt-4o", "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }  # fmt: skip
    server.script(reply(body), reply(body))
    wrapped, bare = tracker.wrap(make("OpenAI")), make("OpenAI")

    @tracker.track("label", job_id="maker")
    def label(client: Any) -> Any:
        return client.chat.completions.create(**CHAT)

    @tracker.track("annotate", job_id="other")
    def annotate(answer: Any) -> Any:
        return answer

    annotate(annotate(label(wrapped)))
    if response_id == "chatcmpl-887":
        annotate(label(bare))
    calls = calls_of(records)
    assert [call.job_id for call in calls] == ["maker"] * (1 + (response_id == "chatcmpl-887"))
    assert {call.service for call in calls} <= {"openai", "openai_compatible"}


def test_a_stream_counts_for_the_operation_that_made_the_call(
    tracker: AIUsageTracker, make: Make, records: Records
) -> None:
    """Read to its end within a tracked generator, and outside of a tracked function."""
    client = tracker.wrap(make("OpenAI"), include_usage=True)

    @tracker.track("reads", job_id="j1")
    def reads() -> Iterator[Any]:
        yield from client.chat.completions.create(stream=True, **CHAT)

    @tracker.track("returns", job_id="j2")
    def returns() -> Any:
        return client.chat.completions.create(stream=True, **CHAT)

    with tracker.context(job_id="reader"):
        assert list(reads())
        assert list(returns())
    calls = calls_of(records)
    assert {(call.job_id, call.metadata["operation_type"]) for call in calls} == {
        ("j1", "reads"), ("j2", "returns"),
    }  # fmt: skip
    assert all(call.output_tokens for call in calls)
    (whole,) = (metric for metric in records() if metric.model == "reads")
    assert whole.metadata["within"]["calls"] == 1


def test_failures_are_counted_with_the_calls_that_failed(
    tracker: AIUsageTracker, server: VendorServer, make: Make, records: Records
) -> None:
    """Three items, one refused by the vendor: its call, its attempt and the summary agree."""
    client = tracker.wrap(make("OpenAI"))
    with partial_failure_context("label", tracker=tracker) as batch:
        for number in range(3):
            with batch.attempt(number):
                if number == 1:
                    server.script(error(429, "rate_limit_error"))
                client.chat.completions.create(**CHAT)
    found = records()
    (summary,) = (metric for metric in found if metric.service == "action")
    assert summary.metadata["errors"] == {"RateLimitError": 1}
    assert (summary.metadata["success_count"], summary.metadata["failed_items"]) == (2, ["1"])
    within = summary.metadata["within"]
    assert (within["calls"], within["failed_calls"], within["unpriced_calls"]) == (3, 1, 1)
    assert all("secret" not in repr(metric) for metric in found)


def test_a_batch_context_prices_a_wrapped_call_as_a_batch(
    client: UsageClient, make: Make, records: Records
) -> None:
    """Half the price inside, the list price outside."""
    tracker = AIUsageTracker(client, now=lambda: datetime(2026, 11, 1, tzinfo=UTC))
    messages = tracker.wrap(make("Anthropic")).messages
    call: dict[str, Any] = {**CHAT, "model": "claude-any", "max_tokens": 9}
    messages.create(**call)
    with batch_ai_usage_context("batch_1"):
        messages.create(**call)
    outside, inside = sorted(calls_of(records), key=lambda one: one.batch_id or "")
    assert (outside.batch_id, inside.batch_id) == (None, "batch_1")
    assert outside.cost_usd
    assert inside.cost_usd == outside.cost_usd / 2


def test_an_exporter_sees_each_wrapped_call_once(client: UsageClient, make: Make) -> None:
    """Recorded within two operations, shown once."""
    registry = CollectorRegistry()
    tracker = AIUsageTracker(client, strict=True, exporters=[PrometheusExporter(registry)])
    wrapped = tracker.wrap(make("OpenAI"))

    @tracker.track
    def inner() -> Any:
        return wrapped.chat.completions.create(**CHAT)

    with tracker.track("outer"):
        inner()
    total = sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "ai_usage_requests_total"
    )
    assert total == 1


# Attribution is exact: the job that made a request is the job of its record.


def check_attribution(
    server: VendorServer, records: Records, calls: int, *, in_children: bool = False
) -> None:
    """Hold each record against the request: whoever made it said its job in the body.

    What children that are killed have counted last is not known; what they recorded is.
    """
    asked = Counter(request.json["user"] for request in server.requests)
    found = calls_of(records, repeated=in_children)
    assert len(found) == calls
    assert Counter(call.job_id for call in found) == asked
    for call in found:
        assert call.metadata["operation_type"] == f"op of {call.job_id}"
        assert call.cost_usd
    every = records(repeated=in_children)
    runs = {metric.request_id: metric for metric in every if metric.service == "action"}
    assert all(runs[call.metadata["operation_id"]].job_id == call.job_id for call in found)


def test_eight_threads_and_one_client_keep_their_jobs_apart(
    tracker: AIUsageTracker, server: VendorServer, make: Make, records: Records
) -> None:
    """160 calls: the earlier system got 157 wrong."""
    client = tracker.wrap(make("OpenAI"))
    barrier = threading.Barrier(8)

    def call(job: str) -> None:
        client.chat.completions.create(user=job, **CHAT)

    def work(number: int) -> None:
        barrier.wait()
        for turn in range(20):
            job = f"t{number}-{turn}"
            with tracker.track(f"op of {job}", job_id=job):
                call(job)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_attribution(server, records, 160)


def test_a_thread_pool_keeps_the_jobs_of_whoever_submits(
    tracker: AIUsageTracker, server: VendorServer, make: Make, records: Records
) -> None:
    """Workers are used again and again."""
    client = tracker.wrap(make("OpenAI"))

    def call(job: str) -> None:
        client.chat.completions.create(user=job, **CHAT)

    with ContextThreadPoolExecutor(8) as pool:
        for number in range(80):
            job = f"p{number}"
            with tracker.track(f"op of {job}", job_id=job):
                pool.submit(call, job)
    check_attribution(server, records, 80)


def test_two_hundred_tasks_and_one_client_keep_their_jobs_apart(
    tracker: AIUsageTracker, server: VendorServer, make: Make, records: Records
) -> None:
    """Interleaved on one event loop, in tracked functions that call tracked functions."""
    client = tracker.wrap(make("AsyncOpenAI"))

    async def task(job: str) -> None:
        @tracker.track(f"op of {job}", job_id=job)
        async def call() -> None:
            await asyncio.sleep(0)
            await client.chat.completions.create(user=job, **CHAT)
            assert current()["job_id"] == job

        await call()

    async def main() -> None:
        gate = asyncio.Semaphore(50)

        async def gated(job: str) -> None:
            async with gate:
                await task(job)

        await asyncio.gather(*(gated(f"a{number}") for number in range(200)))
        await client.close()

    asyncio.run(main())
    check_attribution(server, records, 200)


def test_streams_that_interleave_keep_their_jobs_apart(
    tracker: AIUsageTracker, server: VendorServer, make: Make, records: Records
) -> None:
    """Twenty tracked asynchronous generators, read in turns by one reader."""
    client = tracker.wrap(make("AsyncOpenAI"), include_usage=True)

    def stream(job: str) -> AsyncIterator[Any]:
        @tracker.track(f"op of {job}", job_id=job)
        async def chunks() -> AsyncIterator[Any]:
            async for chunk in await client.chat.completions.create(stream=True, user=job, **CHAT):
                yield chunk

        return chunks()

    async def main() -> None:
        streams = [stream(f"s{number}") for number in range(20)]
        while streams:
            for one in list(streams):
                assert "job_id" not in current()
                if await anext(one, None) is None:
                    streams.remove(one)
        await client.close()

    asyncio.run(main())
    check_attribution(server, records, 20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_pool_keeps_the_jobs_of_whoever_submits(
    tracker: AIUsageTracker, server: VendorServer, records: Records, method: str
) -> None:
    """Real clients, wrapped in the workers; each call once in the store, under its job."""
    context = multiprocessing.get_context(method)
    futures = {}
    with ContextProcessPoolExecutor(2, mp_context=context) as pool:
        for number in range(20):
            job = f"x{number}"
            with tracker.track(f"op of {job}", job_id=job):
                futures[job] = pool.submit(call_model, server.url, job)
    assert {job: future.result() for job, future in futures.items()} == {
        job: job for job in futures
    }
    check_attribution(server, records, 20, in_children=True)
