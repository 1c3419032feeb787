"""A tracked run across threads, signals and forks: each call counts where it belongs."""

from __future__ import annotations

import asyncio
import signal
import threading
from decimal import Decimal

import pytest

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
    ContextThreadPoolExecutor,
    Operation,
    operations,
    wrap_context,
)
from receipt_label.context import current
from tests.support import in_fork
from tests.support.tracked import chat, only, record


def test_an_operation_records_for_itself_from_a_thread_without_context(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """The thread's own context is as it was afterwards."""
    seen = []

    def work(operation: Operation) -> None:
        operation.record_response(chat())
        seen.append(dict(current()))

    with tracker.track("label", job_id="j") as operation:
        thread = threading.Thread(target=work, args=(operation,))
        thread.start()
        thread.join()
        assert operation.calls == 1
    assert seen == [{}]
    assert next(m for m in client.query() if m.service == "openai").job_id == "j"


def test_a_cancelled_task_is_recorded_as_aborted(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """And the cancellation goes on."""

    @tracker.track("waits")
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (only(client).status, only(client).error) == ("aborted", "CancelledError")


def test_work_that_a_pool_does_within_counts_for_the_operation(
    tracker: AIUsageTracker,
) -> None:
    """Eight threads add to one operation's figures, exactly."""
    with tracker.track("label") as operation, ContextThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(record, tracker, cost_usd=Decimal("0.0000000001"))
        pool.shutdown()
        assert (operation.calls, operation.input_tokens) == (400, 4000)
        assert operation.cost_usd == Decimal("0.00000004")


def test_a_signal_handler_may_record_while_its_thread_adds_up(tracker: AIUsageTracker) -> None:
    """The lock of the figures is reentrant: a handler that waited would wait for ever."""
    with tracker.track("label") as operation:
        previous = signal.signal(signal.SIGUSR1, lambda *_: record(tracker))
        try:
            with operations.counting():
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert operation.calls == 1


def test_a_block_that_a_child_of_a_fork_leaves_is_its_parents_to_record(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """An exception in the child does not make a failure of the parent's run."""
    tracked = tracker.track("whole")
    with tracked as operation:

        def child() -> None:
            operation.metadata["child"] = True
            tracked.__exit__(KeyError, KeyError(), None)

        assert in_fork(child) == 0
        assert list(client.query()) == []
        operation.metadata["parent"] = True
    metric = only(client)
    assert (metric.status, metric.error) == ("complete", None)
    assert metric.metadata == {"parent": True}


def test_a_child_of_a_fork_records_within_its_parents_operation(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Also where another thread of the parent's held the lock; it carries the operation."""
    codes: list[int] = []
    with tracker.track("label", job_id="j") as operation:
        child = wrap_context(lambda: record(tracker, request_id="child"))
        with operations.counting():
            thread = threading.Thread(target=lambda: codes.append(in_fork(child)))
            thread.start()
            thread.join()
        assert (codes, operation.calls) == ([0], 0)
    metrics = {metric.request_id: metric for metric in client.query()}
    assert metrics["child"].job_id == "j"
    assert metrics["child"].metadata["operation_id"] == operation.operation_id
