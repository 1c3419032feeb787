"""The tally of what was lost: counted at once, written as gap records as soon as may be."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from receipt_dynamo.entities.checks import check_count, check_money
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.entities.request_id import mint_request_id
from receipt_dynamo.store import add_exactly

__all__ = ["DropTally"]


_NAME_CHARACTERS = 256
_UNKNOWN = "unknown"  # a reason that is none


@dataclass(slots=True)
class _Lost:
    count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None


class DropTally:
    """Counts drops by reason, service and model. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may record while its thread holds it
        # Guarded by _lock
        self._unwritten: dict[tuple[str, str | None, str | None], _Lost] = {}
        self._by_reason: dict[str, int] = {}

    def add(  # one argument per figure that a gap keeps
        self,
        reason: str,
        *,
        service: str | None = None,
        model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_usd: Decimal | None = None,
    ) -> int:
        """Count one lost record; return how many were lost for this reason since the start.

        A name too long for any metric is left out, for a gap has to fit into the spool, and so is
        a figure that no metric could have: the loss itself must not be lost. Raises nothing.
        """
        reason = _name(reason) or _UNKNOWN
        service, model = _name(service), _name(model)
        service = service and service.lower()
        input_tokens, output_tokens = _count(input_tokens), _count(output_tokens)
        cost_usd = _amount(cost_usd)
        with self._lock:
            lost = self._unwritten.setdefault((reason, service, model), _Lost())
            lost.count += 1
            lost.input_tokens += input_tokens
            lost.output_tokens += output_tokens
            lost.cost_usd = add_exactly(lost.cost_usd, cost_usd)
            total = self._by_reason.get(reason, 0) + 1
            self._by_reason[reason] = total
            return total

    def by_reason(self) -> Mapping[str, int]:
        """Return how many records this process lost, by reason."""
        with self._lock:
            return dict(self._by_reason)

    def take(self, now: datetime) -> list[Gap]:
        """Return the losses since the last call as gap records.

        The caller writes them, or gives them back with ``restore``.
        """
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
            return [_gap(mint_request_id(), now, key, lost) for key, lost in unwritten.items()]

    def unwritten(self, now: datetime) -> list[Gap]:
        """Return the losses that no gap record says yet, and keep them. Their ids are no real ones:
        equal losses come under equal ids."""
        with self._lock:
            found = self._unwritten.items()
            return [_gap(f"unwritten-{n}", now, *entry) for n, entry in enumerate(found)]

    def restore(self, gap: Gap) -> None:
        """Take back a gap that could not be written."""
        with self._lock:
            lost = self._unwritten.setdefault((gap.reason, gap.service, gap.model), _Lost())
            lost.count += gap.count
            lost.input_tokens += gap.input_tokens
            lost.output_tokens += gap.output_tokens
            lost.cost_usd = add_exactly(lost.cost_usd, gap.cost_usd)


def _gap(name: str, now: datetime, key: tuple[str, str | None, str | None], lost: _Lost) -> Gap:
    reason, service, model = key
    return Gap(
        gap=name,
        timestamp=now,
        reason=reason,
        count=lost.count,
        service=service,
        model=model,
        input_tokens=lost.input_tokens,
        output_tokens=lost.output_tokens,
        cost_usd=lost.cost_usd,
    )


def _name(text: object) -> str | None:
    """Return a service or model as metrics have it, or None."""
    if not isinstance(text, str) or len(text) > _NAME_CHARACTERS:
        return None
    return text.encode("utf-8", "replace").decode().strip() or None


def _count(tokens: object) -> int:
    try:
        return check_count("tokens", tokens) or 0
    except Exception:  # whatever a caller passes
        return 0


def _amount(cost: object) -> Decimal | None:
    try:
        return check_money("cost_usd", cost)
    except Exception:
        return None
