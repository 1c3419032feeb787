"""Calls of google-genai and the answers that were recorded of them, for its tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google import genai

from receipt_dynamo import AIUsageMetric
from tests.support.vendor_server import Answer, reply

_RECORDED = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
EVENT_STREAM = "text/event-stream"
SAY: Any = "What is the total?"
CONTENT = ":generateContent"
STREAM = ":streamGenerateContent"


@cache
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _RECORDED.read_text().splitlines()]


def recording(path: str, host: str = "generativelanguage") -> dict[str, Any]:
    """The first recorded call to an address that ends so."""
    return next(it for it in lines() if it["url"].endswith(path) and host in it["url"])


def spoken(body: dict[str, Any]) -> dict[str, Any]:
    """The reply with a word where the recording emptied its parts."""
    for candidate in body.get("candidates", []):
        candidate.setdefault("content", {"role": "model"})["parts"] = [{"text": "total "}]
    return body


def answer(path: str, host: str = "generativelanguage") -> Answer:
    line = recording(path, host)
    if "stream" in line:
        events = [event[6:] for event in line["stream"].split("\n\n") if event.strip()]
        chunks = [json.dumps(spoken(json.loads(event))) for event in events]
        text = "".join(f"data: {chunk}\n\n" for chunk in chunks)
        return Answer(text.encode(), content_type=EVENT_STREAM)
    return reply(spoken(line["body"]))


def refusal(status: int = 429, kind: str = "RESOURCE_EXHAUSTED") -> Answer:
    body = {"error": {"code": status, "message": "secret text", "status": kind}}
    return reply(body, status=status)


MARKS = [pytest.mark.filterwarnings("ignore:The generate_images method is deprecated")]
if not hasattr(genai.Client, "close"):  # an old version, which leaves connections open
    MARKS += [
        pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ]


async def close(client: Any) -> None:
    if hasattr(client, "close"):  # versions before 1.40 leave that to the garbage collector
        client.close()
        await client.aio.aclose()


def seen(value: Any) -> Any:
    """All that a caller sees of a result, but for the date of its HTTP answer."""
    if not hasattr(value, "model_dump"):
        return type(value).__name__, [seen(item) for item in value]
    dump = value.model_dump(mode="json")
    for name in ("Date", "date"):
        ((dump.get("sdk_http_response") or {}).get("headers") or {}).pop(name, None)
    return type(value).__name__, dump


async def ask(call: Callable[[Any], Any], client: genai.Client, *, asynchronous: bool) -> Any:
    if not asynchronous:
        return seen(call(client.models))
    result = await call(client.aio.models)
    if hasattr(result, "__aiter__") and not hasattr(result, "model_dump"):
        return type(result).__name__, [seen(chunk) async for chunk in result]
    return seen(result)


def content(models: Any) -> Any:
    return models.generate_content(model="gemini-2.5-flash", contents=SAY)


def stream(models: Any) -> Any:
    return models.generate_content_stream(model="gemini-3-flash-preview", contents=SAY)


GEMINI = answer(f"gemini-2.5-flash{CONTENT}")
GEMINI_STREAM = answer(f"gemini-3-flash-preview{STREAM}")

# name -> the call, its answer, and what is recorded: operation, model, tokens in, out, cost
CALLS: dict[str, tuple[Callable[[Any], Any], Answer, tuple[Any, ...] | None]] = {
    "generate_content": (
        content,
        GEMINI,
        ("generate_content", "gemini-2.5-flash", 13, 71, "0.0001814"),
    ),
    "generate_content_stream": (
        stream,
        GEMINI_STREAM,
        ("generate_content", "gemini-3-flash-preview", 1198, 569, "0.002306"),
    ),
    "embed_content": (
        lambda models: models.embed_content(model="gemini-embedding-2", contents=["a"]),
        answer("gemini-embedding-2:batchEmbedContents"),
        ("embeddings", "gemini-embedding-2", 7, 0, "0.0000014"),
    ),
    "count_tokens": (
        lambda models: models.count_tokens(model="gemini-2.5-flash", contents=SAY),
        reply({"totalTokens": 7}),
        None,
    ),
    "get": (lambda models: models.get(model="gemini-2.5-flash"), reply({"name": "m"}), None),
}


def used(record: AIUsageMetric) -> tuple[Any, ...]:
    cost = record.unpriced_reason or f"{record.cost_usd.normalize():f}"
    return record.operation, record.model, record.input_tokens, record.output_tokens, cost
