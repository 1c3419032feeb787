"""A chaos proxy in a process of its own, started and ended by the caller."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.chaos.schedule import Schedule, load

__all__ = ["RunningProxy", "chaos_proxy"]

_ROOT = Path(__file__).parents[2]
_END_SECONDS = 30.0


class RunningProxy:
    """A proxy that runs. Not thread-safe. Raises RuntimeError where its process has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._counts: dict[str, int] | None = None
        self.endpoint = self._line()

    def begin(self) -> float:
        """Set time zero; return its ``time.monotonic()``. What is sent from now on is logged."""
        return float(self._ask("begin")["began"])

    def replace(self, schedule: Schedule) -> None:
        """Go by another schedule from now on; time zero stays where it is."""
        self._ask(json.dumps({"schedule": schedule.to_json()}))

    def stop(self) -> dict[str, int]:
        """End it, complete the log, return counts by ``"<operation> <fault>"``. Idempotent."""
        if self._counts is None:
            try:
                # a forked worker may hold the other end of its input open: it needs a word
                told, _ = self._process.communicate("end\n", timeout=_END_SECONDS)
                self._counts = json.loads(told)
            except (ValueError, subprocess.TimeoutExpired) as error:
                raise self._ended() from error
        return dict(self._counts)

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._ended() from error
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line.strip()

    def _ended(self) -> RuntimeError:
        return RuntimeError(
            f"The chaos proxy has ended with {self._process.poll()}. Its standard error says why."
        )


@contextmanager
def chaos_proxy(
    engine: str,
    schedule: Schedule | str,
    *,
    seed: int = 0,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningProxy]:
    """Run a proxy before ``engine`` for as long as the context lasts; ``log`` is its file.

    ``schedule`` is one, or the name or the file of one. Until ``begin`` everything is healthy.
    ``environment`` is that of its process, None: that of this one.
    """
    given = load(schedule) if isinstance(schedule, str) else schedule
    command = [sys.executable, "-m", "benchmarks.chaos", engine, "--seed", str(seed)]
    if log is not None:
        command += ["--log", str(log.resolve())]
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C at a terminal ends the caller, who ends it in order
    ) as process:
        try:
            proxy = RunningProxy(process)
            proxy.replace(given)
            try:
                yield proxy
            finally:
                proxy.stop()
        finally:
            process.kill()
