"""What hooks of Claude Code say: each use once, by name alone, whatever the input is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_label.importers.claude_hook import read_hook
from receipt_label.uses import Use

COMMON: dict[str, Any] = {
    "session_id": "8c35adc1-0000-4000-8000-0123456789ab",
    "prompt_id": "550e8400-e29b-41d4-a716-446655440000",
    "transcript_path": "/home/u/.claude/projects/-home-u-p/8c35adc1.jsonl",
    "cwd": "/home/u/p",
    "permission_mode": "default",
}
TOOL = "toolu_01DUabcdefghijklmnopqrs"
SECRET = "s3cr3t"  # noqa: S105 - stands for content


def read(event: str, **fields: Any) -> Use | None:
    return read_hook(json.dumps({**COMMON, "hook_event_name": event, **fields}).encode())


def use_of(event: str, **fields: Any) -> Use:
    use = read(event, **fields)
    assert use is not None
    return use


def test_a_finished_tool_use_is_a_use_of_the_tool() -> None:
    """Under the id that the transcript has for it too, with its duration and where it ran."""
    use = use_of(
        "PostToolUse", tool_name="Bash", tool_use_id=TOOL, duration_ms=1234,
        tool_input={"command": SECRET}, tool_response={"stdout": SECRET, "interrupted": False},
    )  # fmt: skip
    assert use == Use(
        kind="tool",
        name="Bash",
        tool="Bash",
        session_id=COMMON["session_id"],
        request_id=TOOL,
        duration_ms=1234.0,
        metadata={"agent": "claude-code", "cwd": "/home/u/p", "permission_mode": "default"},
    )


@pytest.mark.parametrize(
    "event", ["PreToolUse", "PermissionRequest", "PostToolBatch", "SubagentStart", "PostCompact"]
)
def test_what_begins_is_counted_when_it_ends(event: str) -> None:
    """PreToolUse and PostToolUse of one use count once."""
    assert read(event, tool_name="Bash", tool_use_id=TOOL, agent_type="Explore") is None


@pytest.mark.parametrize(
    ("event", "fields", "error"),
    [
        ("PostToolUseFailure", {"error": SECRET}, "tool_error"),
        ("PostToolUseFailure", {"error": SECRET, "is_interrupt": True}, "interrupted"),
        ("PostToolUse", {"tool_response": {"interrupted": True}}, "interrupted"),
        ("PostToolUse", {"tool_response": {"is_error": True}}, "tool_error"),
        ("PostToolUse", {"tool_response": {"success": False}}, "tool_error"),
        ("PostToolUse", {"tool_response": {"success": True}}, None),
        ("PostToolUse", {"tool_response": SECRET}, None),
    ],
)
def test_a_failure_is_told_in_a_word(event: str, fields: dict[str, Any], error: str | None) -> None:
    """Never in the tool's own words: those are content."""
    use = use_of(event, tool_name="Write", **fields)
    assert (use.error, use.outcome) == (error, None if error is None else "failure")


def test_a_skill_is_one_use_by_its_own_name() -> None:
    """Of the tool Skill and of the skill, in one record."""
    use = use_of("PostToolUse", tool_name="Skill", tool_input={"skill": "pdf", "args": SECRET})
    assert (use.kind, use.name, use.tool, use.skill) == ("skill", "pdf", "Skill", "pdf")
    assert use_of("PostToolUse", tool_name="Skill", tool_input={}).kind == "tool"


def test_a_tool_in_a_subagent_carries_its_name() -> None:
    """``agent_type`` without an id is the main agent's own (claude --agent)."""
    inside = use_of("PostToolUse", tool_name="Read", agent_id="a1", agent_type="Explore")
    assert (inside.subagent, inside.metadata["agent_id"]) == ("Explore", "a1")
    assert use_of("PostToolUse", tool_name="Read", agent_type="mine").subagent is None


def test_a_subagent_counts_once_when_it_stops() -> None:
    """Sent on by another hook, it stops again; that is no second run."""
    run = {"agent_id": "a1", "agent_type": "Explore", "last_assistant_message": SECRET}
    use = use_of("SubagentStop", stop_hook_active=False, **run)
    assert (use.kind, use.name, use.subagent) == ("subagent", "Explore", "Explore")
    assert use.request_id == f"subagent-{COMMON['session_id']}-a1"
    assert read("SubagentStop", stop_hook_active=True, **run) is None
    nameless = use_of("SubagentStop", stop_hook_active=False)
    assert (nameless.name, nameless.subagent, nameless.request_id) == ("unknown", None, None)


@pytest.mark.parametrize(
    ("event", "fields", "name", "details"),
    [
        ("SessionStart", {"source": "startup"}, "session_start", {"source": "startup"}),
        ("SessionEnd", {"reason": "logout"}, "session_end", {"reason": "logout"}),
        ("Stop", {"stop_hook_active": False}, "turn_end", None),
        ("PreCompact", {"trigger": "auto"}, "compact", {"trigger": "auto"}),
        ("UserPromptSubmit", {"prompt": SECRET}, "user_prompt_submit", None),
        ("Notification", {"message": SECRET}, "notification", None),
        ("SomethingNew", {"text": SECRET}, "something_new", None),
    ],
)
def test_other_events_are_actions(
    event: str, fields: dict[str, Any], name: str, details: dict[str, str] | None
) -> None:
    """Also those that no version knows yet."""
    use = use_of(event, **fields)
    assert (use.kind, use.name, use.metadata.get("details")) == ("action", name, details)


def test_a_turn_that_failed_is_an_error() -> None:
    """By its code."""
    use = use_of("StopFailure", error="rate_limit", error_details=SECRET)
    assert (use.name, use.outcome, use.error) == ("turn_end", "failure", "rate_limit")


def test_no_content_is_kept() -> None:
    """Inputs, answers, prompts, messages: nowhere in what is recorded."""
    for event in ("PostToolUse", "PostToolUseFailure", "SubagentStop", "Stop", "UserPromptSubmit"):
        use = use_of(
            event, tool_name="Bash", tool_input={"command": SECRET, "skill": SECRET},
            tool_response=SECRET, error=SECRET, prompt=SECRET, last_assistant_message=SECRET,
            message=SECRET, agent_type="x",
        )  # fmt: skip
        assert SECRET not in repr(use)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "no hook_event_name"),
        (b"7", "no hook_event_name"),
        (b"[" * 100_000, "no JSON"),
        (b'{"hook_event_name": 5}', "no hook_event_name"),
        (b'{"hook_event_name": "PostToolUse"}', "no tool_name"),
    ],
)
def test_what_is_no_hooks_input_is_said_in_one_line(data: bytes, said: str) -> None:
    """A ValueError, nothing else."""
    with pytest.raises(ValueError, match=said) as raised:
        read_hook(data)
    assert "\n" not in str(raised.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(["PostToolUse", "PostToolUseFailure", "SubagentStop", "Stop", "X"]),
    st.dictionaries(
        st.sampled_from(
            "session_id cwd tool_name tool_input tool_response tool_use_id agent_id agent_type "
            "duration_ms error is_interrupt stop_hook_active source".split()
        ),
        json_values,
    ),
)
def test_whatever_a_field_holds_it_is_a_use_or_a_line(event: str, fields: dict[str, Any]) -> None:
    """Names are cut to what a metric carries; odd types are as if they were not there."""
    data = json.dumps({"hook_event_name": event, **fields}).encode()
    try:
        use = read_hook(data)
    except ValueError:
        return
    if use is not None:
        for value in (use.name, use.session_id, use.tool, use.subagent, use.error, use.request_id):
            assert value is None or (isinstance(value, str) and value.encode())
