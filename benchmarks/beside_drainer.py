"""Puts beside a drainer that works off a backlog in the same process, all the time."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Part, Row, timings
from benchmarks.samples import (
    CpuWait,
    Operation,
    client_of,
    in_fresh_process,
    line_of,
    open_append,
    private_directory,
    ready_metric,
)
from benchmarks.spooled import spool_directory, write_backlog

__all__ = ["run"]

_CALLS = 20_000
_AT_ONCE = 20
_PAUSE_SECONDS = 0.002
_BACKLOG = 150_000
_START_SECONDS = 30.0


def _worker(directory: Path, drain: str, bare: bool, calls: int) -> dict[str, float]:
    """Return the percentiles of puts (or bare writes) that come in small bursts."""
    client = client_of(directory, drain)
    backlog = set(spool_directory(directory).glob("*.seg"))
    metric = ready_metric()
    client.put_ai_usage_metric(metric)  # starts the drainer
    deadline = time.monotonic() + _START_SECONDS
    while drain == "thread" and not client.settings.store_path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the drainer did not begin")
        time.sleep(0.01)
    operation: Operation = lambda: client.put_ai_usage_metric(metric)  # noqa: E731
    if bare:
        file, line = open_append(directory / "bare"), line_of(metric)
        operation = lambda: os.write(file, line)  # noqa: E731
    wall, own = _bursts(operation, calls)
    if drain == "thread" and not backlog.intersection(spool_directory(directory).glob("*.seg")):
        raise RuntimeError("the drainer had nothing left to do: enlarge the backlog")
    return {**timings(wall), "p99.9 own": timings(own)["p99.9"]}


def _bursts(operation: Operation, calls: int) -> tuple[array[int], array[int]]:
    """Return how long each call took, and how long without the wait for a CPU."""
    clock, waited = time.perf_counter_ns, CpuWait()
    wall, own = array("q"), array("q")
    while len(wall) < calls:
        for _ in range(_AT_ONCE):
            before, start = waited(), clock()
            operation()
            taken = clock() - start
            wall.append(taken)
            own.append(max(0, taken - (waited() - before)))
        time.sleep(_PAUSE_SECONDS)
    return wall, own


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time puts with and without a drainer at work."""
    calls = max(_AT_ONCE, int(_CALLS * scale))
    rows = []
    for name, drain, bare, goal in (
        ("os.write, no drainer", "manual", True, {}),
        ("os.write, drainer at work", "thread", True, {}),
        ("put, no drainer", "manual", False, {}),
        ("put, drainer at work", "thread", False, {"p99.9": 1000.0}),
    ):
        say(f"beside the drainer: {name}")
        with private_directory() as directory:
            if drain == "thread":
                write_backlog(directory, max(10_000, int(_BACKLOG * scale)))
            figures = in_fresh_process(_worker, directory, drain, bare, calls)
        rows.append(Row(name, figures, bare, goal))
    return [
        Part(
            "drainer",
            f"One thread beside its process's drainer: microseconds per call ({calls} calls, "
            f"{_AT_ONCE} every {_PAUSE_SECONDS * 1000:g} ms)",
            rows,
            "own: without the time that the thread was ready and other work had the CPUs",
        )
    ]
