"""receipt-usage export: every record, every field, exactly."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, Settings, open_usage_client

Run = Callable[..., Any]

METRIC = AIUsageMetric(
    service="openai",
    model="=gpt\x1b[0m",
    operation="chat",
    timestamp=datetime(2026, 11, 21, 20, tzinfo=UTC),
    request_id="r-1",
    input_tokens=10,
    output_tokens=0,
    usage_details={"web_searches": 2},
    cost_usd=Decimal("1E-7"),
    price_source="override",
    price_version="v",
    latency_ms=12.5,
    github_pr=12,
    metadata={"name": "Ünï\u202e", "deep": {"list": [1, None, True]}},
)


@pytest.fixture(autouse=True)
def _recorded(usage_dir: Path) -> None:
    assert usage_dir
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        client.put_ai_usage_metric(METRIC)
        client.put_ai_usage_metric(
            AIUsageMetric("tool", "search", "call", datetime(2026, 1, 1, tzinfo=UTC), "r-0")
        )


def test_a_line_has_all_fields_under_their_names(run: Run) -> None:
    """Money is a plain decimal string, the time ISO 8601 in UTC, what is unknown is null."""
    first, second = (json.loads(line) for line in run("export").out.splitlines())

    assert tuple(second) == AIUsageMetric.__struct_fields__
    assert second["timestamp"] == "2026-11-21T20:00:00.000000Z"
    assert second["cost_usd"] == "0.0000001"
    assert second["model"] == METRIC.model
    assert second["metadata"] == METRIC.metadata
    assert (second["output_tokens"], second["reasoning_tokens"]) == (0, None)
    assert first["unpriced_reason"] == "not_priced"


def test_an_exported_line_makes_the_same_metric_again(run: Run) -> None:
    """JSON lines lose nothing."""
    fields = json.loads(run("export", "--service", "openai").out)
    fields["timestamp"] = datetime.fromisoformat(fields["timestamp"])
    fields["cost_usd"] = Decimal(fields["cost_usd"])

    assert AIUsageMetric(**fields) == METRIC


def test_lines_are_ascii(run: Run) -> None:
    """No name reaches the terminal that could steer it."""
    assert run("export").out.isascii()
    assert "\x1b" not in run("export").out


def test_csv_has_one_line_for_each_record(run: Run) -> None:
    """Text is made safe for spreadsheets, nested fields are JSON."""
    rows = list(csv.DictReader(io.StringIO(run("export", "--format", "csv").out)))

    assert len(rows) == 2
    assert rows[1]["model"] == "'=gpt\\x1b[0m"
    assert rows[1]["cost_usd"] == "0.0000001"
    assert json.loads(rows[1]["metadata"]) == METRIC.metadata
    assert rows[0]["metadata"] == rows[0]["cost_usd"] == ""


def test_filters_and_output_file(run: Run, tmp_path: Path) -> None:
    """Only what was chosen, into the file; how many is said on standard error."""
    target = tmp_path / "out.jsonl"

    ran = run("export", "--since", "2026-11-21", "--output", target)

    assert ran.code == 0
    assert ran.out == ""
    assert ran.one_error == f"1 call exported to {target}"
    assert json.loads(target.read_text())["request_id"] == "r-1"


def test_an_output_that_cannot_be_written_is_one_error(run: Run, tmp_path: Path) -> None:
    """A directory, or a place that is not there: one line, exit code 1."""
    for target in (tmp_path, tmp_path / "none" / "out.jsonl"):
        ran = run("export", "--output", target)
        assert ran.code == 1
        assert str(target) in ran.one_error


def test_an_unknown_format_is_wrong_usage(run: Run) -> None:
    """Exit code 2, with the formats that there are."""
    ran = run("export", "--format", "xml")

    assert ran.code == 2
    assert "jsonl" in ran.one_error
