"""The short way of a plain reply, through a vendor's SDK: recorded once, whatever becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest
from pydantic import BaseModel, field_validator

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker
from tests.support.tracked import chat
from tests.support.vendor_calls import SAY
from tests.vendors.conftest import Records, Run, only

http: Any = vars(openai._base_client).get("httpx2") or vars(openai._base_client)["httpx"]
MESSAGE = {"role": "assistant", "content": '{"total": 3}', "refusal": None}
CHOICES = [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": MESSAGE}]


@pytest.fixture
def quick(tracker: AIUsageTracker, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was recorded the short way."""
    seen: list[object] = []
    record = tracker.record_quick_reply

    def watch(reply: Any, latency_ms: float) -> Any:
        seen.append(reply)
        return record(reply, latency_ms)

    monkeypatch.setattr(tracker, "record_quick_reply", watch)
    return seen


def respond(request: Any) -> Any:
    """Answer as OpenAI does, each time another call."""
    respond.calls += 1  # type: ignore[attr-defined]
    body = chat(f"chatcmpl-{respond.calls:030}", choices=CHOICES)  # type: ignore[attr-defined]
    return http.Response(200, headers={"content-type": "application/json"}, text=json.dumps(body))


respond.calls = 0  # type: ignore[attr-defined]


def client_of(kind: type[Any]) -> Any:
    transport = http.MockTransport(respond)
    is_async = issubclass(kind, openai.AsyncOpenAI)
    client = (http.AsyncClient if is_async else http.Client)(transport=transport)
    return kind(api_key="stand-in", max_retries=0, http_client=client)


def test_a_plain_reply_takes_it_and_is_the_same(
    tracker: AIUsageTracker, records: Records, quick: list[object]
) -> None:
    """What the caller gets is what the SDK made of the bytes."""
    client = tracker.wrap(client_of(openai.OpenAI))
    for number in range(3):
        result = client.chat.completions.create(model="gpt-4o", messages=SAY)
        assert type(result) is openai.types.chat.ChatCompletion
        assert (len(quick), result.usage.total_tokens) == (number + 1, 1100)
    assert [record.input_tokens for record in records()] == [1000] * 3


def test_so_does_an_asynchronous_one(
    tracker: AIUsageTracker, records: Records, quick: list[object], run: Run
) -> None:
    """With the latency, the price and the context of its task."""
    client = tracker.wrap(client_of(openai.AsyncOpenAI))

    async def ask() -> None:
        with tracker.context(job_id="labels"):
            await client.chat.completions.create(model="gpt-4o", messages=SAY)

    run(ask())
    record = only(records)
    assert (len(quick), record.job_id, record.cost_usd) == (1, "labels", Decimal("0.0035"))
    assert record.latency_ms is not None


class Boom(BaseException):
    """What no handler of errors catches."""


@pytest.mark.parametrize("error", [ValueError("unreadable"), KeyboardInterrupt(), Boom()])
def test_what_the_sdk_raises_over_the_reply_costs_no_record(
    error: BaseException, tracker: AIUsageTracker, records: Records, quick: list[object]
) -> None:
    """The call was answered and billed: one record, complete, and the very exception."""

    class Failing(openai.OpenAI):
        def _process_response(self, **_: Any) -> Any:
            raise error

    client = tracker.wrap(client_of(Failing))
    for number in range(2):  # the second is like the first
        with pytest.raises(type(error)) as raised:
            client.chat.completions.create(model="gpt-4o", messages=SAY)
        assert raised.value is error
        assert raised.value.__context__ is None
        assert len(quick) == number + 1
    assert [(r.status, r.error, r.input_tokens) for r in records()] == [
        ("complete", None, 1000)
    ] * 2


def test_a_parser_of_the_caller_s_runs_behind_the_record(
    tracker: AIUsageTracker, client: UsageClient, records: Records
) -> None:
    """It may take as long as it likes, and end the process: the call was billed."""
    kept: list[int] = []

    class Total(BaseModel):
        total: int

        @field_validator("total")
        @classmethod
        def look(cls, value: int) -> int:
            kept.append(client.health().recorded)
            raise ValueError("another one")

    wrapped = tracker.wrap(client_of(openai.OpenAI))
    parse: Callable[..., Any] = (
        wrapped.chat.completions.parse
        if hasattr(wrapped.chat.completions, "parse")
        else wrapped.beta.chat.completions.parse
    )
    for _ in range(2):
        with pytest.raises(ValueError, match="another one"):
            parse(model="gpt-4o", messages=SAY, response_format=Total)
    assert kept == [1, 2]
    assert [record.status for record in records()] == ["complete"] * 2
