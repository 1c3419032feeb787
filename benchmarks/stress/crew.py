"""The processes of a pipeline under test: started, sent off together, killed and replaced."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.stress.interruption import InterruptionError
from benchmarks.stress.workload import Work

__all__ = ["Crew", "CrewError", "faults_said", "spread"]

_ROOT = Path(__file__).parents[2]
_READY_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_MARGIN_SECONDS = 120.0
"""How much longer than it should a process may take, on a machine in use, before it hangs."""
_FAULTS = ("Traceback", "Exception in thread")
_SMALL_DISK = "small_disk.py"


class CrewError(Exception):
    """A process of the pipeline that failed or hangs."""


class _Process:
    """One process of the pipeline, and what it says."""

    def __init__(
        self, work: Work, environment: Mapping[str, str], errors: Path, stop: threading.Event
    ) -> None:
        self.work = work
        self._stop = stop
        self._errors = errors
        with errors.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stress.workload"],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C at a terminal ends the run, which ends it in order
            )
        self.pid = self._process.pid
        self._heard = b""
        self.say(json.dumps(asdict(work)))

    def say(self, line: str) -> None:
        """Tell it something; one that is gone hears nothing."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, word: str, seconds: float) -> dict[str, Any]:
        """Return what it says with ``word``.

        Raises CrewError when it does not, in time, and InterruptionError when the run is to end.
        """
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            if self._stop.is_set():
                raise InterruptionError
            if time.monotonic() >= until:
                raise CrewError(f"{self.work.contender} says no {word!r} for {seconds:.0f} s")
            if not select.select([pipe], [], [], _LOOK_SECONDS)[0]:
                continue
            more = os.read(pipe, 1 << 16)
            if not more:
                raise CrewError(f"{self.work.contender} failed before {word!r}: {self._why()}")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        told, _, figures = line.decode().partition(" ")
        if told != word:
            raise CrewError(f"{self.work.contender} said {told!r} instead of {word!r}")
        return dict(json.loads(figures)) if figures else {}

    def _why(self) -> str:
        """Return the last line that it said of its end, and what that takes."""
        said = self._errors.read_text(errors="replace").strip()
        last = said.splitlines()[-1] if said else "it said nothing"
        if _SMALL_DISK in said:
            return f"{last}. A small disk needs Linux, and root or user namespaces."
        return last

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Crew:
    """All processes of one cell. A context manager: what runs at its end is killed."""

    def __init__(
        self,
        works: list[Work],
        environment: Mapping[str, str],
        directory: Path,
        stop: threading.Event,
    ) -> None:
        self._environment = environment
        self._directory = directory
        self._stop = stop
        self._processes: list[_Process] = []
        self._span = (0.0, 0.0)
        self.worker_kills = 0
        self.shipper_kills = 0
        for work in works:
            self._processes.append(self._start(work))

    def _start(self, work: Work) -> _Process:
        return _Process(work, self._environment, self._errors_of(work), self._stop)

    def _errors_of(self, work: Work) -> Path:
        return self._directory / f"worker{work.workers[0]}.errors"

    @property
    def kills(self) -> int:
        """How often a process was killed: a worker, or the drainer beside them."""
        return self.worker_kills + self.shipper_kills

    @property
    def pids(self) -> list[int]:
        """The processes, as they are now."""
        return [process.pid for process in self._processes]

    def wait_until_ready(self) -> None:
        """Return when every contender is open. Raises CrewError."""
        for process in self._processes:
            process.hear("ready", _READY_SECONDS)

    def go(self, begin: float, end: float) -> None:
        """Let all work from ``begin`` to ``end``, monotonic seconds."""
        self._span = (begin, end)
        for process in self._processes:
            process.say(f"go {begin} {end}")

    def kill_one(self, chance: random.Random) -> None:
        """Kill a process with SIGKILL; another goes on where its ledger ends."""
        index = chance.randrange(len(self._processes))
        self._processes[index].kill()
        self.worker_kills += 1
        process = self._processes[index] = self._start(self._processes[index].work)
        process.hear("ready", _READY_SECONDS)
        process.say(f"go {time.monotonic()} {self._span[1]}")

    def wait_until_worked(self) -> tuple[int, float]:
        """Return how many calls the processes that are left have made, and when the last ended."""
        patience = max(0.0, self._span[1] - time.monotonic()) + _MARGIN_SECONDS
        told = [process.hear("worked", patience) for process in self._processes]
        return sum(each["calls"] for each in told), max(each["end"] for each in told)

    def finish(self) -> list[dict[str, Any]]:
        """Let every contender deliver what it can; return what each tells of itself."""
        for process in self._processes:
            process.say("finish")
        return [
            process.hear("finished", process.work.finish_seconds + _MARGIN_SECONDS)
            for process in self._processes
        ]

    def errors(self) -> list[str]:
        """Return what the processes said of exceptions that nobody caught, by process."""
        return [
            f"the process of worker {process.work.workers[0]} said: {line}"
            for process in self._processes
            for line in faults_said(self._errors_of(process.work))
        ]

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def faults_said(errors: Path) -> list[str]:
    """Return the lines of a standard error that begin the report of an exception."""
    with errors.open(errors="replace") as lines:
        return [line.strip() for line in lines if any(word in line for word in _FAULTS)]


def spread(work: Work, processes: bool) -> list[Work]:
    """Return the work of each process: one for each worker, or one for all."""
    if not processes:
        return [work]
    return [replace(work, workers=(number,)) for number in work.workers]
