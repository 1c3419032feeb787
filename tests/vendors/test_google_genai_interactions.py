"""google-genai's interactions, which go past its API client: each is recorded once."""

from __future__ import annotations

import inspect
import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from google import genai

from receipt_label import AIUsageTracker
from receipt_label.instrumentation import google_genai
from tests.support.google_calls import EVENT_STREAM, MARKS, close, refusal, seen, used
from tests.support.vendor_server import Answer, VendorServer, reply
from tests.vendors.conftest import Client, Records, Run, http_options

pytestmark = MARKS

INTERACTION: dict[str, Any] = {
    "id": "v1_an-id-of-an-interaction-whole",
    "object": "interaction",
    "model": "gemini-3-flash-preview",
    "status": "completed",
    "created": "2026-11-01T10:00:00Z",
    "updated": "2026-11-01T10:00:01Z",
    "outputs": [{"type": "text", "text": "total"}],
    "usage": {"total_input_tokens": 10, "total_output_tokens": 20, "total_tokens": 30},
}


def interaction_stream() -> Answer:
    streamed = {**INTERACTION, "id": "v1_an-id-of-an-interaction-streamed"}
    events = [
        {"event_type": "interaction.start", "interaction": {**streamed, "usage": None}},
        {"event_type": "interaction.complete", "interaction": streamed},
    ]
    text = "".join(f"event: {it['event_type']}\ndata: {json.dumps(it)}\n\n" for it in events)
    return Answer(text.encode(), content_type=EVENT_STREAM)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_interactions_are_recorded(
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """They go past the API client of the SDK: whole, streamed, and refused after retries."""
    bare, client = client_of(), tracker.wrap(client_of())
    if not hasattr(bare, "interactions"):
        pytest.skip("not in this version of google-genai")

    async def create(one: Any, **changes: Any) -> Any:
        result = (one.aio if asynchronous else one).interactions.create(
            model="gemini-3-flash-preview", input="x", **changes
        )
        if asynchronous:
            result = await result
        if not changes:
            return seen(result)
        if asynchronous:
            return type(result).__name__, [seen(event) async for event in result]
        return seen(result)

    made = (({}, reply(INTERACTION)), ({"stream": True}, interaction_stream()))
    for number, (changes, said) in enumerate(made, 1):
        results = []
        for one in (bare, client):
            server.script(said)
            results.append(run(create(one, **changes)))
        assert results[0] == results[1]
        found = records()
        assert len(found) == number
        for record in found:
            assert used(record)[:4] == ("generate_content", "gemini-3-flash-preview", 10, 20)
            assert record.status == "complete"
    server.script(*[refusal(400, "INVALID_ARGUMENT")] * 5)
    with pytest.raises(Exception, match="400"):
        run(create(client))
    failed = [record for record in records() if record.error]
    assert [record.unpriced_reason for record in failed] == ["failed_call"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_interaction_that_reaches_nobody_fails_once(
    asynchronous: bool, server: VendorServer, tracker: AIUsageTracker, run: Run, records: Records
) -> None:
    """However often the SDK tries: the request itself says nothing of how the call ends."""
    if not hasattr(genai.Client, "interactions"):
        pytest.skip("not in this version of google-genai")
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))  # and does not listen; closed at the end, lest another gets it
    options = http_options(server)
    options.base_url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    bare = genai.Client(api_key="stand-in", http_options=options)
    client = tracker.wrap(bare)

    async def create() -> None:
        one: Any = client.aio if asynchronous else client
        result = one.interactions.create(model="gemini-3-flash-preview", input="x")
        if asynchronous:
            await result

    with closing(nobody), pytest.raises(Exception, match="onnect"):
        run(create())
    (record,) = records()
    assert (record.unpriced_reason, record.model) == ("failed_call", "gemini-3-flash-preview")
    run(close(bare))


def interactions_of(client: Any, asynchronous: bool, run: Run) -> Callable[..., Any]:
    """Return ``create``, whose results are awaited."""
    if not hasattr(client, "interactions"):
        pytest.skip("not in this version of google-genai")

    async def create(**asked: Any) -> Any:
        result = (client.aio if asynchronous else client).interactions.create(**asked)
        return await result if asynchronous else result

    return lambda **asked: run(create(**asked))


MODEL = "gemini-3-flash-preview"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_interaction_whose_answer_cannot_be_parsed_is_one_call(
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """It was answered, with usage that nobody can read: it has not failed as well."""
    create = interactions_of(tracker.wrap(client_of()), asynchronous, run)
    server.script(Answer(b"{broken"))
    with pytest.raises(Exception, match=r"(?i)json|valid|pars|expect"):
        create(model=MODEL, input="x")
    assert [(it.model, it.status, it.unpriced_reason) for it in records()] == [
        (MODEL, "complete", "no_usage")
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("wrong", [{"bogus": 1}, {"input": object()}], ids=["name", "type"])
def test_an_interaction_that_the_sdk_itself_refuses_is_no_call(
    wrong: dict[str, Any],
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """Nothing was sent; the next one counts."""
    create = interactions_of(tracker.wrap(client_of()), asynchronous, run)
    with pytest.raises(Exception, match=r"."):
        create(**{"model": MODEL, "input": "x", **wrong})
    assert records() == []
    server.script(*[refusal(400, "INVALID_ARGUMENT")] * 5)
    with pytest.raises(Exception, match="400"):
        create(model=MODEL, input="x")
    assert [it.unpriced_reason for it in records()] == ["failed_call"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_failed_interaction_has_the_model_that_was_sent(
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """However the SDK was told: by arguments, or by a request as a whole."""
    create = interactions_of(tracker.wrap(client_of()), asynchronous, run)
    server.script(*[refusal(400, "INVALID_ARGUMENT")] * 5)
    with pytest.raises(Exception, match="400"):
        create(request={"body": {"model": MODEL, "input": "x"}})
    assert [(it.model, it.unpriced_reason) for it in records()] == [(MODEL, "failed_call")]


@pytest.mark.filterwarnings("ignore")
def test_interactions_that_two_threads_first_use_at_once_fail_once(
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither wraps what the other has wrapped."""
    client: Any = tracker.wrap(client_of())
    create = interactions_of(client, False, run)
    del vars(client.interactions)["create"]
    look, others = google_genai.state_of, [threading.Thread(target=lambda: client.interactions)]

    def slow(twin: Any) -> Any:
        while others:  # the other does all of it between this one's look and its write
            other = others.pop()
            other.start()
            other.join()
        return look(twin)

    monkeypatch.setattr(google_genai, "state_of", slow)
    mine = client.interactions.create
    assert not others
    assert mine is client.interactions.create
    assert inspect.ismethod(mine.__wrapped__)
    server.script(*[refusal(400, "INVALID_ARGUMENT")] * 5)
    with pytest.raises(Exception, match="400"):
        create(model=MODEL, input="x")
    assert [it.unpriced_reason for it in records()] == ["failed_call"]
