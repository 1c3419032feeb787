"""Every answer of a store beneath records is that of one that has taken them in."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo import AIUsageMetric, UsageQuery
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.sqlite_overlay import SqliteOverlay
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import DIMENSIONS
from tests.support import NOON, damage, make_metric
from tests.support.sqlite_files import batch, crashed_copy, write

if TYPE_CHECKING:
    import pytest

ALL = UsageQuery()
METRICS = st.builds(
    make_metric,
    service=st.sampled_from(["openai", "anthropic"]),
    model=st.sampled_from(["a", "b"]),
    operation=st.sampled_from(["chat", "embed"]),
    request_id=st.sampled_from(["1", "2", "3"]),
    timestamp=st.sampled_from([NOON, NOON + timedelta(days=1), NOON + timedelta(days=40)]),
    input_tokens=st.one_of(st.none(), st.integers(0, 9)),
    cost_usd=st.one_of(st.none(), st.sampled_from(["0.1", "0.2"]).map(Decimal)),
    job_id=st.sampled_from([None, "j"]),
    tool=st.sampled_from([None, "Bash"]),
    error=st.sampled_from([None, "e"]),
)
GAPS = st.builds(
    Gap,
    gap=st.sampled_from(["g1", "g2"]),
    timestamp=st.just(NOON),
    reason=st.sampled_from(["disk", "memory"]),
    count=st.integers(1, 5),
    service=st.sampled_from([None, "openai"]),
    cost_usd=st.sampled_from([None, Decimal("0.3")]),
)
BATCHES = st.lists(st.tuples(st.lists(METRICS, max_size=6), st.lists(GAPS, max_size=2)), max_size=3)
QUERIES = st.builds(
    UsageQuery,
    since=st.sampled_from([None, NOON + timedelta(days=1)]),
    until=st.sampled_from([None, NOON + timedelta(days=2)]),
    service=st.sampled_from([None, "openai"]),
    job_id=st.sampled_from([None, "j"]),
    tool=st.sampled_from([None, "Bash"]),
    unpriced=st.booleans(),
)


@settings(max_examples=60)
@given(below=BATCHES, above=BATCHES, query=QUERIES, damaged=st.booleans())
def test_every_answer_is_that_of_a_store_that_took_it_in(
    tmp_path_factory: pytest.TempPathFactory,
    below: list[tuple[list[AIUsageMetric], list[Gap]]],
    above: list[tuple[list[AIUsageMetric], list[Gap]]],
    query: UsageQuery,
    damaged: bool,
) -> None:
    """For records and gaps that replace one another, whatever is asked, by every dimension; also
    where the store beneath can only be read page by page."""
    store = SqliteStore(tmp_path_factory.mktemp("overlay") / "usage" / "usage.db")
    for metrics, gaps in below:
        write(store, *metrics, gaps=gaps)
    content = store.path.read_bytes() if below else b""
    if damaged and below:
        damage(store.path, 0, bytes(100))
    overlay = store.overlay()
    for metrics, gaps in above:
        overlay.add(batch(*metrics, gaps=tuple(gaps)))

    keys = [(service, name) for service in ("openai", "anthropic") for name in "123"]
    answers = [
        list(overlay.query(query)),
        [overlay.summarize(query, by) for by in [(), *((word,) for word in DIMENSIONS)]],
        overlay.summarize(query, tuple(DIMENSIONS), "Asia/Tokyo"),
        overlay.dropped(query),
        overlay.recorded_times(keys),
        overlay.recorded([metric.identity for metrics, _ in above for metric in metrics]),
    ]
    if damaged and below:
        assert store.path.read_bytes() == bytes(100) + content[100:]
        store.path.write_bytes(content)
    for metrics, gaps in above:
        write(store, *metrics, gaps=gaps)
    assert answers == [
        list(store.query(query)),
        [store.summarize(query, by) for by in [(), *((word,) for word in DIMENSIONS)]],
        store.summarize(query, tuple(DIMENSIONS), "Asia/Tokyo"),
        store.dropped(query),
        store.recorded_times(keys),
        store.recorded([metric.identity for metrics, _ in above for metric in metrics]),
    ]


def test_what_was_read_page_by_page_says_when_it_is_stale(tmp_path: Path) -> None:
    """A log that nobody may recover is read, and what is written later is noticed."""
    store = SqliteStore(tmp_path / "a" / "usage.db")
    with store.exclusive(5):
        store.write(batch(make_metric(request_id="in the log"), position=55))
        copy = crashed_copy(store, tmp_path / "b")
    copy.path.write_bytes(b"")  # all that there is lies in the log
    overlay = SqliteOverlay(copy.path)
    assert overlay.positions() == {"s.seg": 55}
    assert [m.request_id for m in overlay.query(ALL)] == ["in the log"]
    assert not overlay.is_stale()
    write(copy, make_metric(request_id="later"))
    assert overlay.is_stale()
