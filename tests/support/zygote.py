"""Processes to be killed: forked from one that has imported the library and runs no thread.

A worker costs a fork instead of the start of an interpreter, so that hundreds can be killed, and
nothing of pytest's is in it: no thread, no lock, no open file.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import mutants

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0
Tell = Callable[[str], None]
"""Tells the test one line. It arrives, whatever becomes of the worker next."""


class Worker:
    """A process that a test started, kills and asks what it has told."""

    def __init__(self, pid: int, told: Path, reap: Callable[[int], int]) -> None:
        self.pid = pid
        self._told = told
        self._reap = reap
        self._handle = os.pidfd_open(pid)
        self._code: int | None = None
        self._counted = 0  # bytes
        self._count = 0

    @property
    def told(self) -> list[str]:
        """The lines told so far."""
        return self._told.read_text().split("\n")[:-1]

    @property
    def count(self) -> int:
        """How many lines were told so far. Asked every millisecond: it reads only what is new."""
        with self._told.open("rb") as lines:
            lines.seek(self._counted)
            new = lines.read()
        self._counted += len(new)
        self._count += new.count(b"\n")
        return self._count

    @property
    def errors(self) -> str:
        """What the worker wrote to standard error."""
        return self._told.with_suffix(".errors").read_text()

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Return whether the process has ended, within ``timeout`` seconds."""
        if self._code is not None:
            return True
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def wait_for(self, count: int) -> None:
        """Return when so many lines were told; fail when they never come."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.count < count:
            assert not self.has_ended(0.001) or self.count >= count, (self.told[-3:], self.errors)
            assert time.monotonic() < end, f"told {self.count} of {count} lines: {self.errors}"

    def wait(self) -> int:
        """Return the exit code, negative for a signal; fail when the process does not end."""
        if self._code is None:
            assert self.has_ended(PATIENCE_SECONDS), f"{self.pid} hangs: {self.errors}"
            self._code = self._reap(self.pid)
            os.close(self._handle)
        return self._code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has been waited for."""
        if self._code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, which must still be alive, and wait for its end."""
        assert not self.has_ended(), self.errors
        self.send(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL, self.errors


class Zygote:
    """Forks workers. A context manager: what still runs at its end is killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._workers: list[Worker] = []
        ours, theirs = Pipe()
        self._connection = ours
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
        )
        theirs.close()

    def start(self, work: Callable[..., object], *args: object) -> Worker:
        """Run ``work(tell, *args)``, a function of a module, in a process of its own.

        It ends in ``os._exit``: 0 when ``work`` returned, 1 when it raised.
        """
        told = self._directory / f"worker{len(self._workers)}.told"
        told.touch(0o600)
        self._connection.send((work, args, told))
        worker = Worker(self._connection.recv(), told, self._reap)
        self._workers.append(worker)
        return worker

    def run(self, work: Callable[..., object], *args: object) -> Worker:
        """Run ``work(tell, *args)`` to its end, which must be a good one."""
        worker = self.start(work, *args)
        assert worker.wait() == 0, worker.errors
        return worker

    def _reap(self, pid: int) -> int:
        self._connection.send(pid)
        return int(self._connection.recv())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.send(signal.SIGKILL)
            worker.wait()
        self._connection.close()
        self._process.wait(PATIENCE_SECONDS)


def _work(work: Callable[..., object], args: tuple[Any, ...], told: Path) -> None:
    """Be the worker: never returns."""
    code = 1
    try:
        errors = os.open(told.with_suffix(".errors"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(errors, 2)
        lines = os.open(told, os.O_WRONLY | os.O_APPEND)
        work(lambda line: os.write(lines, line.encode() + b"\n"), *args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve(connection: Connection) -> None:
    """Fork and reap on request until the test closes its end."""
    while True:
        try:
            request = connection.recv()  # unpickling imports the module that ``work`` stands in
        except EOFError:
            return
        if isinstance(request, int):
            connection.send(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            connection.close()
            _work(*request)
        connection.send(pid)


if __name__ == "__main__":
    mutants.apply()
    _serve(Connection(int(sys.argv[1])))
