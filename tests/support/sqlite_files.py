"""Files of the embedded store: with many rows, taken apart by page, and damaged."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from receipt_dynamo import AIUsageMetric
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_pages import PageFile, log_of
from receipt_dynamo.sqlite_record import read_varint
from receipt_dynamo.sqlite_rows import COLUMNS, metric_row
from receipt_dynamo.sqlite_schema import MIGRATIONS
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import NOON, encode, make_metric

PAGE = 4096


def write(
    store: SqliteStore,
    *metrics: AIUsageMetric,
    segment: str = "s.seg",
    position: int = 100,
    gaps: Sequence[Gap] = (),
) -> None:
    """Take metrics into a store, in one batch."""
    records = [StoredRecord(metric, encode(metric)) for metric in metrics]
    with store.exclusive(60):
        store.write(Batch(records=records, gaps=gaps, segment=segment, position=position))


def batch(*metrics: AIUsageMetric, gaps: tuple[Gap, ...] = (), position: int = 1) -> Batch:
    records = [StoredRecord(metric, encode(metric)) for metric in metrics]
    return Batch(records=records, gaps=gaps, segment="s.seg", position=position)


def leave_version_1(path: Path, metrics: Sequence[AIUsageMetric]) -> None:
    """Leave a store as the first version of this library wrote it: no column behind the record."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    columns = COLUMNS[: COLUMNS.index("body") + 1]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.executemany(
            f"INSERT INTO metric ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
            [metric_row(metric, encode(metric))[: len(columns)] for metric in metrics],
        )
        connection.execute("PRAGMA user_version = 1")


def many_metrics(count: int) -> list[AIUsageMetric]:
    """Return metrics of several services and days; one in fifty is longer than a page."""
    chance = random.Random(1)  # noqa: S311
    return [
        make_metric(
            service=("openai", "anthropic")[n % 2],
            request_id=f"{n:05}-{chance.randrange(1 << 60):x}",
            timestamp=NOON + timedelta(minutes=n),
            input_tokens=chance.randrange(5000),
            output_tokens=chance.randrange(900),
            cost_usd=Decimal(chance.randrange(10**8)) / 10**10,
            price_source="override",
            job_id=f"job-{n % 17}",
            error="e" * (9000 if n % 50 == 0 else 3) if n % 10 == 0 else None,
        )
        for n in range(count)
    ]


def crashed_copy(store: SqliteStore, target: Path) -> SqliteStore:
    """Return a copy of a store as a killed writer leaves it: what it wrote last lies in its log.

    Called within ``store.exclusive``.
    """
    target.mkdir(mode=0o700)
    copy = SqliteStore(target / store.path.name)
    for source, place in ((store.path, copy.path), (log_of(store.path), log_of(copy.path))):
        place.write_bytes(source.read_bytes())
        place.chmod(0o600)
    return copy


def pages_of_rows(path: Path) -> dict[str, frozenset[int]]:
    """Return the pages (from 0) that each metric lies on, by its request id. Without a log."""
    data = path.read_bytes()
    found: dict[str, frozenset[int]] = {}
    with PageFile(path) as file:
        for number in range(len(data) // PAGE):
            page, start = data[number * PAGE :][:PAGE], 0 if number else 100
            if page[start] != 13:
                continue
            for at in range(start + 8, start + 8 + 2 * int.from_bytes(page[start + 3 :][:2]), 2):
                size, place = read_varint(page, int.from_bytes(page[at : at + 2]))
                _, place = read_varint(page, place)
                (values,) = file._records(page, place, size, in_table=True)
                if len(values) == len(COLUMNS) + 1:
                    chain = _chain(data, page, place, size)
                    found[str(values[3])] = frozenset({number, *chain})
    return found


def _chain(data: bytes, page: bytes, at: int, size: int) -> list[int]:
    if size <= PAGE - 35:
        return []
    least = (PAGE - 12) * 32 // 255 - 23
    local = least + (size - least) % (PAGE - 4)
    local = least if local > PAGE - 35 else local
    pages: list[int] = []
    following = int.from_bytes(page[at + local :][:4])
    while following:
        pages.append(following - 1)
        following = int.from_bytes(data[(following - 1) * PAGE :][:4])
    return pages
