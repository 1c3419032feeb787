"""AIUsageTracker.record: one line records a call, and nothing here ever breaks the pipeline."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_label import AIUsageTracker, PriceBook, TrackerClosedError, reply_metric
from tests.support import NOON, in_fork, stored_ids

CALL: dict[str, Any] = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
USED: dict[str, Any] = {**CALL, "input_tokens": 1000, "output_tokens": 100}


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, now=lambda: NOON)


@pytest.fixture
def strict(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True, now=lambda: NOON)


def only(client: UsageClient) -> Any:
    (metric,) = client.query()
    return metric


def test_one_line_records_a_priced_call(strict: AIUsageTracker, client: UsageClient) -> None:
    """Time, environment, id and price are filled in; tokens are what was said."""
    assert strict.record(**USED, latency_ms=12, job_id="j") is PutResult.STORED
    metric = only(client)
    assert (metric.timestamp, metric.environment, metric.job_id) == (NOON, "development", "j")
    assert metric.cost_usd == Decimal("0.0035")  # gpt-4o: 2.50 and 10 USD per million tokens
    assert (metric.price_source, metric.total_tokens) == ("genai-prices", 1100)
    assert metric.request_id


def test_to_repeat_a_record_id_and_time_are_given_again(
    strict: AIUsageTracker, client: UsageClient
) -> None:
    """The same identity counts once; without it every call is a new one."""
    for _ in range(3):
        strict.record(**USED, request_id="r", timestamp=NOON)
    strict.record(**USED)
    strict.record(**USED)
    assert client.summarize()[0].calls == 3


def test_numbers_and_uuids_serve_as_ids(strict: AIUsageTracker, client: UsageClient) -> None:
    """What databases use as keys needs no str() in the pipeline."""
    number = UUID(int=5)
    strict.record(**CALL, job_id=7, batch_id=number, user_id=0, github_pr=12)
    metric = only(client)
    assert (metric.job_id, metric.batch_id, metric.user_id) == ("7", str(number), "0")
    assert metric.github_pr == 12


BAD: list[dict[str, Any]] = [
    {"service": None},
    {"service": 5},
    {"model": ""},
    {"operation": 7},
    {"timestamp": datetime(2026, 1, 1)},  # noqa: DTZ001 - naive on purpose
    {"timestamp": "now"},
    {"api_calls": "two"},
    {"input_tokens": -1},
    {"input_tokens": "many"},
    {"output_tokens": 1.5},
    {"cached_input_tokens": 5000},
    {"usage_details": [1]},
    {"usage_details": {"pages": "x"}},
    {"cost_usd": 0.1},
    {"cost_usd": Decimal("NaN")},
    {"provider_cost_usd": 1.5},
    {"metadata": [1]},
    {"metadata": {"x": {1}}},
    {"request_id": 5},
    {"job_id": b"x"},
    {"status": []},
    {"unpriced_reason": 5},
    {"latency_ms": float("nan")},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_value_is_dropped_counted_and_logged_once_with_the_callers_line(
    tracker: AIUsageTracker,
    client: UsageClient,
    caplog: pytest.LogCaptureFixture,
    bad: dict[str, Any],
) -> None:
    """The pipeline goes on; the log says which field, and in which line of the pipeline."""
    (field,) = bad
    for _ in range(3):
        assert tracker.record(**{**USED, **bad}) is PutResult.DROPPED
    assert client.dropped().by_reason == {"invalid": 3}
    (line,) = [r.message for r in caplog.records if r.name == "receipt_label.tracker"]
    assert f"{field}" in line.split("=")[0]
    assert Path(__file__).name in line
    assert "tokens" not in field or "pricing" not in caplog.text  # it is no fault of the price
    assert list(client.query()) == []


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_strict_raises_a_valueerror_that_names_the_field(
    strict: AIUsageTracker, bad: dict[str, Any]
) -> None:
    """In the project's own tests a mistake shows where it is made."""
    (field,) = bad
    with pytest.raises(ValueError, match=f"^{field}"):
        strict.record(**{**USED, **bad})


def test_an_unknown_field_is_dropped_and_raises_only_when_strict(
    tracker: AIUsageTracker, strict: AIUsageTracker, client: UsageClient
) -> None:
    """A typo in a keyword never stops a pipeline in production."""
    assert tracker.record(**USED, jobid="x") is PutResult.DROPPED
    assert tracker.record_response({"id": "x" * 20, "object": "chat.completion",
        "model": "gpt-4o", "choices": []}, jobid="x") is PutResult.DROPPED  # fmt: skip
    assert client.dropped().count == 2
    with pytest.raises(TypeError, match="jobid"):
        strict.record(**USED, jobid="x")


def test_what_was_dropped_keeps_its_believable_figures(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Totals stay honest: the tokens and the cost of a refused call are in the gap."""
    tracker.record(**USED, status="odd", cost_usd=Decimal("0.25"))
    tracker.record(**{**USED, "input_tokens": -9, "output_tokens": 10**30}, cost_usd=Decimal(-5))
    tracker.record(**{**USED, "service": "x" * 3_000_000})
    dropped = client.dropped()
    assert (dropped.count, dropped.input_tokens, dropped.output_tokens) == (3, 2000, 200)
    assert dropped.cost_usd == Decimal("0.25")


def test_every_line_and_fault_is_logged_by_itself(
    tracker: AIUsageTracker, caplog: pytest.LogCaptureFixture
) -> None:
    """Two places with the same mistake are two lines to mend."""
    tracker.record(**{**USED, "input_tokens": -1})
    tracker.record(**{**USED, "input_tokens": -2})
    for _ in range(5):
        tracker.record(**{**USED, "output_tokens": -1})
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 3


@pytest.mark.parametrize("module_name", ["receipt_labeling.jobs", None, 5, "receipt_label_x"])
def test_the_callers_line_is_found_whatever_its_module_is_called(
    tracker: AIUsageTracker, caplog: pytest.LogCaptureFixture, module_name: object
) -> None:
    """A pipeline whose name begins like ours, or that has none, is still the caller."""
    code = compile("tracker.record(service='', model='m', operation='o')", "pipeline.py", "exec")
    exec(code, {"tracker": tracker, "__name__": module_name})  # noqa: S102 - our own text
    assert "(pipeline.py:1)" in caplog.text


def test_after_close_a_record_is_dropped_counted_and_logged_once(
    client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing is repeatable; recording after it is a mistake that is told, not an exception."""
    tracker = AIUsageTracker(client)
    tracker.record(**USED, request_id="before")
    for _ in range(3):
        tracker.close()
    for _ in range(2):
        assert tracker.record(**USED) is PutResult.DROPPED
        assert tracker.record_response({"id": "x"}) is PutResult.DROPPED
    assert not client.closed
    assert stored_ids(client) == ["before"]
    assert client.dropped().by_reason == {"closed": 4}
    assert len([r for r in caplog.records if "this tracker is closed" in r.message]) == 2
    strict = AIUsageTracker(client, strict=True)
    strict.close()
    for call in (lambda: strict.record(**USED), lambda: strict.record_response({})):
        with pytest.raises(TrackerClosedError, match="closed"):
            call()
    assert issubclass(TrackerClosedError, RuntimeError)


def test_the_client_that_a_tracker_opened_is_closed_with_it() -> None:
    """As a context manager, also after an exception; and a question still answers."""

    def pipeline() -> None:
        with tracker:
            tracker.record(**USED)
            raise KeyError("the pipeline's own")

    tracker = AIUsageTracker()
    with pytest.raises(KeyError):
        pipeline()
    assert tracker.client.closed
    assert len(list(tracker.client.query())) == 1
    assert tracker.flush().pending == 0
    assert tracker.health().stored == 1


def test_the_price_is_frozen_when_the_call_is_recorded(client: UsageClient, tmp_path: Path) -> None:
    """Tomorrow's prices change no record of today."""
    prices = tmp_path / "prices.toml"
    text = (
        '[[price]]\nservice = "openai"\nmodel = "gpt-4o"\n'
        'rates = {{ input_tokens = "{}", output_tokens = "0" }}\n'
    )
    for amount in ("1000", "2000"):  # USD per million tokens
        prices.write_text(text.format(amount))
        book = PriceBook.load(prices)
        AIUsageTracker(client, strict=True, prices=book).record(**USED)
    assert [metric.cost_usd for metric in client.query()] == [1, 2]


def test_a_price_book_that_breaks_costs_the_price_never_the_call(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is kept, unpriced, with the reason."""
    tracker = AIUsageTracker(client, strict=True)

    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PriceBook, "price", breaks)
    assert tracker.record(**USED) is PutResult.STORED
    assert only(client).unpriced_reason == "price_error"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cost_usd": Decimal("0.5")}, ("caller", None)),
        ({"error": "timeout"}, (None, "failed_call")),
        (
            {"model": "no-such-model-9", "input_tokens": 5, "output_tokens": 5},
            (None, "unknown_model"),
        ),
        ({"unpriced_reason": "no_usage"}, (None, "no_usage")),
    ],
)
def test_unpriced_calls_say_why(
    strict: AIUsageTracker, client: UsageClient, given: dict[str, Any], expected: tuple[Any, Any]
) -> None:
    """A cost with its source, or a reason; never a guess."""
    strict.record(**{**CALL, **given})
    metric = only(client)
    assert (metric.price_source, metric.unpriced_reason) == expected


def test_a_tracker_records_from_a_signal_handler_and_after_a_fork(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Wherever the pipeline is interrupted or splits, with good values and bad ones."""
    times = count = 0

    def handler(*_: object) -> None:
        nonlocal times
        times += 1
        tracker.record(**USED, request_id=f"signal{times}")
        tracker.record(**{**USED, "input_tokens": -1})

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    try:
        while times < 5:
            tracker.record(**USED, request_id=f"main{(count := count + 1)}")
            tracker.record(**{**USED, "output_tokens": -1})
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    child: Callable[[], object] = lambda: tracker.record(**USED, request_id="child")  # noqa: E731
    assert in_fork(child) == 0
    ids = stored_ids(client)
    assert len(ids) == len(set(ids)) == count + times + 1
    assert client.dropped().count == count + times


def test_a_child_forked_while_another_thread_logs_a_fault_does_not_wait(
    tracker: AIUsageTracker,
) -> None:
    """Locks are new in a child: the thread that held them does not exist there."""
    import threading

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with tracker.faults.lock, tracker._times._lock:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    reply = {
        "id": "msg_" + "x" * 30,
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-sonnet-4-5",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }

    def child() -> None:
        assert tracker.record(**{**USED, "input_tokens": -1}) is PutResult.DROPPED
        assert tracker.record_response(reply) is PutResult.STORED

    code = in_fork(child)
    done.set()
    thread.join()
    assert code == 0


def test_times_given_to_replies_are_kept_for_the_last_4096(tracker: AIUsageTracker) -> None:
    """Memory stays bounded, however long a pipeline runs."""

    times = reply_metric.ReplyTimes()
    names = [f"reply-{n:020d}" for n in range(4097)]
    for n, name in enumerate(names):
        assert times.of("s", name, NOON + timedelta(seconds=n)) == NOON + timedelta(seconds=n)
    later = NOON + timedelta(days=1)
    assert times.of("s", names[-1], later) == NOON + timedelta(seconds=4096)
    assert times.of("s", names[0], later) == later
    assert len(times._times) == 4096


def test_metadata_and_variants_of_defaults_contexts_and_calls_are_merged_key_by_key(
    client: UsageClient,
) -> None:
    """The nearest wins for a key that several of them name; none loses the others'."""
    tracker = AIUsageTracker(
        client,
        strict=True,
        defaults={"metadata": {"a": 1, "b": 1}, "price_context": {"service_tier": "priority"}},
    )
    call: dict[str, Any] = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    with tracker.context(metadata={"b": 2, "c": 2}, price_context={"processing": "batch"}):
        tracker.record(**call, input_tokens=1000, output_tokens=0, metadata={"c": 3})
    tracker.record(**call, input_tokens=1000, output_tokens=0)
    within, plain = sorted(client.query(), key=lambda metric: -len(metric.metadata))
    assert dict(within.metadata) == {"a": 1, "b": 2, "c": 3}
    assert dict(plain.metadata) == {"a": 1, "b": 1}
    assert plain.cost_usd is not None
    assert within.cost_usd != plain.cost_usd
