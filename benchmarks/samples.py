"""What the parts share: records as pipelines send them, clients, clocks, fresh processes."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import sqlite3
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from receipt_dynamo import AIUsageMetric, Settings, UsageClient, open_usage_client

__all__ = [
    "RECORD",
    "REPLY",
    "CpuWait",
    "client_of",
    "in_fresh_process",
    "line_of",
    "open_append",
    "peak_megabytes",
    "plain_sqlite",
    "private_directory",
    "ready_metric",
    "record_values",
    "time_calls",
]

Operation = Callable[[], object]
T = TypeVar("T")

RECORD: dict[str, Any] = {
    "service": "openai",
    "model": "gpt-4o-2024-08-06",
    "operation": "chat",
    "input_tokens": 1200,
    "cached_input_tokens": 1024,
    "output_tokens": 300,
    "latency_ms": 812.5,
    "job_id": "labels-2026-11",
    "user_id": "pipeline",
    "metadata": {"function": "label_receipt", "attempt": 1},
}
REPLY: dict[str, Any] = {
    "id": "chatcmpl-Dyln92ILj4hwfpf8pkB29u5SE8WQb",
    "object": "chat.completion",
    "created": 1783375763,
    "model": "gpt-4o-2024-08-06",
    "service_tier": "default",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}
_PRICED: dict[str, Any] = {
    "reasoning_tokens": 0,
    "cost_usd": Decimal("0.00588"),
    "price_source": "genai-prices",
    "price_version": "0.2.3",
    "environment": "production",
    "response_id": REPLY["id"],
    "metadata": {"function": "label_receipt", "attempt": 1, "service_tier": "default"},
}


def ready_metric(**changes: Any) -> AIUsageMetric:
    """Return a metric as ``record_response`` makes it: about 570 bytes in the spool."""
    return AIUsageMetric(**{**RECORD, **_PRICED, "timestamp": datetime.now(UTC), **changes})


def line_of(metric: AIUsageMetric) -> bytes:
    """Return the line that the spool keeps of a metric."""
    import msgspec

    from receipt_dynamo.spool.segment import encode_line

    return encode_line(msgspec.json.encode(metric))


@contextmanager
def private_directory() -> Iterator[Path]:
    """A temporary directory of ours alone, on the disk that TMPDIR names."""
    with tempfile.TemporaryDirectory(prefix="receipt-usage-bench-") as name:
        yield Path(name)


def client_of(directory: Path, drain: str = "manual", **settings: Any) -> UsageClient:
    """Open a client of one usage directory that does nothing at exit."""
    return open_usage_client(
        Settings.from_env({}, usage_dir=directory, drain=drain, exit_flush_seconds=0.0, **settings)
    )


def open_append(path: Path) -> int:
    """Open a file as the spool does: what ``os.write`` alone costs is the first yardstick."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def plain_sqlite(path: Path, synchronous: str = "NORMAL") -> Operation:
    """One row into a WAL database, autocommit: what many would write instead of a spool."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS usage (body TEXT)")
    body = line_of(ready_metric()).decode()
    return lambda: connection.execute("INSERT INTO usage VALUES (?)", (body,))


def time_calls(operation: Operation, calls: int) -> array[int]:
    """Return how long each call took, in nanoseconds."""
    clock = time.perf_counter_ns
    taken = array("q", bytes(8 * calls))
    for index in range(calls):
        start = clock()
        operation()
        taken[index] = clock() - start
    return taken


class CpuWait:
    """How long the calling thread was ready to run and had no CPU, in nanoseconds (Linux).

    Others use the same cores; this is their share of a long call. It is read without giving up
    the interpreter's lock, so that to ask changes nothing. Elsewhere it is always 0.
    """

    def __init__(self) -> None:
        self._read = None
        with suppress(OSError, AttributeError):
            self._descriptor = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            self._buffer = ctypes.create_string_buffer(64)
            self._read = ctypes.PyDLL(None).pread

    def __call__(self) -> int:
        """Return the sum since the thread began."""
        if self._read is None:
            return 0
        size = self._read(self._descriptor, self._buffer, 64, ctypes.c_long(0))
        return int(self._buffer.raw[:size].split()[1])


def peak_megabytes() -> float:
    """Return the most memory that this process has held. Not what its parent held before exec."""
    with suppress(OSError, StopIteration), Path("/proc/self/status").open() as status:
        line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if os.uname().sysname == "Darwin" else 1 << 10)


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Return ``function(*arguments)`` of a process that has done nothing before.

    It is ended hard afterwards: no exit hook, no thread that lingers. Raises RuntimeError.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        answer: T = ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed in its process; see above") from None
    finally:
        process.join()
        ours.close()
    return answer


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    gc.collect()
    pipe.send(function(*arguments))
    pipe.close()
    os._exit(0)


def record_values(metric: AIUsageMetric) -> dict[str, Any]:
    """Return a metric as plain values, for yardsticks that know no metric."""
    values: dict[str, Any] = json.loads(line_of(metric)[9:])
    return values
