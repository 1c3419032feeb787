"""The processes of a pipeline under test: started, sent off together, killed and replaced."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.stress.workload import Work

__all__ = ["Crew", "CrewError", "Shipper", "spread"]

_ROOT = Path(__file__).parents[2]
_READY_SECONDS = 60.0
_MARGIN_SECONDS = 120.0
"""How much longer than it should a process may take, on a machine in use, before it hangs."""


class CrewError(Exception):
    """A process of the pipeline that failed or hangs."""


class _Process:
    """One process of the pipeline, and what it says."""

    def __init__(self, work: Work, environment: dict[str, str], errors: Path) -> None:
        self.work = work
        self._errors = errors
        with errors.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stress.workload"],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
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
        """Return what it says with ``word``. Raises CrewError when it does not, in time."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise CrewError(f"{self.work.contender} says no {word!r} for {seconds:.0f} s")
            more = os.read(pipe, 1 << 16)
            if not more:
                said = self._errors.read_text(errors="replace").strip().splitlines()
                raise CrewError(
                    f"{self.work.contender} failed before {word!r}: {said[-1] if said else '?'}"
                )
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        told, _, figures = line.decode().partition(" ")
        if told != word:
            raise CrewError(f"{self.work.contender} said {told!r} instead of {word!r}")
        return dict(json.loads(figures)) if figures else {}

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

    def __init__(self, works: list[Work], environment: dict[str, str], directory: Path) -> None:
        self._environment = {**os.environ, **environment}
        for name in ("DYNAMODB_TABLE_NAME", "DYNAMO_TABLE_NAME", "AWS_PROFILE"):
            self._environment.pop(name, None)
        self._directory = directory
        self._processes = [self._start(work) for work in works]
        self._span = (0.0, 0.0)
        self.kills = 0

    def _start(self, work: Work) -> _Process:
        errors = self._directory / f"worker{work.workers[0]}.errors"
        return _Process(work, self._environment, errors)

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
        self.kills += 1
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()


class Shipper:
    """``receipt-usage ship --follow`` beside the pipeline, killed and started anew."""

    def __init__(self, work: Work, environment: dict[str, str]) -> None:
        self._environment = {
            **os.environ,
            **environment,
            "DYNAMODB_TABLE_NAME": work.table,
            "AWS_ENDPOINT_URL_DYNAMODB": work.endpoint,
            "RECEIPT_USAGE_DIR": work.directory,
            "ENVIRONMENT": "development",
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "receipt_label.cli.main", "ship", "--follow"],
            cwd=_ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Kill it with SIGKILL, and start another."""
        self.end()
        self._process = self._start()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def spread(work: Work, processes: bool) -> list[Work]:
    """Return the work of each process: one for each worker, or one for all."""
    if not processes:
        return [work]
    return [replace(work, workers=(number,)) for number in work.workers]
