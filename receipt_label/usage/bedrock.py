"""Amazon Bedrock: Converse, and the bodies and headers of InvokeModel.

What boto3 returns is read as it is: a StreamingBody or an EventStream in it is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from receipt_label.usage.figures import (
    Details,
    InconsistentUsageError,
    Json,
    count,
    first,
    inner,
    items,
    note,
    settle,
)
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Usage

_TTLS: Final = {"5m": "cache_write_5m_tokens", "1h": "cache_write_1h_tokens"}
_HEADER: Final = "x-amzn-bedrock-"
_METRICS: Final = "amazon-bedrock-invocationMetrics"


def read_converse(body: Json, call: Call) -> Reading:
    """Read a Converse reply, or what a Converse stream adds up to."""
    reading = _start("chat", body)
    inclusive = call.streamed and _is_openai(call.model)
    reading.measure(body.get("usage"), lambda raw: converse_usage(raw, inclusive=inclusive))
    reading.finished(body.get("stopReason"))
    reading.tier(inner(body, "serviceTier").get("type"))
    return reading


def _is_openai(model: str | None) -> bool:
    return model is not None and "openai." in model


def converse_usage(raw: Json, *, inclusive: bool = False) -> Usage | None:
    """Return the usage of a Converse reply.

    inputTokens is the part neither read from nor written to the cache, and totalTokens is all of
    it (AWS, "Prompt caching": total input = inputTokens + cacheRead + cacheWrite). ``inclusive``:
    streams of OpenAI's models are an exception, there inputTokens holds the cached ones already
    and totalTokens counts them twice (measured in maximhq/bifrost#6942, anomalyco/opencode#47296).
    """
    fresh = count(raw.get("inputTokens"))
    made = count(raw.get("outputTokens"))
    read = count(first(raw, "cacheReadInputTokens", "cacheReadInputTokenCount"))
    written = count(first(raw, "cacheWriteInputTokens", "cacheWriteInputTokenCount"))
    total = count(raw.get("totalTokens"))
    beside = (read or 0) + (written or 0)
    if fresh is None and beside:
        raise InconsistentUsageError("cached tokens without input tokens")
    parts = (fresh or 0) + (made or 0)
    if total is not None and total not in (parts, parts + beside):
        raise InconsistentUsageError("the total is not the sum of its parts")
    if beside and fresh is not None:
        holds = total == parts or (inclusive and fresh >= beside)
        fresh = fresh if holds else fresh + beside
    details: Details = {}
    for entry in items(raw.get("cacheDetails")):
        ttl = entry.get("ttl")
        name = _TTLS.get(ttl) if isinstance(ttl, str) else None
        if name is not None:
            note(details, name, entry.get("inputTokens"))
    return settle(
        input_tokens=fresh, output_tokens=made, cached=read, written=written, details=details
    )


def read_invoke(body: Json, call: Call) -> Reading:
    """Read what InvokeModel returned: token counts of its headers, or of the model's own body."""
    operation = "embeddings" if "embedding" in body or "embeddings" in body else "chat"
    reading = _start(operation, body)
    reading.measure(invoke_tokens(body), _plain_usage)
    reading.finished(first(body, "stop_reason", "completionReason"))
    return reading


def _start(operation: str, body: Json) -> Reading:
    metadata = inner(body, "ResponseMetadata")
    return Reading(operation, "aws", response_id=metadata.get("RequestId"))


def invoke_tokens(body: Json) -> object:
    """Return {"input", "output"} token counts where the reply has any, else None.

    In this order: the headers of the reply, the metrics that end its stream, the body of Titan
    (inputTextTokenCount, results[].tokenCount) and of Llama (prompt_token_count,
    generation_token_count). Mistral's and Cohere's bodies have none.
    """
    headers = inner(inner(body, "ResponseMetadata"), "HTTPHeaders")
    if f"{_HEADER}input-token-count" in headers:
        return {
            "input": _digits(headers.get(f"{_HEADER}input-token-count")),
            "output": _digits(headers.get(f"{_HEADER}output-token-count", "0")),
            "cached": _digits(headers.get(f"{_HEADER}cache-read-input-token-count")),
            "written": _digits(headers.get(f"{_HEADER}cache-write-input-token-count")),
        }
    metrics = inner(body, _METRICS)
    if "inputTokenCount" in metrics:
        return {
            "input": metrics["inputTokenCount"],
            "output": metrics.get("outputTokenCount"),
            "cached": metrics.get("cacheReadInputTokenCount"),
            "written": metrics.get("cacheWriteInputTokenCount"),
        }
    if "inputTextTokenCount" in body:
        results = list(items(body.get("results")))
        made = [entry.get("tokenCount") for entry in results]
        output: object = 0
        if made:
            numbers = [number for number in made if isinstance(number, int)]
            output = sum(numbers) if len(numbers) == len(made) else "unreadable"
        return {"input": body["inputTextTokenCount"], "output": output}
    if "prompt_token_count" in body:
        return {"input": body["prompt_token_count"], "output": body.get("generation_token_count")}
    return None


def _plain_usage(raw: Json) -> Usage | None:
    read, written = count(raw.get("cached")), count(raw.get("written"))
    fresh = count(raw.get("input"))
    if fresh is not None:
        fresh += (read or 0) + (written or 0)
    return settle(
        input_tokens=fresh, output_tokens=count(raw.get("output")), cached=read, written=written
    )


def _digits(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def is_invoke(body: Json) -> bool:
    """Whether this is the body of an InvokeModel call, as its own keys tell."""
    return (
        _METRICS in body
        or "inputTextTokenCount" in body
        or ("generation" in body and "prompt_token_count" in body)
        or ("body" in body and isinstance(body.get("ResponseMetadata"), Mapping))
    )
