"""What is no call, what failed, and what comes in batches."""

from __future__ import annotations

from typing import Any

import pytest

from receipt_label.usage import Reply, Skipped, Usage, read_reply

OPENAI = "https://api.openai.com/v1"
GEMINI = "https://generativelanguage.googleapis.com/v1beta"

NO_CALLS: list[tuple[dict[str, Any], str | None]] = [
    ({"input_tokens": 16}, None),
    ({"input_tokens": 16, "object": "response.input_tokens"}, None),
    ({"inputTokens": 11}, None),
    ({"inputTokens": 11, "ResponseMetadata": {"RequestId": "r"}}, None),
    ({"totalTokens": 9, "promptTokensDetails": []}, f"{GEMINI}/models/gemini-3:countTokens"),
    ({"tokens": [], "token_strings": [], "meta": {}}, None),
    ({"value": "", "expires_at": 1, "session": {}}, None),
    ({"client_secret": {}, "object": "realtime.session"}, None),
    ({"object": "vector_store", "usage_bytes": 0}, None),
    ({"object": "vector_store.file", "status": "in_progress"}, None),
    ({"object": "file", "id": "file-1"}, None),
    ({"object": "file", "id": "file-1", "deleted": True}, None),
    ({"object": "list", "data": []}, f"{OPENAI}/models"),
    ({"object": "list", "data": [{"object": "model"}]}, None),
    ({"object": "batch", "usage": {"input_tokens": 5, "total_tokens": 5}}, None),
    ({"type": "message_batch", "id": "msgbatch_1"}, None),
    ({"id": "modr-1", "results": [], "model": "omni-moderation-latest"}, None),
    ({"expireTime": "", "name": "", "usageMetadata": {"totalTokenCount": 5}}, None),
    ({"models": []}, f"{GEMINI}/models"),
    ({"message": ""}, "https://bedrock-runtime.us-east-1.amazonaws.com/model/m/count-tokens"),
    ({"type": "session.created", "session": {}}, None),
    ({}, f"{OPENAI}/files/file-1"),
]


@pytest.mark.parametrize(("body", "url"), NO_CALLS)
def test_what_is_no_call_is_skipped(body: dict[str, Any], url: str | None) -> None:
    """Counting, sessions, files, listings and batch jobs use nothing that is billed here."""
    result = read_reply(body, url=url)
    assert isinstance(result, Skipped), result
    assert result.reason == "not_usage"
    assert result.what


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_unfinished_response_is_skipped(status: str) -> None:
    """The completed form, read later, is the call."""
    result = read_reply({"object": "response", "id": "resp_1", "status": status, "usage": None})
    assert result == Skipped("not_finished", status)


@pytest.mark.parametrize(
    ("status", "expected", "fault"),
    [
        ("completed", "complete", None),
        ("complete", "complete", None),
        ("incomplete", "partial", None),
        ("cancelled", "aborted", None),
        ("failed", "aborted", "failed_call"),
    ],
)
def test_the_status_of_a_response(status: str, expected: str, fault: str | None) -> None:
    """Each final status keeps the usage that it has."""
    usage = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}
    body = {"object": "response", "id": "resp_1", "status": status, "usage": usage}
    reply = read_reply(body)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.fault) == (expected, fault)
    assert reply.usage == Usage(input_tokens=10, output_tokens=4)


def test_a_cancelled_response_without_usage_is_a_call_without_a_figure() -> None:
    """It may have cost something; nobody says what."""
    reply = read_reply({"object": "response", "id": "resp_1", "status": "cancelled"})
    assert isinstance(reply, Reply)
    assert (reply.status, reply.fault, reply.usage) == ("aborted", "no_usage", None)


def failure(**error: object) -> dict[str, Any]:
    return {"error": {**error, "message": "Secret"}}


FAILURES: list[tuple[dict[str, Any], int | None, str]] = [
    (failure(type="invalid_request_error"), 400, "invalid_request_error"),
    (failure(code=429, status="RESOURCE_EXHAUSTED"), 429, "RESOURCE_EXHAUSTED"),
    ({"type": "error", **failure(type="overloaded_error")}, 529, "overloaded_error"),
    ({"error": "Secret words of a model"}, 500, "http_500"),
    ({"error": "Secret words of a model"}, None, "error"),
    ({"message": "Secret"}, 403, "http_403"),
    ({"Error": {"Code": "ThrottlingException", "Message": "Secret"}}, None, "ThrottlingException"),
    ({"detail": "Secret"}, 422, "http_422"),
]


@pytest.mark.parametrize(("body", "http_status", "code"), FAILURES)
def test_a_failed_call_keeps_its_code_alone(
    body: dict[str, Any], http_status: int | None, code: str
) -> None:
    """Who failed at what is known from the address; the message is never kept."""
    reply = read_reply(
        body,
        url=f"{OPENAI}/chat/completions",
        http_status=http_status,
        request_model="gpt-4o",
    )
    assert isinstance(reply, Reply)
    assert (reply.fault, reply.error, reply.status) == ("failed_call", code, "aborted")
    assert (reply.service, reply.model, reply.operation) == ("openai", "gpt-4o", "chat")
    assert "Secret" not in repr(reply)


CHAT = {
    "object": "chat.completion",
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini",
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}


def test_a_line_of_openais_batch_output_has_the_batch_price() -> None:
    """The reply inside the line is the call; batches have a price of their own."""
    line = {
        "id": "batch_req_1",
        "custom_id": "mine",
        "response": {"status_code": 200, "request_id": "r", "body": CHAT},
        "error": None,
    }
    reply = read_reply(line)
    assert isinstance(reply, Reply)
    assert reply.usage == Usage(input_tokens=10, output_tokens=4)
    assert reply.price_context == {"processing": "batch"}
    assert (reply.service, reply.response_id) == ("openai", "chatcmpl-1")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            {"custom_id": "a", "response": None, "error": {"code": "batch_expired"}},
            "batch_expired",
        ),
        (
            {
                "custom_id": "a",
                "response": {"status_code": 400, "body": {"error": {"code": "bad_model"}}},
            },
            "bad_model",
        ),
        ({"custom_id": "a", "result": {"type": "expired"}}, "expired"),
        ({"custom_id": "a", "result": {"type": "canceled"}}, "canceled"),
        (
            {
                "custom_id": "a",
                "result": {"type": "errored", "error": {"error": {"type": "invalid_request"}}},
            },
            "invalid_request",
        ),
    ],
)
def test_a_failed_line_of_a_batch_is_a_failed_call(line: dict[str, Any], error: str) -> None:
    """Expired, cancelled and refused requests are calls without usage."""
    reply = read_reply(line)
    assert isinstance(reply, Reply)
    assert (reply.fault, reply.error, reply.usage) == ("failed_call", error, None)


def test_lines_of_other_batches() -> None:
    """Anthropic, Gemini and Bedrock wrap the reply in their own way."""
    message = {"type": "message", "id": "msg_1", "usage": {"input_tokens": 10, "output_tokens": 4}}
    content = {"candidates": [], "usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10}}
    for line, service in (
        ({"custom_id": "a", "result": {"type": "succeeded", "message": message}}, "anthropic"),
        ({"key": "a", "response": content}, "google"),
        ({"recordId": "a", "modelInput": {}, "modelOutput": {"inputTextTokenCount": 10}}, "aws"),
    ):
        reply = read_reply(line)
        assert isinstance(reply, Reply)
        assert reply.usage is not None
        assert (reply.service, reply.usage.input_tokens) == (service, 10)
        assert reply.price_context == {"processing": "batch"}


def test_no_usage_is_unknown_and_never_zero() -> None:
    """A reply without figures has no usage and says so."""
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/cohere.embed-v4%3A0/invoke"
    body = {"embeddings": {"float": [[]]}, "id": "e3b64827", "texts": [""]}
    reply = read_reply(body, url=url)
    assert isinstance(reply, Reply)
    assert (reply.usage, reply.fault) == (None, "no_usage")
    assert (reply.service, reply.model, reply.operation) == (
        "aws",
        "cohere.embed-v4:0",
        "embeddings",
    )


@pytest.mark.parametrize(
    "nothing",
    [5, 1.5, True, None, "", "hello", "5", '"text"', "[]", [], b"\xff\xfe", object(), int],
)
def test_what_is_no_reply_is_refused_with_one_clear_message(nothing: object) -> None:
    """The error says what it is and what to pass instead."""
    with pytest.raises(ValueError, match=r"not a reply of an AI service: .* Pass the SDK's object"):
        read_reply(nothing)


def test_an_unknown_object_is_refused_unless_the_caller_vouches_for_it() -> None:
    """Nobody's shape and no hint: the error names the keys and the remedy."""
    with pytest.raises(ValueError, match=r"keys foo.*service= and model="):
        read_reply({"foo": 1})
    reply = read_reply({"foo": 1}, service="house", model="own-model")
    assert isinstance(reply, Reply)
    assert (reply.service, reply.model, reply.fault) == ("house", "own-model", "no_usage")
