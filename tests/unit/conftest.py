"""What the tests of the command line share, and those of some other parts.

An own directory, and the program called in-process; transcripts; a tracker, and its time turned
by hand; a store with many rows.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from receipt_dynamo import Settings, UsageClient
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_label import AIUsageTracker, operations
from tests.support.pristine import Pristine, copy_of, make_pristine
from tests.support.reports import metric
from tests.support.transcripts import PROJECTS, RESUMED

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@dataclass(frozen=True)
class Ran:
    """What one call of receipt-usage answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def one_error(self) -> str:
        """The only line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


RunCommand = Callable[..., Ran]


@pytest.fixture
def usage_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for spool and store of this test alone, in a development environment."""
    directory = tmp_path / "usage"
    for name in ("DYNAMODB_TABLE_NAME", "DYNAMO_TABLE_NAME", "DEPLOYMENT_ENV", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RECEIPT_USAGE_PRICES", raising=False)
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(directory))
    return directory


@pytest.fixture
def run(
    usage_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RunCommand:
    """Call receipt-usage in this process with a list of arguments, and perhaps standard input."""
    from receipt_label.cli.main import main

    assert usage_dir

    def call(*args: str | Path, stdin: bytes | None = None) -> Ran:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def exported(run: RunCommand) -> list[dict[str, Any]]:
    """Every record of the store."""
    return [json.loads(line) for line in run("export").out.splitlines()]


def chat_reply(**changes: Any) -> dict[str, Any]:
    """Return an OpenAI chat reply: 10 tokens in, 5 out, with an id of its own and a time."""
    reply: dict[str, Any] = {
        "id": "chatcmpl-0123456789abcdefghij",
        "object": "chat.completion",
        "created": 1_780_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    reply.update(changes)
    return {key: value for key, value in reply.items() if value is not None}


@pytest.fixture
def reply() -> Callable[..., dict[str, Any]]:
    """Make OpenAI chat replies; ``None`` takes a key out."""
    return chat_reply


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of JSON lines; a text or bytes goes in as it is."""

    def write(*values: Any, name: str = "replies.jsonl", end: bytes = b"\n") -> Path:
        path = tmp_path / name
        data = []
        for value in values:
            text = value if isinstance(value, str | bytes) else json.dumps(value)
            data.append(text if isinstance(text, bytes) else text.encode())
        path.write_bytes(b"".join(line + end for line in data))
        return path

    return write


@pytest.fixture
def recorded(usage_dir: Path, client: UsageClient) -> UsageClient:
    """Three calls: two priced, on different days of Berlin, one without a price that failed."""
    assert usage_dir
    client.put_ai_usage_metrics(
        [
            metric(job_id="labels", cached_input_tokens=400, api_calls=2),
            metric(timestamp=datetime(2026, 11, 21, 20, tzinfo=UTC), github_pr=7),
            metric(
                model="new",
                timestamp=datetime(2026, 10, 1, tzinfo=UTC),
                cost_usd=None,
                unpriced_reason="unknown_model",
                error="rate_limit",
            ),
        ]
    )
    return client


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """A directory as Claude Code leaves it: a session, one that resumed it, their subagents."""
    copy = tmp_path / "projects"
    shutil.copytree(PROJECTS, copy)
    for path in copy.rglob("*.jsonl"):  # what git does not keep
        os.utime(path, (2, 2) if RESUMED in str(path) else (1, 1))
    return copy


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    """A store with many rows, made once; what is damaged is a copy of it."""
    return make_pristine(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def store(tmp_path: Path, pristine: Pristine) -> SqliteStore:
    """A copy of the store with many rows."""
    return copy_of(pristine, tmp_path / "usage")


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of Prometheus' of this test alone."""
    import prometheus_client  # the oldest botocore is tested without it

    return prometheus_client.CollectorRegistry()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What ``open_client`` opens its clients with, for those who look from outside."""
    return Settings(usage_dir=tmp_path / "usage", drain="manual")


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Turn by hand the time that operations take, in seconds."""
    time = [0.0]
    monkeypatch.setattr(operations, "perf_counter", lambda: time[0])

    def move(seconds: float) -> None:
        time[0] += seconds

    return move
