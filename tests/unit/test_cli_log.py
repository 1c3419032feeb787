"""receipt-usage log: from a shell and as a hook; it never breaks whoever calls it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import Settings, open_usage_client
from receipt_label.cli import log as module

Run = Callable[..., Any]
HOOK = ("log", "--hook", "claude-code")
EVENT = {
    "session_id": "s1",
    "hook_event_name": "PostToolUse",
    "tool_name": "Bash",
    "tool_use_id": "toolu_01DUabcdefghijklmnopqrs",
    "tool_input": {"command": "echo s3cr3t"},
    "tool_response": {"stdout": "s3cr3t"},
}


def metrics() -> list[Any]:
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        return list(client.query())


def hook(run: Run, *options: str, **fields: Any) -> Any:
    return run(*HOOK, *options, stdin=json.dumps({**EVENT, **fields}).encode())


@pytest.mark.parametrize("kind", ["tool", "skill", "subagent", "action"])
def test_each_kind_is_logged_by_name(run: Run, kind: str) -> None:
    """Silently, exit code 0; a session of its own is minted."""
    ran = run("log", kind, "it")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    (metric,) = metrics()
    assert (metric.service, metric.model, metric.cost_usd) == (kind, "it", Decimal(0))
    assert metric.price_source == "not_billable"
    assert metric.session_id.startswith("session-")


def test_options_become_fields(run: Run) -> None:
    """All that a shell knows of a use."""
    run(
        "log", "tool", "web_search", "--session", "s", "--duration-ms", "812", "--cost", "0.0100",
        "--error", "timeout", "--metadata", "a=1", "--metadata", "b=x=y", "--subagent", "Explore",
        "--skill", "pdf", "--job", "j", "--batch", "b", "--pr", "7", "--user", "u",
        "--conversation", "c", "--environment", "e", "--at", "2026-11-21T20:00:00+01:00",
        "--request-id", "r",
    )  # fmt: skip
    (metric,) = metrics()
    assert (metric.cost_usd, metric.price_source) == (Decimal("0.01"), "caller")
    assert (metric.error, metric.latency_ms, metric.session_id) == ("timeout", 812.0, "s")
    assert metric.metadata == {"a": "1", "b": "x=y", "outcome": "failure"}
    assert (metric.tool, metric.skill, metric.subagent) == ("web_search", "pdf", "Explore")
    assert (metric.job_id, metric.batch_id, metric.github_pr, metric.user_id) == ("j", "b", 7, "u")
    assert (metric.conversation_id, metric.environment) == ("c", "e")
    assert metric.timestamp == datetime(2026, 11, 21, 19, tzinfo=UTC)
    assert metric.request_id == "r"


def test_json_says_what_was_recorded(run: Run) -> None:
    """And how to record it again: id and time together count once."""
    ran = run("log", "action", "deploy", "--json")
    (metric,) = metrics()
    assert ran.json == {
        "result": "STORED",
        "service": "action",
        "model": "deploy",
        "request_id": metric.request_id,
        "session_id": metric.session_id,
    }
    again = ("--at", "2026-11-21T20:00:00Z", "--request-id", "r")
    for _ in range(2):
        run("log", "tool", "t", *again)
    assert len(metrics()) == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["log"], "say what to log"),
        (["log", "tool"], "say what to log"),
        (["log", "tools", "x"], "'tool', 'skill'"),
        (["log", "tool", "x", "--cost", "much"], "no amount"),
        (["log", "tool", "x", "--metadata", "k"], "KEY=VALUE"),
        (["log", "tool", "x", "--duration-ms", "-1"], "duration-ms"),
        (["log", "tool", "x", "--at", "soon"], "ISO 8601"),
    ],
)
def test_wrong_usage_is_one_line(run: Run, args: list[str], said: str) -> None:
    """Exit code 2, as everywhere; nothing is recorded."""
    ran = run(*args)
    assert ran.code == 2
    assert said in ran.one_error
    assert metrics() == []


def test_a_value_that_no_metric_has_is_a_fault(run: Run) -> None:
    """Exit code 1, and the loss is counted."""
    ran = run("log", "tool", "x" * 300, "--json")
    assert (ran.code, ran.json["result"]) == (1, "DROPPED")
    assert run("report", "--json").json["dropped"]["count"] == 1


def test_a_hook_records_the_use_and_says_nothing(run: Run) -> None:
    """Nothing on either stream, exit code 0, no content in the record."""
    ran = hook(run, "--job", "j", "--metadata", "team=a")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    (metric,) = metrics()
    assert (metric.tool, metric.session_id, metric.job_id) == ("Bash", "s1", "j")
    assert metric.request_id == EVENT["tool_use_id"]
    assert metric.metadata == {"agent": "claude-code", "team": "a", "outcome": "success"}
    assert "s3cr3t" not in repr(metric)


def test_the_two_halves_of_a_use_count_once(run: Run) -> None:
    """Whichever hooks are set up."""
    for event in ("PreToolUse", "PostToolUse"):
        assert hook(run, hook_event_name=event).code == 0
    assert run("report", "--by", "tool", "--json").json["total"]["calls"] == 1


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (HOOK, b""),
        (HOOK, b"not json"),
        (HOOK, b"\xff\x00"),
        (HOOK, b"[]"),
        ((*HOOK, "tool", "x"), b"{}"),
        (("log", "--hook", "another"), b"{}"),
        (("log", "--hook"), b"{}"),
        (("log", "--hook=another"), b"{}"),
        ((*HOOK, "--no-such-option"), b"{}"),
        ((*HOOK, "--pr", "none"), b"{}"),
    ],
)
def test_a_hook_that_fails_lets_the_agent_go_on(
    run: Run, args: tuple[str, ...], stdin: bytes
) -> None:
    """Exit code 0 (2 would stop the tool), the fault on standard error, nothing on stdout."""
    ran = run(*args, stdin=stdin)
    assert (ran.code, ran.out) == (0, "")
    assert ran.one_error.startswith("error: ")
    assert metrics() == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RECEIPT_USAGE_DIR", "/proc/no/such"),
        ("RECEIPT_USAGE_DIR", "/etc/passwd"),
        ("RECEIPT_USAGE_MAX_BYTES", "many"),
        ("ENVIRONMENT", "production"),
    ],
)
def test_a_broken_environment_lets_the_agent_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A directory that cannot be made, a setting that cannot be right, no table in production."""
    monkeypatch.setenv(variable, value)
    ran = hook(run)
    assert (ran.code, ran.out) == (0, "")
    assert "not recorded" in ran.one_error


def test_a_closed_standard_input_lets_the_agent_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<&- is a fault like any other."""
    monkeypatch.setattr("sys.stdin", None)
    assert (run(*HOOK).code, metrics()) == (0, [])
    monkeypatch.setattr("sys.stdin", io.StringIO("{}"))  # has no bytes beneath
    assert run(*HOOK).code == 0


def test_what_many_calls_left_is_taken_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process leaves a file: now and then one brings them into the embedded store."""
    monkeypatch.setattr(module, "_TAKE_IN_FROM", 5)
    spool = Settings.from_env().spool_dir
    most = 0
    for _ in range(23):
        hook(run, tool_use_id=None)
        most = max(most, len(list(spool.glob("*.seg"))))
    assert most <= 5
    assert len(metrics()) == 23


def test_a_hook_loads_neither_prices_nor_boto3(usage_dir: Path) -> None:
    """It runs at every use of a tool: a real process, and what it has loaded at its end."""
    code = (
        "import sys; from receipt_label.cli.main import main;"
        "code = main(['log', '--hook', 'claude-code']);"
        "heavy = {'genai_prices', 'boto3', 'rich', 'asyncio', 'pydantic'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else code)"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input=json.dumps(EVENT).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert usage_dir.exists()
    assert len(metrics()) == 1
