"""docs/agents.md: its example runs as it stands, its settings are those that Claude Code reads."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from receipt_dynamo import Settings, open_usage_client

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()


def block(language: str) -> str:
    """Return the one block of code of a language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


def test_the_example_in_python_runs(usage_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves what the page says."""
    monkeypatch.setenv("RECEIPT_USAGE_DRAIN", "manual")
    assert usage_dir
    exec(compile(block("python"), "docs/agents.md", "exec"), {})  # noqa: S102 - our own page
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        (total,) = client.summarize()
        assert (total.calls, str(total.cost_usd), total.errors) == (7, "0.01", 2)


def test_the_settings_call_the_hook(run: Callable[..., Any]) -> None:
    """Each command of the snippet is one that this program takes."""
    hooks = json.loads(block("json"))["hooks"]
    commands = {hook["command"] for sets in hooks.values() for one in sets for hook in one["hooks"]}
    for command in commands:
        program, *args = shlex.split(command)
        assert program == "receipt-usage"
        event = {"hook_event_name": "SessionStart", "session_id": "s"}
        ran = run(*args, stdin=json.dumps(event).encode())
        assert (ran.code, ran.err) == (0, "")
    assert hooks.keys() >= {"PostToolUse", "PostToolUseFailure", "SubagentStop", "SessionEnd"}
