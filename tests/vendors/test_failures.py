"""A call that fails raises as the bare one does, and is counted once, by the type of its error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from receipt_label import AIUsageTracker
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import Answer, VendorServer, error, recorded, reply
from tests.vendors.conftest import Make, Records, only


def chat(client: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=SAY)


def message(client: Any) -> Any:
    return client.messages.create(model="claude-sonnet-4-6", max_tokens=64, messages=SAY)


ASK: dict[str, Callable[[Any], Any]] = {
    "OpenAI": chat,
    "AsyncOpenAI": chat,
    "Anthropic": message,
    "AsyncAnthropic": message,
}


def raised_by(client: Any, ask: Callable[[Any], Any]) -> BaseException:
    """Return the error that a call ends in."""

    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is compared
        finish(client, ask)
    return caught.value


def finish(client: Any, ask: Callable[[Any], Any]) -> Any:
    """Return what a call returns, and close the client."""

    async def in_loop() -> Any:
        async with client:
            return await ask(client)

    if hasattr(client, "__aenter__"):
        return asyncio.run(in_loop())
    with client:
        return ask(client)


REFUSALS = [(429, "RateLimitError"), (400, "BadRequestError"), (503, "InternalServerError")]


@pytest.mark.parametrize("kind", ASK)
@pytest.mark.parametrize(("status", "name"), REFUSALS)
def test_a_refused_call_raises_as_ever_and_counts_as_an_error(
    kind: str,
    status: int,
    name: str,
    server: VendorServer,
    make: Make,
    tracker: AIUsageTracker,
    records: Records,
) -> None:
    """Type and HTTP status are on record, the message is not; a failed call has no price."""
    errors: list[BaseException] = []
    for client in (make(kind), tracker.wrap(make(kind))):
        server.script(error(status))
        errors.append(raised_by(client, ASK[kind]))
    bare, seen = errors
    assert (type(seen), str(seen)) == (type(bare), str(bare))
    record = only(records)
    assert (record.error, record.status, record.cost_usd) == (type(bare).__name__, "aborted", None)
    if status < 500:
        assert record.error == name
    assert (record.unpriced_reason, record.metadata["http_status"]) == ("failed_call", status)
    assert record.service == ("anthropic" if "Anthropic" in kind else "openai")
    assert record.operation == "chat"
    assert record.latency_ms is not None
    assert "secret" not in repr(record)


@pytest.mark.parametrize("kind", ASK)
def test_a_call_that_reaches_nobody_counts_as_an_error(
    kind: str, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """No connection at all."""
    client = tracker.wrap(make(kind, base_url="http://127.0.0.1:9/v1"))
    assert type(raised_by(client, ASK[kind])).__name__ == "APIConnectionError"
    record = only(records)
    assert (record.error, record.unpriced_reason) == ("APIConnectionError", "failed_call")


@pytest.mark.parametrize("kind", ASK)
def test_a_call_that_times_out_counts_as_an_error(
    kind: str, server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """The vendor answers too late."""
    server.script(Answer(hold_after=0))
    client = tracker.wrap(make(kind, timeout=0.2))
    assert type(raised_by(client, ASK[kind])).__name__ == "APITimeoutError"
    assert only(records).error == "APITimeoutError"


def test_a_cancelled_call_counts_once_and_the_cancellation_goes_through(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """In the middle of waiting; its job is the one that it was made for."""

    async def run() -> None:
        async with tracker.wrap(make("AsyncOpenAI")) as client:
            server.script(Answer(hold_after=0))
            with tracker.context(job_id="labels"):
                task = asyncio.create_task(chat(client))
            while not server.requests:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    record = only(records)
    assert (record.error, record.status, record.job_id) == ("CancelledError", "aborted", "labels")


@pytest.mark.parametrize("kind", ASK)
def test_retries_within_the_sdk_are_one_call(
    kind: str, server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Two refusals and a reply: one record, which says how many attempts it took (trouble 35)."""
    again = {"x-should-retry": "true", "retry-after-ms": "1"}
    server.script(error(500, headers=again), error(429, headers=again))
    finish(tracker.wrap(make(kind, max_retries=2)), ASK[kind])
    assert len(server.requests) == 3
    record = only(records)
    assert (record.status, record.metadata["attempts"], record.api_calls) == ("complete", 3, 1)


def test_a_call_that_fails_after_retries_is_one_call(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """And says how often it was tried (trouble 35)."""
    again = {"x-should-retry": "true", "retry-after-ms": "1"}
    server.script(*[error(500, headers=again)] * 2)
    raised_by(tracker.wrap(make("OpenAI", max_retries=1)), chat)
    assert only(records).metadata["attempts"] == 2


class Strict(BaseModel):
    total: int


def test_a_reply_that_cannot_be_parsed_was_billed_all_the_same(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """The SDK raises, as it would; the tokens are counted: the call itself was complete."""
    client = tracker.wrap(make("OpenAI"))
    parse = client.beta.chat.completions.parse
    failed = raised_by(
        client, lambda _: parse(model="gpt-4o", messages=SAY, response_format=Strict)
    )
    assert type(failed).__name__ == "ValidationError"
    record = only(records)
    assert (record.status, record.input_tokens, record.error) == ("complete", 14, None)
    assert record.cost_usd == Decimal("0.000115")


def test_raw_responses_are_handed_over_as_they_are(
    make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Never parsed, headers read: billed and counted (the crash of other instrumentations)."""
    with tracker.wrap(make("OpenAI")) as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=SAY)
    assert raw.headers["content-type"] == "application/json"
    assert only(records).input_tokens == 14


def test_bad_arguments_are_no_call(make: Make, tracker: AIUsageTracker, records: Records) -> None:
    """What the SDK refuses before it asks anybody is not counted."""
    with tracker.wrap(make("OpenAI")) as client, pytest.raises(TypeError):
        client.chat.completions.create(model="gpt-4o")
    assert records() == []


@pytest.mark.parametrize("kind", ASK)
def test_a_body_that_cannot_be_encoded_is_no_call(
    kind: str, server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """It raises as the bare client does; nothing was asked, so nothing is counted."""

    def unsendable(client: Any) -> Any:
        asked: dict[str, Any] = {"model": "gpt-4o", "messages": [...]}
        if "Anthropic" in kind:
            return client.messages.create(max_tokens=64, **asked)
        return client.chat.completions.create(**asked)

    bare, wrapped = (
        raised_by(client, unsendable) for client in (make(kind), tracker.wrap(make(kind)))
    )
    assert (type(wrapped), str(wrapped)) == (type(bare), str(bare))
    assert isinstance(wrapped, TypeError)
    assert server.requests == []
    assert records() == []


def test_failures_of_what_is_no_call_are_not_counted(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A listing that is refused, a token count, a response that is only fetched."""
    server.script(error(500), error(500), error(404))
    with tracker.wrap(make("OpenAI")) as client:
        for ask in (
            client.models.list,
            lambda: client.moderations.create(input="x"),
            lambda: client.responses.retrieve("resp_1"),
        ):
            with pytest.raises(openai.APIStatusError):
                ask()
    assert records() == []


def test_a_reply_that_is_no_json_leaves_the_caller_with_what_the_sdk_makes_of_it(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """A proxy's page instead of a reply: the call is on record, of unknown usage."""
    page = Answer(b"<html>", content_type="text/html")
    results = []
    for client in (make("OpenAI"), tracker.wrap(make("OpenAI"))):
        server.script(page)
        with client:
            results.append(chat(client))
    assert results[0] == results[1]
    assert (only(records).input_tokens, only(records).unpriced_reason) == (None, "no_usage")


def test_figures_that_contradict_each_other_are_kept_unpriced(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """More cached than all input: no price is guessed, the reply is the caller's (trouble 40)."""
    found = recorded("/v1/chat/completions", model="gpt-4o")
    assert found is not None
    server.script(Answer(found.body.replace(b'"cached_tokens": 0', b'"cached_tokens": 900')))
    with tracker.wrap(make("OpenAI")) as client:
        assert chat(client).usage.prompt_tokens_details.cached_tokens == 900
    record = only(records)
    assert record.unpriced_reason == "inconsistent_usage"
    assert record.metadata["raw_usage"]["prompt_tokens"] == 14


def test_a_reply_without_an_id_is_counted_as_often_as_it_is_made(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """An alike that numbers nothing: each call is a record of its own (trouble 28)."""
    body = {
        "id": "",
        "object": "chat.completion",
        "created": 1754686067,
        "model": "llama-4",
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    server.script(*[reply(body)] * 3)
    with tracker.wrap(make("OpenAI")) as client:
        for _ in range(3):
            chat(client)
    assert [record.service for record in records()] == ["openai_compatible"] * 3
