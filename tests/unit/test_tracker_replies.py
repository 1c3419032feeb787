"""AIUsageTracker.record_response: a reply counts once, and no vendor's nonsense drops the call."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_label import AIUsageTracker
from receipt_label.usage import Reply, Usage
from receipt_label.usage.quick import quick_reader
from tests.support import NOON

MESSAGE: dict[str, Any] = {
    "id": "msg_01ABCDEFGHIJKLMNOPQRSTUV",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90},
}
CREATED = 1_780_000_000
BACKGROUND: dict[str, Any] = {
    "id": "resp_0123456789abcdef0123456789abcdef",
    "object": "response",
    "created_at": CREATED,
    "model": "gpt-4o-2024-08-06",
    "status": "completed",
    "background": True,
    "output": [],
    "usage": {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 120,
    },
}


class Moving:
    """A wall clock that moves a second at every look."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True, now=Moving())


def test_a_cost_of_more_digits_than_a_record_has_costs_nothing_else(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """OpenRouter writes what its division gave: the figure is rounded, the tokens stay."""
    reply = {
        "id": "gen-1780000000-abcdefghijko",
        "model": "openai/gpt-4o",
        "choices": [{"finish_reason": "stop", "message": {}}],
        "usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1100,
            "cost": Decimal("0.1234567890123456789012345678901234567891"),
        },
    }
    url = "https://openrouter.ai/api/v1/chat/completions"
    tracker.record_response(reply, url=url)
    (metric,) = client.query()
    assert (metric.input_tokens, metric.output_tokens) == (1000, 100)
    assert metric.cost_usd == Decimal("0.12345678901234567890123456789012345679")
    assert (metric.price_source, dict(metric.metadata).get("refused")) == ("provider", None)


@pytest.mark.parametrize(("region", "priced"), [("us", False), ("global", True)])
def test_a_region_that_was_asked_for_is_not_charged_at_the_list_price(
    region: str, priced: bool, tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Anthropic charges more for inference in one region alone, and no list says how much."""
    usage = {"input_tokens": 10, "output_tokens": 5, "inference_geo": region}
    tracker.record_response({**MESSAGE, "model": "claude-opus-4-6", "usage": usage})
    reader = quick_reader("https://api.anthropic.com/v1/messages")
    assert reader is not None
    content = json.dumps({**MESSAGE, "usage": usage}).encode()
    assert (reader(content, None) is not None) is priced  # the short way knows no prices
    (metric,) = client.query()
    assert (metric.cost_usd is not None) is priced
    assert metric.unpriced_reason == (None if priced else "price_error")


def test_a_reply_becomes_a_record_with_its_own_id(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Input includes cached reads; the caller's dict is not changed."""
    before = copy.deepcopy(MESSAGE)
    assert tracker.record_response(MESSAGE, job_id=3, metadata={"a": 1}) is PutResult.STORED
    (metric,) = client.query()
    assert before == MESSAGE
    assert metric.request_id == metric.response_id == MESSAGE["id"]
    assert (metric.input_tokens, metric.cached_input_tokens, metric.output_tokens) == (100, 90, 5)
    assert (metric.service, metric.job_id, metric.metadata["a"]) == ("anthropic", "3", 1)
    assert metric.cost_usd == Decimal("0.000132")  # 10 x 3, 90 x 0.30, 5 x 15 USD per million


def test_a_repeated_reply_counts_once(tracker: AIUsageTracker, client: UsageClient) -> None:
    """Also where the reply carries no time and the clock has moved on."""
    for _ in range(3):
        tracker.record_response(MESSAGE)
    assert client.summarize()[0].calls == 1
    tracker.record_response(MESSAGE | {"id": "msg_02" + "x" * 20})
    assert client.summarize()[0].calls == 2


@pytest.mark.parametrize("short", ["stub", "chatcmpl-887", "", None, "x" * 19])
def test_short_ids_repeat_so_each_reply_is_a_call_of_its_own(
    tracker: AIUsageTracker, client: UsageClient, short: str | None
) -> None:
    """Gateways and test servers answer with the same id again and again; the id is kept."""
    for _ in range(3):
        tracker.record_response(MESSAGE | {"id": short})
    metrics = list(client.query())
    assert len({metric.request_id for metric in metrics}) == 3
    assert {metric.response_id for metric in metrics} == {short or None}


def test_a_background_response_counts_when_it_is_complete_and_once(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Queued and running are SKIPPED, and nothing is lost; read again it is the same call."""
    for status in ("queued", "in_progress"):
        waiting = BACKGROUND | {"status": status, "usage": None}
        assert tracker.record_response(waiting) is PutResult.SKIPPED
    assert list(client.query()) == []
    for _ in range(3):
        assert tracker.record_response(BACKGROUND) is PutResult.STORED
    (metric,) = client.query()
    assert metric.timestamp == datetime.fromtimestamp(CREATED, UTC)
    assert (metric.input_tokens, metric.output_tokens, metric.reasoning_tokens) == (100, 20, 5)
    assert client.dropped().count == 0


def test_what_the_caller_says_wins(tracker: AIUsageTracker, client: UsageClient) -> None:
    """Time, id, cost and model of the caller stand where the reply says something else."""
    tracker.record_response(
        MESSAGE,
        timestamp=NOON,
        request_id="own",
        cost_usd=Decimal(7),
        service="Bedrock",
        latency_ms=5,
    )
    (metric,) = client.query()
    assert (metric.timestamp, metric.request_id, metric.cost_usd) == (NOON, "own", Decimal(7))
    assert (metric.price_source, metric.service, metric.latency_ms) == ("caller", "bedrock", 5)


NONSENSE: dict[str, Any] = {
    "surrogate id": {"id": "msg_" + "\ud800" * 30},
    "huge id": {"id": "x" * 5000},
    "control id": {"id": "msg_\0\n" + "x" * 30},
    "id of another type": {"id": 12345},
    "surrogate model": {"model": "\ud800"},
    "huge model": {"model": "m" * 10_000},
    "empty model": {"model": ""},
    "model of another type": {"model": {"name": "x"}},
    "negative tokens": {"usage": {"input_tokens": -5, "output_tokens": 3}},
    "tokens as text": {"usage": {"input_tokens": "many", "output_tokens": "x"}},
    "tokens beyond all bounds": {"usage": {"input_tokens": 10**30, "output_tokens": 10**30}},
    "tokens that are no numbers": {
        "usage": {"input_tokens": float("nan"), "output_tokens": float("inf")}
    },
    "cached more than all": {"usage": {"input_tokens": -1, "cache_read_input_tokens": 5}},
    "usage of another type": {"usage": [1, 2]},
    "no usage": {"usage": None},
    "odd stop reason": {"stop_reason": "\ud800" * 5},
    "odd tier": {"usage": {"input_tokens": 1, "output_tokens": 1, "service_tier": ["x"]}},
    "odd created": {"created": 10**40},
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_no_nonsense_of_a_vendor_drops_the_call(
    tracker: AIUsageTracker, client: UsageClient, nonsense: str
) -> None:
    """The call is counted, unpriced where its figures cannot be believed."""
    assert tracker.record_response(MESSAGE | NONSENSE[nonsense]) is PutResult.STORED
    (metric,) = client.query()
    assert metric.api_calls == 1
    assert (metric.cost_usd is None) == (metric.unpriced_reason is not None)
    assert client.dropped().count == 0


def test_a_reply_with_a_strange_id_still_counts_once(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """An id that is no UTF-8 is identified by its digest."""
    for strange in ("msg_" + "\ud800" * 30, "msg_" + "\ud801" * 30):
        for _ in range(2):
            tracker.record_response(MESSAGE | {"id": strange})
    ids = [metric.request_id for metric in client.query()]
    assert len(ids) == 2
    assert all(request_id.startswith("sha256-") for request_id in ids)


REPLIES = [
    {"usage": Usage(input_tokens=-5)},
    {"usage": Usage(input_tokens=5, cached_input_tokens=6)},
    {"usage": Usage(details={"x": float("nan")})},
    {"usage": Usage(input_tokens=1.5)},  # type: ignore[arg-type]
    {"provider_cost_usd": Decimal("NaN")},
    {"provider_cost_usd": Decimal(-1)},
    {"metadata": {"x": {1}}},
    {"metadata": {"x": float("inf")}},
    {"error": "\ud800"},
    {"request_model": "\ud800"},
    {"operation": ""},
    {"operation": "x" * 999},
]


@pytest.mark.parametrize("changes", REPLIES, ids=str)
def test_a_reply_that_an_adapter_read_wrongly_is_kept(
    tracker: AIUsageTracker, client: UsageClient, changes: dict[str, Any]
) -> None:
    """Whatever a reading holds that a metric refuses goes, and the call stays."""
    fields: dict[str, Any] = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    reply = Reply(**{**fields, **changes})
    assert tracker.record_reply(reply) is PutResult.STORED
    assert client.summarize()[0].calls == 1


@pytest.mark.parametrize("thing", [None, "no json", b"\xff\xfe", [1, 2], ..., 5])
def test_what_is_no_reply_is_dropped_and_raises_nothing(client: UsageClient, thing: object) -> None:
    """Whatever a pipeline hands in by mistake; strict says what to pass instead."""
    assert AIUsageTracker(client).record_response(thing) is PutResult.DROPPED
    assert client.dropped().by_reason == {"invalid": 1}
    with pytest.raises(ValueError, match="not a reply of an AI service"):
        AIUsageTracker(client, strict=True).record_response(thing)


def test_an_object_that_fails_at_every_touch_raises_nothing(client: UsageClient) -> None:
    """Not even a hostile object stops the pipeline."""

    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

        def __repr__(self) -> str:
            raise RuntimeError("repr")

    assert AIUsageTracker(client).record_response(Hostile()) is PutResult.DROPPED
    assert AIUsageTracker(client).record(service=Hostile()) is PutResult.DROPPED
    assert AIUsageTracker(client).record(metadata=Hostile(), x=Hostile()) is PutResult.DROPPED
    assert client.dropped().count == 3


def test_fallbacks_hold_only_where_nobody_names_an_id_or_a_time(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """What importers derive from a line stands behind the vendor's own id and time."""
    fields: dict[str, Any] = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    created = NOON - timedelta(days=9)
    earlier = NOON - timedelta(days=5)
    for reply in (
        Reply(**fields, response_id="x" * 20, created=created),
        Reply(**fields, response_id="short"),
    ):
        tracker.record_reply(reply, fallback_request_id="fallback", fallback_timestamp=earlier)
    assert [(m.request_id, m.timestamp) for m in client.query()] == [
        ("x" * 20, created),
        ("fallback", earlier),
    ]
