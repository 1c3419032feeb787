"""Entries of Claude Code's transcripts, and what an import of them stored."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from receipt_dynamo import AIUsageMetric, Settings, open_usage_client

PROJECTS = Path(__file__).parents[1] / "data" / "claude_code" / "projects"
FIRST, RESUMED = "8c35adc1-5d0e-4f0a-9c6b-0123456789ab", "d25fe96c-c67b-4ec1-a52f-fdc08e8c063e"
IMPORT = ("import", "--format", "claude-code")
SONNET = "claude-sonnet-4-5-20250929"
numbers = itertools.count(1)


def stored(**conditions: Any) -> list[AIUsageMetric]:
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        return [
            metric
            for metric in client.query()
            if all(getattr(metric, name) == value for name, value in conditions.items())
        ]


def totals(run: Callable[..., Any], *by: str) -> dict[Any, tuple[Any, ...]]:
    rows = run("report", "--by", ",".join(by), "--json").json["rows"]
    return {
        tuple(row[word] for word in by) if len(by) > 1 else row[by[0]]: (
            row["calls"],
            row["input_tokens"],
            row["output_tokens"],
            row["cost_usd"],
        )
        for row in rows
    }


def message(
    message_id: str | None = "msg_011CdV3RCmcjkmfJNRP4vpiU", output: int = 10, **changes: Any
) -> dict[str, Any]:
    """Return an assistant entry: 100 tokens in, one text block; ``None`` takes a key out."""
    entry: dict[str, Any] = {
        "type": "assistant",
        "sessionId": "s1",
        "uuid": f"uuid-{next(numbers)}",
        "requestId": "req_011CdV3RAbeLdrLddF6wZpC1",
        "timestamp": "2026-11-20T09:00:00.000Z",
        "isSidechain": False,
        "message": {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": SONNET,
            "content": [{"type": "text", "text": "said"}],
            "stop_reason": changes.pop("stop", None),
            "usage": {"input_tokens": changes.pop("sent", 100), "output_tokens": output},
        },
    }
    entry["message"].update(changes.pop("message", {}))
    entry.update(changes)
    for holder in (entry, entry["message"]):
        for key in [key for key, value in holder.items() if value is None and key != "stop_reason"]:
            del holder[key]
    return entry


def tool_use(use_id: str, name: str = "Bash", **given: Any) -> dict[str, Any]:
    return {"content": [{"type": "tool_use", "id": use_id, "name": name, "input": given}]}


def result(use_id: str, told: Any = None, **block: Any) -> dict[str, Any]:
    content = [{"type": "tool_result", "tool_use_id": use_id, "content": "said", **block}]
    return {
        "type": "user",
        "sessionId": "s1",
        "timestamp": "2026-11-20T09:00:01.000Z",
        "message": {"role": "user", "content": content},
        "toolUseResult": told,
    }
