"""Masking inside the tracker: before anything is written, whichever way a record comes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_label import AIUsageTracker, UsageLogger, ai_usage_tracked, mask
from tests.support import NOON

KEY = "sk-proj-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7"
CALL: dict[str, Any] = {
    "service": "openai",
    "model": "gpt-4o",
    "operation": "chat",
    "input_tokens": 1000,
    "output_tokens": 100,
}
REPLY: dict[str, Any] = {
    "id": "chatcmpl-0123456789abcdefghij",
    "object": "chat.completion",
    "model": "gpt-4o-2024-08-06",
    "choices": [{"finish_reason": "stop", "message": {"content": "CANARY of the reply"}}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
}
Make = Callable[..., AIUsageTracker]


@pytest.fixture
def make(client: UsageClient) -> Make:
    return lambda **options: AIUsageTracker(client, now=lambda: NOON, **options)


def only(client: UsageClient) -> Any:
    (metric,) = client.query()
    return metric


def written(directory: Path) -> bytes:
    """Every byte that lies in the files of spool and store."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_what_is_recorded_is_masked_whichever_way_it_comes(
    make: Make, client: UsageClient, tmp_path: Path
) -> None:
    """record, record_response, the context and the error: no file ever holds the secret."""
    tracker = make(strict=True)
    with tracker.context(metadata={"api_key": KEY, "who": "ann@example.com"}, user_id=KEY):
        tracker.record(**CALL, metadata={"note": f"with {KEY}"}, error=f"refused {KEY}")
        tracker.record_response(REPLY, metadata={"deep": [{"token": KEY}]}, error=f"? {KEY}")
    assert KEY.encode() not in written(tmp_path)
    first, second = sorted(client.query(), key=lambda metric: metric.error)
    assert KEY.encode() not in written(tmp_path)
    assert b"ann@" not in written(tmp_path)
    assert (first.error, second.error) == ("? [secret]", "refused [secret]")
    shared = {"api_key": "[secret]", "who": "[email]"}
    assert second.metadata == {**shared, "note": "with [secret]"}
    assert first.metadata == {**first.metadata, **shared, "deep": [{"token": "[secret]"}]}
    assert {first.user_id, second.user_id} == {"[secret]"}
    assert first.cost_usd is not None


def test_names_lose_their_credentials(make: Make, client: UsageClient, tmp_path: Path) -> None:
    """Service, model, operation, request id, names of tools and of tracked functions: all of them
    end in files and exporters."""
    tracker = make(strict=True)
    tracker.record(**{name: f"{name} {KEY}" for name in ("service", "model", "operation")})
    with tracker.track(f"sync {KEY}"), tracker.tool(f"fetch {KEY}"):
        tracker.record(**CALL)
    UsageLogger(tracker).log_tool_usage(f"fetch {KEY}")

    @ai_usage_tracked(tracker=tracker)
    def label(user_id: str) -> None:
        tracker.record(**CALL)

    label(KEY)
    tracker.record(**CALL, metadata={"header": {"name": "authorization", "value": "hunter2"}})
    client.flush()
    assert KEY.encode() not in written(tmp_path)
    assert b"hunter2" not in written(tmp_path)
    models = {metric.model for metric in client.query()}
    assert models == {
        "model [secret]",
        "sync [secret]",
        "fetch [secret]",
        "gpt-4o",
        label.__qualname__,
    }


def test_request_ids_with_a_credential_still_tell_calls_apart(
    make: Make, client: UsageClient
) -> None:
    """Their digests stand for them, so the same id is the same call again."""
    tracker = make(strict=True)
    for key in (KEY, KEY + "2", KEY):
        tracker.record(**CALL, request_id=key)
    ids = [metric.request_id for metric in client.query()]
    assert len(ids) == len(set(ids)) == 2
    assert all(KEY not in name for name in ids)


@pytest.mark.timeout(20)
def test_a_mask_that_records_is_not_called_within_itself(make: Make, client: UsageClient) -> None:
    """The record that it makes loses its content and keeps its figures."""
    calls: list[Any] = []

    def rule(value: Any) -> Any:
        calls.append(value)
        tracker.record(**CALL, metadata={"inner": "of the mask"})
        return value

    tracker = make(mask=rule)
    tracker.record(**CALL, metadata={"outer": 1})
    client.flush()
    assert calls == [{"outer": 1}]
    found = [dict(metric.metadata) for metric in client.query()]
    assert sorted(found, key=str) == [{"masked": "failed"}, {"outer": 1}]


def test_ids_keep_what_tells_them_apart(make: Make, client: UsageClient) -> None:
    """An address or an order number as an id is what reports group by; a credential is none."""
    make(strict=True).record(**CALL, user_id="ann@example.com", job_id="4111111111111111", tool=KEY)
    metric = only(client)
    assert (metric.user_id, metric.job_id) == ("ann@example.com", "4111111111111111")
    assert metric.tool == "[secret]"


def test_our_own_figures_survive(make: Make, client: UsageClient) -> None:
    """Counts in metadata stay numbers under any name of tokens."""
    figures = {"input_tokens": 5, "max_tokens": 512, "time_to_first_token_ms": 3.5, "token": 17}
    make(strict=True).record(**CALL, metadata=figures)
    assert only(client).metadata == figures


def test_prompts_and_replies_are_never_recorded(
    make: Make, client: UsageClient, tmp_path: Path
) -> None:
    """Neither the reply's own text nor a request that somebody put into the metadata."""
    tracker = make(strict=True)
    request = {"messages": [{"role": "user", "content": "CANARY"}], "prompt": "CANARY", "n": 1}
    tracker.record_response(REPLY, metadata=request)
    assert b"CANARY" not in written(tmp_path)
    metadata = only(client).metadata
    assert (metadata["messages"], metadata["prompt"]) == ("[content]", "[content]")
    assert metadata["n"] == 1


def test_prompts_are_recorded_where_asked_for_and_masked_still(
    make: Make, client: UsageClient
) -> None:
    """record_content=True keeps what the metadata says, without its secrets."""
    make(strict=True, record_content=True).record(**CALL, metadata={"prompt": f"say {KEY}"})
    assert only(client).metadata == {"prompt": "say [secret]"}


def test_a_callable_masks_what_the_rules_leave(make: Make, client: UsageClient) -> None:
    """It gets a copy of its own, already masked, and returns what is recorded."""
    seen: list[Any] = []

    def without_names(value: Any) -> Any:
        seen.append(copy.deepcopy(value))
        if isinstance(value, dict):
            value["customer"]["name"] = "-"
            return value
        return value.replace("Ann", "-")

    given = {"customer": {"name": "Ann", "password": "x"}}
    make(strict=True, mask=without_names).record(**CALL, metadata=given, error=f"no Ann {KEY}")
    assert seen == [{"customer": {"name": "Ann", "password": "[secret]"}}, "no Ann [secret]"]
    assert given == {"customer": {"name": "Ann", "password": "x"}}
    metric = only(client)
    assert metric.metadata == {"customer": {"name": "-", "password": "[secret]"}}
    assert metric.error == "no - [secret]"


def test_a_callable_may_leave_nothing_but_never_hides_a_failure(
    make: Make, client: UsageClient
) -> None:
    """None drops the metadata; a call that failed still counts as one."""
    make(strict=True, mask=lambda value: None).record(**CALL, metadata={"a": 1}, error="x")
    metric = only(client)
    assert (metric.metadata, metric.error) == ({}, "[content]")
    assert client.summarize()[0].errors == 1


def raising(value: Any) -> Any:
    raise RuntimeError(f"cannot mask {value}")


@pytest.mark.parametrize(
    "rule",
    [raising, lambda value: 5, lambda value: [value], lambda: None],
    ids=["raises", "a number", "a list", "no argument"],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_mask_that_fails_drops_the_content_and_keeps_the_figures(
    make: Make, client: UsageClient, caplog: pytest.LogCaptureFixture, rule: Any, strict: bool
) -> None:
    """The call is there with its tokens and cost; the log says so once, without the content."""
    tracker = make(mask=rule, strict=strict)
    for _ in range(3):
        answer = tracker.record(**CALL, metadata={"note": "CANARY"}, error="CANARY")
        assert answer is PutResult.STORED
    for metric in client.query():
        assert (metric.metadata, metric.error) == ({"masked": "failed"}, "failed")
        assert (metric.input_tokens, metric.cost_usd) == (1000, Decimal("0.0035"))
    assert client.summarize()[0].calls == 3
    (line,) = [record.message for record in caplog.records]
    assert "mask failed" in line
    assert "CANARY" not in line
    assert Path(__file__).name in line


class Raising(dict[str, Any]):
    """A dict whose contents cannot be read."""

    def items(self) -> Any:
        raise OSError("CANARY")


def test_metadata_that_cannot_be_read_costs_itself_alone(make: Make, client: UsageClient) -> None:
    """The built-in rules may fail too; the figures stay."""
    assert make().record(**CALL, metadata=Raising(a=1)) is PutResult.STORED
    assert only(client).metadata == {"masked": "failed"}


def test_what_no_metric_could_keep_is_cut_instead_of_costing_the_record(
    make: Make, client: UsageClient
) -> None:
    """A cycle, bytes and a text of megabytes: the record is kept, with a word for each."""
    cycle: dict[str, Any] = {"raw": b"\xff\x00", "long": "word " * 1_000_000}
    cycle["self"] = cycle
    assert make().record(**CALL, metadata=cycle) is PutResult.STORED
    metadata = only(client).metadata
    assert (metadata["self"], metadata["raw"]) == ("[cycle]", "[2 bytes]")
    assert metadata["long"].endswith("[5000000 characters]")


def test_masking_can_be_switched_off(make: Make, client: UsageClient) -> None:
    """mask=False records what it is given; None and True are the rules."""
    given = {"password": "x", "prompt": "p", "note": KEY}
    make(mask=False).record(**CALL, metadata=given, error=KEY, request_id="off")
    make(mask=None).record(**CALL, metadata=given, request_id="on")
    make(mask=True).record(**CALL, metadata=given, request_id="on too")
    kept = {metric.request_id: metric for metric in client.query()}
    assert (kept["off"].metadata, kept["off"].error) == (given, KEY)
    assert kept["on"].metadata == kept["on too"].metadata == mask(given, keep_content=False)


@pytest.mark.parametrize("rule", ["yes", 1, []])
def test_a_mask_that_is_none_is_refused_where_the_tracker_is_made(make: Make, rule: Any) -> None:
    """A mistake here would record what was to be masked: it shows at once."""
    with pytest.raises(TypeError, match="is no mask"):
        make(mask=rule)


def test_a_refused_record_is_logged_without_its_secret(
    make: Make, client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line quotes the value that was refused, masked like everything else."""
    make().record(**CALL, metadata=[KEY, "password=hunter2"])
    make().context(job_id=[KEY])
    assert client.dropped().count == 1
    assert len(caplog.records) == 2
    assert KEY[8:] not in caplog.text
    assert "hunter2" not in caplog.text


def test_threads_mask_at_once(make: Make, client: UsageClient) -> None:
    """What is remembered of clean texts is shared by all threads, and emptied when full."""
    tracker = make(strict=True)

    def record(number: int) -> None:
        for index in range(300):
            text = f"text {number} {index}"
            tracker.record(**CALL, metadata={"t": text, f"k{index}": 1, "password": text})

    threads = [threading.Thread(target=record, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics = list(client.query())
    assert len({metric.metadata["t"] for metric in metrics}) == 8 * 300
    assert {metric.metadata["password"] for metric in metrics} == {"[secret]"}
