"""Whose call it is: by the address, by the reply, by the kind of client."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import anthropic
import openai
import pytest

from receipt_label import AIUsageTracker
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import Answer, VendorServer, recorded
from tests.vendors.conftest import Make, Records

http = openai._base_client.httpx2 if hasattr(openai._base_client, "httpx2") else None
if http is None:
    import httpx as http  # older SDKs


def answering(answer: Answer) -> Any:
    """Return an HTTP client that answers itself, whatever the address."""

    def respond(request: Any) -> Any:
        headers = {"content-type": answer.content_type}
        return http.Response(answer.status, headers=headers, content=answer.body)

    return http.Client(transport=http.MockTransport(respond))


ALIKES = [
    ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", "groq"),
    ("https://openrouter.ai/api/v1", "openai/gpt-4o", "openrouter"),
    ("https://api.mistral.ai/v1", "mistral-large-latest", "mistral"),
    ("https://api.x.ai/v1", "grok-4", "x-ai"),
    ("https://gateway.example/deepseek/v1", "deepseek-chat", "deepseek"),
    ("http://localhost:11434/v1", "llama3.2", "ollama"),
    ("https://unknown.example/v1", "llama3.2", "openai_compatible"),
]


@pytest.mark.parametrize(("url", "model", "service"), ALIKES)
def test_an_alike_is_known_by_its_address(
    url: str, model: str, service: str, tracker: AIUsageTracker, records: Records
) -> None:
    """The OpenAI SDK with another's base URL: another's call, at another's price."""
    found = recorded("/v1/chat/completions", model="gpt-4o")
    assert found is not None
    body = {**json.loads(found.body), "model": model}
    bare = openai.OpenAI(
        api_key="stand-in",
        base_url=url,
        http_client=answering(Answer(json.dumps(body).encode())),
    )
    with tracker.wrap(bare) as client:
        client.chat.completions.create(model=model, messages=SAY)
    (record,) = records()
    assert (record.service, record.model, record.input_tokens) == (service, model, 14)


def test_a_stream_that_was_read_before_it_is_handed_over_counts_too(
    tracker: AIUsageTracker, records: Records
) -> None:
    """As stand-ins of HTTP clients do it."""
    found = recorded("/v1/chat/completions", stream=True, model="gpt-4o-mini")
    assert found is not None
    bare = openai.OpenAI(api_key="stand-in", http_client=answering(found))
    with tracker.wrap(bare) as client:
        list(client.chat.completions.create(model="gpt-4o-mini", messages=SAY, stream=True))
    (record,) = records()
    assert (record.status, record.input_tokens) == ("complete", 78)


VERTEX = {"project_id": "p", "region": "us-east5", "access_token": "stand-in"}
BEDROCK = {
    "aws_region": "us-east-1",
    "aws_access_key": "stand-in",
    "aws_secret_key": "stand-in",
}


@pytest.mark.parametrize(
    ("kind", "arguments", "service"),
    [("AnthropicVertex", VERTEX, "google"), ("AnthropicBedrock", BEDROCK, "aws")],
)
def test_anthropic_in_another_s_cloud_is_the_cloud_s_call(
    kind: str,
    arguments: dict[str, str],
    service: str,
    server: VendorServer,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """Vertex and Bedrock bill it, at their prices, by the model that was asked for."""
    model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0" if service == "aws" else "claude-x"
    found = recorded("/v1/messages", model="claude-sonnet-4-5")
    assert found is not None
    server.script(found)
    try:
        bare = getattr(anthropic, kind)(base_url=server.url, max_retries=0, **arguments)
        with tracker.wrap(bare) as client:
            client.messages.create(model=model, max_tokens=9, messages=SAY)
    except (ImportError, ModuleNotFoundError) as missing:
        pytest.skip(str(missing))
    (record,) = records()
    assert (record.service, record.input_tokens) == (service, 107)
    if service == "aws":
        assert record.model == model


def frame(event: bytes) -> bytes:
    """Return an event as Bedrock's event stream frames it."""
    payload = json.dumps({"bytes": base64.b64encode(event).decode()}).encode()
    names = [(b":event-type", b"chunk"), (b":message-type", b"event")]
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + len(value).to_bytes(2, "big") + value
        for name, value in names
    )
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    head = lengths + zlib.crc32(lengths).to_bytes(4, "big") + headers + payload
    return head + zlib.crc32(head).to_bytes(4, "big")


def test_a_stream_of_bedrock_s_frames_counts_as_any_stream(
    server: VendorServer, tracker: AIUsageTracker, records: Records
) -> None:
    """Anthropic's SDK on Bedrock: the same events in binary frames."""
    found = recorded("/v1/messages", stream=True, model="claude-sonnet-4-6")
    assert found is not None
    events = [part.partition(b"data: ")[2] for part in found.body.split(b"\n\n") if part]
    body = b"".join(frame(event) for event in events)
    server.script(Answer(body, content_type="application/vnd.amazon.eventstream"))
    bare = anthropic.AnthropicBedrock(base_url=server.url, max_retries=0, **BEDROCK)
    model = "us.anthropic.claude-sonnet-4-6"
    with tracker.wrap(bare) as client:
        stream = client.messages.create(model=model, max_tokens=9, messages=SAY, stream=True)
        assert len(list(stream)) > 50
    (record,) = records()
    assert (record.service, record.model, record.status) == ("aws", model, "complete")
    assert (record.input_tokens, record.output_tokens) == (7621, 384)


def test_images_of_an_unnamed_host_are_of_the_model_that_was_asked_for(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A reply that names no model is its owner's whose model was asked for."""
    with tracker.wrap(make("OpenAI")) as client:
        client.images.generate(model="gpt-image-1", prompt="a receipt")
    (record,) = records()
    assert (record.service, record.model) == ("openai", "gpt-image-1")


@pytest.mark.parametrize("is_property", [False, True])
def test_an_address_that_changes_is_that_of_each_call(
    is_property: bool, tracker: AIUsageTracker, records: Records
) -> None:
    """Assigned anew, or told by a property of the user's own, which may not know it yet."""
    found = recorded("/v1/chat/completions", model="gpt-4o")
    assert found is not None
    places: list[str] = []

    class Routed(openai.OpenAI):
        @property
        def base_url(self) -> Any:
            if not places:
                raise RuntimeError("not configured yet")
            return http.URL(places[-1])

        @base_url.setter
        def base_url(self, url: Any) -> None:
            places.append(str(url))

    kind = Routed if is_property else openai.OpenAI
    first, second = "https://api.groq.com/openai/v1/", "https://api.openai.com/v1/"
    bare = kind(api_key="stand-in", base_url=first, http_client=answering(found))
    places.clear()
    wrapped: Any = tracker.wrap(bare)
    for url in (first, second):
        wrapped.base_url = url
        wrapped.chat.completions.create(model="gpt-4o", messages=SAY)
    assert sorted(metric.service for metric in records()) == ["groq", "openai"]
