"""A process that flushes and closes while something hangs, at whatever moment of its life.

Run as ``python -m tests.support.ending DIRECTORY DRAIN OBSTACLE MOMENT``, under any Python.
It tells what each call took and answered.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from receipt_dynamo import PutResult, Settings, UsageClient, open_usage_client
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import make_metric

TIMEOUT_SECONDS = 0.5


def hang(*_: object) -> object:
    """Never come back."""
    return threading.Event().wait()


def put_in_the_way(obstacle: str) -> None:
    """Let something hang; what other processes do is theirs to do."""
    if obstacle == "disk":
        os.fdatasync = hang  # type: ignore[assignment]
    elif obstacle == "store":
        SqliteStore.write = hang  # type: ignore[assignment,method-assign]


class Farewell:
    """Flushes and closes when it is called, or when it is finalised."""

    def __init__(self, client: UsageClient) -> None:
        self._client = client
        # at the end of the interpreter the module's own names may be gone
        self._now, self._tell = time.monotonic, os.write

    def __call__(self) -> None:
        begun = self._now()
        report = self._client.flush(TIMEOUT_SECONDS)
        self._say(f"flush {self._now() - begun:.3f} {report.delivered} {report.pending}")
        begun = self._now()
        self._client.close(TIMEOUT_SECONDS)
        self._say(f"close {self._now() - begun:.3f}")

    def __del__(self) -> None:
        if self._client is not None and not self._client.closed:
            self()

    def _say(self, line: str) -> None:
        self._tell(1, line.encode() + b"\n")


def in_thread(farewell: Farewell) -> None:
    """Call it in another thread, and wait for that."""
    thread = threading.Thread(target=farewell)
    thread.start()
    thread.join()


def finally_finalised(farewell: Farewell) -> None:
    """Leave it to the end of the interpreter, in a module of its own: what hangs keeps this one."""
    keeper = sys.modules["keeper"] = ModuleType("keeper")
    keeper.kept = farewell  # type: ignore[attr-defined]


MOMENTS: dict[str, Callable[[Farewell], object]] = {
    "main thread": lambda farewell: farewell(),
    "another thread": in_thread,
    "exit hook": atexit.register,
    "finaliser": finally_finalised,
}


def main(directory: str, drain: str, obstacle: str, moment: str) -> None:
    """Record, and end."""
    settings = Settings(usage_dir=Path(directory), drain=drain, exit_flush_seconds=TIMEOUT_SECONDS)
    client = open_usage_client(settings)
    put_in_the_way(obstacle)
    assert client.put_ai_usage_metric(make_metric(request_id="r")) is PutResult.STORED
    MOMENTS[moment](Farewell(client))


if __name__ == "__main__":
    main(*sys.argv[1:])
