"""The core of wrapped clients: any method, any iterator, any body, observed and left alone."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import AIUsageTracker
from receipt_label.instrumentation import calls
from receipt_label.instrumentation.calls import Call, Instrument, observe
from receipt_label.instrumentation.event_log import BodyLog, EventLog, SilentLog, body_of, log_for
from receipt_label.instrumentation.streams import (
    ChunkStream,
    watch_async_iterator,
    watch_iterator,
)
from tests.support import FakeClock

REPLY: dict[str, Any] = {
    "id": "chatcmpl-Dyln92ILj4hwfpf8pkB29u5SE8WQb",
    "object": "chat.completion",
    "created": 1783375763,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1200, "completion_tokens": 300, "total_tokens": 1500},
}
CHUNK = {**REPLY, "object": "chat.completion.chunk", "usage": None, "choices": []}
CHUNKS = [CHUNK, {**CHUNK, "choices": REPLY["choices"]}, {**CHUNK, "usage": REPLY["usage"]}]


@pytest.fixture
def instrument(client: UsageClient, clock: FakeClock) -> Instrument:
    return Instrument(AIUsageTracker(client), clock=clock.monotonic)


@pytest.fixture
def only(client: UsageClient) -> Callable[[], AIUsageMetric]:
    def look() -> AIUsageMetric:
        client.flush()
        (record,) = client.query()
        return record

    return look


def begun(instrument: Instrument) -> Call:
    return instrument.begin(operation="chat", request_model="gpt-4o")


class Vendor:
    """A client of somebody's SDK."""

    def ask(self, model: str, *, fail: BaseException | None = None) -> dict[str, Any]:
        """Ask."""
        if fail is not None:
            raise fail
        return {**REPLY, "model": model, "id": f"chatcmpl-Dyln92ILj4hwfpf8p-{model}"}

    async def ask_async(self, model: str, *, fail: BaseException | None = None) -> dict[str, Any]:
        return self.ask(model, fail=fail)


def test_an_observed_method_is_the_same_to_its_caller(
    instrument: Instrument, only: Callable[[], AIUsageMetric], clock: FakeClock
) -> None:
    """Name, docstring, signature, result; the call is on record with the time that it took."""
    vendor = Vendor()

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        return instrument.begin(service="openai", request_model=args[0])

    def finish(call: Call, result: Any) -> Any:
        clock.sleep(0.25)
        call.reply(result, metadata={"attempts": 2})
        return result

    ask = observe(vendor.ask, begin, finish)
    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert inspect.signature(ask) == inspect.signature(vendor.ask)
    assert ask("gpt-4o") == vendor.ask("gpt-4o")
    record = only()
    assert (record.model, record.latency_ms, record.metadata["attempts"]) == ("gpt-4o", 250.0, 2)


class OwnError(Exception):
    status_code = 418


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_observed_method_raises_what_it_raises(
    asynchronous: bool, instrument: Instrument, only: Callable[[], AIUsageMetric]
) -> None:
    """The very same exception; on record are its type and the HTTP status, not its text."""
    vendor, failure = Vendor(), OwnError("secret")

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        return begun(instrument)

    method = observe(vendor.ask_async if asynchronous else vendor.ask, begin)
    assert inspect.iscoroutinefunction(method) is asynchronous

    def ask() -> Any:
        answer = method("gpt-4o", fail=failure)
        return asyncio.run(answer) if asynchronous else answer

    with pytest.raises(OwnError) as caught:
        ask()
    assert caught.value is failure
    record = only()
    assert (record.error, record.metadata["http_status"]) == ("OwnError", 418)
    assert (record.unpriced_reason, record.status) == ("failed_call", "aborted")
    assert "secret" not in repr(record)


@pytest.mark.parametrize("broken", ["begin", "finish"])
def test_a_wrapper_that_is_broken_hands_over_the_bare_result(
    broken: str,
    instrument: Instrument,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its author did wrong, the caller does not notice."""
    monkeypatch.setattr(calls, "_faults", set())

    def boom(*_: Any) -> Any:
        raise KeyError(broken)

    vendor = Vendor()
    begin = boom if broken == "begin" else lambda args, kwargs: begun(instrument)
    finish = boom if broken == "finish" else None
    assert observe(vendor.ask, begin, finish)("gpt-4o") == vendor.ask("gpt-4o")
    assert broken in caplog.text


def test_an_iterator_is_recorded_when_it_is_exhausted(
    instrument: Instrument, only: Callable[[], AIUsageMetric], clock: FakeClock
) -> None:
    """Its last snapshot of usage, and the time of its last chunk, not of its consumer."""

    def chunks() -> Iterator[Any]:
        for chunk in CHUNKS:
            clock.sleep(0.5)
            yield chunk

    seen = []
    for chunk in watch_iterator(ChunkStream(begun(instrument)), chunks()):
        seen.append(chunk)
        clock.sleep(10)
    assert seen == CHUNKS
    record = only()
    assert (record.status, record.input_tokens) == ("complete", 1200)
    assert (record.latency_ms, record.metadata["time_to_first_token_ms"]) == (21500.0, 500.0)


@pytest.mark.parametrize("consumed", [0, 1])
def test_an_iterator_that_is_dropped_is_recorded_and_closed(
    consumed: int, instrument: Instrument, only: Callable[[], AIUsageMetric]
) -> None:
    """Also one that was never started."""
    closed: list[bool] = []

    def chunks() -> Iterator[Any]:
        try:
            yield from CHUNKS
        finally:
            closed.append(True)

    iterator = watch_iterator(ChunkStream(begun(instrument)), chunks())
    for _ in range(consumed):
        next(iterator)
    del iterator
    gc.collect()
    assert (only().status, closed) == ("partial", [True] * consumed)


def test_an_iterator_that_breaks_is_recorded_with_its_error(
    instrument: Instrument, only: Callable[[], AIUsageMetric]
) -> None:
    """And the error goes through."""

    def chunks() -> Iterator[Any]:
        yield CHUNK
        raise OwnError

    with pytest.raises(OwnError):
        list(watch_iterator(ChunkStream(begun(instrument)), chunks()))
    assert (only().status, only().error) == ("aborted", "OwnError")


@pytest.mark.parametrize("way", ["exhausted", "closed", "broken", "dropped"])
def test_an_asynchronous_iterator_is_recorded_once(
    way: str, instrument: Instrument, only: Callable[[], AIUsageMetric]
) -> None:
    """Exhausted, closed, broken or dropped."""

    async def chunks() -> AsyncIterator[Any]:
        yield CHUNKS[0]
        if way == "broken":
            raise OwnError
        for chunk in CHUNKS[1:]:
            yield chunk

    async def consume() -> None:
        stream: Any = watch_async_iterator(ChunkStream(begun(instrument)), chunks())
        if way == "exhausted":
            assert [chunk async for chunk in stream] == CHUNKS
            return
        assert await anext(stream) == CHUNKS[0]
        if way == "closed":
            await stream.aclose()
            await stream.aclose()
        elif way == "broken":
            with pytest.raises(OwnError):
                await anext(stream)

    asyncio.run(consume())
    gc.collect()
    statuses = {"exhausted": "complete", "broken": "aborted"}
    assert only().status == statuses.get(way, "partial")


def test_a_stream_of_any_length_keeps_little(instrument: Instrument) -> None:
    """A vendor that reports usage in each of a million chunks fills no memory (trouble 51)."""
    stream = ChunkStream(begun(instrument))
    for number in range(10_000):
        stream.take({**CHUNK, "number": number})
    kept = stream.reply()
    assert isinstance(kept, list)
    assert len(kept) == 128
    assert (kept[0]["number"], kept[-1]["number"]) == (0, 9_999)


def sse(*chunks: object, end: bytes = b"\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + end for chunk in chunks)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_events_are_found_however_their_bytes_are_cut(size: int, end: bytes) -> None:
    """And passed on as they are; of texts nothing is kept."""
    text = {**CHUNK, "choices": [{"delta": {"content": 'x "usage": 5'}, "finish_reason": None}]}
    body = sse(CHUNK, *[text] * 20, *CHUNKS[1:], end=end) + b"data: [DONE]" + end
    log = EventLog()
    shown = b"".join(log.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert shown + log.rest() == body
    kept = log.reply()
    assert isinstance(kept, bytes)
    assert kept.count(b"data:") == 4
    assert b"[DONE]" in kept


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
def test_only_the_chunk_that_brings_usage_alone_is_hidden(size: int) -> None:
    """One with choices stays, also where it has usage; so does a last event without an end."""
    with_both = {**CHUNK, "choices": REPLY["choices"], "usage": REPLY["usage"]}
    before, after = sse(CHUNK, with_both), b"data: [DONE]\n"
    body = before + sse(CHUNKS[2]) + after
    log = EventLog(hide_usage=True)
    shown = b"".join(log.feed(body[at : at + size]) for at in range(0, len(body), size))
    assert shown + log.rest() == before + after
    kept = log.reply()
    assert isinstance(kept, bytes)
    assert kept.count(b'"prompt_tokens"') == 2


def test_a_large_body_is_read_without_what_makes_it_large() -> None:
    """Vectors and images are skipped, figures are exact."""
    vectors = [{"object": "embedding", "embedding": [0.1] * 1536}] * 20
    body = {"object": "list", "data": vectors, "model": "m", "usage": {"prompt_tokens": 3}}
    read = body_of(json.dumps(body).encode())
    assert read == {**body, "data": []}
    assert str(body_of(b'{"usage": {"cost": 0.1}}')) == "{'usage': {'cost': Decimal('0.1')}}"
    assert body_of(b"<html>") is None


def test_a_body_is_looked_at_by_its_kind() -> None:
    """Events, JSON, or nothing at all."""
    kinds = {
        "text/event-stream; charset=utf-8": EventLog,
        "application/json": BodyLog,
        "application/problem+json": BodyLog,
        "audio/mpeg": SilentLog,
        "": SilentLog,
    }
    assert {kind: type(log_for(kind)) for kind in kinds} == kinds
