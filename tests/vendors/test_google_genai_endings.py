"""google-genai: however a call or a stream ends, it is recorded once and as it ended."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from typing import Any

import pytest
from google.genai import errors, types

from receipt_label import AIUsageTracker
from tests.support.google_calls import GEMINI, GEMINI_STREAM, MARKS, ask, content, refusal, stream
from tests.support.vendor_server import Answer, VendorServer
from tests.vendors.conftest import Client, Records, Run

pytestmark = MARKS


def test_a_refused_call_is_recorded_with_its_type_and_raised_as_before(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """The type of the error and the status, never the message; unpriced."""
    bare, client = client_of(), tracker.wrap(client_of())
    server.script(*[refusal()] * 6)
    for call in (content, lambda models: list(stream(models))):
        texts = set()
        for one in (bare, client):
            with pytest.raises(errors.ClientError) as caught:
                call(one.models)
            texts.add(str(caught.value))
        assert len(texts) == 1

    async def broken() -> None:
        for call in (content, stream):
            with pytest.raises(errors.ClientError):
                await ask(call, client, asynchronous=True)

    run(broken())
    found = records()
    assert len(found) == 4
    for record in found:
        assert (record.error, record.status) == ("ClientError", "aborted")
        assert (record.unpriced_reason, record.metadata["http_status"]) == ("failed_call", 429)
        assert "secret" not in str(record)


def test_what_the_sdk_tries_again_counts_once(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Two refusals and an answer are one call (trouble 35)."""
    if not hasattr(types, "HttpRetryOptions"):
        pytest.skip("not in this version of google-genai")
    retry = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.002)
    client = tracker.wrap(client_of(retry_options=retry))
    server.script(refusal(503), refusal(503), GEMINI)
    content(client.models)
    assert len(server.requests) == 3
    (record,) = records()
    assert record.status == "complete"


STREAM_ENDS = ["exhausted", "closed", "broken off", "dropped", "cut"]


@pytest.mark.parametrize("end", STREAM_ENDS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_stream_is_recorded_once_however_it_ends(
    end: str,
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """With the last figures that were told, and the job of where it was asked for (trouble 49)."""
    said = GEMINI_STREAM
    if end == "cut":
        said = dataclasses.replace(said, cut_after=3)
    server.script(said)
    client = tracker.wrap(client_of())

    def consume() -> None:
        with tracker.context(job_id="asked"):
            chunks = stream(client.models)
        with tracker.context(job_id="consumed"):
            next(chunks)
            if end == "closed":
                chunks.close()
            elif end == "broken off":
                for _ in chunks:
                    break
            elif end in ("exhausted", "cut"):
                for _ in chunks:
                    pass
            del chunks

    async def consume_async() -> None:
        with tracker.context(job_id="asked"):
            chunks = await stream(client.aio.models)
        with tracker.context(job_id="consumed"):
            await anext(chunks)
            if end == "closed":
                await chunks.aclose()
            elif end == "broken off":
                async for _ in chunks:
                    break
            elif end in ("exhausted", "cut"):
                async for _ in chunks:
                    pass
            del chunks
            for _ in range(20):  # the loop closes what the SDK has left open
                await asyncio.sleep(0)

    try:
        if asynchronous:
            run(consume_async())
        else:
            consume()
    except Exception as error:
        assert end == "cut", error  # noqa: PT017 - only a cut stream raises, each in its own way
    gc.collect()
    (record,) = records()
    assert record.job_id == "asked"
    assert record.model == "gemini-3-flash-preview"
    if end == "exhausted":
        assert (record.status, record.output_tokens) == ("complete", 569)
    else:
        assert record.status == ("aborted" if end == "cut" else "partial")
        assert (record.error is not None) is (end == "cut")
        assert record.input_tokens == 8
        assert record.cost_usd is not None
    assert record.metadata["time_to_first_token_ms"] <= record.latency_ms


def test_a_stream_that_is_never_read_made_no_call(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The SDK sends its request when the stream is first read."""
    stream(tracker.wrap(client_of()).models)
    gc.collect()
    assert server.requests == []
    assert records() == []


def test_a_cancelled_task_is_recorded(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """The call was made and may be billed: it is there, without figures."""
    server.script(dataclasses.replace(GEMINI, hold_after=0))
    client = tracker.wrap(client_of())

    async def cancel() -> None:
        task = asyncio.ensure_future(content(client.aio.models))
        while not server.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())
    (record,) = records()
    assert (record.error, record.status) == ("CancelledError", "aborted")


def test_tracking_that_fails_changes_nothing(
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store raises, the reading raises, the clock raises: the caller gets its reply."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("tracking is broken")

    client = tracker.wrap(client_of())
    for place in (
        "receipt_label.tracker.AIUsageTracker.record_reply",
        "receipt_label.instrumentation.calls.read_reply",
        "receipt_label.instrumentation.google_genai.locate",
        "receipt_label.instrumentation.google_genai._BodyStream",
    ):
        with monkeypatch.context() as broken:
            broken.setattr(place, fail)
            server.script(GEMINI, GEMINI_STREAM, GEMINI_STREAM)
            assert content(client.models).text == "total "
            assert len(list(stream(client.models))) == 8
            chunks = run(ask(stream, client, asynchronous=True))
            assert len(chunks[1]) == 8


def test_an_answer_that_is_no_json_is_recorded_without_figures(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The SDK raises as it does bare; the call was made, and may be billed."""
    texts = set()
    for one in (client_of(), tracker.wrap(client_of())):
        server.script(Answer(b"<html>not JSON</html>"))
        with pytest.raises(Exception, match="JSON|Expecting") as caught:  # noqa: RUF043
            content(one.models)
        texts.add(repr(caught.value))
    assert len(texts) == 1
    (record,) = records()
    assert record.model == "gemini-2.5-flash"
    assert record.unpriced_reason in ("no_usage", "failed_call")  # early versions parse it within
