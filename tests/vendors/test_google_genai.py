"""google-genai: every method returns and sends what the bare client's does, and is counted once."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import dataclasses
import gc
import inspect
import json
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from receipt_dynamo import AIUsageMetric
from receipt_label import AIUsageTracker
from receipt_label.instrumentation import google_genai
from tests.support.vendor_server import Answer, VendorServer, reply
from tests.vendors.conftest import _TLS as TLS
from tests.vendors.conftest import Records

_RECORDED = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
_EVENT_STREAM = "text/event-stream"
SAY: Any = "What is the total?"
CONTENT = ":generateContent"
STREAM = ":streamGenerateContent"


@cache
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _RECORDED.read_text().splitlines()]


def recording(path: str, host: str = "generativelanguage") -> dict[str, Any]:
    """The first recorded call to an address that ends so."""
    return next(it for it in lines() if it["url"].endswith(path) and host in it["url"])


def spoken(body: dict[str, Any]) -> dict[str, Any]:
    """The reply with a word where the recording emptied its parts."""
    for candidate in body.get("candidates", []):
        candidate.setdefault("content", {"role": "model"})["parts"] = [{"text": "total "}]
    return body


def answer(path: str, host: str = "generativelanguage") -> Answer:
    line = recording(path, host)
    if "stream" in line:
        events = [event[6:] for event in line["stream"].split("\n\n") if event.strip()]
        chunks = [json.dumps(spoken(json.loads(event))) for event in events]
        text = "".join(f"data: {chunk}\n\n" for chunk in chunks)
        return Answer(text.encode(), content_type=_EVENT_STREAM)
    return reply(spoken(line["body"]))


def refusal(status: int = 429, kind: str = "RESOURCE_EXHAUSTED") -> Answer:
    body = {"error": {"code": status, "message": "secret text", "status": kind}}
    return reply(body, status=status)


pytestmark = [pytest.mark.filterwarnings("ignore:The generate_images method is deprecated")]
if not hasattr(genai.Client, "close"):  # an old version, which leaves connections open
    pytestmark += [
        pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ]

Client = Callable[..., genai.Client]
Run = Callable[[Any], Any]


@pytest.fixture
def run() -> Iterator[Callable[[Any], Any]]:
    """Run coroutines in one event loop: connections belong to the one that they were made in."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(coroutine, context=contextvars.copy_context())


def http_options(server: VendorServer, **changes: Any) -> types.HttpOptions:
    """The server's address, and one TLS context for all: each takes a while to load, unused."""
    known = types.HttpOptions.model_fields
    tls = {name: {"verify": TLS} for name in ("client_args", "async_client_args") if name in known}
    given = {name: value for name, value in changes.items() if value is not None}
    return types.HttpOptions(base_url=server.url, **tls, **given)


@pytest.fixture
def client_of(server: VendorServer, run: Run) -> Iterator[Client]:
    """Make clients of the SDK that talk to the server; of Vertex AI with ``vertexai=True``."""
    made: list[genai.Client] = []

    def make(*, retry_options: Any = None, **changes: Any) -> genai.Client:
        options = http_options(server, retry_options=retry_options)
        one = genai.Client(api_key="stand-in", http_options=options, **changes)
        made.append(one)
        return one

    yield make
    for one in made:
        run(close(one))
    made.clear()
    if not hasattr(genai.Client, "close"):
        gc.collect()  # what such a version leaves open warns here, not in another test


async def close(client: Any) -> None:
    if hasattr(client, "close"):  # versions before 1.40 leave that to the garbage collector
        client.close()
        await client.aio.aclose()


def seen(value: Any) -> Any:
    """All that a caller sees of a result, but for the date of its HTTP answer."""
    if not hasattr(value, "model_dump"):
        return type(value).__name__, [seen(item) for item in value]
    dump = value.model_dump(mode="json")
    for name in ("Date", "date"):
        ((dump.get("sdk_http_response") or {}).get("headers") or {}).pop(name, None)
    return type(value).__name__, dump


async def ask(call: Callable[[Any], Any], client: genai.Client, *, asynchronous: bool) -> Any:
    if not asynchronous:
        return seen(call(client.models))
    result = await call(client.aio.models)
    if hasattr(result, "__aiter__") and not hasattr(result, "model_dump"):
        return type(result).__name__, [seen(chunk) async for chunk in result]
    return seen(result)


def content(models: Any) -> Any:
    return models.generate_content(model="gemini-2.5-flash", contents=SAY)


def stream(models: Any) -> Any:
    return models.generate_content_stream(model="gemini-3-flash-preview", contents=SAY)


GEMINI = answer(f"gemini-2.5-flash{CONTENT}")
GEMINI_STREAM = answer(f"gemini-3-flash-preview{STREAM}")

# name -> the call, its answer, and what is recorded: operation, model, tokens in, out, cost
CALLS: dict[str, tuple[Callable[[Any], Any], Answer, tuple[Any, ...] | None]] = {
    "generate_content": (
        content,
        GEMINI,
        ("generate_content", "gemini-2.5-flash", 13, 71, "0.0001814"),
    ),
    "generate_content_stream": (
        stream,
        GEMINI_STREAM,
        ("generate_content", "gemini-3-flash-preview", 1198, 569, "0.002306"),
    ),
    "embed_content": (
        lambda models: models.embed_content(model="gemini-embedding-2", contents=["a"]),
        answer("gemini-embedding-2:batchEmbedContents"),
        ("embeddings", "gemini-embedding-2", 7, 0, "0.0000014"),
    ),
    "count_tokens": (
        lambda models: models.count_tokens(model="gemini-2.5-flash", contents=SAY),
        reply({"totalTokens": 7}),
        None,
    ),
    "get": (lambda models: models.get(model="gemini-2.5-flash"), reply({"name": "m"}), None),
}


def used(record: AIUsageMetric) -> tuple[Any, ...]:
    cost = record.unpriced_reason or f"{record.cost_usd.normalize():f}"
    return record.operation, record.model, record.input_tokens, record.output_tokens, cost


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", CALLS)
def test_a_method_is_the_same_wrapped_and_counts_once(
    name: str,
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """Equal objects, equal bytes on the wire, one record with its tokens and cost (trouble 39)."""
    call, said, expected = CALLS[name]
    results, wire = [], []
    for client in (client_of(), tracker.wrap(client_of())):
        server.script(said)
        with tracker.context(job_id="labels"):
            results.append(run(ask(call, client, asynchronous=asynchronous)))
        wire.append([asked.comparable() for asked in server.clear()])
    assert results[0] == results[1]
    assert wire[0] == wire[1]
    assert len(wire[0]) == 1
    found = records()
    assert [used(record) for record in found] == ([expected] if expected else [])
    for record in found:
        assert (record.service, record.status, record.job_id) == ("google", "complete", "labels")
        assert record.latency_ms is not None


def test_vertex_is_counted_and_priced_too(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The same models under longer addresses (Helicone counted 0 tokens for them)."""
    client = tracker.wrap(client_of(vertexai=True))
    image = {"mimeType": "image/png", "bytesBase64Encoded": "aGVsbG8="}
    server.script(
        answer(f"gemini-2.5-flash{CONTENT}", host="aiplatform.googleapis"),
        answer("gemini-embedding-2:embedContent", host="aiplatform.googleapis"),
        reply({"predictions": [image]}),
    )
    content(client.models)
    client.models.embed_content(model="gemini-embedding-2", contents=["a"])
    client.models.generate_images(model="imagen-4.0-generate-001", prompt="x")
    found = {record.operation: record for record in records()}
    assert {record.service for record in found.values()} == {"google"}
    assert found["generate_content"].cost_usd
    assert found["embeddings"].cost_usd
    assert found["image_generation"].unpriced_reason == "unknown_model"
    assert all("/publishers/google/models/" in asked.path for asked in server.requests)


def test_the_wrapped_client_is_a_client_and_the_bare_one_stays_bare(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Same types, same attributes, shared connections; wrapped twice: one (trouble 31)."""
    bare = client_of()
    once = tracker.wrap(bare)
    twice = tracker.wrap(once)
    for one in (once, twice):
        assert isinstance(one, genai.Client)
        assert type(one).__name__ == "Client"
        assert isinstance(one.models, type(bare.models))
        assert isinstance(one.aio.models, type(bare.aio.models))
        assert one.vertexai is bare.vertexai
        assert one._api_client._http_options is bare._api_client._http_options
    assert inspect.iscoroutinefunction(once.aio.models.generate_content_stream)
    server.script(GEMINI, GEMINI)
    content(bare.models)
    assert records() == []
    content(twice.models)
    assert len(records()) == 1


def test_neither_client_closes_the_other_when_it_is_dropped(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client
) -> None:
    """The SDK closes connections when a client is collected: here only once both are gone."""
    bare = client_of()
    if not hasattr(bare, "close"):
        pytest.skip("not in this version of google-genai")
    tracker.wrap(bare)
    gc.collect()
    server.script(GEMINI)
    content(bare.models)
    options = http_options(server)
    wrapped = tracker.wrap(genai.Client(api_key="stand-in", http_options=options))
    gc.collect()
    server.script(GEMINI)
    content(wrapped.models)
    with wrapped as entered:
        assert entered is wrapped
    with pytest.raises(RuntimeError, match="closed"):
        content(wrapped.models)


def test_chats_count_each_message_once(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """They go through the same requests, and keep their history."""
    client = tracker.wrap(client_of())
    server.script(GEMINI, GEMINI_STREAM, own(GEMINI, "the-id-of-a-third-reply"))
    chat = client.chats.create(model="gemini-2.5-flash")
    chat.send_message("one")
    assert list(chat.send_message_stream("two"))
    assert [it.role for it in chat.get_history()][:3] == ["user", "model", "user"]

    async def talk() -> None:
        await client.aio.chats.create(model="gemini-2.5-flash-lite").send_message("three")

    run(talk())
    assert len(server.requests) == 3
    assert len(records()) == 3


def test_each_request_of_automatic_function_calling_is_a_call(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The SDK answers the model's function calls by itself, and Google bills each request."""
    wish = {"functionCall": {"name": "total_of", "args": {"receipt": "r1"}}}
    asks = own(GEMINI, "with-a-function-call-1", parts=[wish])
    server.script(asks, own(GEMINI, "the-answer-after-that-2"))

    def total_of(receipt: str) -> int:
        """Return the total of a receipt."""
        return len(receipt)

    total_of.__annotations__ = {"receipt": str, "return": int}  # old versions read no strings
    client = tracker.wrap(client_of())
    config = types.GenerateContentConfig(tools=[total_of])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.models.generate_content(model="gemini-2.5-flash", contents=SAY, config=config)
    assert [used(record)[2:] for record in records()] == [(13, 71, "0.0001814")] * 2


def own(said: Answer, response_id: str, *, parts: list[Any] | None = None) -> Answer:
    """The answer under an id of its own, and perhaps with other parts."""
    body = json.loads(said.body)
    body["responseId"] = response_id
    if parts is not None:
        body["candidates"][0]["content"]["parts"] = parts
    return reply(body)


def test_a_refused_call_is_recorded_with_its_type_and_raised_as_before(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """The type of the error and the status, never the message; unpriced."""
    bare, client = client_of(), tracker.wrap(client_of())
    server.script(*[refusal()] * 6)
    for call in (content, lambda models: list(stream(models))):
        texts = set()
        for one in (bare, client):
            with pytest.raises(errors.ClientError) as caught:
                call(one.models)
            texts.add(str(caught.value))
        assert len(texts) == 1

    async def broken() -> None:
        for call in (content, stream):
            with pytest.raises(errors.ClientError):
                await ask(call, client, asynchronous=True)

    run(broken())
    found = records()
    assert len(found) == 4
    for record in found:
        assert (record.error, record.status) == ("ClientError", "aborted")
        assert (record.unpriced_reason, record.metadata["http_status"]) == ("failed_call", 429)
        assert "secret" not in str(record)


def test_what_the_sdk_tries_again_counts_once(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """Two refusals and an answer are one call (trouble 35)."""
    if not hasattr(types, "HttpRetryOptions"):
        pytest.skip("not in this version of google-genai")
    retry = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.002)
    client = tracker.wrap(client_of(retry_options=retry))
    server.script(refusal(503), refusal(503), GEMINI)
    content(client.models)
    assert len(server.requests) == 3
    (record,) = records()
    assert record.status == "complete"


STREAM_ENDS = ["exhausted", "closed", "broken off", "dropped", "cut"]


@pytest.mark.parametrize("end", STREAM_ENDS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_stream_is_recorded_once_however_it_ends(
    end: str,
    asynchronous: bool,
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    records: Records,
) -> None:
    """With the last figures that were told, and the job of where it was asked for (trouble 49)."""
    said = GEMINI_STREAM
    if end == "cut":
        said = dataclasses.replace(said, cut_after=3)
    server.script(said)
    client = tracker.wrap(client_of())

    def consume() -> None:
        with tracker.context(job_id="asked"):
            chunks = stream(client.models)
        with tracker.context(job_id="consumed"):
            next(chunks)
            if end == "closed":
                chunks.close()
            elif end == "broken off":
                for _ in chunks:
                    break
            elif end in ("exhausted", "cut"):
                for _ in chunks:
                    pass
            del chunks

    async def consume_async() -> None:
        with tracker.context(job_id="asked"):
            chunks = await stream(client.aio.models)
        with tracker.context(job_id="consumed"):
            await anext(chunks)
            if end == "closed":
                await chunks.aclose()
            elif end == "broken off":
                async for _ in chunks:
                    break
            elif end in ("exhausted", "cut"):
                async for _ in chunks:
                    pass
            del chunks
            for _ in range(20):  # the loop closes what the SDK has left open
                await asyncio.sleep(0)

    try:
        if asynchronous:
            run(consume_async())
        else:
            consume()
    except Exception as error:
        assert end == "cut", error  # noqa: PT017 - only a cut stream raises, each in its own way
    gc.collect()
    (record,) = records()
    assert record.job_id == "asked"
    assert record.model == "gemini-3-flash-preview"
    if end == "exhausted":
        assert (record.status, record.output_tokens) == ("complete", 569)
    else:
        assert record.status == ("aborted" if end == "cut" else "partial")
        assert (record.error is not None) is (end == "cut")
        assert record.input_tokens == 8
        assert record.cost_usd is not None
    assert record.metadata["time_to_first_token_ms"] <= record.latency_ms


def test_a_stream_that_is_never_read_made_no_call(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The SDK sends its request when the stream is first read."""
    stream(tracker.wrap(client_of()).models)
    gc.collect()
    assert server.requests == []
    assert records() == []


def test_a_cancelled_task_is_recorded(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """The call was made and may be billed: it is there, without figures."""
    server.script(dataclasses.replace(GEMINI, hold_after=0))
    client = tracker.wrap(client_of())

    async def cancel() -> None:
        task = asyncio.ensure_future(content(client.aio.models))
        while not server.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())
    (record,) = records()
    assert (record.error, record.status) == ("CancelledError", "aborted")


def test_threads_and_tasks_keep_their_own_jobs(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, run: Run, records: Records
) -> None:
    """One client, 8 threads with 5 calls each and 40 tasks: each call under its own job."""
    client = tracker.wrap(client_of())
    server.script(*(own(GEMINI, f"an-id-of-its-own-{number:04}") for number in range(80)))

    def work(number: int) -> None:
        with tracker.context(job_id=f"thread-{number}"):
            for _ in range(5):
                content(client.models)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def task(number: int) -> None:
        with tracker.context(job_id=f"task-{number}"):
            await content(client.aio.models)

    async def tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(40)))

    run(tasks())
    jobs = collections.Counter(record.job_id for record in records())
    assert jobs == {
        **{f"thread-{number}": 5 for number in range(8)},
        **{f"task-{number}": 1 for number in range(40)},
    }


def test_tracking_that_fails_changes_nothing(
    server: VendorServer,
    tracker: AIUsageTracker,
    client_of: Client,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store raises, the reading raises, the clock raises: the caller gets its reply."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("tracking is broken")

    client = tracker.wrap(client_of())
    for place in (
        "receipt_label.tracker.AIUsageTracker.record_reply",
        "receipt_label.instrumentation.calls.read_reply",
        "receipt_label.instrumentation.google_genai.locate",
        "receipt_label.instrumentation.google_genai._BodyStream",
    ):
        with monkeypatch.context() as broken:
            broken.setattr(place, fail)
            server.script(GEMINI, GEMINI_STREAM, GEMINI_STREAM)
            assert content(client.models).text == "total "
            assert len(list(stream(client.models))) == 8
            chunks = run(ask(stream, client, asynchronous=True))
            assert len(chunks[1]) == 8


def test_an_answer_that_is_no_json_is_recorded_without_figures(
    server: VendorServer, tracker: AIUsageTracker, client_of: Client, records: Records
) -> None:
    """The SDK raises as it does bare; the call was made, and may be billed."""
    texts = set()
    for one in (client_of(), tracker.wrap(client_of())):
        server.script(Answer(b"<html>not JSON</html>"))
        with pytest.raises(Exception, match="JSON|Expecting") as caught:  # noqa: RUF043
            content(one.models)
        texts.add(repr(caught.value))
    assert len(texts) == 1
    (record,) = records()
    assert record.model == "gemini-2.5-flash"
    assert record.unpriced_reason in ("no_usage", "failed_call")  # early versions parse it within


def test_what_is_no_client_is_refused(tracker: AIUsageTracker, client_of: Client) -> None:
    """A resource of the client is not the client."""
    with pytest.raises(TypeError, match="cannot wrap"):
        tracker.wrap(types.Part(text="x"))


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
    return Answer(text.encode(), content_type=_EVENT_STREAM)


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
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    options = http_options(server)
    options.base_url = f"http://127.0.0.1:{port}"
    bare = genai.Client(api_key="stand-in", http_options=options)
    if not hasattr(bare, "interactions"):
        pytest.skip("not in this version of google-genai")
    client = tracker.wrap(bare)

    async def create() -> None:
        one: Any = client.aio if asynchronous else client
        result = one.interactions.create(model="gemini-3-flash-preview", input="x")
        if asynchronous:
            await result

    with pytest.raises(Exception, match="onnect"):
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
