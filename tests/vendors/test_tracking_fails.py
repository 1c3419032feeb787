"""Whatever fails within the tracking, the pipeline gets what the bare client would give it."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_dynamo.spool.ring import MemoryRing
from receipt_label import AIUsageTracker, PriceBook
from receipt_label.instrumentation import calls, event_log, http_streams, stainless
from tests.support.vendor_calls import ANTHROPIC_CALLS, OPENAI_CALLS, look, look_async
from tests.support.vendor_server import VendorServer, error
from tests.vendors.conftest import Make

CALLS = {
    "OpenAI chat": ("OpenAI", OPENAI_CALLS["chat"]),
    "OpenAI stream": ("OpenAI", OPENAI_CALLS["chat stream"]),
    "OpenAI raw stream": ("OpenAI", OPENAI_CALLS["chat raw stream"]),
    "OpenAI helper": ("OpenAI", OPENAI_CALLS["chat streaming response"]),
    "Anthropic message": ("Anthropic", ANTHROPIC_CALLS["messages"]),
    "Anthropic helper": ("Anthropic", ANTHROPIC_CALLS["messages stream helper"]),
}


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("tracking is broken")


def spool_is_gone(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tracker.client.settings.usage_dir, ignore_errors=True)


def prices_raise(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PriceBook, "price", boom)


def put_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracker.client, "put_ai_usage_metric", boom)


def store_is_full(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tracker.client, "put_ai_usage_metric", lambda metric: PutResult.DROPPED)


def reading_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls, "read_reply", boom)


def beginning_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stainless, "route", boom)


def watching_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(http_streams, "log_for", boom)


def looking_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(event_log.EventLog, "feed", boom)
    patch.setattr(event_log.BodyLog, "feed", boom)


def the_clock_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls.Call, "elapsed_ms", boom)


def logging_raises(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    put_raises(tracker, patch)
    patch.setattr(logging.Logger, "error", boom)


def tracker_is_closed(tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
    tracker.close()


FAULTS: list[Callable[[AIUsageTracker, pytest.MonkeyPatch], None]] = [
    spool_is_gone,
    prices_raise,
    put_raises,
    store_is_full,
    reading_raises,
    beginning_raises,
    watching_raises,
    looking_raises,
    the_clock_raises,
    logging_raises,
    tracker_is_closed,
]


def everything(client: Any, call: Any) -> Any:
    """Return all that a caller sees."""

    async def in_loop() -> Any:
        async with client:
            return await look_async(call(client))

    if hasattr(client, "__aenter__"):
        return asyncio.run(in_loop())
    with client:
        return look(call(client))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("break_it", FAULTS, ids=lambda fault: fault.__name__)
def test_results_are_what_they_would_be_without_tracking(
    break_it: Callable[[AIUsageTracker, pytest.MonkeyPatch], None],
    asynchronous: bool,
    server: VendorServer,
    make: Make,
    client: UsageClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replies, streams, helpers and errors alike (trouble 8)."""
    for vendor, method in CALLS.values():
        kind = f"Async{vendor}" if asynchronous else vendor
        bare = everything(make(kind), method.call)
        with monkeypatch.context() as patch:
            tracker = AIUsageTracker(client)
            wrapped = tracker.wrap(make(kind), include_usage=True)
            break_it(tracker, patch)
            assert everything(wrapped, method.call) == bare
        with monkeypatch.context() as patch:
            tracker = AIUsageTracker(client)
            wrapped = tracker.wrap(make(kind))
            break_it(tracker, patch)
            server.script(error(429))
            with pytest.raises(Exception, match="429") as caught:
                everything(wrapped, method.call)
            assert type(caught.value).__name__ == "RateLimitError"


def test_a_strict_tracker_does_not_raise_into_the_pipeline_either(
    make: Make, client: UsageClient
) -> None:
    """A reply that is paid for is never lost to a test's strictness."""
    tracker = AIUsageTracker(client, strict=True)
    wrapped = tracker.wrap(make("OpenAI"))
    tracker.close()
    assert everything(wrapped, OPENAI_CALLS["chat"].call)


def test_a_fault_of_the_tracking_is_logged_once(
    make: Make,
    client: UsageClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With its type and place, however many calls it hits."""
    monkeypatch.setattr(calls, "_faults", set())
    tracker = AIUsageTracker(client)
    wrapped = tracker.wrap(make("OpenAI"))
    put_raises(tracker, monkeypatch)
    with wrapped:
        for _ in range(3):
            wrapped.chat.completions.create(model="gpt-4o", messages=[])
    (entry,) = [one for one in caplog.records if one.name == "receipt_label.instrumentation"]
    assert "tracking is broken" in entry.message


def test_a_full_store_counts_what_it_drops(
    make: Make, open_client: Callable[..., UsageClient]
) -> None:
    """The pipeline goes on, health says what is missing and why."""
    full = open_client(max_bytes=1)
    full._pipeline.spool.ring = MemoryRing(max_records=0)
    with AIUsageTracker(full).wrap(make("OpenAI")) as wrapped:
        assert wrapped.chat.completions.create(model="gpt-4o", messages=[]).usage.total_tokens == 22
    assert full.health().dropped == {"max_bytes": 1}
