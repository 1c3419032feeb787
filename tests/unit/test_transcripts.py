"""Transcripts of Claude Code: what a directory of them says is counted exactly, and once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import Settings, UsageClient
from receipt_label import AIUsageTracker
from tests.support.transcripts import (
    FIRST,
    IMPORT,
    RESUMED,
    message,
    result,
    stored,
    tool_use,
    totals,
)

Run = Callable[..., Any]
Lines = Callable[..., Path]


def test_a_directory_is_counted_exactly(run: Run, projects: Path) -> None:
    """Trouble 46: subagents are in, one-hour cache writes at their own rate. 9 calls: 4 and 2 of
    subagents in the first session, 1 and 1 in the resumed one, 1 of the older layout."""
    ran = run(*IMPORT, projects, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["recorded"] == 9
    assert ran.json["uses"] == {"skill": 1, "subagent": 3, "tool": 4}
    assert ran.json["new_calls_in_store"] == 9 + 8
    assert totals(run, "service", "session") == {
        ("anthropic", FIRST): (7, 148_183, 872, "0.19210755"),
        ("anthropic", RESUMED): (2, 34_879, 45, "0.0110453"),
        ("skill", FIRST): (1, 0, 0, "0"),
        ("subagent", FIRST): (2, 0, 0, "0"),
        ("subagent", RESUMED): (1, 0, 0, "0"),
        ("tool", FIRST): (3, 0, 0, "0"),
        ("tool", RESUMED): (1, 0, 0, "0"),
    }
    (first,) = stored(request_id="msg_011CdV3RCmcjkmfJNRP4vp01")
    assert (first.input_tokens, first.cached_input_tokens) == (3 + 15_185 + 18_476, 15_185)
    assert first.usage_details == {"cache_write_1h_tokens": 18_476}
    # 3 and 15 USD a million in and out, a tenth for cached reads, twice for one-hour writes
    rates = (3 * 3, 15_185 * Decimal("0.3"), 18_476 * 6, 220 * 15)
    assert first.cost_usd == sum(map(Decimal, rates)) / 1_000_000


def test_subagents_tools_and_skills_carry_their_names(run: Run, projects: Path) -> None:
    """From the call that started the subagent, its own entries, or the file beside its own."""
    run(*IMPORT, projects)
    calls = {
        name: [
            value[0] for key, value in totals(run, "service", "subagent").items() if key[1] == name
        ]
        for name in ("Explore", "Plan", "unknown")
    }
    assert calls == {"Explore": [2, 1, 1], "Plan": [1, 1], "unknown": [1, 1]}
    by_tool = totals(run, "tool", "skill")
    assert {key: value[0] for key, value in by_tool.items() if key != (None, None)} == {
        ("Bash", None): 2, ("Read", None): 1, ("Task", None): 1, ("Skill", "pdf"): 1,
        (None, "pdf"): 1,  # the call of the model that the skill asked for
    }  # fmt: skip
    (read,) = stored(tool="Read")
    assert (read.subagent, read.error, read.status) == ("Explore", "tool_error", "aborted")
    (task,) = stored(tool="Task")
    assert (task.latency_ms, task.metadata["outcome"]) == (5900.0, "success")
    (explored,) = stored(service="subagent", model="Explore")
    assert (explored.session_id, explored.latency_ms) == (FIRST, 4900.0)


def test_where_a_call_was_made_is_metadata(run: Run, projects: Path) -> None:
    """Directory, branch, version and the vendor's request."""
    run(*IMPORT, projects)
    (call,) = stored(request_id="msg_011CdV3RCmcjkmfJNRP4vp04")
    assert call.metadata == {
        "agent": "claude-code",
        "cwd": "/home/u/receipts",
        "git_branch": "main",
        "agent_version": "2.1.226",
        "vendor_request_id": "req_011CdV3RCmcjkmfJNRP4vp04",
        "finish_reason": "end_turn",
    }
    assert (call.skill, call.session_id) == ("pdf", FIRST)
    assert call.timestamp == datetime(2026, 11, 20, 9, 0, 25, tzinfo=UTC)


def test_nothing_that_was_said_is_recorded(run: Run, projects: Path) -> None:
    """Prompts, answers, thoughts, inputs and outputs of tools: the sample marks each of them."""
    run(*IMPORT, projects)
    assert "PRIVATE" in "".join(path.read_text() for path in projects.rglob("*.jsonl"))
    assert "PRIVATE" not in run("export").out
    assert not [
        path for path in Settings.from_env().usage_dir.rglob("*")
        if path.is_file() and b"PRIVATE" in path.read_bytes()
    ]  # fmt: skip


def test_a_second_import_changes_nothing(run: Run, projects: Path) -> None:
    """Nor does one of the same files in another order, by name, or from a copy."""
    run(*IMPORT, projects)
    before = run("export").out
    files = sorted(projects.rglob("*.jsonl"), reverse=True)
    for again in ([projects], files, files[::-1]):
        ran = run(*IMPORT, *again, "--json")
        assert ran.code == 0
        assert ran.json["new_calls_in_store"] == 0
        assert run("export").out == before


def test_each_file_alone_adds_up_to_all_of_them(run: Run, projects: Path) -> None:
    """Whichever comes first: a message counts once over all files of all imports."""
    for path in sorted(projects.rglob("*.jsonl"), reverse=True):
        run(*IMPORT, path)
    assert run("report", "--json").json["total"] == {
        "calls": 17,
        "input_tokens": 183_062,
        "cached_input_tokens": 155_732,
        "output_tokens": 917,
        "cost_usd": "0.20315285",
        "unpriced_calls": 0,
        "errors": 1,
    }


def test_a_subagents_file_read_alone_keeps_the_name_it_had(run: Run, projects: Path) -> None:
    """Its parent's file said it in an earlier import."""
    run(*IMPORT, projects)
    before = run("export").out
    (explore,) = projects.rglob("agent-a1e9158618036abe6.jsonl")
    run(*IMPORT, explore)
    assert run("export").out == before


def test_what_a_parents_file_repeats_of_a_subagent_counts(run: Run, projects: Path) -> None:
    """Where the subagent's own file is gone; beside it, once."""
    (explore,) = projects.rglob("agent-a1e9158618036abe6.jsonl")
    text = explore.read_bytes()
    explore.unlink()
    run(*IMPORT, projects)
    (call,) = stored(subagent="Explore")
    assert (call.request_id, call.output_tokens) == ("msg_01AgentCmcjkmfJNRP4vpi01", 3)
    explore.write_bytes(text)
    run(*IMPORT, projects)
    assert sorted(m.output_tokens or 0 for m in stored(subagent="Explore")) == [0, 0, 90, 310]


def test_a_use_without_an_end_is_unfinished_until_it_has_one(run: Run, lines: Lines) -> None:
    """Neither a success nor an error; a later import knows better, an older copy does not."""
    use = "toolu_01NzjV452AGVQR51StZta01"
    begun = lines(message(message=tool_use(use)), name="begun.jsonl")
    ended = lines(
        message(message=tool_use(use)), result(use, {"durationMs": 40}), name="ended.jsonl"
    )
    run(*IMPORT, begun)
    (tool,) = stored(service="tool")
    assert (tool.status, tool.error, tool.metadata["outcome"]) == ("partial", None, "unfinished")
    for path in (ended, begun):
        run(*IMPORT, path)
        (tool,) = stored(service="tool")
        assert (tool.status, tool.latency_ms, tool.metadata["outcome"]) == (
            "complete",
            40.0,
            "success",
        )


@pytest.mark.parametrize(
    ("told", "block", "error"),
    [
        (None, {"is_error": True}, "tool_error"),
        ({"interrupted": True}, {}, "interrupted"),
        ("Error: said", {"is_error": False}, None),
    ],
)
def test_how_a_tool_ended_is_told_in_a_word(
    run: Run, lines: Lines, told: Any, block: dict[str, Any], error: str | None
) -> None:
    """Not in the words of its result."""
    use = "toolu_01NzjV452AGVQR51StZta01"
    run(*IMPORT, lines(message(message=tool_use(use)), result(use, told, **block)))
    (tool,) = stored(service="tool")
    assert tool.error == error


@pytest.mark.parametrize("use_id", ["toolu_01NzjV452AGVQR51StZta01", "call_1", None])
def test_tool_uses_count_once_whatever_their_ids(
    run: Run, lines: Lines, use_id: str | None
) -> None:
    """Also short ones, as proxies give them, and none."""
    blocks = tool_use(use_id)["content"] if use_id else [{"type": "tool_use", "name": "Bash"}]
    entry = message(message={"content": blocks})
    other = message(
        "msg_011CdV3RCmcjkmfJNRP4vp99", message={"content": tool_use("call_2")["content"]}
    )
    path = lines(entry, result(use_id or "x"), other)
    for _ in range(2):
        run(*IMPORT, path)
    outcomes = sorted(tool.metadata["outcome"] for tool in stored(service="tool"))
    assert outcomes == ["success" if use_id else "unfinished", "unfinished"]


def test_a_hook_and_a_transcript_count_a_use_once(run: Run, projects: Path) -> None:
    """Tools, skills and subagents; what only the hook knew is kept."""

    bash_id, skill_id = "toolu_01NzjV452AGVQR51StZta01", "toolu_01NzjV452AGVQR51StZta04"

    def hook(event: str, **fields: Any) -> None:
        data = {"session_id": FIRST, "hook_event_name": event, **fields}
        assert run("log", "--hook", "claude-code", stdin=json.dumps(data).encode()).code == 0

    hook("PostToolUse", tool_name="Bash", tool_use_id=bash_id, duration_ms=777)
    hook("PostToolUse", tool_name="Skill", tool_use_id=skill_id, tool_input={"skill": "pdf"})
    hook("SubagentStop", agent_id="a1e9158618036abe6", agent_type="Explore")
    run(*IMPORT, projects)
    counts = {key: value[0] for key, value in totals(run, "service").items()}
    assert counts == {"anthropic": 9, "tool": 4, "skill": 1, "subagent": 3}
    (bash,) = stored(request_id=bash_id)
    assert bash.latency_ms == 777.0


def test_a_call_that_a_pipeline_recorded_counts_once(
    run: Run, lines: Lines, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapped client takes the message's id too."""
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(client.settings.usage_dir))
    body = message()["message"] | {"stop_reason": "end_turn"}
    AIUsageTracker(client).record_response(body)
    run(*IMPORT, lines(message(stop="end_turn")))
    assert [call.output_tokens for call in client.query()] == [10]


def test_attributes_are_recorded_with_every_call(run: Run, projects: Path) -> None:
    """As of an import of replies; --service and --operation win over what the lines say."""
    run(*IMPORT, projects, "--job", "j", "--pr", "7", "--user", "u", "--service", "my_proxy")
    assert len(stored(job_id="j", github_pr=7, user_id="u")) == 17
    assert len(stored(service="my_proxy")) == 9


def test_the_agents_own_helpers_are_told_by_their_ids(run: Run, lines: Lines) -> None:
    """Compaction and the like run as subagents without a name."""
    entry = message(isSidechain=True, agentId="acompact-0123456789abcdef")
    run(*IMPORT, lines(entry, name="agent-acompact-0123456789abcdef.jsonl"))
    assert {metric.subagent for metric in stored()} == {"compact"}


def test_one_line_says_what_went_in(run: Run, projects: Path) -> None:
    """On standard error, with what was passed over and why."""
    ran = run(*IMPORT, projects)
    assert ran.one_error == (
        "17 new records from 9 calls, 1 skill use, 3 subagent uses, 4 tool uses; "
        "9 skipped (2 not billed, 7 seen before)"
    )
