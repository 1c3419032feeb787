"""DeadLetter: a record that its store would not take, and what is known of it all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from receipt_dynamo.drops import DropTally
from receipt_dynamo.entities import checks
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.payload import parse_payload
from receipt_dynamo.spool.aside import Letter, letter_id

__all__ = ["DeadLetter"]

_NAME_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One record of ``dead/``. Immutable.

    ``id`` is told from its content: the same record that died twice is one letter. ``record`` is
    its JSON as the segment held it; ``fault`` says why that is no record, and is None where it can
    be retried. What is not known is None. ``count`` is above 1 where the record is a gap, which
    stands for as many losses. Money is USD, times are aware.
    """

    id: str
    file: Path
    line: int
    reason: str
    died: datetime | None
    record: str
    fault: str | None
    count: int = 1
    service: str | None = None
    model: str | None = None
    operation: str | None = None
    timestamp: datetime | None = None
    request_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None

    @classmethod
    def of(cls, letter: Letter, file: Path, line: int) -> DeadLetter:
        """Return the dead letter that stands in ``line`` of ``file``, counted from 1."""
        fault: str | None = None
        try:
            parsed = parse_payload(letter.record.encode("utf-8", "replace"))
            known = _gap_fields(parsed) if isinstance(parsed, Gap) else _fields_of(parsed.metric)
        except ValueError as error:
            fault, known = str(error) or "it is no record", _legible_fields(letter.record)
        return cls(
            id=letter_id(letter.record),
            file=file,
            line=line,
            reason=letter.reason,
            died=letter.died,
            record=letter.record,
            fault=fault,
            **known,
        )

    def loss(self, now: datetime) -> Gap:
        """Return the gap that counts this letter as lost; the same however often it is asked for.

        It is dated as the record is: that is when the totals are too low. ``now`` stands in where
        the letter carries no time at all.
        """
        tally = DropTally()
        tally.add(
            "dead",
            service=self.service,
            model=self.model,
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            cost_usd=self.cost_usd,
        )
        (gap,) = tally.take(self.timestamp or self.died or now)
        return msgspec.structs.replace(
            gap, gap=f"dead-{self.id}", count=self.count, cost_usd=self.cost_usd
        )


def _fields_of(metric: object) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in _LEGIBLE}


def _gap_fields(gap: Gap) -> dict[str, Any]:
    names = ("count", "service", "model", "timestamp", "input_tokens", "output_tokens", "cost_usd")
    return {name: getattr(gap, name) for name in names}


def _legible_fields(record: str) -> dict[str, Any]:
    """Return the fields that a metric could have, of a record that is none as a whole."""
    try:
        found = msgspec.json.decode(record)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    if not isinstance(found, Mapping):
        return {}
    fields = {}
    for name, read in _LEGIBLE.items():
        try:
            fields[name] = read(name, found.get(name))
        except (ValueError, TypeError, OverflowError):
            continue
    return fields


def _read_name(field: str, value: object) -> str | None:
    return checks.check_text(field, value, _NAME_BYTES)


def _read_time(field: str, value: Any) -> datetime:
    return checks.check_timestamp(field, datetime.fromisoformat(value))


_LEGIBLE: Mapping[str, Callable[[str, Any], Any]] = {
    "service": _read_name,
    "model": _read_name,
    "operation": _read_name,
    "timestamp": _read_time,
    "request_id": _read_name,
    "input_tokens": checks.check_count,
    "output_tokens": checks.check_count,
    "cost_usd": checks.check_money,
}
"""What is known of a letter, and how each field is read of a record that is none."""
