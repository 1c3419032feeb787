"""Each method of a wrapped client returns and sends what the bare one does, and is counted once."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric
from receipt_label import AIUsageTracker
from tests.support.vendor_calls import ANTHROPIC_CALLS, OPENAI_CALLS, Method, look, look_async
from tests.support.vendor_server import Asked, VendorServer
from tests.vendors.conftest import Make, Records

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Pydantic serializer warnings"
    ),  # words emptied in recordings
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # models and methods that SDKs retire
]

METHODS = [
    *(("OpenAI", name) for name in OPENAI_CALLS),
    *(("Anthropic", name) for name in ANTHROPIC_CALLS),
]


def method_of(vendor: str, name: str) -> Method:
    return (OPENAI_CALLS if vendor == "OpenAI" else ANTHROPIC_CALLS)[name]


def ask(client: Any, method: Method) -> Any:
    """Return all that a caller sees of a call."""
    with client:
        return look(method.call(client))


def ask_async(client: Any, method: Method) -> Any:
    """Return all that a caller sees of a call of an async client."""

    async def in_loop() -> Any:
        async with client:
            return await look_async(method.call(client))

    return asyncio.run(in_loop())


def check_used(method: Method, found: list[AIUsageMetric]) -> None:
    """Hold the records of one call against what its method says was used."""
    if method.used is None:
        assert found == []
        return
    (record,) = found
    operation, model, tokens_in, tokens_out, cost = method.used
    assert (record.operation, record.model) == (operation, model)
    assert (record.input_tokens, record.output_tokens) == (tokens_in, tokens_out)
    if cost.startswith("0."):
        assert record.cost_usd == Decimal(cost)
    else:
        assert (record.cost_usd, record.unpriced_reason) == (None, cost)
    assert (record.status, record.error, record.job_id) == ("complete", None, "labels")
    assert record.latency_ms is not None
    assert 0 < record.latency_ms < 60_000


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("vendor", "name"), METHODS)
def test_a_method_is_the_same_wrapped_and_counts_once(
    vendor: str,
    name: str,
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    make: Make,
    records: Records,
) -> None:
    """Equal objects, equal bytes on the wire, one record with its tokens and cost (trouble 26)."""
    method = method_of(vendor, name)
    kind = f"Async{vendor}" if asynchronous else vendor
    seen: list[Any] = []
    asked: list[list[Asked]] = []
    for is_wrapped in (False, True):
        client = tracker.wrap(make(kind)) if is_wrapped else make(kind)
        if method.answer is not None:
            server.script(method.answer)
        try:
            with tracker.context(job_id="labels"):
                seen.append((ask_async if asynchronous else ask)(client, method))
        except (AttributeError, TypeError) as error:
            if is_wrapped:
                raise
            pytest.skip(f"not in this version: {error}")
        asked.append(server.clear())
    bare, wrapped = seen
    assert wrapped == bare
    assert len(asked[0]) == 1
    assert [one.comparable() for one in asked[1]] == [one.comparable() for one in asked[0]]
    check_used(method, records())


@pytest.mark.parametrize("kind", ["AzureOpenAI", "AsyncAzureOpenAI"])
def test_azure_is_a_service_of_its_own(
    kind: str, tracker: AIUsageTracker, make: Make, records: Records
) -> None:
    """Behind any address: the client says so, where the reply and the host do not."""
    client = tracker.wrap(make(kind))
    method = OPENAI_CALLS["chat"]
    (ask_async if kind.startswith("Async") else ask)(client, method)
    (record,) = records()
    assert (record.service, record.model) == ("azure", "gpt-4o-2024-11-20")
    assert record.metadata["request_model"] == "gpt-4o"
