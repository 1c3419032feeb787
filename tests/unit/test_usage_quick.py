"""The short way of reading a reply says what the long way says, or leaves the reply to it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receipt_label.instrumentation.event_log import body_of
from receipt_label.usage import Reply, Skipped, quick, read_reply
from receipt_label.usage.address import locate
from receipt_label.usage.quick import quick_reader

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
OWN = [line for line in LINES if "body" in line and quick_reader(line["url"]) is not None]

KEYS = (
    "object type error Error id model created created_at status choices response success custom_id "
    "recordId result usage_metadata model_version service_tier tool_usage usage provider speed "
    "prompt_tokens completion_tokens input_tokens output_tokens total_tokens cached_tokens "
    "cache_write_tokens audio_tokens reasoning_tokens prompt_tokens_details iterations x_groq "
    "input_tokens_details output_tokens_details cache_creation cache_read_input_tokens "
    "server_tool_use web_search_requests num_search_queries num_requests web_search expireTime "
    "session value client_secret token_strings body incomplete_details stop_reason finish_reason"
).split()
WORDS = "chat.completion response message completed queued batch priority Default".split()
WORDS.append("modr-00000000000000000001")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3000),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [*WORDS, "", "models/x", "x" * 600, "x" * 40, "ä" * 90, "ä" * 30, "a b"],
    ),
    st.sampled_from([{}, [], [{}], [1], [{"finish_reason": "stop"}], [{"type": "compaction"}]]),
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 5), max_size=2),
)


def long_way(content: bytes, url: str, request_model: str | None) -> Reply | Skipped | None:
    """Read a body as a wrapped client without a short way does; None for what is no reply."""
    try:
        return read_reply(
            body_of(content), url=url, operation=locate(url).operation, request_model=request_model
        )
    except ValueError:
        return None


def holders(value: Any) -> list[Any]:
    """Return every object and list within, the outermost first."""
    inside = list(value.values()) if isinstance(value, dict) else value
    found = [value]
    for item in inside:
        if isinstance(item, (dict, list)):
            found += holders(item)
    return found


def test_recorded_replies_read_the_same_either_way() -> None:
    """Of every recorded reply of a service that has a short way, and most take it."""
    quick = 0
    for line in OWN:
        content, asked = json.dumps(line["body"]).encode(), line.get("request_model")
        reader = quick_reader(line["url"])
        assert reader is not None
        reply = reader(content, asked)
        if reply is not None:
            quick += 1
            assert reply.reply() == long_way(content, line["url"], asked)
    assert len(OWN) >= 30
    assert quick >= 0.7 * len(OWN)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_reply_that_is_changed_reads_the_same_either_way(data: st.DataObject) -> None:
    """Whatever key or value is added, changed or missing: the short way never knows better."""
    line = data.draw(st.sampled_from(OWN))
    body = copy.deepcopy(line["body"])
    for _ in range(data.draw(st.integers(1, 3))):
        holder = data.draw(st.sampled_from(holders(body)))
        if isinstance(holder, list):
            holder.insert(0, copy.deepcopy(data.draw(VALUES)))
            continue
        key = data.draw(st.sampled_from([*holder, *KEYS]))
        if key in holder and data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(data.draw(VALUES))
    content = json.dumps(body).encode()
    asked = data.draw(st.sampled_from([None, "gpt-4o", line.get("request_model")]))
    reader = quick_reader(line["url"])
    assert reader is not None
    reply = reader(content, asked)
    assert reply is None or reply.reply() == long_way(content, line["url"], asked)


LIMITS: list[Any] = [
    *(None, 0, 1, -1, 0.5, 10**9, 10**10, 10**12, 10**13, 1e15),
    *("x", "priority", "fast", "models/b", [], {}),
]
PLAIN: dict[str, dict[str, Any]] = {
    "https://api.openai.com/v1/chat/completions": {
        "id": "chatcmpl-00000000000000000001",
        "object": "chat.completion",
        "created": 1783375763,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "choices": [{"index": 0, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 1200,
            "completion_tokens": 300,
            "total_tokens": 1500,
            "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 200},
            "completion_tokens_details": {"reasoning_tokens": 300},
        },
    },
    "https://api.openai.com/v1/responses": {
        "id": "resp_00000000000000000001",
        "object": "response",
        "status": "completed",
        "created_at": 1783375763,
        "model": "gpt-5",
        "service_tier": "default",
        "tool_usage": {"web_search": {"num_requests": 0}},
        "usage": {
            "input_tokens": 1200,
            "output_tokens": 300,
            "total_tokens": 1500,
            "input_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 200},
            "output_tokens_details": {"reasoning_tokens": 300},
        },
    },
    "https://api.anthropic.com/v1/messages": {
        "id": "msg_00000000000000000001",
        "type": "message",
        "model": "claude-sonnet-4-5",
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 10,
            "output_tokens": 300,
            "service_tier": "standard",
            "cache_read_input_tokens": 1000,
            "cache_creation_input_tokens": 200,
            "cache_creation": {"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
            "output_tokens_details": {"thinking_tokens": 300},
            "server_tool_use": {"web_search_requests": 0},
        },
    },
}


@pytest.mark.parametrize("url", PLAIN)
def test_a_figure_that_is_off_by_a_little_reads_the_same_either_way(url: str) -> None:
    """Each number and text at its limits: a sum that is one too high, a part above its whole."""
    reader = quick_reader(url)
    assert reader is not None
    assert reader(json.dumps(PLAIN[url]).encode(), None) is not None
    for place, holder in enumerate(holders(PLAIN[url])):
        for key in holder if isinstance(holder, dict) else ():
            value = holder[key]
            for changed in [value + 1, value - 1, *LIMITS] if isinstance(value, int) else LIMITS:
                body = copy.deepcopy(PLAIN[url])
                holders(body)[place][key] = changed
                content = json.dumps(body).encode()
                reply = reader(content, None)
                assert reply is None or reply.reply() == long_way(content, url, None), key


@pytest.mark.parametrize("url", PLAIN)
@pytest.mark.parametrize("name", ["modr-" + "1" * 30, "ä" * 30, "x" * 19, "x" * 129, "x y" * 9])
def test_an_unusual_id_reads_the_same_either_way(url: str, name: str) -> None:
    """What is read the short way stands for the call as it is: as long as an id, and ASCII."""
    content = json.dumps({**PLAIN[url], "id": name}).encode()
    reader = quick_reader(url)
    assert reader is not None
    reply = reader(content, None)
    assert reply is None or reply.reply() == long_way(content, url, None)
    assert reply is None or (20 <= len(name) <= 128 and name.isascii())


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1/embeddings",
        "https://api.openai.com/v1/completions",
        "https://api.openai.com/v1/responses/compact",
        "https://api.groq.com/openai/v1/chat/completions",
        "https://bedrock-runtime.us-east-1.amazonaws.com/model/x/invoke",
        "http://localhost:8000/v1/chat/completions",
        "https://api.openai.com:port/v1/chat/completions",
        "",
    ],
)
def test_other_addresses_have_no_short_way(url: str) -> None:
    """It is for the services whose usage blocks it knows to the last key."""
    assert quick_reader(url) is None


def test_a_caller_who_knows_the_service_chooses_the_way() -> None:
    """Anthropic's messages behind a gateway of the user's own."""
    assert quick_reader("http://gateway.local/v1/messages") is None
    assert quick_reader("http://gateway.local/v1/messages", "anthropic") is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_json_is_left_to_the_long_way(content: bytes) -> None:
    """A reader raises nothing."""
    for url in ("https://api.openai.com/v1/responses", "https://api.anthropic.com/v1/messages"):
        reader = quick_reader(url)
        assert reader is not None
        assert reader(content, None) is None


def test_what_is_too_late_is_told_by_the_present_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the clock was set back: no reply is of the day after tomorrow."""
    reader = quick_reader("https://api.openai.com/v1/chat/completions")
    assert reader is not None

    def reads(created: int) -> bool:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "x" * 30, "object": "chat.completion", "model": "gpt-4o", "usage": usage}
        return reader(json.dumps({**body, "created": created}).encode(), None) is not None

    now, later, day = 1_800_000_000, 1_900_000_000, 86_400
    monkeypatch.setattr(quick.time, "time", lambda: float(later))
    assert [reads(later + day), reads(later + day + 1), reads(now)] == [True, False, True]
    monkeypatch.setattr(quick.time, "time", lambda: float(now))
    assert [reads(now), reads(later), reads(now + day)] == [True, False, True]
