"""A reply that was recorded is known again, whoever hands it on or records it once more."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from receipt_dynamo import AIUsageMetric, UsageClient
from receipt_label import AIUsageTracker
from receipt_label.known_replies import REMEMBERED_OBJECTS, KnownReplies
from receipt_label.reply_metric import REMEMBERED_REPLIES
from receipt_label.usage import Reply

LONG = "chatcmpl-0123456789abcdefghij"
AZURE = "https://x.openai.azure.com/openai/deployments/d/chat/completions"


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


def chat(response_id: str | None = LONG) -> dict[str, Any]:
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": 1_780_000_000,
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def calls(client: UsageClient) -> list[AIUsageMetric]:
    return [metric for metric in client.query() if metric.api_calls]


@pytest.mark.parametrize("kind", ["dict", "sdk"])
@pytest.mark.parametrize("response_id", [LONG, "short", None, "resp_" + "a" * 300])
def test_a_function_that_hands_a_reply_on_does_not_take_its_call(
    tracker: AIUsageTracker, client: UsageClient, kind: str, response_id: str | None
) -> None:
    """Neither one recorded by hand nor one that a tracked function has returned."""

    def made() -> Any:
        body = chat(response_id)
        return body if kind == "dict" else ChatCompletion.model_construct(**body)

    label = tracker.track("label", job_id="maker")(made)
    annotate = tracker.track("annotate", job_id="other")(lambda given: given)
    annotate(annotate(label()))
    by_hand = made()
    with tracker.context(job_id="maker"):
        tracker.record_response(by_hand, url=AZURE)
    annotate(by_hand)
    assert {call.job_id for call in calls(client)} == {"maker"}
    assert client.summarize()[0].calls == 2


def test_another_reply_of_a_constant_id_has_no_latency_of_the_first(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Some gateways give every reply one id; its time tells them apart, also where one has none."""
    untimed = {key: value for key, value in chat().items() if key != "created"}
    tracker.record_response(chat(), latency_ms=812.5, job_id="first")
    tracker.record_response({**chat(), "created": 1_780_000_060}, job_id="other")
    tracker.record_response(chat(), latency_ms=812.5, job_id="first")
    tracker.record_response(untimed, job_id="untimed")
    latencies = {call.job_id: call.latency_ms for call in calls(client)}
    assert latencies == {"first": 812.5, "other": None, "untimed": None}


def test_two_replies_with_the_same_short_id_are_two_calls(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """What is known is the object, not the id."""
    label = tracker.track("label")(lambda: chat("short"))
    kept = [label() for _ in range(3)]
    assert len(calls(client)) == len(kept) == 3


def test_a_reply_that_is_taken_out_by_hand_is_recorded(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """``reply=`` says that it is this function's call."""
    tracker.record_response(chat())
    tracker.track("label", job_id="j", reply=lambda result: result)(chat)()
    assert [call.job_id for call in calls(client)] == ["j"]  # the later one replaces the first


@pytest.mark.parametrize(
    ("url", "service"),
    [(AZURE, "azure"), ("https://api.groq.com/openai/v1/chat/completions", "groq")],
)
def test_a_reply_recorded_again_without_its_address_counts_once(
    tracker: AIUsageTracker, client: UsageClient, url: str, service: str
) -> None:
    """The service is that under which the reply is known; one that is given wins."""
    tracker.record_response(chat(), url=url)
    tracker.record_response(chat())
    assert [call.service for call in calls(client)] == [service]
    tracker.record_response(chat(), service="openai")
    assert sorted(call.service for call in calls(client)) == sorted([service, "openai"])


def test_a_reply_recorded_again_keeps_its_latency_unless_another_is_given(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """By whomever: by hand, by an operation that takes it out. Another reply has none."""
    tracker.record_response(chat(), latency_ms=812.5)
    tracker.record_response(chat(), job_id="later")
    assert [(call.latency_ms, call.job_id) for call in calls(client)] == [(812.5, "later")]
    with tracker.track("label"):
        tracker.track("inner", reply=lambda result: result)(
            lambda: (tracker.record(service="s", model="m", operation="o"), chat())[1]
        )()
    tracker.record_response(chat("chatcmpl-another-0123456789"))
    assert {call.latency_ms for call in calls(client)} == {812.5, None}
    tracker.record_response(chat(), latency_ms=3)
    assert {call.latency_ms for call in calls(client)} == {3.0, None}


def test_a_long_id_is_compared_as_it_is_kept(tracker: AIUsageTracker, client: UsageClient) -> None:
    """A metric keeps 256 characters of it: recorded within, also by another tracker."""
    other = AIUsageTracker(client, strict=True)
    body = chat("resp_" + "a" * 300)

    @tracker.track
    def label() -> Any:
        other.record_response(body, url=AZURE)
        return body

    label()
    assert len(calls(client)) == 1


def test_what_is_known_is_bounded() -> None:
    """The newest are known, the oldest forgotten, and objects are held weakly."""
    known = KnownReplies()
    fields: dict[str, Any] = {"service": "s", "model": "m", "operation": "o"}
    replies = [Reply(**fields, response_id=f"{n:030}") for n in range(2 * REMEMBERED_REPLIES + 1)]
    for one in replies:
        known.note(one, 1.5)
    assert known.latency_of(replies[-1]) == known.latency_of(replies[-REMEMBERED_REPLIES]) == 1.5
    assert known.latency_of(replies[0]) is None
    assert known.service_of(replies[-1]) == known.service_of(replies[-REMEMBERED_REPLIES]) == "s"
    assert known.service_of(replies[0]) is None

    class Answer:
        pass

    bare = Reply(**fields)
    answers = [Answer() for _ in range(2 * REMEMBERED_OBJECTS + 1)]
    for answer in answers:
        known.note_object(answer)
    assert known.has(bare, answers[-1])
    assert known.has(bare, answers[-REMEMBERED_OBJECTS])
    assert not known.has(bare, answers[0])
    assert not known.has(bare, Answer())


def test_defaults_are_merged_key_by_key(client: UsageClient) -> None:
    """As scopes are: a context adds to the metadata and the variant of the defaults."""
    tracker = AIUsageTracker(
        client,
        strict=True,
        defaults={"metadata": {"team": "x"}, "price_context": {"processing": "batch"}},
    )
    with tracker.context(metadata={"a": 1}, price_context={"service_tier": "default"}):
        tracker.record(
            service="openai", model="gpt-4o", operation="chat", input_tokens=1000, output_tokens=100
        )
    (metric,) = client.query()
    assert metric.metadata == {"team": "x", "a": 1}
    assert metric.cost_usd == Decimal("0.00175")  # half the list price
