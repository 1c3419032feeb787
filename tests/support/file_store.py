"""A store that is no SQLite: it keeps no positions and no lock, and puts replace by identity.

As a table in DynamoDB behaves, in a file that survives kills. What brings a record twice brings
the very same bytes; the store says so when it does not.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec

from receipt_dynamo import AIUsageMetric, DroppedSummary, UsageQuery, UsageSummary
from receipt_dynamo.entities.gap import GAP_PREFIX, Gap
from receipt_dynamo.files import create_private_file
from receipt_dynamo.store import Batch, Identity, WriteOutcome, add_exactly
from tests.support import encode


class FileStore:
    """Puts are lines, appended by one write for a batch; a torn batch was never acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exclusive(self, timeout: float) -> AbstractContextManager[None]:
        """Keep nobody away."""
        return nullcontext()

    def position(self, segment: str) -> None:
        """Keep no positions: the ack in the segment's header counts."""

    def prune_positions(self, segments: Collection[str]) -> None:
        """Keep no positions."""

    def write(self, batch: Batch) -> WriteOutcome:
        """Append a batch. What a killed process left torn ends before it."""
        lines = [b"", *(record.payload for record in batch.records), *map(encode, batch.gaps), b""]
        data = b"\n".join(lines)
        descriptor = create_private_file(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(f"no room in {self._path}")
        finally:
            os.close(descriptor)
        return WriteOutcome(acknowledged=len(batch.records))

    def _lines(self) -> Iterator[bytes]:
        if self._path.exists():
            yield from self._path.read_bytes().split(b"\n")

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """Yield every metric once."""
        found: dict[tuple[str, datetime, str], bytes] = {}
        for line in self._lines():
            if line and not line.startswith(GAP_PREFIX):
                try:
                    metric = msgspec.json.decode(line, type=AIUsageMetric)
                except msgspec.MsgspecError:
                    continue  # torn
                key = metric.service, metric.timestamp, metric.request_id
                if key not in found:
                    yield metric
                assert found.setdefault(key, line) == line, "a record came again, and otherwise"

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """Add up the gaps, each once."""
        gaps: dict[str, Gap] = {}
        for line in self._lines():
            if line.startswith(GAP_PREFIX):
                try:
                    gap = msgspec.json.decode(line, type=Gap)
                except msgspec.MsgspecError:
                    continue
                gaps[gap.gap] = gap
        reasons: dict[str, int] = {}
        cost: Decimal | None = None
        for gap in gaps.values():
            reasons[gap.reason] = reasons.get(gap.reason, 0) + gap.count
            cost = add_exactly(cost, gap.cost_usd)
        return DroppedSummary(
            count=sum(reasons.values()),
            input_tokens=sum(gap.input_tokens for gap in gaps.values()),
            output_tokens=sum(gap.output_tokens for gap in gaps.values()),
            cost_usd=cost,
            by_reason=reasons,
        )

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Know no times: importers are not what this store is for."""
        raise NotImplementedError

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """Know nothing of one record: importers are not what this store is for."""
        raise NotImplementedError

    def summarize(self, query: UsageQuery, by: Sequence[str], timezone: str) -> list[UsageSummary]:
        """Add nothing up: tests of this store look at its records."""
        raise NotImplementedError

    def close(self) -> None:
        """Keep nothing open."""
