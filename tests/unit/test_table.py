"""Keys, shards and schema of the table: where a record lies, and what a table must be like."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import UsageQuery
from receipt_dynamo.entities.item import format_timestamp
from receipt_dynamo.table import (
    END_OF_TIME,
    INDEXES,
    START_OF_TIME,
    Shards,
    definition,
    differences,
    hour_by_number,
    hour_of,
    metric_key,
    month_of,
    number_of_hour,
    service_of,
    shard_of,
    split_sort_key,
    time_bound,
)
from tests.support import NOON

times = st.datetimes(timezones=st.just(UTC))


@given(times, st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from([1, 2, 7, 1024]))
def test_a_key_tells_time_service_and_id(time: datetime, name: str, count: int) -> None:
    """Whatever an id holds, also the characters that separate the parts of a key."""
    text = format_timestamp(time)
    key = metric_key("my service", text, name, Shards((("0001", count),)))
    assert split_sort_key(key.sort) == (text, name)
    assert service_of(key) == "my service"
    assert key.partition == f"U#my service#{text[:13]}#{shard_of(name, count)}"
    assert 0 <= shard_of(name, count) < count


@given(times)
def test_an_hour_is_known_by_its_number_within_the_month(time: datetime) -> None:
    """0 to 743, back and forth."""
    hour = hour_of(format_timestamp(time))
    assert 0 <= number_of_hour(hour) <= 743
    assert hour_by_number(month_of(hour), number_of_hour(hour)) == hour


@given(times, times)
def test_keys_sort_as_times_do(one: datetime, other: datetime) -> None:
    """Bounds of a range included: before everything, and behind everything."""
    first, second = format_timestamp(one), format_timestamp(other)
    assert (first < second) == (one < other)
    assert START_OF_TIME <= first < END_OF_TIME
    for until in (time_bound(other, END_OF_TIME), END_OF_TIME):
        assert (f"{first}#r" < until) == (first < until)


def test_the_ends_of_time_are_bounds_in_any_timezone() -> None:
    """An offset may push them out of what can be written."""
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    assert time_bound(datetime(1, 1, 1, tzinfo=east), "?") == START_OF_TIME
    assert time_bound(datetime(9999, 12, 31, 23, tzinfo=west), "?") == END_OF_TIME
    assert time_bound(None, "?") == "?"
    assert time_bound(NOON.astimezone(east), "?") == "2026-11-21T12:00:00.000000Z"


def test_shards_are_those_of_the_moment() -> None:
    """Before the first entry there is one; a range counts the most at any time within."""
    shards = Shards((("2026-01", 4), ("2026-06", 2), ("2026-09-01T12:30:00.000000Z", 8)))
    found = [shards.at(f"{month}-01T00:00:00.000000Z") for month in ("2025-12", "2026-01",
             "2026-05", "2026-06", "2026-10")]  # fmt: skip
    assert found == [1, 4, 4, 2, 8]
    assert shards.latest == 8
    assert shards.most_between("2025-01", "2025-12") == 1
    assert shards.most_between("2025-01", "2026-02") == 4
    assert shards.most_between("2026-07", "2026-08") == 2
    assert shards.most_between("2026-09-01T12", "2026-09-01T12~") == 8
    assert (Shards().at("2026"), Shards().latest, Shards().most_between("1", "2")) == (1, 1, 1)


def test_there_is_an_index_for_each_id_that_questions_name() -> None:
    """Asked by the natural attribute and the shard, sorted by time."""
    indexes = {i["IndexName"]: i for i in definition("t")["GlobalSecondaryIndexes"]}
    assert set(indexes) == {"GSI_JOB", "GSI_BATCH", "GSI_PR", "GSI_USER", "GSI_CONV"}
    keys = {
        name: [entry["AttributeName"] for entry in index["KeySchema"]]
        for name, index in indexes.items()
    }
    assert keys["GSI_JOB"] == ["jobId", "sh", "SK"]
    assert keys["GSI_PR"] == ["githubPr", "sh", "SK"]
    for index in INDEXES:
        assert hasattr(UsageQuery(), index.field)
    projected = [i["Projection"]["NonKeyAttributes"] for i in indexes.values()]
    assert all(len(names) <= 20 for names in projected)
    assert sum(map(len, projected)) <= 100, "DynamoDB takes no more in all indexes of a table"


def described(change: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    """Return what DescribeTable says of a table of ours, changed."""
    table = deepcopy(definition("t")) | {"TableStatus": "ACTIVE"}
    change(table)
    return table


def test_a_table_of_ours_does_not_differ() -> None:
    """Nor one with an index more, in another order, with all attributes, or billed otherwise."""

    def more(table: dict[str, Any]) -> None:
        indexes = table["GlobalSecondaryIndexes"]
        indexes.append({"IndexName": "own", "KeySchema": [], "Projection": {}})
        indexes.reverse()
        indexes[1]["Projection"] = {"ProjectionType": "ALL"}
        table["AttributeDefinitions"].reverse()
        table["BillingMode"] = "PROVISIONED"

    assert differences(described()) == []
    assert differences(described(more)) == []


def index_of(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(i for i in table["GlobalSecondaryIndexes"] if i["IndexName"] == name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("GlobalSecondaryIndexes"), "the index GSI_JOB is missing"),
        (
            lambda t: t.update(KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}]),
            "the table has the keys id (HASH, ?), not PK (HASH, S), SK (RANGE, S)",
        ),
        (
            lambda t: t["AttributeDefinitions"][0].update(AttributeType="N"),
            "the table has the keys PK (HASH, N), SK (RANGE, S), not PK (HASH, S), SK (RANGE, S)",
        ),
        (
            lambda t: index_of(t, "GSI_PR")["KeySchema"].pop(1),
            (
                "the index GSI_PR has the keys githubPr (HASH, N), SK (RANGE, S), "
                "not githubPr (HASH, N), sh (HASH, N), SK (RANGE, S)"
            ),
        ),
        (
            lambda t: index_of(t, "GSI_USER")["Projection"]["NonKeyAttributes"].remove("error"),
            "the index GSI_USER does not hold error",
        ),
        (
            lambda t: index_of(t, "GSI_CONV").update(Projection={"ProjectionType": "KEYS_ONLY"}),
            "the index GSI_CONV does not hold apiCalls, cacheWriteTokens, ",
        ),
    ],
)
def test_what_differs_is_said(change: Callable[[dict[str, Any]], object], said: str) -> None:
    """Which part, what it is, what it should be."""
    assert any(found.startswith(said) for found in differences(described(change)))


def test_the_schema_is_nobodys_but_the_module_s() -> None:
    """Who changes what a call returned does not change the table of the next call."""
    definition("a")["GlobalSecondaryIndexes"][0]["Projection"]["NonKeyAttributes"].clear()
    assert differences(described()) == []
