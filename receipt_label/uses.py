"""What an agent does beside calling models, as a metric has it: one use, or one action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

__all__ = ["OPERATIONS", "SUCCESS", "UNFINISHED", "Kind", "Use"]

Kind = Literal["tool", "skill", "subagent", "action"]

OPERATIONS: Mapping[Kind, str] = {
    "tool": "execute_tool",
    "skill": "use_skill",
    "subagent": "invoke_agent",
    "action": "act",
}
"""The operation of each kind; the OpenTelemetry GenAI conventions name the first and the third."""

SUCCESS = "success"
UNFINISHED = "unfinished"
"""The outcome of what nothing says the end of: neither a success nor an error."""

_FREE = Decimal(0)
_ATTRIBUTES = ("session_id", "request_id", "timestamp", "tool", "skill", "subagent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One use of a tool, skill or subagent, or one action.

    Without ``cost_usd`` it costs 0, ``not_billable``. ``outcome`` is ``success`` where it is not
    given, ``failure`` where there is an ``error``; any other counts as an error of that name, and
    it stands in the metadata as well. ``duration_ms`` is in milliseconds.
    """

    kind: Kind
    name: str
    outcome: str | None = None
    error: str | None = None
    duration_ms: float | None = None
    cost_usd: Decimal | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    request_id: str | None = None
    timestamp: datetime | None = None
    tool: str | None = None
    skill: str | None = None
    subagent: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return what ``AIUsageTracker.record`` takes. No mapping in it is the caller's."""
        outcome = self.outcome or (SUCCESS if self.error is None else "failure")
        fields: dict[str, Any] = {
            "service": self.kind,
            "model": self.name,
            "operation": OPERATIONS[self.kind],
            "latency_ms": self.duration_ms,
            "metadata": {**self.metadata, "outcome": outcome},
        }
        for name in _ATTRIBUTES:
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        if self.kind != "action":
            fields[self.kind] = self.name
        if outcome == UNFINISHED:
            fields["status"] = "partial"
        elif outcome != SUCCESS:
            fields["status"] = "aborted"
            fields["error"] = self.error or outcome
        if self.cost_usd is None:
            fields["cost_usd"], fields["price_source"] = _FREE, "not_billable"
        else:
            fields["cost_usd"] = self.cost_usd
        return fields
