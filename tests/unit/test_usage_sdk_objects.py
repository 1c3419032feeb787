"""The vendors' own objects are read as they are, and nothing of them is consumed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from receipt_label.usage import Usage, read_reply
from tests.support.usage_replies import read

WHOLE = Usage(input_tokens=10, output_tokens=4)
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1771434740,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Secret"},
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}


def test_openais_chat_completion() -> None:
    """A ChatCompletion reads like its JSON."""
    from openai.types.chat import ChatCompletion

    reply = read(ChatCompletion.model_validate(CHAT))
    assert (reply.usage, reply.service, reply.response_id) == (WHOLE, "openai", "chatcmpl-1")
    assert reply == read(CHAT)


def test_fields_that_the_sdk_does_not_know_are_kept() -> None:
    """OpenRouter's cost comes through OpenAI's SDK as an extra field, exact."""
    from openai.types.chat import ChatCompletion

    body = {**CHAT, "provider": "OpenAI", "usage": {**CHAT["usage"], "cost": 4e-05}}
    reply = read(ChatCompletion.model_validate(body))
    assert (reply.service, reply.provider_cost_usd) == ("openrouter", Decimal("0.00004"))
    assert reply.metadata["upstream_provider"] == "OpenAI"


def test_an_object_that_its_sdk_would_not_validate() -> None:
    """SDKs construct objects without validating them; odd types are read all the same."""
    from openai.types.chat import ChatCompletion

    reply = read(ChatCompletion.construct(**{**CHAT, "usage": {"prompt_tokens": "ten"}}))
    assert (reply.fault, reply.response_id) == ("inconsistent_usage", "chatcmpl-1")


def test_openais_response_and_embeddings() -> None:
    """Response and CreateEmbeddingResponse read like their JSON."""
    from openai.types import CreateEmbeddingResponse
    from openai.types.responses import Response

    response = Response.construct(
        id="resp_1",
        object="response",
        model="gpt-5",
        status="completed",
        created_at=1771434740.0,
        usage={"input_tokens": 10, "output_tokens": 4, "total_tokens": 14},
    )
    assert read(response).usage == WHOLE
    embeddings = CreateEmbeddingResponse.model_validate(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 2, "total_tokens": 2},
        }
    )
    reply = read(embeddings)
    assert (reply.operation, reply.usage) == ("embeddings", Usage(input_tokens=2, output_tokens=0))


def test_openais_chunks() -> None:
    """A list of the SDK's chunks is a stream."""
    from openai.types.chat import ChatCompletionChunk

    chunk = {**CHAT, "object": "chat.completion.chunk", "choices": []}
    first = {**chunk, "usage": None}
    chunks = [ChatCompletionChunk.model_validate(part) for part in (first, chunk)]
    assert read(chunks).usage == WHOLE


def test_anthropics_message() -> None:
    """A Message reads like its JSON."""
    from anthropic.types import Message

    message = Message.model_validate(
        {
            "id": "msg_01",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5",
            "content": [{"type": "text", "text": "Secret"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 4},
        }
    )
    reply = read(message)
    assert (reply.usage, reply.service, reply.operation) == (WHOLE, "anthropic", "chat")
    assert "Secret" not in repr(reply)


def test_a_raw_response_is_read_where_its_owner_has_read_it() -> None:
    """with_raw_response holds a response that is read already; parse() is not called."""
    request = httpx.Request("POST", "https://api.openai.com/v1/chat/completions")

    class Raw:
        http_response = httpx.Response(200, json=CHAT, request=request)

        def parse(self) -> object:
            raise AssertionError("parsed by the tracker")

    assert (read(Raw()).usage, read(Raw()).service) == (WHOLE, "openai")
    failed = httpx.Response(429, json={"error": {"code": "slow_down"}}, request=request)
    assert (read(failed).fault, read(failed).error) == ("failed_call", "slow_down")


def test_a_raw_response_that_is_not_read_stays_unread() -> None:
    """with_streaming_response leaves the body to the caller."""

    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("consumed by the tracker")

    with pytest.raises(ValueError, match="has not been read"):
        read_reply(httpx.Response(200, stream=Body()))


def test_streams_and_iterators_are_refused_not_consumed() -> None:
    """What can be read only once belongs to the caller."""

    def chunks() -> Iterator[dict[str, Any]]:
        raise AssertionError("consumed by the tracker")
        yield CHAT

    with pytest.raises(ValueError, match="has not been read"):
        read_reply(chunks())
    with pytest.raises(ValueError, match="has not been read"):
        read_reply({"ResponseMetadata": {"RequestId": "r"}, "stream": chunks()})


def test_botos_body_is_left_alone() -> None:
    """invoke_model's counts come from its headers; its StreamingBody is not read."""
    from botocore.response import StreamingBody

    body = StreamingBody(io.BytesIO(b"{}"), 2)
    headers = {
        "x-amzn-bedrock-input-token-count": "10",
        "x-amzn-bedrock-output-token-count": "4",
    }
    response = {"ResponseMetadata": {"RequestId": "r-1", "HTTPHeaders": headers}, "body": body}
    reply = read(response, request_model="amazon.titan-text-lite-v1")
    assert (reply.usage, reply.response_id, reply.service) == (WHOLE, "r-1", "aws")
    assert reply.model == "amazon.titan-text-lite-v1"
    assert body.read() == b"{}"


def test_botos_converse() -> None:
    """What converse returns is read with AWS' own request id."""
    response = {
        "ResponseMetadata": {"RequestId": "3f1c8a52-0000-4000-8000-000000000000"},
        "output": {"message": {}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 10, "outputTokens": 4, "totalTokens": 14},
    }
    reply = read(response, request_model="us.amazon.nova-micro-v1:0")
    assert (reply.usage, reply.service, reply.model) == (WHOLE, "aws", "us.amazon.nova-micro-v1:0")
    assert reply.response_id == "3f1c8a52-0000-4000-8000-000000000000"


def test_plain_namespaces() -> None:
    """Objects with nothing but attributes are read by them (test doubles, small SDKs)."""
    usage = SimpleNamespace(prompt_tokens=10, completion_tokens=4)
    reply = read(SimpleNamespace(object="chat.completion", id="x", model="gpt-4o", usage=usage))
    assert (reply.usage, reply.response_id) == (WHOLE, "x")


def test_the_package_is_light() -> None:
    """Reading usage needs neither price data nor a vendor's SDK."""
    import subprocess
    import sys

    code = (
        "import sys, importlib.util as u; import receipt_label.usage; "
        "print([m for m in ('genai_prices', 'openai', 'anthropic', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
