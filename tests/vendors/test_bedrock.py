"""Bedrock through boto3: replies, streams and bodies stay what they are, each call counts once."""

from __future__ import annotations

import collections
import dataclasses
import gc
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.eventstream import EventStream
from botocore.exceptions import EventStreamError, ParamValidationError
from botocore.response import StreamingBody

from receipt_label import AIUsageTracker
from tests.support.bedrock_calls import (
    CALLS,
    CLAUDE_BODY,
    CLAUDE_EVENTS,
    CONVERSE_EVENTS,
    COUNTS,
    SONNET,
    converse,
    converse_body,
    converse_stream,
    event,
    events,
    identified,
    invoke,
    invoke_stream,
    seen,
    used,
)
from tests.support.vendor_server import Answer, VendorServer, reply
from tests.vendors.conftest import Records

Client = Callable[..., Any]

# boto3 leaves the connection of a dropped stream to the garbage collector, wrapped or not.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client_of(server: VendorServer) -> Iterator[Client]:
    """Make clients of bedrock-runtime that talk to the server and try once."""
    made: list[Any] = []

    def make(**changes: Any) -> Any:
        chosen = {"retries": {"total_max_attempts": 1}, **changes}
        one = boto3.client(
            "bedrock-runtime",
            region_name="us-east-1",
            endpoint_url=server.url,
            aws_access_key_id="stand-in",
            aws_secret_access_key="stand-in",  # noqa: S106
            config=Config(**chosen),
        )
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_method_is_the_same_wrapped_and_counts_once(
    name: str, server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Equal results, the same requests on the wire, one record with its tokens and cost."""
    call, said, expected = CALLS[name]
    if name == "count_tokens" and not hasattr(client_of(), name):
        pytest.skip("not in this version of boto3")
    results, wire = [], []
    for client in (client_of(), tracker.wrap(client_of())):
        server.script(said())
        with tracker.context(job_id="labels"):
            results.append(seen(call(client)))
        wire.append([signed(asked) for asked in server.clear()])
    assert results[0] == results[1]
    assert wire[0] == wire[1]
    assert len(wire[0]) == 1
    found = records()
    assert [used(record) for record in found] == ([expected] if expected else [])
    for record in found:
        assert (record.service, record.status, record.job_id) == ("aws", "complete", "labels")
        assert record.latency_ms is not None


def signed(asked: Any) -> Any:
    """A request without its date, signature and the id of its invocation."""
    method, path, headers, body = asked.comparable()
    own = ("x-amz-date", "authorization", "amz-sdk-invocation-id", "amz-sdk-request")
    return method, path, {key: it for key, it in headers.items() if key not in own}, body


def test_the_wrapped_client_is_a_client_and_the_bare_one_stays_bare(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Exceptions, meta, paginators and every other attribute are the client's own."""
    bare = client_of()
    client = tracker.wrap(tracker.wrap(bare))
    assert isinstance(client, type(bare))
    assert type(client).__name__ == type(bare).__name__ == "BedrockRuntime"
    assert client.exceptions is bare.exceptions
    assert client.meta is bare.meta
    assert client.can_paginate("converse") is bare.can_paginate("converse")
    assert client.converse.__name__ == "converse"
    assert client.converse.__doc__ == bare.converse.__doc__
    added = set(dir(client)) - set(dir(bare))
    assert {name for name in added if not name.startswith("__")} == {"_receipt_usage_state"}
    server.script(*(identified(reply(converse_body())) for _ in range(2)))
    converse(bare)
    assert records() == []
    converse(client)
    assert len(records()) == 1
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        client.missing  # noqa: B018 - the error is the bare client's


def test_another_services_client_is_refused(tracker: AIUsageTracker) -> None:
    """One clear error, where the mistake is made."""
    other = boto3.client("s3", region_name="us-east-1")
    with pytest.raises(TypeError, match=r"\(s3\): pass boto3.client"):
        tracker.wrap(other)


@pytest.mark.parametrize(
    ("model_id", "model"),
    [
        (SONNET, SONNET),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}", SONNET),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{SONNET}", SONNET),
        (
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
        ),
    ],
)
def test_a_model_is_known_by_its_arn(
    model_id: str,
    model: str,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    records: Records,
) -> None:
    """Of a model or a profile of AWS' the name is priced; a profile of one's own keeps its ARN."""
    server.script(identified(reply(converse_body())))
    converse(tracker.wrap(client_of()), modelId=model_id)
    (record,) = records()
    assert record.model == model
    assert (record.cost_usd is None) is (model_id == model != SONNET)


def test_a_refused_call_is_recorded_with_its_type_and_raised_as_before(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The service's own exception, caught by the client's own class; never its message."""
    client = tracker.wrap(client_of())
    server.script(
        Answer(
            b'{"message": "secret text"}',
            status=429,
            headers={"x-amzn-ErrorType": "ThrottlingException"},
        )
    )
    with pytest.raises(client.exceptions.ThrottlingException):
        converse(client)
    (record,) = records()
    assert (record.error, record.status) == ("ThrottlingException", "aborted")
    assert (record.unpriced_reason, record.model) == ("failed_call", SONNET)
    assert record.metadata["http_status"] == 429
    assert "secret" not in str(record)


def test_what_boto3_refuses_by_itself_is_no_call(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Nobody was asked, nothing can be billed."""
    with pytest.raises(ParamValidationError):
        converse(tracker.wrap(client_of()), messages="no list")
    assert server.requests == []
    assert records() == []


def test_what_boto3_tries_again_counts_once(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """One refusal and an answer are one call of two attempts (trouble 35)."""
    client = tracker.wrap(client_of(retries={"total_max_attempts": 2, "mode": "standard"}))
    server.script(Answer(b"{}", status=503), identified(reply(converse_body())))
    converse(client)
    assert len(server.requests) == 2
    (record,) = records()
    assert (record.status, record.metadata["attempts"]) == ("complete", 2)


READS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda body: body.read(),
    "read(7)": lambda body: b"".join(iter(lambda: body.read(7), b"")),
    "iter": b"".join,
    "iter_chunks": lambda body: b"".join(body.iter_chunks(11)),
    "iter_lines": lambda body: b"\n".join(body.iter_lines()),
    "readlines": lambda body: b"".join(body.readlines()),
    "with": lambda body: body.__enter__().read(),
    "json": lambda body: json.dumps(json.load(body)).encode(),
}


@pytest.mark.parametrize("way", READS)
def test_a_body_is_its_callers_to_read_in_any_way(
    way: str, server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The same bytes, and one record with the figures of the body, which say more than headers."""
    client = tracker.wrap(client_of())
    server.script(identified(reply(CLAUDE_BODY), **COUNTS))
    body = invoke(client)["body"]
    assert isinstance(body, StreamingBody)
    assert READS[way](body) == json.dumps(CLAUDE_BODY).encode()
    assert len(records()) == (way != "with")  # at its end, not when it is collected
    del body
    gc.collect()
    (record,) = records()
    expected = 100 if way == "with" else 1000  # __enter__ hands out what lies beneath the body
    assert (record.input_tokens, record.output_tokens) == (expected, 20)


def test_a_body_that_nobody_reads_is_known_by_its_headers(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Dropped or closed, it is recorded; and nothing is read from it for that."""
    client = tracker.wrap(client_of())
    server.script(*(identified(reply(CLAUDE_BODY), **COUNTS) for _ in range(2)))
    invoke(client)
    gc.collect()
    invoke(client)["body"].close()
    found = records()
    assert [(record.input_tokens, record.output_tokens) for record in found] == [(100, 20)] * 2


STREAM_ENDS = ["exhausted", "closed", "broken off", "dropped", "exception", "cut"]


@pytest.mark.parametrize("end", STREAM_ENDS)
@pytest.mark.parametrize("streamed", [converse_stream, invoke_stream])
def test_a_stream_is_recorded_once_however_it_ends(
    end: str,
    streamed: Callable[[Any], Any],
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    records: Records,
) -> None:
    """It stays an EventStream; what was told until then counts (trouble 49)."""
    parts = CONVERSE_EVENTS if streamed is converse_stream else CLAUDE_EVENTS
    if end == "exception":
        failure = event("throttlingException", {"message": "secret"}, message="exception")
        parts = (*parts[:2], failure)
    said = events(*parts)
    if end == "cut":
        said = dataclasses.replace(said, body=said.body[:-20], cut_after=1)
    server.script(said)
    client = tracker.wrap(client_of())
    with tracker.context(job_id="asked"):
        result = streamed(client)
    with tracker.context(job_id="consumed"):
        stream = result.pop("stream", None) or result.pop("body")
        assert type(stream).__name__ == "EventStream"
        assert isinstance(stream, EventStream)
        taken = iter(stream)
        next(taken)
        if end == "closed":
            stream.close()
        elif end == "exhausted":
            list(taken)
        elif end == "exception":
            with pytest.raises(EventStreamError):
                list(taken)
        elif end == "cut":
            with pytest.raises(Exception):  # noqa: B017, PT011 - whichever botocore raises
                list(taken)
        del taken, stream
        gc.collect()
    (record,) = records()
    assert (record.job_id, record.model) == ("asked", SONNET)
    if end == "exhausted":
        assert (record.status, record.output_tokens) == ("complete", 20)
        return
    assert record.status == ("aborted" if end in ("exception", "cut") else "partial")
    assert (record.error is None) is (end in ("closed", "broken off", "dropped"))
    if streamed is converse_stream:
        assert (record.input_tokens, record.cost_usd) == (None, None)
    else:
        assert record.input_tokens == 100  # Claude's first event says so
    assert "secret" not in str(record)


def test_a_stream_may_be_read_in_parts(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """A loop that is left, and another that goes on: one call, complete."""
    server.script(events(*CONVERSE_EVENTS))
    stream = converse_stream(tracker.wrap(client_of()))["stream"]
    for _ in stream:
        break
    gc.collect()
    assert records() == []
    assert len(list(stream)) == len(CONVERSE_EVENTS) - 1
    (record,) = records()
    assert (record.status, record.output_tokens) == ("complete", 20)


def test_threads_keep_their_own_jobs(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """One client, 8 threads, 5 calls each: every call under its own job."""
    client = tracker.wrap(client_of())
    server.script(*(identified(reply(converse_body())) for _ in range(40)))

    def work(number: int) -> None:
        with tracker.context(job_id=f"thread-{number}"):
            for _ in range(5):
                converse(client)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = collections.Counter(record.job_id for record in records())
    assert jobs == {f"thread-{number}": 5 for number in range(8)}


def test_tracking_that_fails_changes_nothing(
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever raises in the tracking, the caller gets its reply, its events and its bytes."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("tracking is broken")

    client = tracker.wrap(client_of())
    here = "receipt_label.instrumentation.bedrock."
    for place in (
        "receipt_label.tracker.AIUsageTracker.record_reply",
        "receipt_label.instrumentation.calls.read_reply",
        f"{here}model_of",
        f"{here}_answered",
        f"{here}_EventRecord",
        f"{here}_Body.feed",
        f"{here}_subclass",
    ):
        with monkeypatch.context() as broken:
            broken.setattr(place, fail)
            server.script(
                identified(reply(converse_body())),
                events(*CONVERSE_EVENTS),
                identified(reply(CLAUDE_BODY), **COUNTS),
            )
            assert converse(client)["stopReason"]
            assert len(list(converse_stream(client)["stream"])) == len(CONVERSE_EVENTS)
            assert json.load(invoke(client)["body"]) == CLAUDE_BODY
