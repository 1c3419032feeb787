"""What a stream tells counts wherever it comes, and is asked for where that is chosen."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from receipt_label import AIUsageTracker
from tests.support.stream_calls import USAGE, chat_answer, chat_stream
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer, recorded
from tests.vendors.conftest import Make, Records, figures, only

if TYPE_CHECKING:
    import openai


@pytest.mark.parametrize("path", ["x_groq", "with choices"])
def test_usage_counts_wherever_an_alike_puts_it(
    path: str, server: VendorServer, wrapped: openai.OpenAI, records: Records
) -> None:
    """In the vendor's own corner of a chunk, or in one with choices (trouble 48)."""
    usage = b'"usage":{"prompt_tokens":78,"completion_tokens":9,"total_tokens":87'
    whole = chat_answer().body
    assert usage in whole
    moved = {
        "x_groq": whole.replace(usage, b'"x_groq":{' + usage).replace(
            b'"rejected_prediction_tokens":0}}', b'"rejected_prediction_tokens":0}}}'
        ),
        "with choices": whole.replace(
            b'"choices":[],"usage":{', b'"choices":[{"index":0,"delta":{}}],"usage":{'
        ),
    }[path]
    assert moved != whole
    server.script(chat_answer(body=moved))
    list(chat_stream(wrapped))
    assert only(records).input_tokens == 78


def test_the_time_of_a_stream_is_that_of_its_last_event(
    wrapped: openai.OpenAI, records: Records
) -> None:
    """Not that of its consumer; the first token is on record too."""
    list(chat_stream(wrapped))
    record = only(records)
    assert record.latency_ms is not None
    assert 0 < record.metadata["time_to_first_token_ms"] <= record.latency_ms


def test_a_response_that_was_read_can_be_pickled_as_ever(
    wrapped: openai.OpenAI, records: Records
) -> None:
    """Nothing of the watching stays on it."""
    with wrapped.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=SAY
    ) as answer:
        body = answer.read()
        response = answer.http_response
    assert pickle.loads(pickle.dumps(response)).content == body  # noqa: S301 - our own
    assert only(records).input_tokens == 14
    assert not [name for name in vars(response) if "receipt" in name]


@pytest.mark.parametrize("helper", [False, True], ids=["stream", "helper"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_include_usage_asks_for_usage_and_hides_the_chunk_that_brings_it(
    helper: bool,
    asynchronous: bool,
    server: VendorServer,
    make: Make,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """The consumer sees the chunks that a bare stream would have; the call has its tokens."""
    client = tracker.wrap(make("AsyncOpenAI" if asynchronous else "OpenAI"), include_usage=True)
    if helper and not hasattr(client.chat.completions, "stream"):
        pytest.skip("not in this version")
    asked = {"model": "gpt-4o-mini", "messages": SAY}

    async def take_async() -> list[Any]:
        async with client:
            if helper:
                async with client.chat.completions.stream(**asked) as stream:
                    return [event.chunk async for event in stream if event.type == "chunk"]
            return [chunk async for chunk in await chat_stream(client, None)]

    def take() -> list[Any]:
        with client:
            if helper:
                with client.chat.completions.stream(**asked) as stream:
                    return [event.chunk for event in stream if event.type == "chunk"]
            return list(chat_stream(client, None))

    chunks = asyncio.run(take_async()) if asynchronous else take()
    sent = recorded("/v1/chat/completions", stream=True, model="gpt-4o-mini")
    assert sent is not None
    assert len(chunks) == sent.body.count(b"chat.completion.chunk") - 1
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    (request,) = server.requests
    assert request.json["stream_options"] == USAGE
    assert figures(only(records)) == ("complete", 78, 9, None)


def test_a_caller_who_asks_for_usage_gets_the_chunk(
    server: VendorServer, make: Make, tracker: AIUsageTracker
) -> None:
    """Or declines it: what the caller says of it is left alone, and so is every other request."""
    client = tracker.wrap(make("OpenAI"), include_usage=True)
    chunks = list(chat_stream(client, stream_options=USAGE))
    assert chunks[-1].usage is not None
    list(chat_stream(client, stream_options={"include_usage": False}))
    client.chat.completions.create(model="gpt-4o", messages=SAY)
    client.close()
    options = [request.json.get("stream_options") for request in server.requests]
    assert options == [USAGE, {"include_usage": False}, None]
