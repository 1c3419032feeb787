"""A store with many rows that is damaged on purpose, and what is asked of it then."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

from receipt_dynamo import AIUsageMetric, UsageQuery
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import NOON, damage, encode, make_metric
from tests.support.sqlite_files import PAGE, many_metrics, pages_of_rows, write

ALL = UsageQuery()
ROWS = 1000
GAP = Gap("gap-1", NOON, "disk", 7, service="openai", input_tokens=3)


class Pristine(SimpleNamespace):
    """A store with many rows: its bytes, its metrics, and the pages that each lies on."""

    data: bytes
    metrics: dict[str, AIUsageMetric]
    pages: dict[str, frozenset[int]]

    def __repr__(self) -> str:
        return "<Pristine>"


def make_pristine(directory: Path) -> Pristine:
    """Return a store with ``ROWS`` metrics and a gap, made in a directory of its own."""
    directory.chmod(0o700)
    store = SqliteStore(directory / "usage.db")
    metrics = many_metrics(ROWS)
    for start in range(0, ROWS, 100):
        write(store, *metrics[start : start + 100], position=start)
    write(store, gaps=[GAP], segment="t.seg", position=77)
    return Pristine(
        data=store.path.read_bytes(),
        metrics={metric.request_id: metric for metric in metrics},
        pages=pages_of_rows(store.path),
    )


def copy_of(pristine: Pristine, directory: Path) -> SqliteStore:
    directory.mkdir(mode=0o700)
    path = directory / "usage.db"
    path.write_bytes(pristine.data)
    path.chmod(0o600)
    return SqliteStore(path)


def ids(store: SqliteStore) -> set[str]:
    return {metric.request_id for metric in store.query(ALL)}


def lost(store: SqliteStore) -> int:
    return store.dropped(ALL).by_reason.get("store_corrupt", 0)


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


def page_of_kind(pristine: Pristine, kind: int, size: int) -> int:
    """Return a page of some kind, other than the first, with at least ``size`` cells."""
    for number in range(1, len(pristine.data) // PAGE):
        page = pristine.data[number * PAGE :][:PAGE]
        if page[0] == kind and int.from_bytes(page[3:5]) >= size:
            return number
    raise AssertionError("no such page")


def zero(store: SqliteStore, page: int) -> None:
    damage(store.path, page * PAGE, bytes(PAGE))


def batch(*names: str) -> Batch:
    metrics = [make_metric(request_id=name) for name in names]
    return Batch(
        records=[StoredRecord(metric, encode(metric)) for metric in metrics],
        segment="new.seg",
        position=9,
    )
