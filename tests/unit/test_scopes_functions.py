"""ai_usage_tracked where no tracker is at hand: the process's own, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from receipt_dynamo import PutResult
from receipt_label import (
    AIUsageTracker,
    ai_usage_tracked,
    client_manager,
    get_client_manager,
    partial_failure_context,
)
from tests.support.batch_prices import by_id, record


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[client_manager.ClientManager]:
    """The process's manager, made anew for one test."""
    monkeypatch.setattr(client_manager, "_manager", None)
    monkeypatch.setenv("RECEIPT_USAGE_DRAIN", "manual")
    with get_client_manager() as manager:
        yield manager


def test_a_decorated_function_finds_the_tracker_of_the_process_when_it_is_called(
    manager: client_manager.ClientManager,
) -> None:
    """Decorated at import, tracked at the call, with the ids among its arguments."""

    @ai_usage_tracked("label", user_id="nobody")
    def label(receipt: str, job_id: str, *, user_id: str | None = None, **more: Any) -> str:
        record(manager.usage_tracker, request_id=receipt)
        return f"{receipt} {job_id} {user_id} {more}"

    @ai_usage_tracked
    async def positional(batch_id: str) -> str:
        return batch_id

    assert label("r1", "j1") == "r1 j1 None {}"
    assert label("r2", job_id="j2", user_id="u", github_pr=7) == "r2 j2 u {'github_pr': 7}"
    assert asyncio.run(positional("b")) == "b"
    metrics = by_id(manager.dynamo)
    assert (metrics["r1"].job_id, metrics["r1"].user_id) == ("j1", "nobody")
    assert (metrics["r2"].job_id, metrics["r2"].user_id, metrics["r2"].github_pr) == ("j2", "u", 7)
    assert metrics["r1"].metadata["operation_type"] == "label"
    assert {metric.batch_id for metric in metrics.values()} == {None, "b"}


def test_without_any_tracker_functions_and_blocks_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing table in production is said once, as an error, and breaks nothing."""
    monkeypatch.setattr(client_manager, "_manager", None)
    monkeypatch.setenv("ENVIRONMENT", "production")

    closed: list[int] = []

    @ai_usage_tracked
    def function(a: int) -> int:
        return a

    @ai_usage_tracked
    def generator(a: int) -> Iterator[int]:
        yield a

    @ai_usage_tracked
    async def coroutine(a: int) -> int:
        return a

    @ai_usage_tracked
    async def asynchronous(a: int) -> AsyncIterator[int]:
        try:
            yield a
        finally:
            closed.append(a)

    async def read() -> list[int]:
        closed.clear()
        stopped = asynchronous(4)
        assert await anext(stopped) == 4
        frame = stopped.ag_frame  # type: ignore[attr-defined]  # keeps what is within alive
        await stopped.aclose()  # type: ignore[attr-defined]
        assert (closed, frame is None) == ([4], False)
        return [await coroutine(3)] + [number async for number in asynchronous(4)]

    for _ in range(3):
        assert (function(1), list(generator(2)), asyncio.run(read())) == (1, [2], [3, 4])
        with partial_failure_context("x") as batch, batch.attempt():
            raise KeyError
        assert batch.failure_count == 1
        assert batch.operation.record(service="x", model="m", operation="o") is PutResult.DROPPED
    assert caplog.text.count("operations run untracked") == 1
    assert "DYNAMODB_TABLE_NAME" in caplog.text


def test_a_function_without_a_signature_can_be_tracked(tracker: AIUsageTracker) -> None:
    """Builtins have none; they take no ids either."""
    smallest: Callable[..., int] = ai_usage_tracked(min)
    assert smallest(2, 1) == 1
    assert ai_usage_tracked("x", tracker=tracker)(max)(2, 1) == 2
