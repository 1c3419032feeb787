"""Eight threads on one client, eight processes on one directory, each writing as fast as it can.

Nobody records like that; it shows what is shared. Every worker times each of its calls; the
records per second are all calls by the time from the first start to the last end.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeAlias

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

_WORKERS = 8
_CALLS = 8000
_START_SECONDS = 120.0
_Timed: TypeAlias = "tuple[int, int, array[int]]"  # start and end on the machine's clock, each call


def _put(directory: Path, drain: str) -> Operation:
    client = client_of(directory, drain)
    metric = ready_metric()
    return lambda: client.put_ai_usage_metric(metric)


def _bare(directory: Path, _: str) -> Operation:
    file, line = open_append(directory / "bare"), line_of(ready_metric())
    return lambda: os.write(file, line)


def _insert(directory: Path, _: str) -> Operation:
    return plain_sqlite(directory / "yardstick.db")


def _queue(directory: Path, _: str) -> Operation:
    line, waiting = line_of(ready_metric()), queue.Queue[bytes]()
    return lambda: waiting.put_nowait(line)


_OPERATIONS = {"put": _put, "os.write": _bare, "SQLite": _insert, "queue": _queue}


def _timed(operation: Operation, calls: int) -> _Timed:
    start = time.monotonic_ns()
    taken = time_calls(operation, calls)
    return start, time.monotonic_ns(), taken


def _threads(name: str, directory: Path, drain: str, calls: int) -> list[_Timed]:
    """Time one operation from eight threads of this process."""
    operation = _OPERATIONS[name](directory, drain)
    operation()
    ready = threading.Barrier(_WORKERS)
    timed: list[_Timed] = []

    def work() -> None:
        ready.wait(_START_SECONDS)
        timed.append(_timed(operation, calls))

    threads = [threading.Thread(target=work) for _ in range(_WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return timed


def _process(
    name: str, directory: Path, drain: str, calls: int, ready: Barrier, pipe: Connection
) -> None:
    """What one of eight processes does. It ends hard: no exit hook is part of the measurement."""
    operation = _OPERATIONS[name](directory, drain)
    operation()
    ready.wait(_START_SECONDS)
    pipe.send(_timed(operation, calls))
    pipe.close()
    os._exit(0)


def _processes(name: str, directory: Path, drain: str, calls: int) -> list[_Timed]:
    """Time one operation from eight processes."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(_WORKERS)
    started = []
    for _ in range(_WORKERS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_process, args=(name, directory, drain, calls, ready, theirs)
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    try:
        return [ours.recv() for _, ours in started]
    except EOFError:
        raise RuntimeError(f"a process that timed {name!r} failed; see above") from None
    finally:
        for process, _ in started:
            process.join()


def _row(label: str, timed: list[_Timed], yardstick: bool) -> Row:
    together = array("q")
    for _, _, taken in timed:
        together.extend(taken)
    seconds = (max(end for _, end, _ in timed) - min(start for start, _, _ in timed)) / 1e9
    return Row(label, {**timings(together), "records/s": len(together) / seconds}, yardstick)


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time eight threads and eight processes."""
    calls = max(20, int(_CALLS * scale))
    threads, processes = [], []
    for label, name, drain in (
        ("queue.Queue.put_nowait", "queue", ""),
        ("os.write to one file", "os.write", ""),
        ("put, no drainer", "put", "manual"),
        ("put, its drainer running", "put", "thread"),
    ):
        say(f"{_WORKERS} threads: {label}")
        with private_directory() as directory:
            timed = in_fresh_process(_threads, name, directory, drain, calls)
            threads.append(_row(label, timed, name != "put"))
    for label, name, drain in (
        ("os.write to one file", "os.write", ""),
        ("SQLite WAL NORMAL insert", "SQLite", ""),
        ("put, no drainer", "put", "manual"),
        ("put, one of them draining", "put", "thread"),
    ):
        say(f"{_WORKERS} processes: {label}")
        # The slowest yardstick by far: fewer calls, so that it does not take most of the time
        number = max(20, calls // 8) if name == "SQLite" else calls
        with private_directory() as directory:
            timed = _processes(name, directory, drain, number)
            processes.append(_row(label, timed, name != "put"))
    title = "{} as fast as they can: microseconds per call ({} calls each)"
    return [
        Part("threads", title.format(f"{_WORKERS} threads on one client", calls), threads),
        Part("processes", title.format(f"{_WORKERS} processes, one directory", calls), processes),
    ]
