"""A stream is counted once, however it ends, with what the vendor told until then."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from receipt_label import AIUsageTracker
from tests.support import in_fork
from tests.support.stream_calls import chat_answer, chat_stream, message_answer, message_stream
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer
from tests.vendors.conftest import Make, Records, figures, only


def test_a_stream_keeps_its_type_and_all_that_hangs_on_it(
    wrapped: openai.OpenAI, records: Records
) -> None:
    """An openai.Stream with its response, iterated and closed as ever; usage in its last chunk is
    counted (trouble 48), at its price (trouble 45).
    """
    stream = chat_stream(wrapped)
    assert type(stream) is openai.Stream
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    chunks = list(stream)
    assert stream.response.is_closed
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [87]
    record = only(records)
    assert figures(record) == ("complete", 78, 9, None)
    assert record.cost_usd == Decimal("0.0000171")  # 0.15 and 0.60 USD per million
    assert type(stream.response).__dict__.keys() >= {"iter_bytes", "close"}  # its own class again


def leave_by_break(stream: Any) -> None:
    for _ in stream:
        break


def leave_by_with(stream: Any) -> None:
    with stream:
        next(iter(stream))


def leave_by_close(stream: Any) -> None:
    next(stream)
    stream.close()
    stream.close()


def leave_unread(stream: Any) -> None:
    assert stream


def leave_by_error(stream: Any) -> None:
    def consume() -> None:
        with stream:
            for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()


WAYS = [leave_by_break, leave_by_with, leave_by_close, leave_unread, leave_by_error]


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
def test_a_stream_that_is_left_counts_once_without_invented_tokens(
    leave: Any, wrapped: openai.OpenAI, records: Records
) -> None:
    """Usage would have come last: the call is partial, of unknown usage, never 0 (trouble 49)."""
    leave(chat_stream(wrapped))
    gc.collect()
    record = only(records)
    assert figures(record) == ("partial", None, None, "no_usage")
    assert record.error is None


def test_what_was_told_before_a_stream_is_left_counts(
    claude: anthropic.Anthropic, records: Records
) -> None:
    """Anthropic says its input at the start: left early, that is known and the status says so."""
    with claude.messages.stream(model="claude-sonnet-4-6", max_tokens=64, messages=SAY) as stream:
        for _ in stream.text_stream:
            break
    record = only(records)
    assert (record.status, record.input_tokens) == ("partial", 2307)


def test_a_dropped_stream_is_closed_as_soon_as_the_bare_one(
    claude: anthropic.Anthropic, records: Records
) -> None:
    """Watching holds nothing in a cycle: the connection is free before the collector runs."""
    gc.collect()
    gc.disable()
    try:
        stream = message_stream(claude)
        response = stream.response
        next(stream)
        del stream
        if not hasattr(anthropic.Stream, "_iterator"):  # older ones hold themselves in a cycle
            pytest.skip("this version of the SDK leaves it to the collector itself")
        assert response.is_closed
    finally:
        gc.enable()
    assert only(records).status == "partial"


def test_a_stream_that_breaks_raises_as_ever_and_counts_once(
    server: VendorServer, wrapped: openai.OpenAI, make: Make, records: Records
) -> None:
    """The same error as bare; the record is aborted and names the type of the error."""
    raised: list[BaseException] = []
    for client in (make("OpenAI"), wrapped):
        server.script(chat_answer(cut_after=3))
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is compared
            list(chat_stream(client))
        raised.append(caught.value)
    bare, seen = raised
    assert (type(seen), str(seen)) == (type(bare), str(bare))
    record = only(records)
    assert figures(record) == ("aborted", None, None, "failed_call")
    assert record.error == "RemoteProtocolError"
    assert "peer" not in str(record.metadata)


def test_usage_told_before_a_stream_broke_is_paid_and_counted(
    server: VendorServer, claude: anthropic.Anthropic, records: Records
) -> None:
    """Input was billed: a broken call that reported usage has a price."""
    server.script(message_answer(cut_after=5))
    with pytest.raises(Exception, match="peer closed"):
        list(message_stream(claude))
    record = only(records)
    assert (record.status, record.error, record.input_tokens) == (
        "aborted",
        "RemoteProtocolError",
        2307,
    )
    assert record.cost_usd is not None


def test_an_error_that_the_vendor_sends_in_a_stream_is_the_calls_error(
    server: VendorServer, claude: anthropic.Anthropic, records: Records
) -> None:
    """The SDK raises; the record has the vendor's code, and no message."""
    told = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}'
    whole = message_answer()
    events = whole.body.split(b"\n\n")
    server.script(replace(whole, body=b"\n\n".join([*events[:4], told, b""])))
    with pytest.raises(anthropic.APIStatusError):
        list(message_stream(claude))
    gc.collect()  # older SDKs leave the response to the collector
    record = only(records)
    assert (record.error, record.status) == ("overloaded_error", "partial")


def test_a_reader_that_times_out_raises_as_ever_and_counts_once(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """The vendor stalls in the middle: the call is aborted, its usage unknown."""
    client = tracker.wrap(make("OpenAI", timeout=2.0))
    server.script(chat_answer(hold_after=3))
    with pytest.raises(Exception, match=r"(?i)timed out"), client:
        list(chat_stream(client))
    record = only(records)
    assert (record.error, record.status) == ("ReadTimeout", "aborted")


def test_a_cancelled_task_counts_its_stream_once(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Cancelled in the middle: the error goes through, the record says aborted (trouble 49)."""

    async def run() -> None:
        begun = asyncio.Event()

        async def consume(client: Any) -> None:
            async for _ in await chat_stream(client):
                begun.set()

        async with tracker.wrap(make("AsyncOpenAI")) as client:
            server.script(chat_answer(hold_after=3))
            with tracker.context(job_id="labels"):
                task = asyncio.create_task(consume(client))
            await begun.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    record = only(records)
    assert record.status in ("aborted", "partial")
    assert (record.job_id, record.input_tokens) == ("labels", None)


def test_an_async_stream_that_is_abandoned_counts_once(
    make: Make, tracker: AIUsageTracker, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    """Left in the middle, its loop gone: partial, and no complaint of a context (trouble 49).

    That its own generators are closed all at once httpx2 says itself, bare as well.
    """

    async def run() -> None:
        client = tracker.wrap(make("AsyncOpenAI"))
        async for _ in await chat_stream(client):
            break
        await client.close()

    asyncio.run(run())
    gc.collect()
    assert figures(only(records)) == ("partial", None, None, "no_usage")
    assert "different Context" not in caplog.text
    assert "receipt_label" not in caplog.text


def test_a_stream_counts_for_the_job_that_made_the_call(
    wrapped: openai.OpenAI, tracker: AIUsageTracker, records: Records
) -> None:
    """Consumed by another thread within another context, it is the caller's all the same."""
    with tracker.context(job_id="caller"):
        stream = chat_stream(wrapped)

    def consume() -> None:
        with tracker.context(job_id="consumer"):
            list(stream)

    thread = threading.Thread(target=consume)
    thread.start()
    thread.join()
    assert only(records).job_id == "caller"


def test_a_child_leaves_its_parents_streams_to_the_parent(
    server: VendorServer, wrapped: openai.OpenAI, records: Records
) -> None:
    """A fork copies an open stream: closed there too, it counts once, though no id of the
    vendor's would tell that the two are one (trouble 15).
    """
    body = chat_answer().body.replace(b'"id":"chatcmpl-Dx0Xq5Xx9rHB2ehcHZCRDsnuymUXc"', b'"id":"1"')
    server.script(chat_answer(body=body))
    stream = chat_stream(wrapped)
    next(stream)

    def child() -> None:
        stream.close()

    in_fork(child)
    list(stream)
    assert figures(only(records)) == ("complete", 78, 9, None)


def test_two_threads_that_close_a_stream_count_it_once(
    wrapped: openai.OpenAI, records: Records
) -> None:
    """However often, and whoever closes it."""
    stream = chat_stream(wrapped)
    threads = [threading.Thread(target=stream.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert only(records).status == "partial"
