"""The decorator for AWS Lambda: delivered before the sandbox freezes, and never too late."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from receipt_dynamo import FlushReport, UsageClient
from receipt_label import AIUsageTracker, flush_after_invocation
from tests.support import stored_ids


@dataclass
class Tracker:
    """Notes how long a flush may take; leaves ``pending`` records."""

    pending: int = 0
    timeouts: list[float] = field(default_factory=list)

    def flush(self, timeout: float) -> FlushReport:
        self.timeouts.append(timeout)
        return FlushReport(delivered=0, pending=self.pending, dead=0)


@dataclass
class Context:
    """What Lambda passes to a handler."""

    millis: Any = 3000

    def get_remaining_time_in_millis(self) -> Any:
        return self.millis


def test_what_an_invocation_recorded_is_in_the_store_when_it_returns(client: UsageClient) -> None:
    """The result passes through, and nothing waits for a thread that is frozen."""
    tracker = AIUsageTracker(client)

    @flush_after_invocation(tracker)
    def handler(event: dict[str, str], context: Context) -> str:
        tracker.record(service="openai", model="gpt-4o", operation="chat", request_id=event["id"])
        return f"labelled within {context.millis}"

    assert handler({"id": "a"}, Context()) == "labelled within 3000"
    assert handler.__name__ == "handler"
    assert client.health().pending == 0
    assert stored_ids(client) == ["a"]


@pytest.mark.parametrize(
    ("context", "reserve", "timeout"),
    [
        (Context(3000), 0.5, 2.5),
        (Context(3000), 0.0, 3.0),
        (Context(200), 0.5, 0.0),
        (Context(None), 0.5, 2.0),
        (None, 0.5, 2.0),
    ],
    ids=["of 3 s", "without reserve", "nearly over", "a broken context", "no context"],
)
def test_a_flush_takes_no_longer_than_the_invocation_has(
    context: object, reserve: float, timeout: float
) -> None:
    """What is left, less the reserve; never below zero."""
    tracker = Tracker()
    flush_after_invocation(tracker, reserve_seconds=reserve)(lambda _e, _c: None)({}, context)
    assert tracker.timeouts == [timeout]


def test_a_context_by_name_is_found() -> None:
    """Some tests and frameworks call handlers with keywords."""
    tracker = Tracker()

    @flush_after_invocation(tracker)
    def handler(event: object, context: object) -> None: ...

    handler(event={}, context=Context(1500))
    assert tracker.timeouts == [1.0]


def test_a_handler_that_fails_is_flushed_and_its_error_passed_on() -> None:
    """A failed invocation was paid for too."""
    tracker = Tracker()

    @flush_after_invocation(tracker)
    def handler(_event: object, _context: object) -> None:
        raise KeyError("total")

    with pytest.raises(KeyError, match="total"):
        handler({}, Context())
    assert tracker.timeouts == [2.5]


def test_what_is_left_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A reclaimed sandbox takes what was not delivered with it: that must not be silent."""
    flush_after_invocation(Tracker(pending=3))(lambda _e, _c: None)({}, Context(700))
    assert "3 usage records wait in this sandbox" in caplog.text


def test_a_negative_reserve_is_refused() -> None:
    """Where the handler is decorated, not in production."""
    with pytest.raises(ValueError, match="reserve_seconds=-1"):
        flush_after_invocation(Tracker(), reserve_seconds=-1)


def test_an_async_handler_is_refused_where_it_is_decorated() -> None:
    """It would be flushed before it has run, and its records would freeze with the sandbox."""

    async def handler(event: object, context: object) -> None: ...

    with pytest.raises(TypeError, match=r"handler is async.*asyncio\.run"):
        flush_after_invocation(Tracker())(handler)
