"""A call that is like an earlier one is recorded as it would be by the long way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo import AIUsageMetric, PutResult, UsageClient
from receipt_dynamo.entities import checks
from receipt_label import AIUsageTracker, PriceBook
from receipt_label import alike as alike_module
from receipt_label.alike import REMEMBERED_KINDS, AlikeCalls
from receipt_label.context import current
from receipt_label.usage.quick import QuickReply, quick_reader
from tests.support import NOON

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
BOOK = PriceBook.load()
MODEL = "gpt-4o-2024-08-06"
FIRST = QuickReply(
    ("openai", MODEL, "gpt-4o", "stop"),
    "chatcmpl-Dyln92ILj4hwfpf8pkB29u5SE8WQb",
    NOON,
    (10, None, None, 5, None),
)
changed = msgspec.structs.replace


class Taken:
    """What a tracker's records in the spool are read as, in place of the file."""

    def __init__(self, tracker: AIUsageTracker, patch: pytest.MonkeyPatch) -> None:
        self.metrics: list[AIUsageMetric] = []
        patch.setattr(tracker.client._pipeline.spool.writer, "append", self.append)

    def append(self, payload: bytes, count: int = 1) -> None:
        if count:
            self.metrics.append(msgspec.json.decode(payload, type=AIUsageMetric))


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True, prices=BOOK, now=lambda: NOON)


def both_ways(
    tracker: AIUsageTracker, taken: Taken, reply: QuickReply, latency_ms: float
) -> tuple[AIUsageMetric, AIUsageMetric]:
    tracker.record_quick_reply(reply, latency_ms)
    tracker.record_reply(reply.reply(), latency_ms=latency_ms)
    short, long = taken.metrics[-2:]
    return short, long


def is_alike(tracker: AIUsageTracker, reply: QuickReply) -> bool:
    alike = tracker._alike
    assert alike is not None
    return alike.call(reply, reply.created or NOON, current(), 1.0) is not None


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


def body_of(model: str, name: str, created: int, counts: list[int | None]) -> dict[str, Any]:
    """Return a chat completion, or a message where the model is Anthropic's."""
    sent, cached, written, made, reasoning = counts
    if model.startswith("claude"):
        usage: dict[str, Any] = {
            "input_tokens": sent,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens": made,
            "output_tokens_details": {"thinking_tokens": reasoning},
        }
        return {"id": name, "type": "message", "model": model, "usage": usage}
    usage = {
        "prompt_tokens": sent,
        "completion_tokens": made,
        "total_tokens": (sent or 0) + (made or 0),
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    kind = {"object": "chat.completion", "created": created, "choices": []}
    return {"id": name, **kind, "model": model, "usage": usage}


@settings(max_examples=300)
@given(
    st.lists(COUNTS, min_size=5, max_size=5),
    st.sampled_from(["chatcmpl-short", "chatcmpl-" + "x" * 30, "ä" * 40, "x" * 128]),
    st.sampled_from([NOON, NOON + timedelta(days=1), NOON - timedelta(days=800)]),
    st.floats(0, 1e9) | st.sampled_from([-1.0, float("inf"), float("nan")]),
    st.sampled_from([MODEL, "gpt-5", "claude-sonnet-4-5", "claude-opus-4-6", "unheard-of"]),
)
def test_whatever_differs_is_recorded_as_the_long_way_records_it(
    client: UsageClient,
    counts: list[int | None],
    name: str,
    created: datetime,
    latency_ms: float,
    model: str,
) -> None:
    """An earlier metric lends nothing that it should not, whatever a reader lets through."""
    hosts = ("https://api.openai.com/v1/chat/completions", "https://api.anthropic.com/v1/messages")
    reader = quick_reader(hosts[model.startswith("claude")])
    assert reader is not None
    at = int(created.timestamp())
    plain = reader(json.dumps(body_of(model, "first" * 5, at, [9, 0, 0, 5, 0])).encode(), None)
    reply = reader(json.dumps(body_of(model, name, at, counts)).encode(), None)
    assert plain is not None
    if reply is None:  # the long way's alone (tests/unit/test_usage_quick.py)
        return
    tracker = AIUsageTracker(client, prices=BOOK, now=lambda: NOON)
    with pytest.MonkeyPatch.context() as patch:
        taken = Taken(tracker, patch)
        tracker.record_quick_reply(plain, 1.0)
        tracker.record_quick_reply(reply, latency_ms)
        tracker.record_reply(reply.reply(), latency_ms=latency_ms)
    if 0 <= latency_ms < float("inf"):
        assert same(*taken.metrics[-2:])
    else:
        assert len(taken.metrics) == 1  # refused, either way


REAL = (datetime,)


class FrozenMeta(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, REAL[0])


class Frozen(datetime, metaclass=FrozenMeta):
    """What a library that freezes time in tests puts in place of ``datetime``."""


@pytest.mark.parametrize("replaced", [False, True])
def test_a_time_of_a_class_of_its_own_is_kept_as_any_other(
    replaced: bool, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it replaces the class in every module or not: JSON is made of plain times alone."""
    if replaced:
        for module in (checks, alike_module):
            monkeypatch.setattr(module, "datetime", Frozen)
    tracker = AIUsageTracker(client, prices=BOOK, now=lambda: Frozen(2026, 11, 21, tzinfo=UTC))
    for number in range(3):
        reply = changed(FIRST, created=None, response_id=f"chatcmpl-{number:030}")
        assert tracker.record_quick_reply(reply, 1.0) is PutResult.STORED
    assert len(list(client.query())) == 3


def test_a_price_book_of_the_user_s_own_prices_every_call(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may say something else each time."""
    asked: list[object] = []

    class Book(PriceBook):
        def price(self, **fields: Any) -> Any:
            asked.append(fields)
            return super().price(**fields)

    tracker = AIUsageTracker(client, prices=Book.load())
    taken = Taken(tracker, monkeypatch)
    for _ in range(3):
        tracker.record_quick_reply(FIRST, 1.0)
    assert len(asked) == len(taken.metrics) == 3


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=2)), ZoneInfo("UTC")])
def test_a_time_that_is_not_in_utc_itself_is_looked_at(
    zone: tzinfo | None, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker's own clock may say it in any zone, for replies without a time."""
    tracker = AIUsageTracker(client, prices=BOOK, now=lambda: NOON.replace(tzinfo=zone))
    taken = Taken(tracker, monkeypatch)
    undated = changed(FIRST, created=None)
    for _ in range(2):
        tracker.record_quick_reply(undated, 1.0)
    tracker.record_reply(undated.reply(), latency_ms=1.0)
    if zone is None:
        assert not taken.metrics  # refused, either way
    else:
        assert same(*taken.metrics[-2:])


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
    for asked, reason in (("gpt-4o", "stop"), ("gpt-4o-latest", "stop"), ("gpt-4o", None)):
        reply = changed(FIRST, kind=("openai", MODEL, asked, reason))
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
    later = changed(FIRST, created=tomorrow)
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


def test_what_stands_in_place_of_the_client_s_put_sees_every_metric(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subclass of the user's, what a test puts there later: whole metrics, as at any time."""
    tracker = AIUsageTracker(client, strict=True, prices=BOOK)
    taken = Taken(tracker, monkeypatch)
    for _ in range(2):
        tracker.record_quick_reply(FIRST, 1.0)
    seen: list[AIUsageMetric] = []
    put = UsageClient.put_ai_usage_metric

    def watch(self: UsageClient, metric: AIUsageMetric) -> PutResult:
        seen.append(metric)
        return put(self, metric)

    def boom(*_: object) -> PutResult:
        raise AssertionError("went past it")

    monkeypatch.setattr(client, "put_call", boom)
    watching = type("Watching", (type(client),), {"put_ai_usage_metric": watch})
    monkeypatch.setattr(client, "__class__", watching)
    tracker.record_quick_reply(FIRST, 1.0)
    monkeypatch.undo()
    monkeypatch.setattr(client, "put_call", boom)
    monkeypatch.setattr(client, "put_ai_usage_metric", lambda metric: watch(client, metric))
    tracker.record_quick_reply(FIRST, 1.0)
    monkeypatch.undo()
    monkeypatch.setattr(UsageClient, "put_call", boom)
    monkeypatch.setattr(UsageClient, "put_ai_usage_metric", watch)
    tracker.record_quick_reply(FIRST, 1.0)
    assert len(seen) == 3
    under_it = AIUsageTracker(client, strict=True, prices=BOOK)
    for _ in range(2):
        under_it.record_quick_reply(FIRST, 1.0)
    assert len(seen) == 5
    assert all(same(metric, taken.metrics[0]) for metric in seen)


def test_what_is_remembered_is_bounded() -> None:
    """However many contexts there are."""
    alike = AlikeCalls(BOOK)
    BOOK.price(service="openai", model=MODEL, timestamp=NOON, usage=FIRST.reply().usage)
    metric = AIUsageMetric(
        "openai",
        MODEL,
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
        assert alike.call(FIRST, NOON, context, 1.0) is not None
        assert len(alike._kinds) <= REMEMBERED_KINDS
