"""Calls of Bedrock through boto3 and their answers, with AWS' event streams, for its tests."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from botocore.eventstream import EventStream
from botocore.response import StreamingBody

from receipt_dynamo import AIUsageMetric
from tests.support.vendor_server import Answer, reply

_RECORDED = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SAY: Any = [{"role": "user", "content": [{"text": "What is the total?"}]}]
REQUEST_ID = "11111111-2222-3333-4444-{:012}"
_ids = iter(range(10**9))


@cache
def converse_body() -> dict[str, Any]:
    lines = (json.loads(line) for line in _RECORDED.read_text().splitlines())
    body = next(
        it["body"] for it in lines if "claude-sonnet-4-5-20250929-v1%3A0/converse" in it["url"]
    )
    body["output"] = {"message": {"role": "assistant", "content": [{"text": "total"}]}}
    return dict(body)


def identified(said: Answer, **headers: str) -> Answer:
    """The answer under a request id of its own."""
    own = {"x-amzn-RequestId": REQUEST_ID.format(next(_ids)), **headers}
    return dataclasses.replace(said, headers=own)


def event(kind: str, body: Any, *, message: str = "event") -> bytes:
    """One message of AWS' event stream: lengths, headers, payload, and a checksum of each part."""
    payload = json.dumps(body).encode()
    pairs = {
        ":message-type": message,
        ":exception-type" if message == "exception" else ":event-type": kind,
        ":content-type": "application/json",
    }
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value))
        + value.encode()
        for name, value in pairs.items()
    )  # fmt: skip
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    whole = prelude + headers + payload
    return whole + struct.pack("!I", zlib.crc32(whole))


def events(*parts: bytes) -> Answer:
    return identified(Answer(b"".join(parts), content_type="application/vnd.amazon.eventstream"))


def chunk(body: Any) -> bytes:
    """One piece of a model's own stream, in the envelope of Bedrock's."""
    return event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})


CONVERSE_USAGE = {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120}
CONVERSE_EVENTS = (
    event("messageStart", {"role": "assistant"}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "total"}}),
    event("contentBlockStop", {"contentBlockIndex": 0}),
    event("messageStop", {"stopReason": "end_turn"}),
    event("metadata", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 7}}),
)
METRICS = {"inputTokenCount": 100, "outputTokenCount": 20, "invocationLatency": 7}
CLAUDE_EVENTS = (
    chunk({"type": "message_start", "message": {
           "id": "msg_bdrk_01ABCDEFGHIJKLMNOP", "type": "message", "role": "assistant",
           "model": "claude-sonnet-4-5-20250929", "content": [],
           "usage": {"input_tokens": 100, "output_tokens": 1}}}),
    chunk({"type": "content_block_delta", "index": 0,
           "delta": {"type": "text_delta", "text": "x"}}),
    chunk({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
           "usage": {"output_tokens": 20}}),
    chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}),
)  # fmt: skip
TITAN_EVENTS = (
    chunk({"outputText": "total", "index": 0, "inputTextTokenCount": 100}),
    chunk({"outputText": "", "index": 0, "completionReason": "FINISH",
           "totalOutputTextTokenCount": 20, "amazon-bedrock-invocationMetrics": METRICS}),
)  # fmt: skip
CLAUDE_BODY = {
    "id": "msg_bdrk_01ABCDEFGHIJKLMNOPQRST",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "total"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 900},
}
COUNTS = {"x-amzn-bedrock-input-token-count": "100", "x-amzn-bedrock-output-token-count": "20"}


def seen(result: dict[str, Any]) -> Any:
    """All that a caller sees of a result, read to its end, but for ids and dates."""
    plain = {key: value for key, value in result.items() if key != "ResponseMetadata"}
    for name, value in plain.items():
        if isinstance(value, EventStream):
            plain[name] = (type(value).__name__, list(value))
        elif isinstance(value, StreamingBody):
            plain[name] = (type(value).__name__, value.read())
    return plain


def converse(client: Any, **changes: Any) -> Any:
    return client.converse(**{"modelId": SONNET, "messages": SAY, **changes})


def converse_stream(client: Any) -> Any:
    return client.converse_stream(modelId=SONNET, messages=SAY)


def invoke(client: Any, model: str = SONNET) -> Any:
    return client.invoke_model(modelId=model, body=b'{"x": 1}')


def invoke_stream(client: Any, model: str = SONNET) -> Any:
    return client.invoke_model_with_response_stream(modelId=model, body=b'{"x": 1}')


CALLS: dict[str, tuple[Callable[[Any], Any], Callable[[], Answer], tuple[Any, ...] | None]] = {
    "converse": (
        converse,
        lambda: identified(reply(converse_body())),
        ("chat", SONNET, 1715, 227, "0.0108174"),
    ),
    "converse_stream": (
        converse_stream,
        lambda: events(*CONVERSE_EVENTS),
        ("chat", SONNET, 100, 20, "0.00066"),
    ),
    "invoke_model": (
        invoke,
        lambda: identified(reply(CLAUDE_BODY), **COUNTS),
        ("chat", SONNET, 1000, 20, "0.000957"),
    ),
    "invoke_model, another vendor's": (
        lambda client: invoke(client, "mistral.mistral-large-2407-v1:0"),
        lambda: identified(reply({"outputs": [{"text": "total"}]}), **COUNTS),
        ("chat", "mistral.mistral-large-2407-v1:0", 100, 20, "unknown_model"),
    ),
    "invoke_model, embeddings": (
        lambda client: invoke(client, "amazon.titan-embed-text-v2:0"),
        lambda: identified(reply({"embedding": [0.5], "inputTextTokenCount": 7})),
        ("embeddings", "amazon.titan-embed-text-v2:0", 7, 0, "0.00000014"),
    ),
    "invoke_model_with_response_stream": (
        invoke_stream, lambda: events(*CLAUDE_EVENTS), ("chat", SONNET, 100, 20, "0.00066"),
    ),
    "invoke_model_with_response_stream, Titan": (
        lambda client: invoke_stream(client, "amazon.titan-text-express-v1"),
        lambda: events(*TITAN_EVENTS),
        ("chat", "amazon.titan-text-express-v1", 100, 20, "0.000032"),
    ),
    "count_tokens": (
        lambda client: client.count_tokens(
            modelId=SONNET, input={"converse": {"messages": SAY}}
        ),
        lambda: identified(reply({"inputTokens": 9})),
        None,
    ),
}  # fmt: skip


def used(record: AIUsageMetric) -> tuple[Any, ...]:
    cost = record.unpriced_reason or f"{record.cost_usd.normalize():f}"
    return record.operation, record.model, record.input_tokens, record.output_tokens, cost
