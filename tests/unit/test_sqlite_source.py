"""The embedded store read by row number: what was seen stays seen, what is written is behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from receipt_dynamo import StoreError
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_source import SqliteSource
from tests.support import NOON, make_metric, write


@pytest.fixture
def source(tmp_path: Path) -> SqliteSource:
    return SqliteSource(tmp_path / "usage.db")


def names_after(source: SqliteSource, number: int, limit: int = 100) -> list[str]:
    return [row.record.metric.request_id for row in source.rows_after(number, limit)]


def test_rows_come_in_the_order_in_which_they_were_written(source: SqliteSource) -> None:
    """Whatever their times, services and ids; with the very bytes that were recorded."""
    metrics = [make_metric(request_id=name) for name in "cab"]
    write(source, metrics)
    write(source, [make_metric(request_id="d", service="anthropic")])
    rows = source.rows_after(0, 3)
    assert [row.record.metric for row in rows] == metrics
    assert names_after(source, rows[-1].number) == ["d"]
    assert names_after(source, 0, limit=2) == ["c", "a"]
    assert (source.count_after(0), source.count_after(rows[-1].number)) == (4, 1)


@pytest.mark.parametrize("replaced", ["a", "b", "c"])
def test_a_metric_that_is_replaced_comes_behind_all_others(
    source: SqliteSource, replaced: str
) -> None:
    """Whoever has seen the first one will see the second, also where it was the last."""
    write(source, [make_metric(request_id=name) for name in "abc"])
    seen = source.rows_after(0, 100)
    write(source, [make_metric(request_id=replaced, input_tokens=7)])
    (again,) = source.rows_after(seen[-1].number, 100)
    assert (again.record.metric.request_id, again.record.metric.input_tokens) == (replaced, 7)
    left = [row.record.metric.request_id for row in source.rows_at([row.number for row in seen])]
    assert left == [name for name in "abc" if name != replaced]


def test_rows_are_found_by_any_number_of_numbers(source: SqliteSource) -> None:
    """More than SQLite binds at once."""
    write(source, [make_metric(request_id=f"{number:04}") for number in range(1200)])
    numbers = [row.number for row in source.rows_after(0, 2000)]
    found = source.rows_at(numbers[::-1])
    assert [row.number for row in found] == numbers
    assert source.rows_at([]) == []


def test_losses_come_as_they_were_recorded(source: SqliteSource) -> None:
    """By time, every field of them."""
    from decimal import Decimal

    full = Gap(
        gap="2",
        timestamp=NOON,
        reason="disk",
        count=3,
        service="openai",
        model="m",
        input_tokens=1,
        output_tokens=2,
        cost_usd=Decimal("0.50"),
    )
    bare = Gap(gap="1", timestamp=NOON, reason="invalid", count=1)
    write(source, [], [full, bare])
    assert source.gaps() == [bare, full]


def test_a_store_that_is_not_there_has_nothing(source: SqliteSource) -> None:
    """And reading it makes none."""
    assert (source.rows_after(0, 9), source.rows_at([1]), source.gaps()) == ([], [], [])
    assert (source.count_after(0), source.file_number()) == (0, 0)
    assert not source.path.exists()


def test_a_row_whose_record_is_another_one_is_damage(source: SqliteSource) -> None:
    """It is not passed on: the store is repaired, and is another file then."""
    import sqlite3

    write(source, [make_metric(request_id=name) for name in "ab"])
    file = source.file_number()
    with sqlite3.connect(source.path) as connection:
        connection.execute("UPDATE metric SET request_id = 'x' WHERE request_id = 'b'")
    connection.close()
    try:
        names = names_after(source, 0)
    except StoreError:
        names = []
    assert "x" not in names
    assert source.file_number() != file
