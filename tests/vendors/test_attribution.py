"""Whose call it was: exact over threads, tasks and copies of clients."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import openai
import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, ContextThreadPoolExecutor
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer, error, recorded, reply
from tests.vendors.conftest import Make, Records

SHORT = {
    "id": "short",
    "object": "chat.completion",
    "created": 1783375763,
    "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


def ask(client: Any, name: str, **more: Any) -> Any:
    """Make a call that says in its model whom it is for, so that the record can be held to it."""
    return client.chat.completions.create(model=name, messages=SAY, **more)


def check(records: Records, expected: Counter[str]) -> None:
    """Each record carries the job that its own request was made for."""
    found = records()
    assert all(record.metadata["request_model"] == record.job_id for record in found)
    assert Counter(record.job_id for record in found) == expected


def test_eight_threads_on_one_client_keep_their_jobs_apart(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """160 calls, streams among them: none is another's (an earlier system got 157 of 160 wrong)."""
    server.own_ids = True
    with tracker.wrap(make("OpenAI")) as client:

        def work(number: int) -> None:
            name = f"job-{number}"
            for turn in range(20):
                with tracker.context(job_id=name):
                    answer = ask(client, name, stream=turn % 2 == 0)
                if turn % 2 == 0:
                    list(answer)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    check(records, Counter({f"job-{number}": 20 for number in range(8)}))


def test_two_hundred_tasks_on_one_client_keep_their_jobs_apart(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """All at once, some of them streams: every record is its own task's."""
    server.own_ids = True

    async def work(client: Any, number: int) -> None:
        name = f"job-{number}"
        with tracker.context(job_id=name):
            if number % 3:
                await ask(client, name)
                return
            stream = await ask(client, name, stream=True)
        async for _ in stream:
            await asyncio.sleep(0)

    async def run() -> None:
        async with tracker.wrap(make("AsyncOpenAI", timeout=60)) as client:
            await asyncio.gather(*[work(client, number) for number in range(200)])

    asyncio.run(run())
    check(records, Counter({f"job-{number}": 1 for number in range(200)}))


def test_a_pool_that_takes_contexts_along_keeps_the_job(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A wrapped client used in a worker thread belongs to who handed the work over."""
    with tracker.wrap(make("OpenAI")) as client, ContextThreadPoolExecutor(2) as pool:
        with tracker.context(job_id="labels"):
            done = pool.submit(ask, client, "labels")
        done.result()
    check(records, Counter({"labels": 1}))


def test_one_client_within_another_s_call_counts_each_once(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A tool that asks another model while a reply is streamed: two calls, two records
    (trouble 30).
    """
    server.own_ids = True
    with tracker.wrap(make("OpenAI")) as outer, tracker.wrap(make("Anthropic")) as inner:
        for number, _ in enumerate(ask(outer, "gpt-4o-mini", stream=True)):
            if number == 1:
                inner.messages.create(model="claude-sonnet-5", max_tokens=9, messages=SAY)
    assert Counter(record.service for record in records()) == {"openai": 1, "anthropic": 1}


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "refused"])
@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_a_request_that_is_no_call_within_a_call_leaves_its_record_alone(
    kind: str,
    fails: bool,
    server: VendorServer,
    make: Make,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """A moderation that a hook asks for before each chat: its answer is not the chat's."""
    bare = make(kind)
    client = tracker.wrap(bare)

    def hook(request: Any) -> None:
        if request.url.path.endswith("/chat/completions"):
            client.moderations.create(input="x")

    async def async_hook(request: Any) -> None:
        if request.url.path.endswith("/chat/completions"):
            await client.moderations.create(input="x")

    asynchronous = kind.startswith("Async")
    bare._client.event_hooks = {"request": [async_hook if asynchronous else hook]}
    used = {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55}
    moderation = reply({"id": "own-1", "model": "omni", "results": [], "usage": used})
    chat = error(500) if fails else recorded("/v1/chat/completions", model="gpt-4o")
    assert chat is not None
    server.script(moderation, chat)

    async def ask_async() -> None:
        async with client:
            await ask(client, "gpt-4o")

    with suppress(openai.InternalServerError):
        if asynchronous:
            asyncio.run(ask_async())
        else:
            with client:
                ask(client, "gpt-4o")
    assert [request.path for request in server.requests] == [
        "/v1/moderations",
        "/v1/chat/completions",
    ]
    (record,) = records()
    assert (record.operation, record.error, record.input_tokens) == (
        ("chat", "InternalServerError", None) if fails else ("chat", None, 14)
    )


def test_methods_that_a_subclass_keeps_are_those_of_the_wrapped_client(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Taken in ``__init__``, before it is wrapped; those of the bare one stay bare."""

    class Kept(openai.OpenAI):
        def __init__(self, **changes: Any) -> None:
            super().__init__(**changes)
            self.completions_of = self.chat.completions
            self.create = self.chat.completions.create
            self.send = self.post

    server.own_ids = True
    options: Any = {"model": "gpt-4o", "messages": SAY}
    with make("OpenAI") as other:
        bare = Kept(api_key="x", base_url=f"{server.url}/v1", http_client=other._client)
        for client in (tracker.wrap(bare), tracker.wrap(tracker.wrap(bare))):
            client.create(**options)
            client.completions_of.create(**options)
            client.send("/chat/completions", body=options, cast_to=dict)
        bare.create(**options)
        bare.send("/chat/completions", body=options, cast_to=dict)
    assert len(records()) == 6


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used before"])
def test_a_copy_of_a_wrapped_client_is_one_and_counts_once(
    used: bool, kind: str, server: VendorServer, make: Make, tracker: AIUsageTracker
) -> None:
    """By ``copy.copy``: what is set on it, such as an address, holds for its own requests."""
    server.own_ids = True
    asynchronous = kind.startswith("Async")
    bare = make(kind, default_headers={"x-name": "bare"})
    wrapped = tracker.wrap(bare)
    if used:
        assert wrapped.chat.completions
    for number, one in enumerate(
        [copy.copy(wrapped), copy.copy(copy.copy(wrapped)), tracker.wrap(copy.copy(wrapped))], 1
    ):
        assert type(one) is type(bare)
        one._custom_headers = {"x-name": "copy"}
        answer = ask(one if not used else one.with_options(timeout=9), "gpt-4o")
        if asynchronous:
            asyncio.run(drive(answer, one))
        assert server.requests[-1].headers["x-name"] == "copy"
        assert tracker.client.health().recorded == number
        if asynchronous:
            break  # its connections went with their loop
    if not asynchronous:
        bare.close()


async def drive(answer: Any, client: Any) -> None:
    async with client:
        await answer


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_a_reply_recorded_by_hand_as_well_keeps_the_latency_that_was_measured(
    streamed: bool, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """The later record replaces the first, with what only the wrapped client knows."""
    with tracker.wrap(make("OpenAI")) as client:
        options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        reply = ask(client, "gpt-4o", **options)
        if streamed:
            reply = list(reply)
    (first,) = records()
    tracker.record_response(reply, job_id="by hand")
    (again,) = records(repeated=True)
    assert first.latency_ms
    assert (again.latency_ms, again.job_id) == (first.latency_ms, "by hand")
    tracker.record_response(reply, latency_ms=7)
    assert [record.latency_ms for record in records(repeated=True)] == [7.0]


def test_middleware_of_the_sdk_runs_and_counts_once(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Anthropic's own hooks see the wrapped client's calls as the bare one's."""
    seen: list[str] = []

    def middleware(request: Any, call_next: Any) -> Any:
        seen.append("asked")
        return call_next(request)

    try:
        bare = make("Anthropic", middleware=[middleware])
    except TypeError:
        pytest.skip("not in this version")
    with tracker.wrap(bare) as client:
        client.messages.create(model="claude-sonnet-5", max_tokens=9, messages=SAY)
    assert seen == ["asked"]
    assert tracker.client.health().recorded == 1


def test_middleware_that_goes_on_in_another_thread_loses_no_call(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """As one with a timeout of its own does: the answer comes where no request was begun."""

    def recorded_by(bare: Any) -> int:
        before = tracker.client.health().recorded
        with tracker.wrap(bare) as client:
            more = {"model": "claude-sonnet-5", "max_tokens": 9, "messages": SAY}
            client.messages.create(**more)
            list(client.messages.create(**more, stream=True))
        return tracker.client.health().recorded - before

    with ThreadPoolExecutor(1) as pool:
        try:
            bare = make("Anthropic", middleware=[lambda ask, go: pool.submit(go, ask).result()])
        except TypeError:
            pytest.skip("not in this version")
        assert recorded_by(bare) == recorded_by(make("Anthropic")) >= 2
    found = records(repeated=True)
    assert all(record.input_tokens and record.error is None for record in found)
    assert sum(record.latency_ms is not None for record in found) == 2  # not of calls within


class OptionsByCopy(openai.OpenAI):
    def with_options(self, **options: Any) -> Any:
        return self.copy(**options)


class CopyOfItself(openai.OpenAI):
    def copy(self, **options: Any) -> Any:
        return super().copy(**options) if options else self


@pytest.mark.parametrize("kind", [OptionsByCopy, CopyOfItself])
def test_methods_that_make_a_copy_of_each_other_hook_it_once(
    kind: Any, server: VendorServer, make: Make, tracker: AIUsageTracker
) -> None:
    """A reply whose id is too short to tell it by would count twice."""
    server.script(*[reply(SHORT)] * 3)
    bare = make("OpenAI")
    own = kind(api_key="stand-in", base_url=str(bare.base_url), http_client=bare._client)
    with bare, tracker.wrap(own) as client:
        for made in (client.with_options(), client.copy(), client.copy().with_options(timeout=9)):
            before = tracker.client.health().recorded
            ask(made, "gpt-4o")
            assert tracker.client.health().recorded == before + 1


def test_a_client_wrapped_twice_counts_once(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Also a copy of it, and a copy wrapped again (trouble 31)."""
    with tracker.wrap(tracker.wrap(make("OpenAI"))) as client:
        ask(client, "gpt-4o")
        assert tracker.client.health().recorded == 1
        tracker.wrap(client.with_options(timeout=9)).copy().chat.completions.create(
            model="gpt-4o-mini", messages=SAY, stream=True
        ).close()
    assert tracker.client.health().recorded == 2
    assert len(records()) == 2


def test_the_last_tracker_that_wraps_a_client_is_the_one_that_counts(
    make: Make, tracker: AIUsageTracker, client: UsageClient, open_client: Any, tmp_path: Any
) -> None:
    """Another tracker takes over in its own copy; the first keeps the client that it returned."""
    other_client = open_client(usage_dir=tmp_path / "other")
    other = AIUsageTracker(other_client)
    with tracker.wrap(make("OpenAI")) as first:
        second = other.wrap(first)
        ask(second, "gpt-4o")
        client.flush()
        other_client.flush()
        assert (len(list(client.query())), len(list(other_client.query()))) == (0, 1)
        ask(first, "gpt-4o")
        client.flush()
        assert len(list(client.query())) == 1


def test_the_client_that_was_given_stays_bare(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Its resources, made before or after, are its own; what it changes is not the other's."""
    with make("OpenAI") as bare:
        before = bare.chat.completions
        wrapped = tracker.wrap(bare)
        assert type(wrapped) is type(bare)
        assert wrapped.chat.completions is not before
        assert bare.chat.completions is before
        assert "request" not in vars(bare)
        assert wrapped.api_key == bare.api_key
        assert wrapped.base_url == bare.base_url
        ask(bare, "gpt-4o")
    assert records() == []


@pytest.mark.parametrize(
    "thing", [object(), "gpt-4o", None, AIUsageTracker], ids=lambda thing: type(thing).__name__
)
def test_what_is_no_client_is_a_type_error_that_says_what_is(
    thing: Any, tracker: AIUsageTracker
) -> None:
    """At once, not at the first call."""
    with pytest.raises(TypeError, match=r"cannot wrap .*OpenAI"):
        tracker.wrap(thing)


def test_a_resource_of_a_client_is_a_type_error_that_says_so(
    make: Make, tracker: AIUsageTracker
) -> None:
    """client.chat instead of the client."""
    with make("OpenAI") as client, pytest.raises(TypeError, match="not the client itself"):
        tracker.wrap(client.chat)


def test_a_class_of_the_user_s_own_is_wrapped_as_its_base(
    server: VendorServer, tracker: AIUsageTracker, records: Records
) -> None:
    """With what it adds, and without calling its constructor again."""
    import openai

    class Pipeline(openai.OpenAI):
        def __init__(self, purpose: str) -> None:
            super().__init__(api_key="stand-in", base_url=f"{server.url}/v1", max_retries=0)
            self.purpose = purpose

        def total(self) -> Any:
            return ask(self, "gpt-4o")

    with tracker.wrap(Pipeline("labels")) as client:
        assert (type(client), client.purpose) == (Pipeline, "labels")
        client.total()
    assert len(records()) == 1
