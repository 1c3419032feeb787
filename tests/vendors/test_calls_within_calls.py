"""A call that a hook makes within another is one of its own, whichever client it goes by."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import boto3
import googlemaps
import pytest
from botocore.config import Config
from google import genai

from receipt_label import AIUsageTracker
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer, reply
from tests.vendors.conftest import _TLS as TLS
from tests.vendors.conftest import Make, Records

BEDROCK: Any = [{"role": "user", "content": [{"text": "What is the total?"}]}]
CONVERSED = reply(
    {
        "output": {"message": {"role": "assistant", "content": [{"text": "total"}]}},
        "usage": {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120},
        "stopReason": "end_turn",
        "metrics": {"latencyMs": 5},
    }
)
GENERATED = reply(
    {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": "total"}]}, "finishReason": "STOP"}
        ],
        "usageMetadata": {
            "promptTokenCount": 10,
            "candidatesTokenCount": 5,
            "totalTokenCount": 15,
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "own-gemini-response-id",
    }
)
FOUND = reply({"status": "OK", "result": {"name": "x"}, "results": [{"a": 1}], "predictions": []})
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def bedrock(server: VendorServer) -> Any:
    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="stand",
        aws_secret_access_key="in",  # noqa: S106
        config=Config(retries={"total_max_attempts": 1}),
    )


def converse(client: Any, model: str = "amazon.nova-lite-v1:0") -> None:
    client.converse(modelId=model, messages=BEDROCK)


def counted(records: Records) -> Counter[tuple[str, int | None]]:
    return Counter((record.service, record.input_tokens) for record in records())


@pytest.mark.parametrize("moment", ["before-send", "needs-retry"])
def test_a_client_in_an_event_handler_of_bedrock_s_is_recorded(
    moment: str, server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A guard that asks OpenAI before, or after, each request of boto3's."""
    bare = bedrock(server)
    with tracker.wrap(make("OpenAI")) as guard:

        def handler(**_: Any) -> None:
            guard.chat.completions.create(model="gpt-4o", messages=SAY)

        bare.meta.events.register(f"{moment}.bedrock-runtime.Converse", handler)
        server.at = {"/converse": CONVERSED}
        converse(tracker.wrap(bare))
    assert counted(records) == {("aws", 100): 1, ("openai", 14): 1}


def test_the_same_client_in_its_own_event_handler_is_recorded(
    server: VendorServer, tracker: AIUsageTracker, records: Records
) -> None:
    """A cheap model of the same client that judges what goes to the dear one."""
    bare = bedrock(server)
    client = tracker.wrap(bare)
    within: list[bool] = []

    def handler(**_: Any) -> None:
        if not within:
            within.append(True)
            converse(client, "amazon.nova-micro-v1:0")

    bare.meta.events.register("before-send.bedrock-runtime.Converse", handler)
    server.at = {"/converse": CONVERSED}
    converse(client)
    assert Counter(record.model for record in records()) == {
        "amazon.nova-lite-v1:0": 1,
        "amazon.nova-micro-v1:0": 1,
    }


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_client_in_a_hook_of_google_s_is_recorded(
    asynchronous: bool,
    server: VendorServer,
    make: Make,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """Hooks of the HTTP client run within the request of google-genai's."""
    guard = tracker.wrap(make("AsyncOpenAI" if asynchronous else "OpenAI"))

    def hook(_: Any) -> None:
        guard.chat.completions.create(model="gpt-4o", messages=SAY)

    async def hook_async(_: Any) -> None:
        await guard.chat.completions.create(model="gpt-4o", messages=SAY)

    arguments = {"verify": TLS, "trust_env": False}
    options: Any = {
        "base_url": server.url,
        "client_args": {**arguments, "event_hooks": {"request": [hook]}},
        "async_client_args": {**arguments, "event_hooks": {"request": [hook_async]}},
    }
    client = tracker.wrap(genai.Client(api_key="stand-in", http_options=options))
    server.at = {":generateContent": GENERATED}

    async def ask_async() -> None:
        async with guard:
            await client.aio.models.generate_content(model="gemini-2.5-flash", contents="total?")
        with suppress(AttributeError):  # an old version
            await client.aio.aclose()

    if asynchronous:
        asyncio.run(ask_async())
    else:
        with guard:
            client.models.generate_content(model="gemini-2.5-flash", contents="total?")
    with suppress(AttributeError):  # an old version
        client.close()
    assert counted(records) == {("google", 10): 1, ("openai", 14): 1}


def test_a_request_of_google_maps_within_another_is_recorded(
    server: VendorServer, tracker: AIUsageTracker, records: Records
) -> None:
    """Of the same client, in a hook of its session: no attempt of the one around it."""
    bare = googlemaps.Client(key="AIza" + "-stand-in", base_url=server.url)
    client = tracker.wrap(bare)
    within: list[bool] = []

    def hook(*_: Any, **__: Any) -> None:
        if not within:
            within.append(True)
            client.timezone((1, 2), timestamp=1_700_000_000)

    bare.session.hooks["response"].append(hook)
    server.at = {"/maps/": FOUND}
    client.geocode("x")
    bare.session.close()
    assert Counter(record.operation for record in records()) == {"geocode": 1, "timezone": 1}


def test_what_an_sdk_makes_of_one_call_counts_once(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A helper over another method, and what is tried again: one call each (trouble 31)."""
    server.own_ids = True
    with tracker.wrap(make("OpenAI", max_retries=2)) as client:
        client.chat.completions.parse(model="gpt-4o", messages=SAY)
        with client.chat.completions.stream(model="gpt-4o", messages=SAY) as stream:
            stream.until_done()
        server.script(reply({}, status=500, headers={"retry-after-ms": "1"}))
        client.chat.completions.create(model="gpt-4o", messages=SAY)
    assert len(records()) == 3
