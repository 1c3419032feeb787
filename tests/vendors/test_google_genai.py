"""google-genai: every method returns and sends what the bare client's does, and is counted once."""

from __future__ import annotations

import asyncio
import collections
import gc
import inspect
import json
import threading
import warnings
from typing import Any

import pytest
from google import genai
from google.genai import types

from receipt_label import AIUsageTracker
from tests.support.google_calls import (
    CALLS,
    CONTENT,
    GEMINI,
    GEMINI_STREAM,
    MARKS,
    SAY,
    answer,
    ask,
    content,
    used,
)
from tests.support.vendor_server import Answer, VendorServer, reply
from tests.vendors.conftest import Client, Records, Run, http_options

pytestmark = MARKS


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", CALLS)
def test_a_method_is_the_same_wrapped_and_counts_once(
    name: str,
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """Equal objects, equal bytes on the wire, one record with its tokens and cost (trouble 39)."""
    call, said, expected = CALLS[name]
    results, wire = [], []
    for client in (client_of(), tracker.wrap(client_of())):
        server.script(said)
        with tracker.context(job_id="labels"):
            results.append(run(ask(call, client, asynchronous=asynchronous)))
        wire.append([asked.comparable() for asked in server.clear()])
    assert results[0] == results[1]
    assert wire[0] == wire[1]
    assert len(wire[0]) == 1
    found = records()
    assert [used(record) for record in found] == ([expected] if expected else [])
    for record in found:
        assert (record.service, record.status, record.job_id) == ("google", "complete", "labels")
        assert record.latency_ms is not None


def test_vertex_is_counted_and_priced_too(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The same models under longer addresses (Helicone counted 0 tokens for them)."""
    client = tracker.wrap(client_of(vertexai=True))
    image = {"mimeType": "image/png", "bytesBase64Encoded": "aGVsbG8="}
    server.script(
        answer(f"gemini-2.5-flash{CONTENT}", host="aiplatform.googleapis"),
        answer("gemini-embedding-2:embedContent", host="aiplatform.googleapis"),
        reply({"predictions": [image]}),
    )
    content(client.models)
    client.models.embed_content(model="gemini-embedding-2", contents=["a"])
    client.models.generate_images(model="imagen-4.0-generate-001", prompt="x")
    found = {record.operation: record for record in records()}
    assert {record.service for record in found.values()} == {"google"}
    assert found["generate_content"].cost_usd
    assert found["embeddings"].cost_usd
    assert found["image_generation"].unpriced_reason == "unknown_model"
    assert all("/publishers/google/models/" in asked.path for asked in server.requests)


def test_the_wrapped_client_is_a_client_and_the_bare_one_stays_bare(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Same types, same attributes, shared connections; wrapped twice: one (trouble 31)."""
    bare = client_of()
    once = tracker.wrap(bare)
    twice = tracker.wrap(once)
    for one in (once, twice):
        assert isinstance(one, genai.Client)
        assert type(one).__name__ == "Client"
        assert isinstance(one.models, type(bare.models))
        assert isinstance(one.aio.models, type(bare.aio.models))
        assert one.vertexai is bare.vertexai
        assert one._api_client._http_options is bare._api_client._http_options
    assert inspect.iscoroutinefunction(once.aio.models.generate_content_stream)
    server.script(GEMINI, GEMINI)
    content(bare.models)
    assert records() == []
    content(twice.models)
    assert len(records()) == 1


def test_neither_client_closes_the_other_when_it_is_dropped(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client
) -> None:
    """The SDK closes connections when a client is collected: here only once both are gone."""
    bare = client_of()
    if not hasattr(bare, "close"):
        pytest.skip("not in this version of google-genai")
    tracker.wrap(bare)
    gc.collect()
    server.script(GEMINI)
    content(bare.models)
    options = http_options(server)
    wrapped = tracker.wrap(genai.Client(api_key="stand-in", http_options=options))
    gc.collect()
    server.script(GEMINI)
    content(wrapped.models)
    with wrapped as entered:
        assert entered is wrapped
    with pytest.raises(RuntimeError, match="closed"):
        content(wrapped.models)


def test_chats_count_each_message_once(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """They go through the same requests, and keep their history."""
    client = tracker.wrap(client_of())
    server.script(GEMINI, GEMINI_STREAM, own(GEMINI, "the-id-of-a-third-reply"))
    chat = client.chats.create(model="gemini-2.5-flash")
    chat.send_message("one")
    assert list(chat.send_message_stream("two"))
    assert [it.role for it in chat.get_history()][:3] == ["user", "model", "user"]

    async def talk() -> None:
        await client.aio.chats.create(model="gemini-2.5-flash-lite").send_message("three")

    run(talk())
    assert len(server.requests) == 3
    assert len(records()) == 3


def test_each_request_of_automatic_function_calling_is_a_call(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The SDK answers the model's function calls by itself, and Google bills each request."""
    wish = {"functionCall": {"name": "total_of", "args": {"receipt": "r1"}}}
    asks = own(GEMINI, "with-a-function-call-1", parts=[wish])
    server.script(asks, own(GEMINI, "the-answer-after-that-2"))

    def total_of(receipt: str) -> int:
        """Return the total of a receipt."""
        return len(receipt)

    total_of.__annotations__ = {"receipt": str, "return": int}  # old versions read no strings
    client = tracker.wrap(client_of())
    config = types.GenerateContentConfig(tools=[total_of])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.models.generate_content(model="gemini-2.5-flash", contents=SAY, config=config)
    assert [used(record)[2:] for record in records()] == [(13, 71, "0.0001814")] * 2


def own(said: Answer, response_id: str, *, parts: list[Any] | None = None) -> Answer:
    """The answer under an id of its own, and perhaps with other parts."""
    body = json.loads(said.body)
    body["responseId"] = response_id
    if parts is not None:
        body["candidates"][0]["content"]["parts"] = parts
    return reply(body)


def test_threads_and_tasks_keep_their_own_jobs(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """One client, 8 threads with 5 calls each and 40 tasks: each call under its own job."""
    client = tracker.wrap(client_of())
    server.script(*(own(GEMINI, f"an-id-of-its-own-{number:04}") for number in range(80)))

    def work(number: int) -> None:
        with tracker.context(job_id=f"thread-{number}"):
            for _ in range(5):
                content(client.models)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def task(number: int) -> None:
        with tracker.context(job_id=f"task-{number}"):
            await content(client.aio.models)

    async def tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(40)))

    run(tasks())
    jobs = collections.Counter(record.job_id for record in records())
    assert jobs == {
        **{f"thread-{number}": 5 for number in range(8)},
        **{f"task-{number}": 1 for number in range(40)},
    }


def test_what_is_no_client_is_refused(tracker: AIUsageTracker, client_of: Client) -> None:
    """A resource of the client is not the client."""
    with pytest.raises(TypeError, match="cannot wrap"):
        tracker.wrap(types.Part(text="x"))
