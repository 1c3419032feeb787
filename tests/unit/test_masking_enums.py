"""Members of enums that are texts are masked and recorded as the text that they stand for."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, UsageLogger, mask

KEY = "sk-proj-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7"


class Word(StrEnum):
    OPENAI = "openai"
    MODEL = "gpt-4o"
    CHAT = "chat"
    PASSWORD = "password"  # noqa: S105
    KEY = KEY
    MAIL = "ann.lee@example.com"
    FLAKY = "flaky"


class OldWord(str, Enum):  # noqa: UP042 - as programs had it before StrEnum
    OPENAI = "openai"
    MODEL = "gpt-4o"
    CHAT = "chat"
    PASSWORD = "password"  # noqa: S105
    KEY = KEY
    MAIL = "ann.lee@example.com"
    FLAKY = "flaky"


words = pytest.mark.parametrize("words", [Word, OldWord])


@words
def test_a_mask_returns_plain_texts(words: Any) -> None:
    """Of keys and of values, at any depth, in a header and in a set."""
    masked = mask({words.PASSWORD: "x", words.KEY: [words.MAIL], words.CHAT: {words.FLAKY}})
    assert masked == {"password": "[secret]", "[secret]": ["[email]"], "chat": {"flaky"}}
    assert {type(key) for key in masked} == {type(word) for word in masked["chat"]} == {str}
    assert mask({"name": words.PASSWORD, "value": "hunter2"})["value"] == "[secret]"
    assert mask({"x": 1}, keys=[words.CHAT]) == {"x": 1}
    assert type(mask(words.CHAT)) is str


@words
def test_names_ids_metadata_and_errors_of_a_record(client: UsageClient, words: Any) -> None:
    """A credential goes, wherever it stands; what is none stays, as its text."""
    tracker = AIUsageTracker(client, strict=True)
    call: dict[str, Any] = {"service": words.OPENAI, "model": words.MODEL, "input_tokens": 1000}
    tracker.record(
        **call,
        operation=words.CHAT,
        output_tokens=10,
        request_id=words.FLAKY,
        job_id=words.CHAT,
        error=words.FLAKY,
        metadata={words.PASSWORD: words.CHAT, words.CHAT: words.MAIL},
    )
    (metric,) = client.query()
    names = (metric.service, metric.model, metric.operation, metric.request_id, metric.job_id)
    assert names == ("openai", "gpt-4o", "chat", "flaky", "chat")
    assert metric.error == "flaky"
    assert metric.cost_usd is not None
    assert metric.metadata == {"password": "[secret]", "chat": "[email]"}

    tracker.record(**{**call, "model": words.KEY}, operation=words.KEY, user_id=words.KEY)
    tracker.record(**call, operation=words.CHAT, request_id=words.KEY, error=words.KEY)
    with tracker.context(job_id=words.KEY), tracker.track(words.KEY, tool=words.KEY):
        pass
    with UsageLogger(tracker) as logger:
        logger.log_tool_usage(words.KEY, outcome=words.KEY, metadata={"a": words.KEY})
    metrics = list(client.query())
    assert len(metrics) == 7
    assert KEY not in repr(metrics)
    assert {"[secret]"} == {one.model for one in metrics if one.operation == "[secret]"}


@words
def test_what_is_not_masked_is_the_text_all_the_same(client: UsageClient, words: Any) -> None:
    """Where a tracker masks nothing."""
    tracker = AIUsageTracker(client, strict=True, mask=False)
    tracker.record(
        service=words.OPENAI,
        model=words.MODEL,
        operation=words.CHAT,
        error=words.FLAKY,
        metadata={words.PASSWORD: words.CHAT},
    )
    (metric,) = client.query()
    assert (metric.error, metric.model, metric.operation) == ("flaky", "gpt-4o", "chat")
    assert metric.metadata == {"password": "chat"}


def test_an_error_of_any_kind_costs_no_record(client: UsageClient) -> None:
    """What cannot be looked up among texts is written as its text."""
    tracker = AIUsageTracker(client, strict=True)
    tracker.record(
        service="openai",
        model="gpt-4o",
        operation="chat",
        error={"code": 1},  # type: ignore[arg-type]
    )
    assert [metric.error for metric in client.query()] == ["{'code': 1}"]
