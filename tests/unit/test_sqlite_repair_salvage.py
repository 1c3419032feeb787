"""What is salvaged of a damaged store: its log, its offsets, and every row that was not hit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo.sqlite_aside import corrupt_stores
from receipt_dynamo.sqlite_pages import PageFile, log_of
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import damage, encode, make_metric
from tests.support.pristine import ALL, ROWS, Pristine, batch, copy_of, ids, lost, noise, zero
from tests.support.sqlite_files import PAGE, crashed_copy, write


def test_offsets_and_gaps_are_salvaged_as_well(store: SqliteStore, pristine: Pristine) -> None:
    """What the spool still holds is not taken in a second time, losses stay counted."""
    zero(store, 0)
    with store.exclusive(5):
        assert store.position("s.seg") == ROWS - 100
        assert store.position("t.seg") == 77
    dropped = store.dropped(ALL)
    assert (dropped.by_reason, dropped.input_tokens) == ({"disk": 7}, 3)
    assert ids(store) == set(pristine.metrics)


def test_what_lies_in_the_log_is_salvaged_and_set_aside_with_the_file(tmp_path: Path) -> None:
    """What a killed writer had committed belongs to the data, though no checkpoint took it in."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    write(store, *[make_metric(request_id=f"{n:03}") for n in range(100)])
    with store.exclusive(5):
        store.write(batch("in the log"))
        copy = crashed_copy(store, tmp_path / "b")
    log = log_of(copy.path).read_bytes()
    damage(copy.path, 0, b"\0" * 100)

    assert {*(f"{n:03}" for n in range(100)), "in the log"} == ids(copy)
    (aside,) = corrupt_stores(tmp_path / "b")
    assert log_of(aside).read_bytes() == log


@pytest.mark.parametrize("question", ["report", "delivery"])
@pytest.mark.parametrize("offset", [5, 20, 32 + 24 + 50, "last page but one"])
def test_a_damaged_log_loses_nothing_that_can_be_read_of_it(
    tmp_path: Path, offset: int | str, question: str
) -> None:
    """SQLite would pass over all that was committed behind the damage, without a word."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    write(store, make_metric(request_id="first"))
    with store.exclusive(5):
        for n in range(9):
            store.write(batch(f"{n}", f"x{n}"))
        copy = crashed_copy(store, tmp_path / "b")
    log = log_of(copy.path)
    at = offset if isinstance(offset, int) else log.stat().st_size - 2 * (24 + PAGE) + 30
    damage(log, at, bytes([log.read_bytes()[at] ^ 8]))

    if question == "delivery":
        with copy.exclusive(5):
            copy.write(batch("later"))
    assert ids(copy) >= {"first", *(f"{n}" for n in range(9)), *(f"x{n}" for n in range(9))}
    assert len(corrupt_stores(tmp_path / "b")) == 1
    assert lost(copy) == 0


def test_a_log_beside_an_emptied_store_is_salvaged(tmp_path: Path) -> None:
    """SQLite would remove it: to it, an empty file is a new database."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    with store.exclusive(5):
        store.write(batch("in the log"))
        copy = crashed_copy(store, tmp_path / "b")
    copy.path.write_bytes(b"")
    assert ids(copy) == {"in the log"}


def test_the_later_arrival_of_a_record_wins(tmp_path: Path) -> None:
    """Pages keep earlier versions; where only such a one can be read, it is better than none."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    write(store, *[make_metric(request_id=f"{n:02}", input_tokens=1) for n in range(50)])
    with store.exclusive(5):
        records = [make_metric(request_id=f"{n:02}", input_tokens=2) for n in range(50)]
        store.write(
            Batch(
                records=[StoredRecord(m, encode(m)) for m in records], segment="s.seg", position=1
            )
        )
        copy = crashed_copy(store, tmp_path / "b")
    damage(copy.path, 0, b"\0" * 100)
    assert {metric.input_tokens for metric in copy.query(ALL)} == {2}
    assert len(ids(copy)) == 50


SPOTS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "zero page", "noise", "header"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=5,
)


def harm(data: bytearray, spots: list[tuple[str, float, int]]) -> set[int]:
    """Damage a file; return the pages touched."""
    touched = set()
    for kind, where, bit in spots:
        at = int(where * (100 if kind == "header" else len(data)))
        page = at // PAGE
        touched.add(page)
        if kind == "zero page":
            data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        elif kind == "noise":
            end = min(at + 200, (page + 1) * PAGE)
            data[at:end] = noise(at, end - at)
        elif not 60 <= at < 64:  # the version: a newer store is not ours to judge
            data[at] ^= 1 << bit
    return touched


@pytest.mark.no_cover
@settings(max_examples=12)
@given(spots=SPOTS)
def test_any_damage_costs_only_the_rows_it_touches_and_each_is_counted(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: Pristine,
    spots: list[tuple[str, float, int]],
) -> None:
    """Flipped bits, zeroed pages and noise anywhere: no exception, no row of another page lost,
    and what is missing is in every report."""
    check_damage(tmp_path_factory.mktemp("any") / "usage", pristine, spots)


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.timeout(600)
@settings(max_examples=100)
@given(spots=SPOTS)
def test_any_damage_at_length(
    tmp_path_factory: pytest.TempPathFactory,
    pristine: Pristine,
    spots: list[tuple[str, float, int]],
) -> None:
    """The same, many times."""
    directory = tmp_path_factory.mktemp("any")
    check_damage(directory / "usage", pristine, spots)
    shutil.rmtree(directory)


def check_damage(directory: Path, pristine: Pristine, spots: list[tuple[str, float, int]]) -> None:
    store = copy_of(pristine, directory)
    data = bytearray(pristine.data)
    touched = harm(data, spots)
    store.path.write_bytes(data)
    with PageFile(store.path) as pages:
        named = {
            name
            for entry in pages.entries()
            if len(entry) == 4
            for name in entry[:3]
            if name in pristine.metrics
        }

    found = {metric.request_id: metric for metric in store.query(ALL)}
    store.summarize(ALL, ("day", "model", "job"))
    with store.exclusive(5):
        store.write(batch("new"))
    found = {metric.request_id: metric for metric in store.query(ALL)}
    (total,) = store.summarize(ALL, ())
    assert total.calls == len(found)
    assert "new" in found

    safe = {name for name, pages in pristine.pages.items() if not pages & touched}
    assert safe <= set(found)
    assert all(found[name] == pristine.metrics[name] for name in safe)
    assert len(found) - 1 + lost(store) >= len(named)
    if not corrupt_stores(directory):
        return  # nobody noticed: a flipped bit in a value is still a value
    for name in set(found) - {"new"}:  # what rotted in a record's words alone cannot be told
        mine, original = found[name], pristine.metrics[name]
        assert (mine.cost_usd, mine.input_tokens, mine.model) == (
            original.cost_usd,
            original.input_tokens,
            original.model,
        )
