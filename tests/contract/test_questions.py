"""Questions to a store, the same answers from each: every filter, every group, exact money, the
days of any timezone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, localcontext
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo import DIMENSIONS, UsageQuery, UsageStore, load_timezone, plain_decimal
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.store import add_exactly
from tests.support import NOON, make_metric, write

ALL = UsageQuery()
EXACT = Context(prec=2000)


FIELDS: dict[str, tuple[Any, Any]] = {
    "service": ("openai", "anthropic"),
    "model": ("a", "b"),
    "operation": ("chat", "embed"),
    "job_id": ("j1", "j2"),
    "batch_id": ("b1", "b2"),
    "github_pr": (1, 2),
    "user_id": ("u1", "u2"),
    "conversation_id": ("c1", "c2"),
    "session_id": ("s1", "s2"),
    "tool": ("Bash", "Read"),
    "skill": ("pdf", "docx"),
    "subagent": ("Explore", "Plan"),
    "environment": ("production", "development"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_filter_keeps_what_matches_and_nothing_else(store: UsageStore, field: str) -> None:
    """In metrics and in sums alike; a record without the field never matches."""
    one, other = FIELDS[field]
    metrics = [make_metric(request_id="x", **{field: one})]
    metrics += [make_metric(request_id=f"y{n}", **{field: other}) for n in range(2)]
    metrics.append(
        make_metric(request_id="none", service="third", model="third", operation="third")
    )
    write(store, metrics)
    for value, count in ((one, 1), (other, 2), ("absent' OR 1=1 --", 0)):
        query = UsageQuery(**{field: value})
        assert len(list(store.query(query))) == count
        assert store.summarize(query, (), "UTC")[0].calls == count


def test_filters_hold_together(store: UsageStore) -> None:
    """All conditions at once, with time and price."""
    write(
        store,
        [
            make_metric(job_id="j", user_id="u", timestamp=NOON),
            make_metric(job_id="j", user_id="v", timestamp=NOON),
            make_metric(job_id="j", user_id="u", timestamp=NOON + timedelta(hours=1)),
            make_metric(job_id="j", user_id="u", timestamp=NOON, cost_usd=Decimal(1)),
        ],
    )
    query = UsageQuery(
        job_id="j", user_id="u", since=NOON, until=NOON + timedelta(hours=1), unpriced=True
    )
    assert len(list(store.query(query))) == 1


def test_since_is_inclusive_and_until_exclusive_to_the_microsecond(store: UsageStore) -> None:
    """Two adjacent ranges count every record once."""
    tick = timedelta(microseconds=1)
    write(store, [make_metric(timestamp=NOON + n * tick) for n in range(-2, 3)])
    assert len(list(store.query(UsageQuery(until=NOON)))) == 2
    assert len(list(store.query(UsageQuery(since=NOON)))) == 3
    assert len(list(store.query(UsageQuery(since=NOON, until=NOON + tick)))) == 1
    with pytest.raises(ValueError, match="since=2026-01-01T00:00:00 has no timezone"):
        UsageQuery(since=datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose


@pytest.mark.parametrize("word", DIMENSIONS)
def test_every_group_word_adds_up_to_the_whole(store: UsageStore, word: str) -> None:
    """Groups are ordered, the nameless one last, and nothing falls between them."""
    field = DIMENSIONS[word]
    values: dict[str, tuple[Any, Any]] = {
        **FIELDS,
        "timestamp": (NOON, NOON + timedelta(days=40)),
        "unpriced_reason": ("no_usage", "unknown_model"),
    }
    one, other = values[field]
    metrics = [make_metric(**{field: value}, api_calls=n) for n, value in ((1, one), (2, other))]
    metrics.append(make_metric(cost_usd=Decimal(3), api_calls=4))
    write(store, metrics)
    rows = store.summarize(ALL, (word,), "UTC")
    assert sum(row.calls for row in rows) == 7
    assert [list(row.group) for row in rows] == [[word]] * len(rows)
    keys = [row.group[word] for row in rows]
    named = [key for key in keys if key is not None]
    assert keys == sorted(named) + [None] * (len(keys) - len(named))
    if word in ("day", "month"):
        assert keys == (["2026-11-21", "2026-12-31"] if word == "day" else ["2026-11", "2026-12"])
    else:
        assert {one, other} <= set(keys)


@pytest.mark.parametrize("word", ["session", "tool", "skill", "subagent"])
@pytest.mark.parametrize("asked", ["job_id", "batch_id", "github_pr", "user_id", "conversation_id"])
def test_a_question_about_an_id_groups_by_what_agents_do(
    store: UsageStore, asked: str, word: str
) -> None:
    """An index that does not hold a field answers no question about it: none counts as nameless."""
    field, value = DIMENSIONS[word], FIELDS[asked][0]
    one, other = FIELDS[field]
    metrics = [make_metric(**{asked: value, field: name}) for name in (one, one, other)]
    metrics += [make_metric(**{asked: value}), make_metric(**{field: one})]
    write(store, metrics)
    rows = store.summarize(UsageQuery(**{asked: value}), (word,), "UTC")
    assert {row.group[word]: row.calls for row in rows} == {one: 2, other: 1, None: 1}
    query = UsageQuery(**{asked: value, field: one})
    assert store.summarize(query, (), "UTC")[0].calls == len(list(store.query(query))) == 2


def test_groups_of_several_words_keep_their_order(store: UsageStore) -> None:
    """The words are given, and the rows sorted, from left to right."""
    for model in "ba":
        write(store, [make_metric(model=model, user_id=user) for user in ("v", None, "u")])
    rows = store.summarize(ALL, ("user", "model"), "UTC")
    assert [tuple(row.group.values()) for row in rows] == [
        ("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), (None, "a"), (None, "b"),
    ]  # fmt: skip
    for by in (("users",), ("day", "day")):
        with pytest.raises(ValueError, match="cannot group by"):
            store.summarize(ALL, by, "UTC")


def test_a_sum_holds_what_its_records_say(store: UsageStore) -> None:
    """Calls, unpriced calls and errors count api_calls; unknown tokens count as nothing."""
    write(
        store,
        [
            make_metric(
                api_calls=3,
                input_tokens=10,
                cached_input_tokens=4,
                cache_write_tokens=2,
                output_tokens=5,
                reasoning_tokens=1,
                cost_usd=Decimal("0.10"),
            ),
            make_metric(api_calls=2, error="failed", unpriced_reason="failed_call"),
            make_metric(input_tokens=1),
        ],
    )
    (row,) = store.summarize(ALL, (), "UTC")
    assert (row.calls, row.unpriced_calls, row.errors) == (6, 3, 2)
    assert (row.input_tokens, row.cached_input_tokens, row.cache_write_tokens) == (11, 4, 2)
    assert (row.output_tokens, row.reasoning_tokens) == (5, 1)
    assert row.cost_usd == Decimal("0.10")


def test_unpriced_is_not_zero(store: UsageStore) -> None:
    """A group without any price has no cost; one with a price of nothing costs nothing."""
    write(store, [make_metric(model="a"), make_metric(model="b", cost_usd=Decimal(0))])
    assert [row.cost_usd for row in store.summarize(ALL, ("model",), "UTC")] == [None, Decimal(0)]


money = st.builds(
    lambda digits, exponent: Decimal((0, tuple(digits), exponent)),
    st.lists(st.integers(0, 9), min_size=1, max_size=38),
    st.integers(-130, 87),
).filter(lambda value: value == 0 or -130 <= value.adjusted() <= 125)


@settings(max_examples=25)
@given(st.lists(money | st.just(Decimal("0.1")), min_size=1, max_size=30))
def test_money_adds_up_exactly(store: UsageStore, amounts: list[Decimal]) -> None:
    """Sums of any amounts are those of a calculator with 2,000 digits, whatever the context."""
    job = uuid4().hex
    write(store, [make_metric(cost_usd=amount, job_id=job) for amount in amounts])
    expected = Decimal(0)
    for amount in amounts:
        expected = EXACT.add(expected, amount)
    with localcontext(prec=5):
        (row,) = store.summarize(UsageQuery(job_id=job), (), "UTC")
    assert row.cost_usd is not None
    assert EXACT.compare(row.cost_usd, expected) == 0


def test_many_tiny_and_huge_amounts_lose_nothing(store: UsageStore) -> None:
    """The largest and the smallest that a metric can hold, side by side, many times."""
    tiny, huge, tenth = Decimal("1E-130"), Decimal("9.99E+125"), Decimal("0.1")
    write(store, [make_metric(cost_usd=amount) for amount in [tiny, huge, tenth] * 50])
    with localcontext(prec=5):
        (row,) = store.summarize(ALL, (), "UTC")
    expected = EXACT.add(
        EXACT.multiply(tiny, Decimal(50)), EXACT.add(EXACT.multiply(huge, Decimal(50)), 5)
    )
    assert EXACT.compare(row.cost_usd, expected) == 0
    assert plain_decimal(row.cost_usd).endswith("0" * 20 + "5")


def test_sums_of_the_highest_counts_are_whole(store: UsageStore) -> None:
    """A hundred metrics of a trillion tokens each add up."""
    write(store, [make_metric(input_tokens=10**12, output_tokens=10**12) for _ in range(100)])
    (row,) = store.summarize(ALL, (), "UTC")
    assert (row.input_tokens, row.output_tokens) == (10**14, 10**14)


@pytest.mark.parametrize(
    ("zone", "instant"),
    [
        ("Asia/Kathmandu", datetime(2026, 3, 1, 18, 15, tzinfo=UTC)),  # +05:45
        ("Pacific/Chatham", datetime(2026, 7, 1, 11, 15, tzinfo=UTC)),  # +12:45
        ("Pacific/Kiritimati", datetime(2026, 7, 1, 10, 0, tzinfo=UTC)),  # +14
        ("America/St_Johns", datetime(2026, 1, 1, 3, 30, tzinfo=UTC)),  # -03:30
        ("Europe/Berlin", datetime(2026, 3, 28, 23, 0, tzinfo=UTC)),  # begin of a day of 23 hours
        ("Europe/Berlin", datetime(2026, 3, 29, 22, 0, tzinfo=UTC)),  # and its end
        ("Europe/Berlin", datetime(2026, 10, 24, 22, 0, tzinfo=UTC)),  # begin of one of 25 hours
        ("Europe/Berlin", datetime(2026, 10, 25, 23, 0, tzinfo=UTC)),
        ("America/Sao_Paulo", datetime(2018, 11, 4, 3, 0, tzinfo=UTC)),  # no midnight that day
        ("Africa/Monrovia", datetime(1960, 1, 1, 0, 44, 30, tzinfo=UTC)),  # before 1970, seconds
        ("UTC", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_days_begin_at_midnight_of_their_timezone(
    store: UsageStore, zone: str, instant: datetime
) -> None:
    """A microsecond before and the moment itself fall on two days, through summer time and back."""
    tick = timedelta(microseconds=1)
    write(store, [make_metric(timestamp=instant - tick), make_metric(timestamp=instant)])
    day = instant.astimezone(ZoneInfo(zone)).date()
    rows = store.summarize(ALL, ("day",), zone)
    assert [row.group["day"] for row in rows] == [
        (day - timedelta(days=1)).isoformat(),
        day.isoformat(),
    ]


def test_the_ends_of_time_break_no_report(store: UsageStore) -> None:
    """A record of the year 9999 or 1 is odd, but every report still works."""
    write(
        store,
        [
            make_metric(timestamp=datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
            make_metric(timestamp=datetime(1, 1, 1, tzinfo=UTC)),
        ],
    )
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        days = [row.group["day"] for row in store.summarize(ALL, ("day",), zone)]
        assert days == ["0001-01-01", "9999-12-31"]


def test_an_unknown_timezone_is_named(store: UsageStore) -> None:
    """Whoever mistypes one learns which and how to write it."""
    write(store, [make_metric()])
    for name in ("Mars/Olympus", "../etc/passwd", "", "europe\0"):
        with pytest.raises(ValueError, match="unknown timezone"):
            load_timezone(name)
    with pytest.raises(ValueError, match="'Mars/Olympus'"):
        store.summarize(ALL, ("day",), "Mars/Olympus")


def test_what_was_dropped_is_summed_by_range_service_and_model(store: UsageStore) -> None:
    """A gap counts once by its id, exactly, and only within the range asked for."""
    gaps = [
        Gap(gap="1", timestamp=NOON, reason="disk", count=2, service="openai", input_tokens=3),
        Gap(gap="2", timestamp=NOON, reason="invalid", count=1, cost_usd=Decimal("0.1")),
        Gap(gap="3", timestamp=NOON + timedelta(days=1), reason="disk", count=4, model="m"),
    ]
    write(store, [], gaps)
    write(store, [], gaps)
    whole = store.dropped(ALL)
    assert (whole.count, whole.input_tokens, whole.cost_usd) == (7, 3, Decimal("0.1"))
    assert whole.by_reason == {"disk": 6, "invalid": 1}
    assert store.dropped(UsageQuery(until=NOON + timedelta(hours=1))).count == 3
    assert store.dropped(UsageQuery(service="openai")).count == 7  # the others may be its too
    assert store.dropped(UsageQuery(service="groq", model="m")).count == 5


def test_plain_decimals_have_neither_exponent_nor_trailing_zeros() -> None:
    """Money reads as people write it."""
    for value, text in (
        ("1E+3", "1000"),
        ("0.0100", "0.01"),
        ("100", "100"),
        ("1E-7", "0.0000001"),
    ):
        assert plain_decimal(Decimal(value)) == text
    assert add_exactly(None, None) is None
    assert add_exactly(None, Decimal(1)) == add_exactly(Decimal(1), None) == 1
