"""durability="fsync": a put returns when its record is on the disk itself."""

from __future__ import annotations

import gc
import os
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Part, Row, timings
from benchmarks.samples import (
    Operation,
    client_of,
    in_fresh_process,
    line_of,
    open_append,
    plain_sqlite,
    private_directory,
    ready_metric,
    time_calls,
)

__all__ = ["run"]

_ROUNDS = 5
_CALLS = 300
_THREADS = 8


def _write_and_sync(directory: Path) -> Operation:
    file, line = open_append(directory / "bare"), line_of(ready_metric())

    def write_and_sync() -> None:
        os.write(file, line)
        os.fdatasync(file)

    return write_and_sync


def _from_threads(operation: Operation, calls: int) -> array[int]:
    """Return how long each call took when eight threads call at the same time."""
    taken = array("q")

    def work() -> None:
        taken.extend(time_calls(operation, calls))

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _measure(directory: Path, calls: int) -> list[Row]:
    client, metric = client_of(directory / "put", durability="fsync"), ready_metric()

    def put() -> None:
        client.put_ai_usage_metric(metric)

    bare = _write_and_sync(directory)
    insert = plain_sqlite(directory / "yardstick.db", "FULL")
    operations: list[tuple[str, bool, Callable[[int], array[int]]]] = [
        ("os.write and os.fdatasync", True, lambda n: time_calls(bare, n)),
        ("SQLite WAL FULL insert", True, lambda n: time_calls(insert, n)),
        ("put", False, lambda n: time_calls(put, n)),
        ("write and fdatasync, 8 threads", True, lambda n: _from_threads(bare, n // 4)),
        ("put, 8 threads (shared syncs)", False, lambda n: _from_threads(put, n // 4)),
    ]
    taken = [array("q") for _ in operations]
    for _ in range(_ROUNDS):
        for samples, (_, _, timed) in zip(taken, operations, strict=True):
            gc.collect()
            samples.extend(timed(calls))
    return [
        Row(name, timings(samples), yardstick)
        for samples, (name, yardstick, _) in zip(taken, operations, strict=True)
    ]


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time records that are on the disk when the call returns."""
    calls = max(10, int(_CALLS * scale))
    say("durability=fsync")
    with private_directory() as directory:
        rows = in_fresh_process(_measure, directory, calls)
    title = f'durability="fsync": microseconds per call ({_ROUNDS} x {calls} calls in turns)'
    return [Part("durability", title, rows)]
