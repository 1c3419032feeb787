"""record_batch_output: each line of a batch's output is a call, and the same output counts once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, BatchOutput
from tests.support import NOON

USAGE = {"prompt_tokens": 8, "total_tokens": 8}
EMBEDDED = {
    "id": "batch_req_1",
    "custom_id": "receipt-1",
    "response": {
        "status_code": 200,
        "body": {
            "object": "list",
            "model": "text-embedding-3-small",
            "data": [{"object": "embedding", "embedding": [0.5], "index": 0}],
            "usage": USAGE,
        },
    },
}
CLAUDE = {
    "custom_id": "receipt-2",
    "result": {
        "type": "succeeded",
        "message": {
            "id": "msg_01E3Wn1NynZw9FALZ68znj9S",
            "type": "message",
            "model": "claude-sonnet-4-5-20250929",
            "usage": {"input_tokens": 10, "output_tokens": 1},
        },
    },
}
GEMINI = {
    "key": "receipt-3",
    "response": {
        "candidates": [{"finishReason": "STOP"}],
        "modelVersion": "gemini-2.5-flash",
        "responseId": "abcdefghijklmnopqrstuvwx",
        "usageMetadata": {
            "promptTokenCount": 10,
            "candidatesTokenCount": 1,
            "totalTokenCount": 11,
        },
    },
}
LINES = [EMBEDDED, CLAUDE, GEMINI]
OUTPUT = "\n".join(map(json.dumps, LINES)) + "\n"


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True, now=lambda: NOON)


def calls(client: UsageClient) -> int:
    client.flush()
    return sum(row.calls for row in client.summarize())


@pytest.mark.parametrize(
    "form",
    [OUTPUT, OUTPUT.encode(), OUTPUT.splitlines(), LINES, iter(LINES)],
    ids=["text", "bytes", "lines", "dicts", "iterator"],
)
def test_any_form_of_an_output_is_recorded(
    form: Any, tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Of every vendor, dated by the batch, with what the caller adds."""
    done = tracker.record_batch_output(form, timestamp=NOON, user_id="pipeline")
    assert done == BatchOutput(recorded=3)
    client.flush()
    found = {record.service: record for record in client.query()}
    assert set(found) == {"openai", "anthropic", "google"}
    assert {record.user_id for record in found.values()} == {"pipeline"}
    assert {record.timestamp for record in found.values()} == {NOON}
    assert found["openai"].metadata["custom_id"] == "receipt-1"


def test_an_output_recorded_again_counts_once(tracker: AIUsageTracker, client: UsageClient) -> None:
    """By the batch's time, given again as seconds; by another tracker too (trouble 32)."""
    for _ in range(2):
        tracker.record_batch_output(OUTPUT, timestamp=NOON)
    AIUsageTracker(client).record_batch_output(OUTPUT, timestamp=NOON.timestamp())
    assert calls(client) == 3


def test_an_output_that_is_imported_too_counts_once(
    tracker: AIUsageTracker, client: UsageClient, run: Callable[..., Any], tmp_path: Path
) -> None:
    """From the pipeline and from the shell: the same identity."""
    tracker.record_batch_output(OUTPUT, timestamp=NOON)
    client.flush()
    file = tmp_path / "output.jsonl"
    file.write_text(OUTPUT)
    assert run("import", "--at", NOON.isoformat(), str(file)).code == 0
    assert calls(client) == 3


def test_what_the_vendor_did_not_process_is_on_record_as_an_error(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Expired or refused: a call without a price, told apart by its line."""
    lines = [{"custom_id": f"r{n}", "result": {"type": "expired"}} for n in range(2)]
    assert tracker.record_batch_output(lines, timestamp=NOON, service="anthropic").recorded == 2
    client.flush()
    assert {(one.error, one.unpriced_reason) for one in client.query()} == {
        ("expired", "failed_call")
    }
    assert calls(client) == 2


@pytest.mark.parametrize("thing", [None, 42, {"custom_id": "a"}], ids=str)
def test_what_is_no_output_is_a_type_error(thing: Any, tracker: AIUsageTracker) -> None:
    """One line alone, or nothing: the message says what to pass."""
    with pytest.raises(TypeError, match="Pass its text or bytes"):
        tracker.record_batch_output(thing)


@pytest.mark.parametrize(
    "moment",
    [1780000000000000, float("nan"), "2026-11-20", datetime(2026, 11, 20)],  # noqa: DTZ001
    ids=str,
)
def test_a_timestamp_that_is_none_costs_no_call(
    moment: Any, tracker: AIUsageTracker, client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Microseconds, a text, a naive time: it is logged, and only ``strict`` raises."""
    tolerant = AIUsageTracker(client)
    assert tolerant.record_batch_output(OUTPUT, timestamp=moment).recorded == 3
    assert "is no time of a batch: pass an aware datetime" in caplog.text
    with pytest.raises(ValueError, match="is no time of a batch"):
        AIUsageTracker(client, strict=True).record_batch_output(OUTPUT, timestamp=moment)


@pytest.mark.parametrize("seconds", [int(NOON.timestamp()), NOON.timestamp()])
def test_a_time_in_milliseconds_is_the_same_time(
    seconds: float, tracker: AIUsageTracker, client: UsageClient
) -> None:
    """What Java and JavaScript call a time: the output counts once with either."""
    tracker.record_batch_output(OUTPUT, timestamp=seconds)
    tracker.record_batch_output(OUTPUT, timestamp=seconds * 1000)
    assert {record.timestamp for record in client.query()} == {NOON}
    assert calls(client) == 3


def test_a_reply_may_say_its_time_in_milliseconds(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """A line's own time wins over the one that is given, in either unit."""
    body = {
        "id": "chatcmpl-0123456789abcdefghij", "object": "chat.completion", "model": "gpt-4o",
        "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
    }  # fmt: skip
    own = datetime(2026, 5, 28, tzinfo=UTC)
    for created in (int(own.timestamp()), int(own.timestamp()) * 1000):
        line = {
            "custom_id": "a",
            "response": {"status_code": 200, "body": {**body, "created": created}},
        }
        tracker.record_batch_output(json.dumps(line), timestamp=NOON)
    assert [record.timestamp for record in client.query()] == [own]


def test_lines_after_the_tracker_is_closed_are_counted_as_dropped(client: UsageClient) -> None:
    """And the pipeline goes on."""
    tracker = AIUsageTracker(client)
    tracker.close()
    moment = datetime(2026, 11, 20, tzinfo=UTC)
    assert tracker.record_batch_output(OUTPUT, timestamp=moment) == BatchOutput(dropped=3)
