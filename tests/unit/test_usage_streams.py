"""Streams: the last snapshot wins, and what was cut off is said to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receipt_label.usage import Usage, read_reply
from tests.support.usage_replies import read


def sse(*chunks: object, end: str = "\n\n") -> str:
    return "".join(f"data: {json.dumps(chunk)}{end}" for chunk in chunks)


def chunk(usage: object = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1771434740,
        "model": "gpt-4o",
        "choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
        "usage": usage,
        **more,
    }


USED = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
WHOLE = Usage(input_tokens=10, output_tokens=4)


def test_usage_counts_although_its_chunk_has_choices() -> None:
    """The usage chunk is read whether or not choices is empty (trouble 48)."""
    assert read(sse(chunk(), chunk(USED, "stop")) + "data: [DONE]\n\n").usage == WHOLE
    assert read([chunk(), chunk(None, "stop"), chunk(USED, choices=[])]).usage == WHOLE


def test_groqs_usage_may_stand_in_x_groq_alone() -> None:
    """Groq's older streams have the usage in x_groq only."""
    reply = read(sse(chunk(), chunk(None, "stop", x_groq={"id": "req_1", "usage": USED})))
    assert (reply.usage, reply.service) == (WHOLE, "groq")


def test_the_last_snapshot_wins_not_the_first_and_not_the_sum() -> None:
    """Vendors that report running usage report it cumulatively (trouble 33)."""
    running = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    assert read(sse(chunk(running), chunk(running), chunk(USED, "stop"))).usage == WHOLE


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n"])
def test_every_line_ending_is_one(end: str) -> None:
    """LF, CRLF and CR end lines; some servers leave out the empty one."""
    assert read(sse(chunk(), chunk(USED, "stop"), end=end)).usage == WHOLE


def test_what_surrounds_the_data_is_passed_over() -> None:
    """Byte order mark, comments, ids, event names, keep-alives and [DONE] are no chunks."""
    text = "\ufeff: hello\n\nevent: x\nid: 1\nretry: 5\n" + sse(chunk(USED, "stop"))
    assert read(text + ": bye\n\ndata: [DONE]\n\n").usage == WHOLE
    assert read(text.encode()).usage == WHOLE


def test_a_line_separator_inside_a_string_ends_no_line() -> None:
    """U+2028 is a character of JSON, not of the stream."""
    data = json.dumps(chunk(USED, "stop", note="a\u2028b"), ensure_ascii=False)
    assert read(f"data: {data}\n\n").usage == WHOLE


def test_data_may_come_in_several_lines() -> None:
    """Lines of data of one event are one piece of JSON."""
    data = json.dumps(chunk(USED, "stop"), indent=1)
    text = "".join(f"data: {line}\n" for line in data.split("\n"))
    assert read(text + "\n").usage == WHOLE


def test_an_interrupted_chat_is_partial() -> None:
    """Without a finish reason, and without [DONE], the stream was cut off; nothing is guessed."""
    reply = read(sse(chunk(), chunk())[:-20])
    assert (reply.status, reply.fault, reply.usage) == ("partial", "no_usage", None)
    assert reply.response_id == "chatcmpl-1"


def test_a_chat_without_include_usage_is_complete_and_unmeasured() -> None:
    """A stream that ended without usage has no known usage, not zero."""
    reply = read(sse(chunk(), chunk(None, "stop")))
    assert (reply.status, reply.fault) == ("complete", "no_usage")


START = {
    "type": "message_start",
    "message": {
        "type": "message",
        "id": "msg_01",
        "model": "claude-sonnet-4-5",
        "usage": {
            "input_tokens": 100,
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}


def test_anthropics_delta_replaces_and_keeps_what_it_leaves_out() -> None:
    """message_delta is cumulative; input and cache of message_start stay where it has none."""
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 59, "input_tokens": None},
    }
    reply = read(sse(START, {"type": "ping"}, delta, {"type": "message_stop"}))
    assert reply.usage == Usage(
        input_tokens=120, cached_input_tokens=20, cache_write_tokens=0, output_tokens=59
    )
    assert (reply.status, reply.response_id) == ("complete", "msg_01")


def test_an_interrupted_message_keeps_its_placeholder_and_says_partial() -> None:
    """What message_start reported stays as reported; the status says that it is not all."""
    reply = read(sse(START))
    assert reply.status == "partial"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (120, 1)


def test_an_error_in_the_stream_is_a_failed_call_without_its_message() -> None:
    """The code of the error is kept, what it says is not; usage so far is kept."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Secret words"}}
    reply = read(sse(START) + "event: error\n" + sse(error))
    assert (reply.fault, reply.error) == ("failed_call", "overloaded_error")
    assert reply.usage is not None
    assert "Secret" not in repr(reply)


def response_event(kind: str, status: str, usage: object = None) -> dict[str, Any]:
    return {
        "type": f"response.{kind}",
        "response": {
            "object": "response",
            "id": "resp_1",
            "created_at": 1777591025,
            "model": "gpt-5",
            "status": status,
            "usage": usage,
        },
    }


@pytest.mark.parametrize(
    ("kind", "status", "fault"),
    [
        ("completed", "complete", None),
        ("incomplete", "partial", None),
        ("failed", "aborted", "failed_call"),
    ],
)
def test_the_final_event_of_a_response_decides(kind: str, status: str, fault: str | None) -> None:
    """completed, incomplete and failed all carry the last snapshot with its usage."""
    usage = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}
    reply = read(sse(response_event("created", "in_progress"), response_event(kind, kind, usage)))
    assert (reply.usage, reply.status, reply.fault) == (WHOLE, status, fault)


def test_a_response_cut_off_is_partial_and_not_skipped() -> None:
    """A stream that ends in progress was a call; a polled one that is in progress is none yet."""
    reply = read(sse(response_event("created", "in_progress")))
    assert (reply.status, reply.fault, reply.response_id) == ("partial", "no_usage", "resp_1")


def gemini(reason: str | None = None, **usage: int) -> dict[str, Any]:
    return {
        "candidates": [{"finishReason": reason}],
        "modelVersion": "gemini-3-flash",
        "responseId": "r1",
        "usageMetadata": usage,
    }


def test_geminis_last_total_is_a_whole_snapshot() -> None:
    """A snapshot with a total leaves out zeros: no earlier count may be mixed into it."""
    chunks = [
        gemini(promptTokenCount=9, candidatesTokenCount=21, totalTokenCount=30),
        gemini("STOP", promptTokenCount=87, thoughtsTokenCount=78, totalTokenCount=165),
    ]
    expected = Usage(input_tokens=87, output_tokens=78, reasoning_tokens=78)
    assert read(sse(*chunks)).usage == expected
    assert read(json.dumps(chunks)).usage == expected
    assert read(sse(chunks[0])).status == "partial"


def test_bedrocks_converse_stream_ends_with_its_metadata() -> None:
    """The events of a Converse stream add up to one reply."""
    events: list[dict[str, Any]] = [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"delta": {}}},
        {"messageStop": {"stopReason": "end_turn"}},
        {"metadata": {"usage": {"inputTokens": 10, "outputTokens": 4, "totalTokens": 14}}},
    ]
    reply = read(events, request_model="amazon.nova-lite-v1:0")
    assert (reply.service, reply.usage, reply.status) == ("aws", WHOLE, "complete")
    assert reply.model == "amazon.nova-lite-v1:0"
    assert read(events[:2]).status == "partial"
    failed = read([*events[:2], {"throttlingException": {"message": "Secret"}}])
    assert (failed.fault, failed.error) == ("failed_call", "throttlingException")


def test_openai_on_bedrock_streams_the_cached_tokens_inside_the_input() -> None:
    """The one known exception to Converse's rule: its stream counts the cache twice."""
    usage = {
        "inputTokens": 4995,
        "cacheWriteInputTokens": 4993,
        "outputTokens": 19,
        "totalTokens": 10007,
    }
    events = [{"messageStop": {"stopReason": "end_turn"}}, {"metadata": {"usage": usage}}]
    reply = read(events, request_model="us.openai.gpt-5.6-luna")
    assert reply.usage is not None
    assert reply.usage.input_tokens == 4995
    other = read(events, request_model="us.anthropic.claude-x")
    assert other.usage is not None
    assert other.usage.input_tokens == 9988


def test_bedrocks_invoke_stream_is_opened() -> None:
    """Chunks come as bytes in an envelope; the last one has the metrics."""
    parts = [START, {"type": "message_stop", "amazon-bedrock-invocationMetrics": {}}]
    events = [{"chunk": {"bytes": json.dumps(part).encode()}} for part in parts]
    reply = read(events, url="https://bedrock-runtime.us-east-1.amazonaws.com/model/m/invoke")
    assert (reply.service, reply.status) == ("aws", "complete")


def test_cohere_and_ollama_streams() -> None:
    """Cohere ends with message-end, Ollama with the line that is done."""
    billed = {"billed_units": {"input_tokens": 10, "output_tokens": 4}}
    cohere = [
        {"type": "message-start", "id": "c-1"},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": billed}},
    ]
    reply = read(sse(*cohere))
    assert (reply.service, reply.usage, reply.response_id) == ("cohere", WHOLE, "c-1")
    line = {"model": "llama3.2", "created_at": "2026-01-02T00:00:00Z", "done": False}
    last = {**line, "done": True, "prompt_eval_count": 10, "eval_count": 4}
    text = f"{json.dumps(line)}\n{json.dumps(last)}\n"
    assert (read(text).service, read(text).usage) == ("ollama", WHOLE)
    assert read(text[:-30]).status == "partial"


def test_images_and_transcripts_stream_too() -> None:
    """The event that completes an image or a transcript has the usage."""
    used = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}
    image = [{"type": "image_generation.partial_image"}, {"type": "image_generation.completed"}]
    reply = read(sse(image[0], {**image[1], "usage": used}), request_model="gpt-image-1")
    assert (reply.operation, reply.status) == ("image_generation", "complete")
    text = sse({"type": "transcript.text.delta"}, {"type": "transcript.text.done", "usage": used})
    assert read(text, request_model="gpt-4o-transcribe").usage == WHOLE


def test_several_replies_are_not_one() -> None:
    """A list of whole replies is refused: each is a call of its own."""
    whole = {"object": "chat.completion", "usage": USED}
    with pytest.raises(ValueError, match="one at a time"):
        read_reply([whole, whole])
