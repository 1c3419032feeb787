"""``receipt-usage ship --follow`` beside the pipeline of a run, killed and started anew."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.stress.crew import CrewError, faults_said
from benchmarks.stress.parent import watched
from benchmarks.stress.workload import Work

__all__ = ["Shipper"]

_ROOT = Path(__file__).parents[2]
_BEGUN = "shipping for "
"""With this the command says that it has opened the spool."""


class Shipper:
    """The drainer beside them. A context manager: what runs at its end is killed."""

    def __init__(self, work: Work, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = {
            **environment,
            "DYNAMODB_TABLE_NAME": work.table,
            "AWS_ENDPOINT_URL_DYNAMODB": work.endpoint,
            "RECEIPT_USAGE_DIR": work.directory,
            "ENVIRONMENT": "development",
        }
        self._errors = directory / "shipper.errors"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._errors.open("ab") as output:
            return subprocess.Popen(
                watched("receipt_label.cli.main", "ship", "--follow"),
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
            )

    @property
    def lives(self) -> int:
        """How many of those that were started came to ship."""
        return self._said().count(_BEGUN)

    def replace(self) -> None:
        """Kill it with SIGKILL, and start another. Raises CrewError for one that had ended."""
        self.end()
        self._process = self._start()

    def end(self) -> None:
        """Kill it. Raises CrewError for one that had ended by itself."""
        code = self._process.poll()
        self._kill()
        if code is not None:
            last = self._said().strip().splitlines() or ["it said nothing"]
            raise CrewError(f"the drainer beside the pipeline ended with {code}: {last[-1]}")

    def errors(self) -> list[str]:
        """Return what it said of exceptions that nobody caught."""
        return [f"the drainer said: {line}" for line in faults_said(self._errors)]

    def _said(self) -> str:
        return self._errors.read_text(errors="replace")

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()
