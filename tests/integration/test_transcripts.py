"""Transcripts of Claude Code and its hooks, recorded in a table instead of the embedded store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from receipt_dynamo.dynamo_client import DynamoClient
from receipt_label.cli.main import main
from tests.support.dynamodb import drop_table

PROJECTS = Path(__file__).parents[1] / "data" / "claude_code" / "projects"
FIRST = "8c35adc1-5d0e-4f0a-9c6b-0123456789ab"


@pytest.fixture
def table(dynamodb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoClient]:
    """An empty table, which the commands of this test record in."""
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(tmp_path / "usage"))
    monkeypatch.setenv("ENVIRONMENT", "development")
    monkeypatch.setenv("DYNAMODB_TABLE_NAME", "transcripts")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamodb)
    with DynamoClient("transcripts", endpoint_url=dynamodb) as client:
        client.create_table()
        yield client
        drop_table(client)


@pytest.mark.usefixtures("table")
def test_a_table_counts_transcripts_as_the_embedded_store_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, however often they are imported, also by job, whose index holds no session."""
    projects = shutil.copytree(PROJECTS, tmp_path / "projects")
    for path in projects.rglob("*.jsonl"):  # the session that was resumed is the older one
        os.utime(path, (1, 1) if FIRST in str(path) else (2, 2))
    for _ in range(2):
        assert main(["import", "--format", "claude-code", str(projects), "--job", "j"]) == 0
    capsys.readouterr()
    assert main(["report", "--by", "session,service", "--job", "j", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {(row["session"] == FIRST, row["service"]): row["calls"] for row in report["rows"]} == {
        (True, "anthropic"): 7, (True, "skill"): 1, (True, "subagent"): 2, (True, "tool"): 3,
        (False, "anthropic"): 2, (False, "subagent"): 1, (False, "tool"): 1,
    }  # fmt: skip
    assert report["total"]["cost_usd"] == "0.20315285"


@pytest.mark.usefixtures("table")
def test_what_is_logged_waits_for_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A hook only appends; the next report brings it into the table."""
    for name in ("Bash", "Bash", "Read"):
        assert main(["log", "tool", name, "--session", "s1"]) == 0
    assert main(["report", "--by", "tool", "--session", "s1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["tool"], row["calls"]) for row in rows] == [("Bash", 2), ("Read", 1)]
