"""Stores for tests: one in memory that keeps no positions and refuses what it is told to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from receipt_dynamo import AIUsageMetric, UsageQuery
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.store import Batch, Identity, Rejection, WriteOutcome

POISON = "poison"
"""The model of metrics that the stores made here never take."""


class MemoryStore:
    """As a table in a network is: no positions, records settled one by one."""

    def __init__(self, refuses: Callable[[AIUsageMetric], bool] = lambda m: m.model == POISON):
        self.refuses = refuses
        self.metrics: dict[Any, AIUsageMetric] = {}
        self.gaps: dict[str, Gap] = {}

    @contextmanager
    def exclusive(self, _timeout: float) -> Iterator[None]:
        yield

    def position(self, _segment: str) -> None:
        return None

    def prune_positions(self, segments: Collection[str]) -> None:
        pass

    def write(self, batch: Batch) -> WriteOutcome:
        refused = [r for r in batch.records if self.refuses(r.metric)]
        taken = [r for r in batch.records if not self.refuses(r.metric)]
        self.metrics.update((r.metric.identity, r.metric) for r in taken)
        self.gaps.update((gap.gap, gap) for gap in batch.gaps)
        return WriteOutcome(len(taken), [Rejection(r, "the table refuses it") for r in refused])

    def query(self, _query: UsageQuery) -> Iterator[AIUsageMetric]:
        yield from sorted(self.metrics.values(), key=lambda metric: metric.identity)

    def recorded(self, identities: Collection[Identity]) -> dict[Identity, AIUsageMetric]:
        return {one: self.metrics[one] for one in identities if one in self.metrics}

    def recorded_times(self, _keys: object) -> dict[tuple[str, str], datetime]:
        return {}

    def close(self) -> None:
        pass


def forbid_poison(path: Path) -> None:
    """Give an embedded store a constraint that metrics of the model ``poison`` fail."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER forbid BEFORE INSERT ON metric WHEN NEW.model = 'poison' "
            "BEGIN SELECT RAISE(ABORT, 'poison is forbidden'); END"
        )


def allow_poison(path: Path) -> None:
    """Take the constraint away again."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER forbid")
