"""Parts that tests use and that are no tests: a clock, metrics, damaged files, other processes."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from receipt_dynamo import AIUsageMetric, UsageStore
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.figures import Figures
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES
from receipt_dynamo.stats import StatsFile
from receipt_dynamo.store import Batch, StoredRecord, WriteOutcome

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
encode = msgspec.json.encode


class FakeClock:
    """A Clock that stands still until it is told to move; ``sleep`` moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.wall = NOON

    def monotonic(self) -> float:
        return self.seconds

    def cpu_time(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return self.wall

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def receive(self, inbox: SimpleQueue[Any], timeout: float) -> Any:
        if inbox.empty():
            self.advance(timeout)
            return None
        return inbox.get()

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)


def make_metric(**changes: Any) -> AIUsageMetric:
    """Return a small valid metric; without ``request_id`` every one is a new record."""
    fields: dict[str, Any] = {
        "service": "openai",
        "model": "gpt-4o",
        "operation": "chat",
        "timestamp": NOON,
        **changes,
    }
    return AIUsageMetric(**fields)


FULL_FIELDS: dict[str, Any] = {
    "service": "anthropic",
    "model": "claude-sonnet-4-5",
    "operation": "messages",
    "timestamp": datetime(2026, 11, 21, 20, 0, 0, 123456, tzinfo=UTC),
    "request_id": "msg_01ABCDEFGHIJKLMNOPQRST",
    "api_calls": 3,
    "input_tokens": 1200,
    "output_tokens": 345,
    "total_tokens": 1545,
    "cached_input_tokens": 800,
    "cache_write_tokens": 100,
    "reasoning_tokens": 45,
    "usage_details": {"web_search_requests": 2, "audio_seconds": 1.5},
    "cost_usd": Decimal("0.01234567890123456789012345678901234567"),
    "price_source": "override",
    "price_version": "2026-11-01",
    "provider_cost_usd": Decimal("0.0123"),
    "latency_ms": 812.25,
    "status": "partial",
    "user_id": "user-1",
    "job_id": "job-2",
    "batch_id": "batch-3",
    "github_pr": 4711,
    "conversation_id": "conversation-5",
    "session_id": "session-6",
    "tool": "tool-7",
    "skill": "skill-8",
    "subagent": "subagent-9",
    "response_id": "msg_01ABCDEFGHIJKLMNOPQRST",
    "environment": "production",
    "deployment_version": "v1.2.3",
    "error": "timed out",
    "metadata": {"a": {"b": [1, 2.5, None, True, "ü"]}, "request_model": "claude-sonnet-latest"},
}
"""Every field of a priced metric, none at its default."""


def write(
    store: UsageStore, metrics: Sequence[AIUsageMetric], gaps: Sequence[Gap] = ()
) -> WriteOutcome:
    """Bring metrics into a store as a delivery does."""
    records = [StoredRecord(metric, encode(metric)) for metric in metrics]
    with store.exclusive(5):
        return store.write(Batch(records=records, gaps=gaps, segment="s.seg", position=100))


def stored_ids(client: Any) -> list[str]:
    """Return the request ids in the store, with the spool taken in."""
    return [metric.request_id for metric in client.query()]


def damage(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def payloads_of(path: Path, start: int = HEADER_BYTES) -> list[bytes]:
    """Return every whole record of a segment, as a reader sees them."""
    with SegmentReader(path) as segment:
        return segment.read(start, 1_000_000).payloads


def leave_stats(directory: Path, figures: Figures, clock: FakeClock | None = None) -> None:
    """Leave the figures of a process that was killed."""
    killed = StatsFile(directory, clock or FakeClock())
    killed.save(figures)
    killed._close_file()


def only_segment(directory: Path) -> Path:
    """Return the one segment of a spool directory."""
    (path,) = list_segments(directory)
    return path


def drainers(expected: int) -> list[threading.Thread]:
    """Return the background threads, as soon as there are as many as expected."""
    never = threading.Event()
    while True:  # ends in the test's own time limit
        found = [t for t in threading.enumerate() if t.name == "receipt-usage"]
        if len(found) == expected:
            return found
        never.wait(0.01)


def quiet_fork() -> int:
    """Fork without Python 3.12's warning: a fork beside threads is just what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def fork_in_c() -> int:
    """Fork as a program in C does that embeds Python: no hook of Python's runs in the child.

    No other thread may be busy: one that waits for the interpreter would leave its lock behind.
    """
    return int(ctypes.PyDLL(None).fork())


def in_fork(
    work: Callable[[], object], *, timeout: float = 60.0, fork: Callable[[], int] = quiet_fork
) -> int:
    """Run ``work`` in a forked child that ends in ``os._exit``; return its exit code.

    0: it returned; 1: it raised. A child that hangs is killed and the answer is negative.
    """
    pid = fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(timeout))
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
