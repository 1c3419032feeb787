"""Puts called straight from coroutines at 1,000 records a second, and what the loop feels of it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Part, Row, timings
from benchmarks.samples import (
    CpuWait,
    client_of,
    in_fresh_process,
    line_of,
    open_append,
    private_directory,
    ready_metric,
)
from receipt_dynamo import AIUsageMetric

__all__ = ["run"]

_RATE = 1000
_TASKS = 50
_SECONDS = 8.0
_LAG_SECONDS = 0.005
_NOTE = f"""\
sys.getswitchinterval() is {sys.getswitchinterval() * 1e6:g} us: so long may a thread keep the \
interpreter from another.
  own: without the time that the thread was ready and other work had the CPUs.
  lag: how much later than asked a sleep of {_LAG_SECONDS * 1000:g} ms returned; timers are good \
to 1 ms.
  CPU: of the whole process, its drainer and the making of the records included."""
_Keep = Callable[[AIUsageMetric], object]


class _Loop:
    """Fifty tasks that together make ``_RATE`` records a second, and one that measures the lag."""

    def __init__(self, keep: _Keep | None, seconds: float) -> None:
        self._keep = keep
        self._calls = max(1, int(_RATE * seconds / _TASKS))
        self._seconds = seconds
        self.wall, self.own, self.lag = array("q"), array("q"), array("q")

    async def run(self) -> None:
        lag = asyncio.create_task(self._measure_lag())
        if self._keep is None:
            await asyncio.sleep(self._seconds)
        else:
            waited = CpuWait()
            start = time.perf_counter()
            tasks = [self._record(start + n / _RATE, self._keep, waited) for n in range(_TASKS)]
            await asyncio.gather(*tasks)
        lag.cancel()

    async def _record(self, due: float, keep: _Keep, waited: CpuWait) -> None:
        clock = time.perf_counter_ns
        for _ in range(self._calls):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due += _TASKS / _RATE
            metric = ready_metric()
            before, start = waited(), clock()
            keep(metric)
            taken = clock() - start
            self.wall.append(taken)
            self.own.append(max(0, taken - (waited() - before)))

    async def _measure_lag(self) -> None:
        clock = time.perf_counter_ns
        while True:
            start = clock()
            await asyncio.sleep(_LAG_SECONDS)
            self.lag.append(clock() - start - int(_LAG_SECONDS * 1e9))


def _worker(directory: Path, kind: str, drain: str, seconds: float) -> dict[str, float]:
    keep: _Keep | None = None
    if kind == "os.write":
        file, line = open_append(directory / "bare"), line_of(ready_metric())
        keep = lambda _: os.write(file, line)  # noqa: E731
    elif kind == "put":
        keep = client_of(directory, drain).put_ai_usage_metric
    loop = _Loop(keep, seconds)
    used = time.process_time()
    asyncio.run(loop.run())
    used = time.process_time() - used
    figures: dict[str, float] = {}
    if loop.wall:
        figures = {**timings(loop.wall), "p99.9 own": timings(loop.own)["p99.9"]}
    lag = timings(loop.lag)
    figures |= {f"lag {name}": lag[name] for name in ("p50", "p99", "p99.9")}
    return figures | {"CPU %": 100 * used / seconds}


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time puts in a loop, with and without a drainer beside it."""
    seconds = max(0.2, _SECONDS * scale)
    rows = []
    for name, kind, drain, goal in (
        ("the loop alone", "", "", {}),
        ("os.write", "os.write", "", {}),
        ("put, no drainer", "put", "manual", {}),
        ("put, drainer running", "put", "thread", {"p99.9": 1000.0}),
    ):
        say(f"event loop: {name}")
        with private_directory() as directory:
            figures = in_fresh_process(_worker, directory, kind, drain, seconds)
        rows.append(Row(name, figures, kind != "put", goal))
    return [
        Part(
            "event-loop",
            f"In an event loop at {_RATE} records/s for {seconds:g} s: microseconds per call",
            rows,
            _NOTE,
        )
    ]
