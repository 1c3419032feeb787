"""The pipeline of a run: workers that make simulated AI calls and record each. One process.

    python -m benchmarks.stress.workload

Speaks in lines: a JSON ``Work`` comes in, ``ready`` goes out; ``go BEGIN END`` (CLOCK_MONOTONIC
seconds) comes in, ``worked {...}`` goes out at the end; ``finish`` comes in, ``finished {...}``
goes out when the contender has delivered what it can.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.samples import peak_megabytes
from benchmarks.stress.contenders import Contender, Place, Recorder, open_contender
from benchmarks.stress.ledger import Answer, Ledger, last_number
from benchmarks.stress.parent import end_with_parent
from benchmarks.stress.records import metric_of
from tests.support.small_disk import SmallDisk

__all__ = ["KINDS", "Work", "ledger_path"]

KINDS = ("threads", "tasks", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one process of the pipeline does.

    ``workers`` are the numbers of its workers. Each makes AI calls of ``call_seconds`` one after
    the other, at most ``rate`` a second where that is given. ``kind``: how they share the process.
    With ``disk_bytes`` the contender's directory is a disk of that size, full in each of
    ``disk_full`` (seconds after the beginning).
    """

    contender: str
    endpoint: str
    table: str
    directory: str
    ledgers: str
    workers: tuple[int, ...]
    kind: str = "threads"
    rate: float | None = None
    call_seconds: float = 0.001
    finish_seconds: float = 60.0
    disk_bytes: int | None = None
    disk_full: tuple[tuple[float, float], ...] = ()

    @property
    def place(self) -> Place:
        """Where the contender writes."""
        return Place(self.endpoint, self.table, Path(self.directory))


def ledger_path(ledgers: Path, worker: int) -> Path:
    """Return where the ledger of a worker lies."""
    return ledgers / f"{worker}.ledger"


class _Worker:
    """One worker: its place in its ledger, and when its next call is due."""

    def __init__(self, work: Work, number: int, contender: Contender) -> None:
        path = ledger_path(Path(work.ledgers), number)
        self._work, self._worker = work, number
        self._next = self._first = last_number(path) + 1
        self.has_ended = False
        self._ledger = Ledger(path)
        self._recorder: Recorder = contender.recorder()

    def rest(self, begun: float) -> float:
        """Return for how many seconds the next call keeps the worker: until it is due, and its
        own time."""
        wait = self._work.call_seconds
        if self._work.rate is not None:
            due = begun + (self._next - self._first) / self._work.rate
            wait = max(wait, due - time.monotonic())
        return wait

    def record(self) -> None:
        """Record the call that was made, and note what that took and answered."""
        metric = metric_of(self._worker, self._next)
        prepared = self._recorder.prepare(metric)
        begun = time.monotonic_ns()
        try:
            answer = self._recorder.record(prepared)
        except BaseException as error:
            answer = Answer.RAISED
            if not isinstance(error, Exception):  # it ends the worker, and the run
                self._note(begun, answer)
                raise
        self._note(begun, answer)

    def _note(self, begun: int, answer: Answer) -> None:
        self._ledger.write(self._next, begun, time.monotonic_ns() - begun, answer)
        self._next += 1

    def end(self) -> int:
        """Return how many calls were made."""
        self._recorder.close()
        self._ledger.close()
        return self._next - self._first


def _run_thread(worker: _Worker, begin: float, end: float) -> None:
    while time.monotonic() < end:
        time.sleep(worker.rest(begin))
        worker.record()
    worker.has_ended = True


async def _run_task(worker: _Worker, begin: float, end: float) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(worker.rest(begin))
        worker.record()
    worker.has_ended = True


def _run(kind: str, workers: list[_Worker], begin: float, end: float) -> None:
    """Let the workers work until ``end``."""
    time.sleep(max(0.0, begin - time.monotonic()))
    if kind == "tasks":

        async def all_tasks() -> None:
            await asyncio.gather(*(_run_task(worker, begin, end) for worker in workers))

        asyncio.run(all_tasks())
        return
    threads = [
        threading.Thread(target=_run_thread, args=(worker, begin, end)) for worker in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _change_disk(disk: SmallDisk, spans: tuple[tuple[float, float], ...], begin: float) -> None:
    """Fill the disk and free it again, as the spans say."""
    for start, end in spans:
        time.sleep(max(0.0, begin + start - time.monotonic()))
        disk.fill()
        time.sleep(max(0.0, begin + end - time.monotonic()))
        disk.free()


def _open_disk(work: Work) -> SmallDisk | None:
    """Mount the small disk, before there is a thread. Raises OSError where that is not allowed."""
    return None if work.disk_bytes is None else SmallDisk(Path(work.directory), work.disk_bytes)


def _tell(word: str, **figures: Any) -> None:
    sys.stdout.write(f"{word} {json.dumps(figures)}\n" if figures else f"{word}\n")
    sys.stdout.flush()


def _with_disk(work: Work, disk: SmallDisk | None, begin: float, run: Callable[[], None]) -> None:
    if disk is None:
        run()
        return
    changer = threading.Thread(target=_change_disk, args=(disk, work.disk_full, begin))
    changer.start()
    run()
    changer.join()


def main() -> None:
    """Be one process of the pipeline."""
    told = json.loads(sys.stdin.readline())
    told["disk_full"] = tuple(tuple(span) for span in told["disk_full"])
    work = Work(**told)
    disk = _open_disk(work)
    end_with_parent()
    contender = open_contender(work.contender, work.place)
    workers = [_Worker(work, number, contender) for number in work.workers]
    _tell("ready")
    go = sys.stdin.readline().split()
    if not go:
        return
    begin, end = float(go[1]), float(go[2])
    cpu = time.process_time()
    _with_disk(work, disk, begin, lambda: _run(work.kind, workers, begin, end))
    calls = sum(worker.end() for worker in workers)
    if not all(worker.has_ended for worker in workers):
        raise RuntimeError("recording has ended a worker of the pipeline")
    _tell("worked", calls=calls, end=time.monotonic())
    if sys.stdin.readline():
        told = contender.finish(work.finish_seconds)
        figures = {"cpu_seconds": time.process_time() - cpu, "peak_mb": peak_megabytes(), **told}
        _tell("finished", **figures)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
