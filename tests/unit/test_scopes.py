"""ai_usage_context and its kin: named operations, batch prices, and failures that are counted."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import (
    AIUsageTracker,
    ai_usage_context,
    batch_ai_usage_context,
    partial_failure_context,
)
from receipt_label.context import current
from tests.support.batch_prices import AFTER_BATCH_PRICES, by_id, chat, record


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True, now=lambda: AFTER_BATCH_PRICES)


# Named operations


def test_records_within_carry_the_operation_and_its_fields(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Innermost first, with the operation around; and every exit restores what was before."""
    with ai_usage_context("outer", job_id="a", metadata={"x": 1}):
        with ai_usage_context("inner", job_id="b"):
            record(tracker, request_id="inner")
        record(tracker, request_id="outer")
    record(tracker, request_id="none")
    metrics = by_id(client)
    assert metrics["inner"].metadata == {
        "operation_type": "inner", "parent_operation": "outer", "x": 1,
    }  # fmt: skip
    assert metrics["outer"].metadata == {"operation_type": "outer", "x": 1}
    assert (metrics["inner"].job_id, metrics["outer"].job_id) == ("b", "a")
    assert (metrics["none"].metadata, metrics["none"].job_id) == ({}, None)
    assert dict(current()) == {}


def test_a_named_context_within_a_tracked_run_belongs_to_the_run(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """What the run sums up is found again by its id."""
    with tracker.track("outer") as operation, ai_usage_context("inner"):
        record(tracker, request_id="call")
    assert operation.calls == 1
    assert by_id(client)["call"].metadata == {
        "operation_type": "inner", "parent_operation": "outer",
        "operation_id": operation.operation_id,
    }  # fmt: skip


def test_an_exception_restores_the_context_and_stamps_nothing_later(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """The error of a context that is over belongs to no record after it."""

    async def fails() -> None:
        async with ai_usage_context("fails", job_id="a"):
            raise KeyError("the pipeline's own")

    with pytest.raises(KeyError):
        asyncio.run(fails())
    record(tracker)
    (metric,) = client.query()
    assert (metric.error, metric.metadata) == (None, {})


def test_what_a_record_says_no_operation_for_is_of_the_operation_around(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """A call by hand need not repeat what its scope says."""
    with ai_usage_context("geocode"):
        tracker.record(service="google_places", model="geocoding")
    assert next(client.query()).operation == "geocode"


def test_a_mistake_in_a_name_shows_and_a_bad_value_costs_the_field(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with ``tracker.context``."""
    with pytest.raises(TypeError, match=r"ai_usage_context\(\) has no field 'jobid'"):
        ai_usage_context("x", jobid="j")
    with pytest.raises(TypeError, match="name the operation"):
        ai_usage_context("")
    with ai_usage_context("x", job_id=b"bytes", github_pr=7):
        assert current()["github_pr"] == 7
        assert "job_id" not in current()
    assert "job_id=b'bytes' is no text" in caplog.text


# Batches


def test_batch_prices_hold_within_the_block_alone(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Half of OpenAI's list price inside; the list price before, after, and where it is said."""
    record(tracker, request_id="before")
    with batch_ai_usage_context("batch_1", job_id="j"):
        record(tracker, request_id="inside")
        record(tracker, request_id="own", price_context={"processing": "standard"})
        tracker.record_response(chat(), request_id="reply")
    record(tracker, request_id="after")
    metrics = by_id(client)
    costs = {name: metric.cost_usd for name, metric in metrics.items()}
    assert costs == {
        "before": Decimal("2.5"), "inside": Decimal("1.25"), "own": Decimal("2.5"),
        "reply": Decimal("1.25"), "after": Decimal("2.5"),
    }  # fmt: skip
    assert {name for name, metric in metrics.items() if metric.batch_id == "batch_1"} == {
        "inside", "own", "reply",
    }  # fmt: skip
    assert metrics["inside"].metadata["operation_type"] == "batch_processing"


def test_batch_prices_end_also_where_the_block_raises(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """The earlier system priced everything afterwards as a batch."""
    with pytest.raises(KeyError), batch_ai_usage_context("batch_1"):
        raise KeyError
    record(tracker)
    assert next(client.query()).cost_usd == Decimal("2.5")


def test_a_price_variant_is_a_field_of_any_context(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Merged key by key; what the vendor says of the same kind wins."""
    with tracker.context(price_context={"service_tier": "flex", "processing": "batch"}):
        with tracker.context(price_context={"processing": "standard"}):
            record(tracker, model="o3", request_id="flex")
        reply = chat(model="o3", service_tier="priority", id="short")
        tracker.record_response(reply, request_id="priority", price_context={"processing": ""})
    record(tracker, model="o3", request_id="list")
    costs = {name: metric.cost_usd for name, metric in by_id(client).items()}
    assert costs["list"] is not None
    assert costs["flex"] == costs["list"] / 2
    assert costs["priority"] > costs["list"]  # type: ignore[operator]
    with pytest.raises(ValueError, match="is no variant of a price"):
        tracker.context(price_context="batch")


# Partial failures


def summary(client: UsageClient) -> AIUsageMetric:
    (metric,) = (metric for metric in client.query() if metric.service == "action")
    return metric


def test_successes_and_failures_are_counted_and_stored(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """One record that costs nothing and stands for no call, with what the calls within cost."""
    seen = []
    with partial_failure_context("label", tracker=tracker, job_id="j") as batch:
        for n in range(5):
            with batch.attempt(f"receipt-{n}"):
                record(tracker, request_id=str(n))
                if n % 2:
                    raise LookupError("secret")
                seen.append(n)
    assert seen == [0, 2, 4]
    assert (batch.success_count, batch.failure_count) == (3, 2)
    assert [item for item, _ in batch.errors] == ["receipt-1", "receipt-3"]
    metric = summary(client)
    assert (metric.model, metric.status, metric.error, metric.job_id) == (
        "label", "partial", None, "j",
    )  # fmt: skip
    assert (metric.cost_usd, metric.price_source, metric.api_calls) == (0, "not_billable", 0)
    assert metric.metadata == {
        "success_count": 3, "failure_count": 2, "errors": {"LookupError": 2},
        "failed_items": ["receipt-1", "receipt-3"],
        "within": {"calls": 5, "input_tokens": 5_000_000, "output_tokens": 0, "cost_usd": "12.5"},
    }  # fmt: skip
    assert by_id(client)["1"].metadata["operation_id"] == metric.request_id
    assert client.summarize()[0].calls == 5


def test_the_summary_is_stored_also_when_the_block_raises(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """The exception goes on; what was counted before it is kept."""

    def run() -> None:
        with partial_failure_context("label", tracker=tracker) as batch:
            batch.succeeded()
            batch.failed(KeyError(), item=7)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    metric = summary(client)
    assert (metric.status, metric.error) == ("aborted", "ZeroDivisionError")
    assert metric.metadata["success_count"] == 1
    assert metric.metadata["failed_items"] == ["7"]


def test_an_attempt_lets_through_what_must_not_be_swallowed(tracker: AIUsageTracker) -> None:
    """Cancellation and KeyboardInterrupt always; every error without ``continue_on_error``."""
    with (
        pytest.raises(KeyboardInterrupt),
        partial_failure_context("x", tracker=tracker) as batch,
        batch.attempt(),
    ):
        raise KeyboardInterrupt
    with (
        pytest.raises(LookupError),
        partial_failure_context("x", tracker=tracker, continue_on_error=False) as batch,
        batch.attempt(),
    ):
        raise LookupError
    assert (batch.success_count, batch.failure_count) == (0, 1)


@pytest.mark.parametrize(
    ("good", "bad", "status"),
    [(2, 0, "complete"), (1, 1, "partial"), (0, 2, "aborted"), (0, 0, "complete")],
)
def test_the_status_says_how_much_succeeded(
    tracker: AIUsageTracker, client: UsageClient, good: int, bad: int, status: str
) -> None:
    """Nothing at all is no failure."""
    with partial_failure_context("x", tracker=tracker) as batch:
        for _ in range(good):
            batch.succeeded()
        for _ in range(bad):
            batch.failed(KeyError())
    assert summary(client).status == status
    assert f"failed={bad}" in repr(batch)


def test_counts_are_exact_over_threads_and_tasks_and_the_summary_is_bounded(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Eight threads, two hundred tasks; a hundred errors and twenty items are kept, not all."""

    async def task(batch: Any) -> None:
        async with batch.attempt("x" * 500):
            await asyncio.sleep(0)
            raise LookupError

    async def tasks(batch: Any) -> None:
        await asyncio.gather(*(task(batch) for _ in range(200)))

    def work(batch: Any) -> None:
        for _ in range(500):
            with batch.attempt():
                pass

    with partial_failure_context("x", tracker=tracker) as batch:
        threads = [threading.Thread(target=work, args=(batch,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        asyncio.run(tasks(batch))
        for thread in threads:
            thread.join()
    assert (batch.success_count, batch.failure_count, len(batch.errors)) == (4000, 200, 100)
    metadata = summary(client).metadata
    assert metadata["errors"] == {"LookupError": 200}
    assert metadata["failed_items"] == ["x" * 100 + "..."] * 20


def test_an_asynchronous_block_counts_as_well(tracker: AIUsageTracker, client: UsageClient) -> None:
    """``async with`` on both."""

    async def main() -> None:
        async with partial_failure_context("x", tracker=tracker) as batch, batch.attempt():
            record(tracker)

    asyncio.run(main())
    assert summary(client).metadata["success_count"] == 1
