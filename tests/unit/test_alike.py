"""A call that is like an earlier one is recorded as it would be by the long way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receipt_dynamo import AIUsageMetric, PutResult, UsageClient
from receipt_label import AIUsageTracker, PriceBook
from receipt_label.alike import REMEMBERED_KINDS, AlikeCalls
from receipt_label.context import current
from receipt_label.usage import Reply, Usage
from receipt_label.usage.quick import quick_reader
from tests.support import NOON

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
BOOK = PriceBook.load()
FIRST = Reply(
    service="openai",
    model="gpt-4o-2024-08-06",
    operation="chat",
    request_model="gpt-4o",
    response_id="chatcmpl-Dyln92ILj4hwfpf8pkB29u5SE8WQb",
    created=NOON,
    usage=Usage(input_tokens=10, output_tokens=5),
    metadata={"finish_reason": "stop"},
)


class Taken:
    """What a tracker puts, in place of its client's spool."""

    def __init__(self, tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
        self.metrics: list[AIUsageMetric] = []
        patch.setattr(tracker.client, "put_ai_usage_metric", self.put)

    def put(self, metric: AIUsageMetric) -> PutResult:
        self.metrics.append(metric)
        return PutResult.STORED


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True, prices=BOOK, now=lambda: NOON)


def both_ways(
    tracker: AIUsageTracker, taken: Taken, reply: Reply, latency_ms: float
) -> tuple[AIUsageMetric, AIUsageMetric]:
    tracker.record_quick_reply(reply, latency_ms)
    tracker.record_reply(reply, latency_ms=latency_ms)
    short, long = taken.metrics[-2:]
    return short, long


def is_alike(tracker: AIUsageTracker, reply: Reply) -> bool:
    alike = tracker._alike
    assert alike is not None
    return alike.metric(reply, reply.created or NOON, current(), 1.0) is not None


def same(short: AIUsageMetric, long: AIUsageMetric) -> bool:
    """Equal in every field, of the same types, and the same in the spool."""
    names = AIUsageMetric.__struct_fields__
    return [(type(getattr(short, n)), repr(getattr(short, n))) for n in names] == [
        (type(getattr(long, n)), repr(getattr(long, n))) for n in names
    ]


def test_recorded_replies_are_recorded_the_same_either_way(
    tracker: AIUsageTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recorded reply of a service that has a short way, the second time; most are alike."""
    taken = Taken(tracker, monkeypatch)
    alike = 0
    replies = []
    for line in LINES:
        reader = quick_reader(line["url"])
        if "body" in line and reader is not None:
            reply = reader(json.dumps(line["body"]).encode(), line.get("request_model"))
            replies += [reply] if reply is not None else []
    with tracker.context(job_id="labels", metadata={"function": "label_receipt"}):
        for reply in replies:
            tracker.record_quick_reply(reply, 1.5)
            alike += is_alike(tracker, reply)
            assert same(*both_ways(tracker, taken, reply, 812.25))
    assert len(replies) > 20
    assert alike > 0.8 * len(replies)


COUNTS = st.one_of(st.none(), st.integers(0, 3000), st.sampled_from([0, 1, 300_000, 10**12]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.fixed_dictionaries(
        {
            "input_tokens": COUNTS,
            "cached_input_tokens": COUNTS,
            "cache_write_tokens": COUNTS,
            "output_tokens": COUNTS,
            "reasoning_tokens": COUNTS,
            "details": st.sampled_from([{}, {}, {"web_searches": 2}]),
        }
    ),
    st.sampled_from(["chatcmpl-short", "chatcmpl-" + "x" * 30, "ä" * 40, "x" * 128]),
    st.sampled_from(
        [NOON, NOON + timedelta(days=1), None, NOON.astimezone(timezone(timedelta(hours=2)))]
    ),
    st.floats(0, 1e9),
    st.sampled_from(["gpt-4o-2024-08-06", "gpt-5", "claude-sonnet-4-5", "unheard-of"]),
)
def test_whatever_differs_is_recorded_as_the_long_way_records_it(
    client: UsageClient,
    counts: dict[str, Any],
    name: str,
    created: datetime | None,
    latency_ms: float,
    model: str,
) -> None:
    """Counts that contradict each other too: an earlier metric lends nothing that it should not."""
    tracker = AIUsageTracker(client, prices=BOOK, now=lambda: NOON)
    fields = {f: getattr(FIRST, f) for f in Reply.__struct_fields__} | {"model": model}
    reply = Reply(**{**fields, "usage": Usage(**counts), "response_id": name, "created": created})
    with pytest.MonkeyPatch.context() as patch:
        taken = Taken(tracker, patch)
        tracker.record_quick_reply(Reply(**fields), 1.0)
        short, long = both_ways(tracker, taken, reply, latency_ms)
    if len(name) < 20:  # minted, and never twice alike
        assert name != short.request_id != long.request_id
        long = AIUsageMetric(
            **{
                f: getattr(long, f) if f != "request_id" else short.request_id
                for f in AIUsageMetric.__struct_fields__
            }
        )
    assert same(short, long)


def test_calls_in_two_contexts_are_not_alike(
    tracker: AIUsageTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one context carries is never another's, though both are entered in turns."""
    taken = Taken(tracker, monkeypatch)
    for turn in range(3):
        for job in ("a", "b"):
            with tracker.context(job_id=job):
                tracker.record_quick_reply(FIRST, float(turn))
        tracker.record_quick_reply(FIRST, float(turn))
    assert [metric.job_id for metric in taken.metrics] == ["a", "b", None] * 3
    assert [metric.latency_ms for metric in taken.metrics] == [0.0] * 3 + [1.0] * 3 + [2.0] * 3


def test_ended_otherwise_or_asked_for_by_another_name_is_another_kind(
    tracker: AIUsageTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata is the call's own."""
    taken = Taken(tracker, monkeypatch)
    names = Reply.__struct_fields__
    for changes in (
        {},
        {"request_model": "gpt-4o-latest"},
        {"metadata": {}},
        {"request_model": None},
    ):
        reply = Reply(**{**{name: getattr(FIRST, name) for name in names}, **changes})
        for _ in range(2):
            assert same(*both_ways(tracker, taken, reply, 1.0))


def test_a_variant_of_the_price_is_no_list_price(
    tracker: AIUsageTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context may ask for the price of batches."""
    taken = Taken(tracker, monkeypatch)
    with tracker.context(price_context={"processing": "batch"}):
        for _ in range(2):
            short, long = both_ways(tracker, taken, FIRST, 1.0)
            assert same(short, long)
            assert not is_alike(tracker, FIRST)
    plain, _ = both_ways(tracker, taken, FIRST, 1.0)
    assert plain.cost_usd is not None
    assert short.cost_usd is not None
    assert plain.cost_usd == 2 * short.cost_usd


def test_a_price_of_the_user_s_own_is_not_forgotten(
    client: UsageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overrides bear on each call."""
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nservice = "openai"\nmodel = "gpt-4o"\nmultiplier = "0.5"\n')
    tracker = AIUsageTracker(client, strict=True, prices=PriceBook.load(path))
    taken = Taken(tracker, monkeypatch)
    for _ in range(2):
        short, long = both_ways(tracker, taken, FIRST, 1.0)
        assert same(short, long)
        assert short.price_source == "override"


def test_a_price_that_the_user_sets_from_tomorrow_on_holds_from_tomorrow_on(
    client: UsageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list's price of today lends nothing to tomorrow's."""
    path = tmp_path / "prices.toml"
    tomorrow = NOON + timedelta(days=1)
    path.write_text(
        f'[[price]]\nservice = "openai"\nmodel = "gpt-4o"\nmultiplier = "0.5"\n'
        f"effective_from = {tomorrow.date()}\n"
    )
    tracker = AIUsageTracker(client, strict=True, prices=PriceBook.load(path))
    taken = Taken(tracker, monkeypatch)
    names = Reply.__struct_fields__
    later = Reply(**{**{name: getattr(FIRST, name) for name in names}, "created": tomorrow})
    for reply in (FIRST, FIRST, later):
        assert same(*both_ways(tracker, taken, reply, 1.0))
    assert [metric.price_source for metric in taken.metrics[::2]] == [
        *("genai-prices", "genai-prices"),
        "override",
    ]


def test_a_mask_of_the_user_s_own_sees_every_record(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say something else each time."""
    seen: list[Any] = []

    def mask(value: Any) -> Any:
        seen.append(value)
        return {"number": len(seen)}

    tracker = AIUsageTracker(client, strict=True, prices=BOOK, mask=mask)
    taken = Taken(tracker, monkeypatch)
    for _ in range(3):
        tracker.record_quick_reply(FIRST, 1.0)
    assert [metric.metadata for metric in taken.metrics] == [{"number": n} for n in (1, 2, 3)]


def test_after_close_it_is_dropped_and_counted(client: UsageClient) -> None:
    """Alike or not."""
    tracker = AIUsageTracker(client, prices=BOOK)
    for _ in range(2):
        assert tracker.record_quick_reply(FIRST, 1.0) is PutResult.STORED
    tracker.close()
    assert tracker.record_quick_reply(FIRST, 1.0) is PutResult.DROPPED
    assert client.dropped().by_reason == {"closed": 1}


def test_operations_and_exporters_learn_of_calls_that_are_alike(client: UsageClient) -> None:
    """Each is told once, as of any other."""
    told: list[AIUsageMetric] = []

    class Exporter:
        def bind(self, tracker: AIUsageTracker) -> None: ...

        def export(self, metric: AIUsageMetric) -> None:
            told.append(metric)

    tracker = AIUsageTracker(client, strict=True, prices=BOOK, exporters=[Exporter()])
    names = Reply.__struct_fields__
    with tracker.track("label") as operation:
        for number in range(3):
            changes = {"response_id": f"chatcmpl-{number:030}"}
            reply = Reply(**{**{name: getattr(FIRST, name) for name in names}, **changes})
            tracker.record_quick_reply(reply, 1.0)
    assert operation.calls == 3
    assert len(told) == 4  # the operation itself is the last


def test_what_is_remembered_is_bounded() -> None:
    """However many contexts there are."""
    alike = AlikeCalls(BOOK)
    BOOK.price(service="openai", model=FIRST.model, timestamp=NOON, usage=FIRST.usage)
    metric = AIUsageMetric(
        "openai",
        FIRST.model,
        "chat",
        NOON,
        "request",
        input_tokens=1,
        output_tokens=1,
        cost_usd=Decimal(1),
        price_source="genai-prices",
    )
    contexts = [{"job_id": str(number)} for number in range(3 * REMEMBERED_KINDS)]
    for context in contexts:
        alike.note(FIRST, context, metric)
        assert alike.metric(FIRST, NOON, context, 1.0) is not None
        assert len(alike._kinds) <= REMEMBERED_KINDS


ODD: list[Any] = [
    *(False, 0, 0.0),
    None,
    "1",
    True,
    -1,
    11,
    10**12 + 1,
    1.5,
    float("nan"),
    Decimal("NaN"),
    Decimal(-1),
]


@pytest.mark.parametrize("place", range(9))
def test_a_metric_of_another_call_is_checked_as_all_are(place: int) -> None:
    """Whatever is wrong with what differs: the same metric, or the same refusal."""
    like = AIUsageMetric(
        "openai",
        "gpt-4o",
        "chat",
        NOON,
        "r" * 20,
        input_tokens=10,
        output_tokens=10,
        cost_usd=Decimal(1),
        price_source="genai-prices",
        price_version="1",
        latency_ms=1.0,
        job_id="labels",
    )
    good: list[Any] = [NOON, "s" * 20, 10, 1, 2, 10, 3, Decimal("0.25"), 2.0]
    names = (
        "timestamp request_id input_tokens cached_input_tokens cache_write_tokens output_tokens "
        "reasoning_tokens cost_usd latency_ms"
    ).split()
    odd = [*ODD, NOON.replace(tzinfo=None), NOON.replace(tzinfo=UTC), "", "ä" * 200, "x" * 300]
    for value in odd:
        given = [*good[:place], value, *good[place + 1 :]]
        fields = {n: getattr(like, n) for n in AIUsageMetric.__struct_fields__}
        fields |= {"total_tokens": None, **dict(zip(names, given, strict=True))}
        fields["response_id"] = fields["request_id"]
        if names[place] == "cost_usd" and value is None:
            continue  # no price at all is another kind of metric
        usage = tuple(given[2:7])
        short = answer(like.of_another_call, *given[:2], usage, *given[7:])
        long = answer(AIUsageMetric, **fields)
        if fields["request_id"] in (None, ""):  # minted, and never twice alike
            assert type(short) is type(long)
        else:
            assert short == long, value


def answer(make: Callable[..., AIUsageMetric], *args: Any, **fields: Any) -> Any:
    """Return the metric that is made as the text of its fields, or the refusal."""
    try:
        metric = make(*args, **fields)
    except (ValueError, TypeError) as error:
        return str(error)
    return {name: repr(getattr(metric, name)) for name in AIUsageMetric.__struct_fields__}
