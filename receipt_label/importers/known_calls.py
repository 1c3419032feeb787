"""What a store knows of a call that an import brings again, and the line of the file does not."""

from __future__ import annotations

from typing import Any

from receipt_dynamo import AIUsageMetric
from receipt_label.context import current
from receipt_label.usage import Reply

__all__ = ["known_before"]

_KEPT = (
    *("user_id", "job_id", "batch_id", "github_pr", "conversation_id", "session_id"),
    *("tool", "skill", "subagent", "environment", "deployment_version", "latency_ms"),
)


def known_before(earlier: AIUsageMetric, reply: Reply) -> dict[str, Any]:
    """Return the fields of an earlier record of ``reply`` that neither the reply nor the context in
    force says: for whom it was, how long it took, a cost that its caller gave.

    A price of ours is worked out anew: to import again is how prices are put right.
    """
    said = current()
    fields = {name: getattr(earlier, name) for name in _KEPT if name not in said}
    told = {*reply.metadata, *said.get("metadata", ())}
    fields["metadata"] = {
        name: value for name, value in earlier.metadata.items() if name not in told
    }
    if earlier.price_source == "caller":
        fields["cost_usd"] = earlier.cost_usd
    return fields
