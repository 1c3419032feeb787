"""What is not answered at once: counted when it is complete, once, for whom it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker
from tests.support.vendor_server import Answer, VendorServer, recorded, reply
from tests.vendors.conftest import Make, Records

if TYPE_CHECKING:
    import openai

BACKGROUND = "resp_047f9036fb333784006a5fe9db456c819095d041b89bf6629e"


@pytest.fixture
def wrapped(tracker: AIUsageTracker, make: Make) -> Iterator[openai.OpenAI]:
    with tracker.wrap(make("OpenAI")) as client:
        yield client


def finished() -> dict[str, Any]:
    """A background response as it was fetched once it was complete."""
    found = recorded(f"/v1/responses/{BACKGROUND}")
    assert found is not None
    body: dict[str, Any] = json.loads(found.body)
    return body


def queued() -> dict[str, Any]:
    return {**finished(), "status": "queued", "completed_at": None, "usage": None, "output": []}


def test_a_background_response_counts_once_when_it_is_complete(
    server: VendorServer, wrapped: openai.OpenAI, tracker: AIUsageTracker, records: Records
) -> None:
    """Created, asked for twice too early, fetched complete twice: one call, of the job that
    created it, that took as long as the vendor says (trouble 27).
    """
    server.script(reply(queued()), reply(queued()), reply({**queued(), "status": "in_progress"}))
    with tracker.context(job_id="creator"):
        wrapped.responses.create(
            model="gpt-5.6-sol", input="total?", extra_body={"background": True}
        )
    with tracker.context(job_id="poller"):
        for _ in range(4):
            last = wrapped.responses.retrieve(BACKGROUND)
    assert last.status == "completed"
    (record,) = records()
    assert (record.response_id, record.job_id) == (BACKGROUND, "creator")
    assert (record.input_tokens, record.output_tokens, record.latency_ms) == (14, 12, 2000.0)


def test_a_background_response_of_another_process_counts_when_it_is_fetched(
    wrapped: openai.OpenAI, tracker: AIUsageTracker, make: Make, records: Records
) -> None:
    """Under the vendor's id and time: fetched by several, it is still one call."""
    wrapped.responses.retrieve(BACKGROUND)
    with tracker.wrap(make("OpenAI")) as other:
        other.responses.retrieve(BACKGROUND)
    (record,) = records(repeated=True)
    assert record.input_tokens == 14


def whole(response: Any) -> Any:
    """Read a response that is read by its owner."""
    with response as open_one:
        return json.loads(open_one.read())


@pytest.mark.parametrize("streamed", ["the fetch", "both"])
def test_a_background_response_that_its_owner_reads_bit_by_bit_counts(
    streamed: str,
    server: VendorServer,
    wrapped: openai.OpenAI,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """Through ``with_streaming_response``: too early, then complete, twice; for its creator."""
    server.script(reply(queued()), reply(queued()))
    fields: Any = {"model": "gpt-5.6-sol", "input": "x", "extra_body": {"background": True}}
    with tracker.context(job_id="creator"):
        if streamed == "both":
            whole(wrapped.responses.with_streaming_response.create(**fields))
        else:
            wrapped.responses.create(**fields)
    with tracker.context(job_id="poller"):
        for client in (wrapped.responses.with_streaming_response, wrapped.with_streaming_response):
            retrieve = getattr(client, "responses", client).retrieve
            whole(retrieve(BACKGROUND))
            last = whole(retrieve(BACKGROUND))
    assert last["status"] == "completed"
    (record,) = records()
    assert (record.response_id, record.job_id) == (BACKGROUND, "creator")
    assert (record.input_tokens, record.output_tokens, record.latency_ms) == (14, 12, 2000.0)


def test_a_fetch_that_is_not_read_to_its_end_is_no_call(
    wrapped: openai.OpenAI, records: Records
) -> None:
    """Nothing is known of it then: whoever reads it counts it."""
    with wrapped.responses.with_streaming_response.retrieve(BACKGROUND) as response:
        assert response.status_code == 200
    assert records() == []
    whole(wrapped.responses.with_streaming_response.retrieve(BACKGROUND))
    assert len(records()) == 1


def test_what_was_counted_when_it_was_made_is_not_counted_when_it_is_fetched(
    server: VendorServer, wrapped: openai.OpenAI, tracker: AIUsageTracker, records: Records
) -> None:
    """A stored response that is read again leaves the record, and its job, alone (trouble 27)."""
    with tracker.context(job_id="maker"):
        made = wrapped.responses.create(model="gpt-5", input="total?")
    stored = recorded("/v1/responses", model="gpt-5")
    assert stored is not None
    server.script(stored)
    with tracker.context(job_id="reader"):
        wrapped.responses.retrieve(made.id)
    (record,) = records()
    assert (record.job_id, record.input_tokens) == ("maker", 304)


OPENAI_LINE = {
    "id": "batch_req_1",
    "custom_id": "receipt-1",
    "response": {
        "status_code": 200,
        "request_id": "r",
        "body": {
            "id": "chatcmpl-C2OI7Ey3XvNe02fb41d1D6h1j6H1M",
            "object": "chat.completion",
            "created": 1795000000,
            "model": "gpt-4o-2024-08-06",
            "choices": [],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        },
    },
    "error": None,
}
FAILED_LINE = {
    "id": "batch_req_2",
    "custom_id": "receipt-2",
    "response": None,
    "error": {"code": "batch_expired", "message": "m"},
}
OUTPUT = "\n".join(map(json.dumps, [OPENAI_LINE, FAILED_LINE])) + "\n"


def test_a_batch_that_is_retrieved_is_no_call(
    server: VendorServer, wrapped: openai.OpenAI, records: Records
) -> None:
    """Neither the batch, with the sum of its usage, nor the file with its output."""
    batch = {
        "id": "batch_1",
        "object": "batch",
        "status": "completed",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "output_file_id": "file-2",
        "completion_window": "24h",
        "created_at": 1795000000,
        "completed_at": 1795003600,
        "usage": {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100},
    }
    server.script(reply(batch), Answer(OUTPUT.encode(), content_type="application/octet-stream"))
    assert wrapped.batches.retrieve("batch_1").output_file_id == "file-2"
    wrapped.files.content("file-2").read()
    assert records() == []


def test_the_output_of_a_batch_is_recorded_at_the_price_of_batches(
    server: VendorServer, wrapped: openai.OpenAI, tracker: AIUsageTracker, records: Records
) -> None:
    """As the file that the client returned; again, as text, it counts no second time
    (trouble 44).
    """
    server.script(Answer(OUTPUT.encode(), content_type="application/octet-stream"))
    content = wrapped.files.content("file-2")
    for form in (content, OUTPUT, OUTPUT.encode(), OUTPUT.splitlines()):
        done = tracker.record_batch_output(form, timestamp=1795003600, job_id="labels")
        assert (done.recorded, done.unreadable, done.dropped) == (2, 0, 0)
    good, failed = sorted(records(repeated=True), key=lambda one: one.error is not None)
    assert (good.input_tokens, good.cost_usd) == (1000, Decimal("0.00175"))  # half of 0.0035
    assert (good.job_id, good.metadata["custom_id"]) == ("labels", "receipt-1")
    assert (failed.error, failed.unpriced_reason) == ("batch_expired", "failed_call")
    assert failed.timestamp == datetime.fromtimestamp(1795003600, UTC)


def test_lines_that_are_no_results_are_counted_apart(tracker: AIUsageTracker) -> None:
    """A line that was cut off, a request instead of a result, a reply outside a batch."""
    request = {"custom_id": "a", "method": "POST", "url": "/v1/x", "body": {}}
    lines = [OUTPUT.splitlines()[0][:-9], json.dumps(request), json.dumps({"id": "x"}), "7", "\n"]
    assert tracker.record_batch_output("\n".join(lines)).unreadable == 4
    with pytest.raises(TypeError, match="not a batch's output"):
        tracker.record_batch_output(42)


RESULTS = [
    {
        "custom_id": f"receipt-{number}",
        "result": {
            "type": "succeeded",
            "message": {
                "id": f"msg_01E3Wn1NynZw9FALZ68znj9{number}",
                "type": "message",
                "role": "assistant",
                "model": "claude-sonnet-4-5-20250929",
                "content": [],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 1000, "output_tokens": 100},
            },
        },
    }
    for number in range(3)
] + [{"custom_id": "receipt-9", "result": {"type": "expired"}}]
BATCH = {
    "id": "msgbatch_01",
    "type": "message_batch",
    "processing_status": "ended",
    "created_at": "2026-11-20T08:00:00Z",
    "ended_at": "2026-11-20T09:30:00Z",
    "expires_at": "2026-11-21T08:00:00Z",
    "request_counts": {
        "processing": 0,
        "succeeded": 3,
        "errored": 0,
        "canceled": 0,
        "expired": 1,
    },
}


def script_results(server: VendorServer, **changes: Any) -> None:
    """Answer what ``batches.results`` asks: the batch, then its results."""
    batch = {**BATCH, "results_url": f"{server.url}/v1/messages/batches/msgbatch_01/results"}
    text = "\n".join(map(json.dumps, RESULTS)) + "\n"
    server.script(
        reply(batch), Answer(text.encode(), content_type="application/x-jsonl", **changes)
    )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_results_of_anthropic_s_batches_are_its_calls(
    asynchronous: bool,
    server: VendorServer,
    make: Make,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """Each line once at the price of batches, of the time when the batch ended; read again, also
    by a process that knows nothing of the first, they count no second time (troubles 32, 44).
    """

    async def read_async() -> list[str]:
        async with tracker.wrap(make("AsyncAnthropic")) as client:
            results = await client.messages.batches.results("msgbatch_01")
            return [one.custom_id async for one in results]

    def read() -> list[str]:
        with tracker.wrap(make("Anthropic")) as client:
            return [one.custom_id for one in client.messages.batches.results("msgbatch_01")]

    for _ in range(2):
        script_results(server)
        names = asyncio.run(read_async()) if asynchronous else read()
        assert names == [line["custom_id"] for line in RESULTS]
    found = records(repeated=True)
    good = [one for one in found if one.error is None]
    assert len(found) == 4
    assert {one.cost_usd for one in good} == {Decimal("0.00225")}  # half of 0.003 and 0.0015
    assert {one.timestamp for one in found} == {datetime(2026, 11, 20, 9, 30, tzinfo=UTC)}
    assert {one.batch_id for one in found} == {"msgbatch_01"}
    assert {one.metadata["custom_id"] for one in good} == {"receipt-0", "receipt-1", "receipt-2"}


def test_the_results_that_were_read_count_when_the_rest_is_left(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A batch_id of the pipeline's own stays."""
    script_results(server)
    with tracker.wrap(make("Anthropic")) as client, tracker.context(batch_id="mine"):
        results = client.messages.batches.results("msgbatch_01")
        next(iter(results))
        results.http_response.close()
    assert {one.batch_id for one in records()} == {"mine"}


def test_a_batch_is_recorded_from_the_sdk_s_objects(
    client: UsageClient, tracker: AIUsageTracker, server: VendorServer, make: Make
) -> None:
    """What a bare client returned."""
    script_results(server)
    with make("Anthropic") as bare:
        done = tracker.record_batch_output(bare.messages.batches.results("msgbatch_01"))
    assert (done.recorded, done.unreadable) == (4, 0)
