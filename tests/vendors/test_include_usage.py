"""``include_usage`` off the common way: answers read already, bodies of one's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from receipt_label import AIUsageTracker
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import Answer, VendorServer, recorded
from tests.vendors.conftest import Make, Records

USAGE = {"include_usage": True}


def streamed(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=SAY, stream=True, **more)


def with_usage(**changes: Any) -> Answer:
    """Return a stream of eleven chunks; the last has usage and no choices."""
    answer = recorded("/v1/chat/completions", stream=True, model="gpt-4o-mini")
    assert answer is not None
    return replace(answer, **changes)


def read_by_a_hook(make: Make, kind: str) -> Any:
    """Make a client whose responses were read before the SDK sees them (logging, a cache)."""
    bare = make(kind)

    def read(response: Any) -> None:
        assert response.read()
        assert response.text

    async def read_async(response: Any) -> None:
        assert await response.aread()

    hook = read_async if kind.startswith("Async") else read
    bare._client.event_hooks = {"response": [hook]}
    return bare


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_the_extra_chunk_is_hidden_of_a_response_that_was_read_already(
    kind: str, server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A caller who takes ``chunk.choices[0]`` of each chunk can; the call has its tokens."""
    client = tracker.wrap(read_by_a_hook(make, kind), include_usage=True)
    server.script(with_usage())

    async def take_async() -> list[Any]:
        async with client:
            return [chunk async for chunk in await streamed(client)]

    def take() -> list[Any]:
        with client:
            return list(streamed(client))

    chunks = asyncio.run(take_async()) if kind.startswith("Async") else take()
    assert len(chunks) == with_usage().body.count(b"chat.completion.chunk") - 1
    assert all(chunk.choices[0] for chunk in chunks)
    (record,) = records()
    assert (record.status, record.input_tokens, record.output_tokens) == ("complete", 78, 9)


def test_a_response_that_was_read_shows_the_same_bytes_and_text(
    server: VendorServer, make: Make, tracker: AIUsageTracker
) -> None:
    """Raw, it says without the chunk what it said before, and nothing else is changed."""
    server.script(with_usage(), with_usage())
    with tracker.wrap(read_by_a_hook(make, "OpenAI"), include_usage=True) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=SAY, stream=True
        ).http_response
    events = with_usage().body.split(b"\n\n")
    extra = [event for event in events if b'"choices":[],"usage":{' in event]
    assert len(extra) == 1
    shown = b"\n\n".join(event for event in events if event not in extra)
    assert raw.content == shown
    assert raw.text == shown.decode()


@pytest.mark.parametrize("told", [True, False], ids=["event-stream", "plain"])
def test_a_stream_that_was_read_is_known_by_its_content_type(
    told: bool, server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """It may begin with a comment, as OpenRouter's do; one without that is known as it was."""
    if told:
        server.script(with_usage(body=b": OPENROUTER PROCESSING\n\n" + with_usage().body))
    else:
        server.script(with_usage(content_type="text/plain"))
    with tracker.wrap(read_by_a_hook(make, "OpenAI")) as client:
        chunks = list(streamed(client, stream_options=USAGE))
    assert chunks[-1].usage.total_tokens == 87
    (record,) = records()
    assert (record.status, record.input_tokens, record.output_tokens) == ("complete", 78, 9)


@pytest.mark.parametrize(
    ("extra", "asked", "shown"),
    [
        ({"stream_options": USAGE}, USAGE, True),
        ({"stream_options": {"include_usage": False}}, {"include_usage": False}, False),
        (
            {"stream_options": {"include_obfuscation": False}},
            {"include_obfuscation": False, **USAGE},
            False,
        ),
        ({"stream_options": None}, USAGE, False),
        ({"top_k": 5}, USAGE, False),
    ],
    ids=["asks", "declines", "other options", "none", "other keys"],
)
def test_what_a_caller_asks_in_a_body_of_its_own_is_heeded(
    extra: dict[str, Any],
    asked: dict[str, Any],
    shown: bool,
    server: VendorServer,
    make: Make,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """``extra_body`` wins over what is asked otherwise: usage asked for there is shown, declined
    there not asked for, and other options go along with ours.
    """
    given = {
        name: dict(value) if isinstance(value, dict) else value for name, value in extra.items()
    }
    with tracker.wrap(make("OpenAI"), include_usage=True) as client:
        chunks = list(streamed(client, extra_body=given))
    (request,) = server.requests
    assert request.json["stream_options"] == asked
    assert {name: request.json[name] for name in extra if name != "stream_options"} == {
        name: value for name, value in extra.items() if name != "stream_options"
    }
    assert given == extra
    assert any(chunk.usage for chunk in chunks) is shown
    (record,) = records()
    assert record.input_tokens == (78 if asked.get("include_usage") else None)
