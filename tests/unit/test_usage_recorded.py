"""Real replies of real services: what each used, summed by service, worked out twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from receipt_label.usage import Reply, Skipped, read_reply

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in SAMPLE.read_text().splitlines()]

# service -> (calls, input, output, cached, written, reasoning), every line of the sample counted
TOTALS = {
    "anthropic": (24, 143251, 3578, 27156, 57767, 237),
    "aws": (14, 7432, 745, 3034, 3270, 10),
    "azure": (2, 32, 25, 0, 0, 9),
    "cerebras": (3, 98, 24, 0, 0, 0),
    "cohere": (4, 2882, 688, 0, 0, 0),
    "crusoe": (2, 234, 287, 64, 0, 237),
    "deepseek": (4, 569, 905, 256, 0, 461),
    "google": (29, 25898, 3878, 21302, 0, 3213),
    "groq": (6, 992, 360, 256, 0, 177),
    "heroku": (1, 14, 51, 0, 0, 0),
    "huggingface_nebius": (1, 269, 27, 0, 0, 0),
    "huggingface_novita": (1, 40, 2, 0, 0, 0),
    "huggingface_together": (2, 612, 227, 0, 0, 0),
    "mistral": (4, 3206, 80, 99, 0, 0),
    "ollama": (1, 134, 122, 0, 0, 0),
    "openai": (26, 30287, 2257, 14636, 8430, 1504),
    "openrouter": (24, 24817, 5644, 4012, 4012, 944),
    "snowflake": (1, 89, 14, 0, 0, 0),
    "voyageai": (2, 3, 0, 0, 0, 0),
    "zai": (2, 455, 140, 4, 0, 114),
}

SKIPPED = {
    ("not_finished", "queued"): 3,
    ("not_usage", "cachedContents"): 1,
    ("not_usage", "count-tokens"): 2,
    ("not_usage", "input_tokens"): 3,
    ("not_usage", "messages/count_tokens"): 1,
    ("not_usage", "realtime/client_secrets"): 1,
    ("not_usage", "tokenize"): 1,
    ("not_usage", "vector_store"): 1,
    ("not_usage", "vector_stores"): 1,
}


def read(line: dict[str, Any], **hints: Any) -> Reply | Skipped:
    return read_reply(
        line.get("stream", line.get("body")),
        url=line["url"],
        http_status=line["status"],
        request_model=line["request_model"],
        **hints,
    )


def replies() -> Iterator[tuple[dict[str, Any], Reply]]:
    for line in LINES:
        reply = read(line)
        if isinstance(reply, Reply):
            yield line, reply


def test_totals_of_every_service_are_the_known_ones() -> None:
    """Calls and tokens of each service add up to figures that were worked out by hand."""
    totals: dict[str, list[int]] = {}
    for _, reply in replies():
        row = totals.setdefault(reply.service, [0] * 6)
        row[0] += 1
        if reply.usage is not None:
            usage = reply.usage
            figures = (
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_input_tokens,
                usage.cache_write_tokens,
                usage.reasoning_tokens,
            )
            for place, figure in enumerate(figures, 1):
                row[place] += figure or 0
    assert {service: tuple(row) for service, row in sorted(totals.items())} == TOTALS


def test_totals_agree_with_a_plain_recomputation() -> None:
    """A second, independent reading of the raw figures comes to the same tokens line by line."""
    for line in LINES:
        expected = _by_hand(line)
        reply = read(line)
        if expected is None:
            assert isinstance(reply, Skipped), line["source"]
        elif expected == (None, None):
            assert isinstance(reply, Reply), line["source"]
            assert reply.fault == "no_usage"
            assert reply.usage is None
        else:
            assert isinstance(reply, Reply), line["source"]
            assert reply.usage is not None, (line["source"], reply)
            assert (reply.usage.input_tokens, reply.usage.output_tokens) == expected, line["source"]


def _by_hand(  # noqa: PLR0911 - one way out for each vendor
    line: dict[str, Any],
) -> tuple[int | None, int | None] | None:
    """Input and output by each vendor's rule, without a line of the code under test."""
    path = urlsplit(line["url"]).path
    kept = ("vector_stores", "cachedContents", "tokenize", "client_secrets", "input_tokens")
    if "count-tokens" in path or "count_tokens" in path or any(word in path for word in kept):
        return None
    chunks = [line["body"]] if "body" in line else _chunks(line["stream"])
    last = chunks[-1]
    if last.get("type", "").startswith("response."):
        last = last["response"]
    if last.get("status") == "queued":
        return None
    if "usageMetadata" in last:
        meta = last["usageMetadata"]
        sent = meta.get("promptTokenCount", 0) + meta.get("toolUsePromptTokenCount", 0)
        return sent, meta.get("candidatesTokenCount", 0) + meta.get("thoughtsTokenCount", 0)
    if last.get("type") in ("message", "message_stop"):
        usage: dict[str, Any] = {}
        for chunk in chunks:
            usage |= chunk.get("usage") or chunk.get("message", {}).get("usage") or {}
        blocks = [usage]
        blocks += [it for it in usage.get("iterations", []) if it["type"] == "compaction"]
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        sent = sum(block[part] or 0 for block in blocks for part in parts)
        return sent, sum(block["output_tokens"] for block in blocks)
    usage = next((c["usage"] for c in reversed(chunks) if c.get("usage")), None) or last.get(
        "usage"
    )
    if usage is None:
        usage = last.get("meta")
    if usage is None:
        return None, None
    if "inputTokens" in usage:
        cached = usage.get("cacheReadInputTokens", 0) + usage.get("cacheWriteInputTokens", 0)
        return usage["inputTokens"] + cached, usage["outputTokens"]
    if "billed_units" in usage:
        billed = usage["billed_units"]
        return billed["input_tokens"], billed.get("output_tokens", 0)
    sent = usage.get("prompt_tokens", usage.get("input_tokens"))
    made = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return (usage["total_tokens"] if sent is None else sent), made


def _chunks(stream: str) -> list[dict[str, Any]]:
    lines = [line[5:].strip() for line in stream.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_what_is_no_call_is_skipped_with_its_reason() -> None:
    """Counting tokens, sessions, stores and queued responses make no record."""
    skipped = Counter(
        (reply.reason, reply.what) for reply in map(read, LINES) if isinstance(reply, Skipped)
    )
    assert dict(skipped) == SKIPPED


def test_every_reply_names_service_model_and_operation() -> None:
    """No recorded call is left without a service, a model and an operation."""
    for line, reply in replies():
        assert "unknown" not in (reply.service, reply.model), line["source"]
        assert reply.operation in {"chat", "generate_content", "embeddings", "compaction"}
        assert not reply.model.startswith("models/")
        assert reply.status == "complete"


def test_the_vendors_own_id_is_kept_as_it_is() -> None:
    """response_id is the id in the reply, and None where the vendor sent an empty one."""
    for line, reply in replies():
        body = line.get("body") or {}
        own = body.get("id") or body.get("responseId") or None
        if "body" in line:
            assert reply.response_id == own, line["source"]
        elif "generativelanguage" in line["url"] or "openai.com" in line["url"]:
            assert reply.response_id, line["source"]


def test_the_vendors_own_time_is_read() -> None:
    """created is the reply's own time, in UTC."""
    for line, reply in replies():
        body = line.get("body") or {}
        own = body.get("created") or body.get("created_at")
        if own:
            assert reply.created == datetime.fromtimestamp(own, UTC), line["source"]


def test_text_bytes_and_object_read_alike() -> None:
    """A reply reads the same as a dict, as JSON text and as bytes with a byte order mark."""
    for line in LINES:
        if "body" not in line:
            continue
        text = json.dumps(line["body"])
        hints = {"url": line["url"], "request_model": line["request_model"]}
        if line["status"] == 200:
            assert read_reply(text, **hints) == read(line)
            assert read_reply(b"\xef\xbb\xbf" + text.encode(), **hints) == read(line)


def test_reading_changes_nothing() -> None:
    """The reply that was passed in is as it was."""
    for line in LINES:
        before = json.dumps(line)
        read(line)
        assert json.dumps(line) == before


def test_metadata_holds_no_text() -> None:
    """What is kept beside the figures is short codes, never anything that a model wrote."""
    for line, reply in replies():
        for value in reply.metadata.values():
            assert isinstance(value, (str, dict)), line["source"]
            assert len(str(value)) < 64


@pytest.mark.parametrize("line", LINES, ids=lambda line: Path(line["source"]).stem[:40])
def test_figures_never_contradict_each_other(line: dict[str, Any]) -> None:
    """Cached tokens are within the input and reasoning is within the output."""
    reply = read(line)
    if isinstance(reply, Reply) and reply.usage is not None:
        usage = reply.usage
        cached = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        assert cached <= (usage.input_tokens or 0)
        assert (usage.reasoning_tokens or 0) <= (usage.output_tokens or 0)
        assert all(value > 0 for value in usage.details.values())
