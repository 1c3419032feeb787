"""UsageQuestions: what a client answers about metrics, its own and everybody's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.reports import Reports
from receipt_dynamo.store import DroppedSummary, Identity, UsageQuery, UsageSummary

__all__ = ["UsageQuestions"]


class UsageQuestions:
    """The questions of a client. Thread-safe. Each takes in what the spool holds first."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """Return the metrics that are recorded under these identities (service, timestamp, request
        id), each under its own.

        For importers: what is known of a call already need not be lost. Raises StoreError.
        """
        return self._reports.recorded(identities)

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id), as far as there is one.

        For importers: a reply that carries no time of its own keeps the one it has. Takes in the
        spool first, as ``query`` does. Raises StoreError.
        """
        return self._reports.recorded_times(keys)

    def query(self, query: UsageQuery | None = None) -> Iterator[AIUsageMetric]:
        """Yield the metrics that match, by time. Takes in the spool first.

        Where the embedded store cannot take it in (a full or read-only disk, somebody who keeps its
        lock for 5 s), the answer is the same: what waits is read from the spool into memory, and a
        warning says so once. Raises StoreError where the store cannot be read either.
        """
        yield from self._reports.query(query or UsageQuery())

    def summarize(
        self,
        query: UsageQuery | None = None,
        by: Sequence[str] = (),
        timezone: str = "UTC",
    ) -> list[UsageSummary]:
        """Return sums per group (see ``DIMENSIONS``); days are those of ``timezone``.

        Takes in the spool first, as ``query`` does. Without ``by`` one summary of everything.
        Raises StoreError, and ValueError for an unknown word or timezone.
        """
        return self._reports.summarize(query or UsageQuery(), by, timezone)

    def dropped(self, query: UsageQuery | None = None) -> DroppedSummary:
        """Return what was lost in the time range of ``query``. Takes in the spool first, as
        ``query`` does. Raises StoreError."""
        return self._reports.dropped(query or UsageQuery())
