"""What a hook of Claude Code says, as one use of a tool, skill or subagent, or one action.

The fields are those of "Hooks reference" (code.claude.com/docs/en/hooks). What a tool was given and
what it answered, prompts, messages and the texts of errors are content: none of it is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from receipt_label.usage.reply import MIN_ID_CHARACTERS
from receipt_label.uses import Use

__all__ = ["clean_name", "read_hook", "skill_of", "subagent_request_id"]

_NAME_BYTES = 256
_FOREVER_MS = 1e12
_PAIRED = frozenset(
    {"PreToolUse", "PermissionRequest", "PostToolBatch", "SubagentStart", "PostCompact"}
)
"""Events whose other half is what counts: a use counts once, when it is over."""

_ACTIONS = {"Stop": "turn_end", "StopFailure": "turn_end", "PreCompact": "compact"}
_DETAILS = ("source", "reason", "trigger", "notification_type")
"""What an event says of itself in a word."""

_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def read_hook(data: bytes) -> Use | None:
    """Return what one call of a hook is about; None where another call counts it.

    Raises ValueError, in one line, for what is no input of a hook.
    """
    try:
        event = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the hook's input is no JSON: {error}") from None
    name = clean_name(event.get("hook_event_name")) if isinstance(event, dict) else None
    if name is None:
        raise ValueError("the hook's input has no hook_event_name")
    if name in _PAIRED:
        return None
    if name in ("PostToolUse", "PostToolUseFailure"):
        return _tool_use(event, failed=name == "PostToolUseFailure")
    if name == "SubagentStop":
        return _subagent(event)
    return _action(event, name)


def _tool_use(event: dict[str, Any], *, failed: bool) -> Use:
    tool = clean_name(event.get("tool_name"))
    if tool is None:
        raise ValueError("the hook's input has no tool_name")
    skill = skill_of(tool, event.get("tool_input"))
    use_id = clean_name(event.get("tool_use_id"))
    error = _error(event, failed=failed)
    return Use(
        kind="tool" if skill is None else "skill",
        name=skill or tool,
        tool=tool,
        skill=skill,
        subagent=clean_name(event.get("agent_type")) if event.get("agent_id") else None,
        session_id=clean_name(event.get("session_id")),
        request_id=use_id if use_id and len(use_id) >= MIN_ID_CHARACTERS else None,
        outcome=None if error is None else "failure",
        error=error,
        duration_ms=_milliseconds(event.get("duration_ms")),
        metadata=_metadata(event),
    )


def _error(event: Mapping[str, Any], *, failed: bool) -> str | None:
    """Return in a word why a tool failed; the text that says more is content."""
    answer = event.get("tool_response")
    told = answer if isinstance(answer, dict) else {}
    if event.get("is_interrupt") is True or told.get("interrupted") is True:
        return "interrupted"
    if failed or told.get("is_error") is True or told.get("success") is False:
        return "tool_error"
    return None


def skill_of(tool: str, given: object) -> str | None:
    """Return the skill that a use of the tool ``Skill`` asks for, by name."""
    if tool != "Skill" or not isinstance(given, Mapping):
        return None
    return clean_name(given.get("skill")) or clean_name(given.get("command"))


def _subagent(event: Mapping[str, Any]) -> Use | None:
    if event.get("stop_hook_active") is True:  # it was sent on, and has been counted
        return None
    name, agent_id = clean_name(event.get("agent_type")), clean_name(event.get("agent_id"))
    session_id = clean_name(event.get("session_id"))
    return Use(
        kind="subagent",
        name=name or "unknown",
        subagent=name,
        session_id=session_id,
        request_id=subagent_request_id(session_id, agent_id),
        metadata=_metadata(event),
    )


def subagent_request_id(session_id: str | None, agent_id: str | None) -> str | None:
    """Return the id of a subagent's run: the same from a hook and from a transcript.

    An agent's own id repeats between sessions.
    """
    return f"subagent-{session_id}-{agent_id}" if session_id and agent_id else None


def _action(event: Mapping[str, Any], name: str) -> Use | None:
    if event.get("stop_hook_active") is True:
        return None
    failed = name == "StopFailure"
    details = {key: word for key in _DETAILS if (word := clean_name(event.get(key)))}
    return Use(
        kind="action",
        name=_ACTIONS.get(name) or _WORD.sub("_", name).lower(),
        session_id=clean_name(event.get("session_id")),
        subagent=clean_name(event.get("agent_type")) if event.get("agent_id") else None,
        outcome="failure" if failed else None,
        error=(clean_name(event.get("error")) or "failure") if failed else None,
        metadata=_metadata(event) | ({"details": details} if details else {}),
    )


def _metadata(event: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: clean_name(event.get(key)) for key in ("cwd", "permission_mode", "agent_id")}
    return {"agent": "claude-code", **{key: word for key, word in named.items() if word}}


def _milliseconds(value: object) -> float | None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < float("inf")
    ):
        return None
    return float(value)


def clean_name(value: object) -> str | None:
    """Return a name that a metric can carry: 1 to 256 bytes of UTF-8; None for what is no text."""
    if not isinstance(value, str) or not value:
        return None
    return value.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore") or None
