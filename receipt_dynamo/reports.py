"""Reports: answers to questions about what one destination holds, also while its store refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from receipt_dynamo.delivery import BUSY_SECONDS, DeliveryReport
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.errors import StoreError, StoreVersionError
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.pipeline import Pipeline
from receipt_dynamo.spool.pending import pending_records
from receipt_dynamo.store import (
    Batch,
    DroppedSummary,
    Identity,
    LayeredStore,
    UsageOverlay,
    UsageQuery,
    UsageReader,
    UsageStore,
    UsageSummary,
)
from receipt_dynamo.unsent import Unsent

__all__ = ["REPORT_PATIENCE_SECONDS", "Reports"]

REPORT_PATIENCE_SECONDS = 5.0
"""How long a report waits for a store that others use, before it reads the spool itself."""

_READ_AGAIN = 3
_T = TypeVar("_T")
_log = safe_logger("receipt_dynamo.reports")


class Reports:
    """Takes in the spool and asks the store; where the store refuses, asks store and spool both.

    Thread-safe. What the store refuses is read into memory (see ``UsageOverlay``), each record
    once: the next question goes on where the last one has read to.
    """

    def __init__(self, pipeline: Pipeline, store: UsageStore, directory: Path) -> None:
        self.refusal: str | None = None
        """Why the store could not take in the spool when it last was to, or None."""
        self._pipeline = pipeline
        self._store = store
        self._directory = directory
        self._lock = threading.RLock()
        # Guarded by _lock
        self._warned = False
        self._forget_overlay()

    def _forget_overlay(self) -> None:
        self._overlay: UsageOverlay | None = None
        self._unsent = Unsent(self._directory, self._pipeline.spool, self._pipeline.clock)
        self._read = 0
        self._tallied = False  # whether losses were added that no gap record says yet

    def take_in(
        self, progress: Callable[[int], None] | None = None, patience: float = BUSY_SECONDS
    ) -> DeliveryReport:
        """Bring what the spool holds into the store. Raises StoreError.

        Waits ``patience`` seconds at once for a store that others use.
        """
        try:
            self._pipeline.maintain()
            report = self._deliver(progress, patience)
        except StoreError as error:
            if patience > 0 or self.refusal is None:  # else it says no more than "still"
                self.refusal = str(error)
            raise
        busy = "another thread or process delivers, or a segment cannot be read"
        self.refusal = None if report.finished else busy
        return report

    def _deliver(self, progress: Callable[[int], None] | None, patience: float) -> DeliveryReport:
        """Deliver everything, however long it takes; to a table for as long as it takes records."""
        pipeline = self._pipeline
        if not pipeline.needs_lead:
            return pipeline.deliver(float("inf"), progress, patience=patience)
        report = DeliveryReport()
        while True:
            before = report.delivered
            deadline = pipeline.clock.monotonic() + patience
            pipeline.deliver_or_await(deadline, progress, report=report)
            if report.finished or report.delivered == before:
                return report

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        """See ``UsageReader``."""
        return self._ask(lambda reader: reader.recorded(identities))

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """See ``UsageReader``."""
        return self._ask(lambda reader: reader.recorded_times(keys))

    def query(self, query: UsageQuery) -> Iterator[AIUsageMetric]:
        """See ``UsageReader``."""
        return self._ask(lambda reader: _begun(reader.query(query)))

    def summarize(self, query: UsageQuery, by: Sequence[str], timezone: str) -> list[UsageSummary]:
        """See ``UsageReader``."""
        return self._ask(lambda reader: reader.summarize(query, by, timezone))

    def dropped(self, query: UsageQuery) -> DroppedSummary:
        """See ``UsageReader``."""
        return self._ask(lambda reader: reader.dropped(query))

    def _ask(self, question: Callable[[UsageReader], _T]) -> _T:
        """Ask the store, after it has taken in the spool, or what lies over it."""
        # Who waited in vain once does not wait again.
        patience = 0.0 if self.refusal is not None else REPORT_PATIENCE_SECONDS
        try:
            self.take_in(patience=patience)
            if self.refusal is None:
                answer = question(self._store)
                self._come_back()
                return answer
        except StoreVersionError:
            raise
        except StoreError as error:
            if not isinstance(self._store, LayeredStore):
                raise
            self.refusal = self.refusal or str(error)
        if not isinstance(self._store, LayeredStore):
            self._say_what_is_missing()
        return question(self._beneath(self._store))

    def _say_what_is_missing(self) -> None:
        """Warn, once for as long as it is so, that records wait which no answer counts yet."""
        with self._lock:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "about %d records wait in the spool %s, and are in no answer yet: %s",
                    pending_records(self._directory),
                    self._directory,
                    (self.refusal or "").rstrip("."),
                )

    def _come_back(self) -> None:
        """The store takes in again: what was read over it is of no more use."""
        with self._lock:
            self._warned = False
            if self._overlay is not None:
                self._forget_overlay()

    def _beneath(self, store: UsageStore) -> UsageReader:
        """Return the store beneath what it cannot take in. Raises StoreError."""
        if not isinstance(store, LayeredStore):
            return store
        drops, now = self._pipeline.spool.drops, self._pipeline.clock.now()
        with self._lock:
            unwritten = drops.unwritten(now)
            if self._overlay is None or self._overlay.is_stale() or self._tallied or unwritten:
                self._forget_overlay()
            overlay = self._overlay = self._overlay or store.overlay()
            for _ in range(_READ_AGAIN):
                for batch in self._unsent.read(overlay.positions()):
                    overlay.add(batch)
                    self._read += len(batch.records) + len(batch.gaps)
                before, unwritten = unwritten, drops.unwritten(now)
                if before == unwritten:
                    break  # else they may be in the spool by now
            overlay.add(Batch(records=(), gaps=unwritten, segment="", position=0))
            self._tallied = bool(unwritten)
            self._say_why()
        return overlay

    def _say_why(self) -> None:
        """Warn, once for as long as the store refuses; where it lacks nothing there is no need."""
        if self._read and not self._warned:
            self._warned = True
            _log.warning(
                "the store cannot take in the spool: %s. No record is lost or left out: %d were "
                "read from the spool itself.",
                (self.refusal or "").rstrip("."),
                self._read,
            )

    def forget_after_fork(self) -> None:
        """Leave to the parent what it has read: a child reads the spool itself."""
        if self._overlay is not None:
            _abandoned.append(self._overlay)
        self._lock = threading.RLock()
        self._forget_overlay()


_abandoned: list[UsageOverlay] = []
"""What a child inherited: neither used nor closed, for its parent may have been within it."""


def _begun(metrics: Iterator[AIUsageMetric]) -> Iterator[AIUsageMetric]:
    """Return an iterator that has met what can fail at its beginning."""
    first = list(islice(metrics, 1))
    return chain(first, metrics)
