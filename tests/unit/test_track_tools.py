"""tracker.tool costs its price a call; and tracking that fails changes nothing."""

from __future__ import annotations

import asyncio
import gc
from decimal import Decimal
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
)
from receipt_label.context import current
from tests.support.tracked import asynchronous, coroutine, generator, only, record

# Tools


def test_a_tool_costs_its_price_a_call_and_a_failing_call_nothing(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Exact money; its name is the model and the tool, also of calls within."""

    @tracker.tool("vat", cost=Decimal("0.01"))
    def look_up(number: int) -> int:
        record(tracker)
        return 10 // number

    assert look_up(5) == 2
    with pytest.raises(ZeroDivisionError):
        look_up(0)
    good, bad = (metric for metric in client.query() if metric.service == "tool")
    assert (good.model, good.tool, good.operation) == ("vat", "vat", "execute_tool")
    assert (good.cost_usd, good.price_source, good.api_calls) == (Decimal("0.01"), "caller", 1)
    assert (bad.cost_usd, bad.price_source) == (Decimal(0), "not_billable")
    assert (bad.status, bad.error) == ("aborted", "ZeroDivisionError")
    assert {m.tool for m in client.query() if m.service == "openai"} == {"vat"}


def test_a_tool_may_bill_failures_cost_nothing_or_be_of_a_service(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """What is said where it is decorated decides."""
    with (
        pytest.raises(ZeroDivisionError),
        tracker.tool("billed", cost="0.02", bill_failures=True, service="google_places"),
    ):
        _ = 1 / 0
    with tracker.tool("free"):
        pass
    metrics = {metric.model: metric for metric in client.query()}
    assert (metrics["billed"].service, metrics["billed"].cost_usd) == (
        "google_places", Decimal("0.02"),
    )  # fmt: skip
    assert metrics["free"].price_source == "not_billable"
    with pytest.raises(ValueError, match=r"cost_usd=0\.01 is not exact money"):
        tracker.tool("x", cost=0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sync", "async", "generator", "block"])
def test_a_tool_of_every_kind_is_billed_once(
    tracker: AIUsageTracker, client: UsageClient, kind: str
) -> None:
    """A generator that was begun was called, also where its reader stopped."""
    tool = tracker.tool("t", cost=1)
    if kind == "sync":
        tool(lambda: 1)()
    elif kind == "async":
        asyncio.run(tool(coroutine)(1))
    elif kind == "generator":
        next(tool(generator)(1))
        gc.collect()
    else:
        with tool:
            pass
    assert only(client).cost_usd == 1


# Tracking that fails


@pytest.mark.parametrize("broken", ["put", "now", "closed"])
def test_tracking_that_fails_changes_nothing_for_the_pipeline(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The same results and the same errors, of every kind of function."""

    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("tracking is broken")

    tracker = AIUsageTracker(client, now=breaks if broken == "now" else None)
    if broken == "put":
        monkeypatch.setattr(client, "put_ai_usage_metric", breaks)
    if broken == "closed":
        tracker.close()
    assert tracker.track("x")(lambda: 5)() == 5
    assert list(tracker.track("x")(generator)(1)) == [1]
    assert asyncio.run(tracker.track("x")(coroutine)(1)) == 1

    async def read() -> list[int]:
        return [number async for number in tracker.track("x")(asynchronous)(1)]

    assert asyncio.run(read()) == [1]
    with tracker.track("x") as operation:
        operation.metadata["a"] = 1
    with pytest.raises(KeyError), tracker.track("x"):
        raise KeyError("the pipeline's own")
    assert dict(current()) == {}
