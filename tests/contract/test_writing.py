"""What every store does with a record: it comes back as it was, once, wherever it is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from receipt_dynamo import AIUsageMetric, UsageQuery, UsageStore
from receipt_dynamo.entities.gap import Gap
from tests.support import FULL_FIELDS, NOON, make_metric, write

ALL = UsageQuery()


def test_a_metric_comes_back_as_it_was(store: UsageStore) -> None:
    """Every field, also those that nothing filters by, and a metric that has hardly any."""
    full = AIUsageMetric(**FULL_FIELDS)
    bare = make_metric(timestamp=NOON - timedelta(days=400))
    assert write(store, [full, bare]).acknowledged == 2
    assert list(store.query(ALL)) == [bare, full]
    assert list(store.query(UsageQuery(job_id=full.job_id))) == [full]


def test_metadata_comes_back_as_it_was(store: UsageStore) -> None:
    """Whatever JSON can say: empty, nested, odd names, the ends of the numbers."""
    metadata = {
        "empty": {"text": "", "list": [], "map": {}},
        "numbers": [0, -1, 2**63, -(2**63), 1.5, 1e-120, -1e120, 2**64 - 1],
        "words": {"a.b": None, "#": True, ":v": False, "ü\u2028\x00": 'é🙂\\"\n'},
        "deep": [[[[[[[["down"]]]]]]]],
    }
    metric = make_metric(metadata=metadata, usage_details={"pages": 1.5, "searches": 3})
    write(store, [metric])
    (kept,) = store.query(ALL)
    assert kept == metric
    assert kept.metadata == metadata


def test_the_same_identity_replaces_and_the_later_arrival_wins(store: UsageStore) -> None:
    """Also within one batch; another service, time or id is another record."""
    first = make_metric(request_id="r", input_tokens=1, error="e", job_id="before")
    again = make_metric(request_id="r", input_tokens=2)
    assert write(store, [first, again]).acknowledged == 2
    write(store, [make_metric(request_id="r", input_tokens=3, model="other", job_id="after")])
    (kept,) = store.query(ALL)
    assert (kept.input_tokens, kept.model, kept.error) == (3, "other", None)
    (total,) = store.summarize(ALL, (), "UTC")
    assert (total.calls, total.input_tokens, total.errors) == (1, 3, 0)
    assert list(store.query(UsageQuery(job_id="before"))) == []
    assert list(store.query(UsageQuery(job_id="after"))) == [kept]
    others = [
        make_metric(request_id="r", service="other"),
        make_metric(request_id="r", timestamp=NOON + timedelta(microseconds=1)),
        make_metric(request_id="r2"),
    ]
    write(store, others)
    assert len(list(store.query(ALL))) == 4


def test_metrics_come_by_time_then_service_then_id(store: UsageStore) -> None:
    """The order is that of the calls, not of their delivery, over hours and services."""
    times = [NOON - timedelta(hours=1), NOON, NOON + timedelta(microseconds=1)]
    metrics = [
        make_metric(timestamp=time, service=service, request_id=name, job_id="j")
        for time in times
        for service in ("anthropic", "openai")
        for name in ("#", "1", "B", "a", "é")
    ]
    write(store, metrics[::-1])
    assert list(store.query(ALL)) == metrics
    assert list(store.query(UsageQuery(job_id="j"))) == metrics


def test_an_empty_store_answers(store: UsageStore) -> None:
    """Nothing is nothing, and no fault."""
    assert list(store.query(ALL)) == []
    (total,) = store.summarize(ALL, (), "UTC")
    assert (total.calls, total.cost_usd) == (0, None)
    assert store.summarize(ALL, ("day",), "UTC") == []
    assert store.summarize(UsageQuery(job_id="j"), ("user",), "UTC") == []
    assert store.dropped(ALL).count == 0
    assert store.recorded_times([("openai", "r")]) == {}


def test_an_empty_range_holds_nothing(store: UsageStore) -> None:
    """Neither one that ends where it begins, nor one that ends before."""
    gap = Gap(gap="1", timestamp=NOON, reason="disk", count=1)
    write(store, [make_metric(job_id="j")], [gap])
    for until in (NOON, NOON - timedelta(days=1)):
        for job in (None, "j"):
            query = UsageQuery(since=NOON, until=until, job_id=job)
            assert list(store.query(query)) == []
            assert store.summarize(query, ("day",), "UTC") == []
        assert store.dropped(query).count == 0


def test_ids_that_no_metric_can_have_match_nothing(store: UsageStore) -> None:
    """A question may be odd; it is answered all the same."""
    write(store, [make_metric(job_id="j", github_pr=7)])
    for odd in (
        UsageQuery(job_id=""),
        UsageQuery(job_id="x" * 5000),
        UsageQuery(service="Open#AI"),
        UsageQuery(github_pr=-7),
    ):
        assert list(store.query(odd)) == [], odd
        assert store.summarize(odd, ("day",), "UTC") == [], odd


def test_recorded_times_are_the_first_of_each_id(store: UsageStore) -> None:
    """An id under several times answers the earliest; what is not there is not answered."""
    early = datetime(2025, 3, 1, 4, 5, 6, 7, tzinfo=UTC)
    write(
        store,
        [
            make_metric(request_id="r", timestamp=NOON),
            make_metric(request_id="r", timestamp=early),
            make_metric(request_id="r", service="other", timestamp=NOON),
            make_metric(request_id="s", timestamp=NOON),
        ],
    )
    keys = [("openai", "r"), ("other", "r"), ("openai", "missing"), ("nobody", "r")]
    assert store.recorded_times(keys) == {("openai", "r"): early, ("other", "r"): NOON}
    assert store.recorded_times([]) == {}


def test_what_is_recorded_under_an_identity(store: UsageStore) -> None:
    """Each under its own, whatever the zone of its time; what is not there is not answered."""
    some = [
        make_metric(request_id=f"r{n}", timestamp=NOON + n * timedelta(hours=1), github_pr=n)
        for n in range(1, 350)
    ]
    other = make_metric(request_id="r1", service="other", timestamp=some[0].timestamp)
    write(store, [*some, other])
    asked = [metric.identity for metric in some]
    assert store.recorded(asked) == dict(zip(asked, some, strict=True))
    assert store.recorded([other.identity, other.identity]) == {other.identity: other}
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5))) + timedelta(hours=1)
    assert store.recorded([("openai", elsewhere, "r1")]) == {some[0].identity: some[0]}
    assert store.recorded([("openai", NOON, "r1"), ("nobody", NOON, "r1")]) == {}
    assert store.recorded([]) == {}


def test_a_gap_counts_once_however_often_it_arrives(store: UsageStore) -> None:
    """Also when it comes again with another time; its cost may have more digits than a metric's."""
    long = Decimal("1" * 60 + "." + "2" * 60)
    for minute in (0, 1):
        time = NOON + timedelta(minutes=minute)
        gap = Gap(gap="same", timestamp=time, reason="disk", count=2, cost_usd=long, model="m")
        assert write(store, [], [gap]).rejected == []
    dropped = store.dropped(ALL)
    assert (dropped.count, dropped.cost_usd) == (2, long)


def test_a_position_is_kept_or_not_known(store: UsageStore) -> None:
    """A store that keeps no positions says so: the segment's own ack counts then."""
    write(store, [make_metric()])
    with store.exclusive(5):
        assert store.position("s.seg") in (None, 100)
        store.prune_positions([])
        assert store.position("s.seg") in (None, 0)
    store.close()
    assert len(list(store.query(ALL))) == 1
