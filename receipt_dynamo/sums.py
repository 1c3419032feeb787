"""The sums of a report, the same for every store: exact money, whole counts, local days."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.store import DroppedSummary, UsageQuery, UsageSummary, add_exactly

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = ["Group", "Sums", "counts_for", "group_order", "local_day", "sum_gaps", "summaries"]

Group = tuple[str | int | None, ...]


def group_order(value: str | int | None) -> tuple[bool, str | int]:
    """Sort groups by value, the nameless one last."""
    return (value is None, "" if value is None else value)


def local_day(time: datetime, zone: ZoneInfo) -> str:
    """Return the calendar day of an aware time in ``zone``, as ``2026-11-21``."""
    try:
        return time.astimezone(zone).date().isoformat()
    except OverflowError:  # within a day of the year 1 or 9999: the day of UTC
        return time.date().isoformat()


class Sums:
    """The running sums of one group."""

    __slots__ = ("cost", "counts", "errors", "unpriced")

    def __init__(self) -> None:
        self.counts = [0] * 6
        self.cost: Decimal | None = None
        self.unpriced = 0
        self.errors = 0

    def add(self, cost: str | None, unpriced: int, records: int, *sums: int) -> None:
        """Add ``records`` records of one cost: the sums of calls, of five kinds of tokens and of
        the calls that failed."""
        if cost is not None:
            amount = Decimal(cost)
            self.cost = add_exactly(self.cost, _times(amount, records) if records != 1 else amount)
        if unpriced:
            self.unpriced += sums[0]
        self.errors += sums[6]
        for index in range(6):
            self.counts[index] += sums[index]

    def merge(self, other: Sums) -> None:
        """Add the sums of further records of the same group."""
        self.cost = add_exactly(self.cost, other.cost)
        self.unpriced += other.unpriced
        self.errors += other.errors
        for index in range(6):
            self.counts[index] += other.counts[index]

    def summary(self, group: Mapping[str, str | int | None]) -> UsageSummary:
        """Return the sums as they are shown."""
        calls, tokens_in, cached, written, tokens_out, reasoning = self.counts
        return UsageSummary(
            group=group,
            calls=calls,
            input_tokens=tokens_in,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=tokens_out,
            reasoning_tokens=reasoning,
            cost_usd=self.cost,
            unpriced_calls=self.unpriced,
            errors=self.errors,
        )


def summaries(groups: Mapping[Group, Sums], by: Sequence[str]) -> list[UsageSummary]:
    """Return the sums per group, ordered by group; one of nothing where nothing is grouped."""
    if not by and not groups:
        groups = {(): Sums()}
    ordered: Iterable[Group] = sorted(groups, key=lambda key: [group_order(part) for part in key])
    return [groups[key].summary(dict(zip(by, key, strict=True))) for key in ordered]


def counts_for(gap: Gap, query: UsageQuery) -> bool:
    """Whether a loss is one of the service and model asked for; not known, it may be."""
    return all(
        asked is None or known is None or asked == known
        for asked, known in ((query.service, gap.service), (query.model, gap.model))
    )


def sum_gaps(gaps: Iterable[Gap]) -> DroppedSummary:
    """Return what was lost in all."""
    count = tokens_in = tokens_out = 0
    cost: Decimal | None = None
    reasons: dict[str, int] = {}
    for gap in gaps:
        count += gap.count
        tokens_in += gap.input_tokens
        tokens_out += gap.output_tokens
        cost = add_exactly(cost, gap.cost_usd)
        reasons[gap.reason] = reasons.get(gap.reason, 0) + gap.count
    return DroppedSummary(
        count=count,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_usd=cost,
        by_reason=dict(sorted(reasons.items())),
    )


def _times(amount: Decimal, count: int) -> Decimal:
    """Return the exact product of an amount and a count of equal records."""
    sign, digits, exponent = amount.as_tuple()
    whole = int("".join(map(str, digits))) * count
    return Decimal((sign, tuple(map(int, str(whole))), int(exponent)))
