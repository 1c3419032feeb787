"""What wrapping a vendor's client adds to a call: bare and wrapped in turns, over no network.

The HTTP client answers at once, from memory, so that the call is the SDK's own work and ours. Each
pair of calls is one after the other; what counts is their difference. Where a process has its code
and data in memory, and how its dicts are seeded, moves that by some microseconds for as long as it
lives: so it is measured in several, and the median of theirs counts.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Part, Row, median_of, timings
from benchmarks.samples import (
    RECORD,
    REPLY,
    Operation,
    client_of,
    in_fresh_process,
    private_directory,
    ready_metric,
    time_calls,
)
from receipt_label import AIUsageTracker
from receipt_label.usage.quick import quick_reader

__all__ = ["run"]

_PROCESSES = 7
_PAIRS = 1500
_WARM_UP = 200
_CHUNKS = 100
_ASK: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "What is the total of this receipt?"}],
}


def _bodies() -> tuple[bytes, list[bytes]]:
    """Return a reply, and a stream of a hundred chunks that says its usage last."""
    message = {"role": "assistant", "content": "The total is 12.30. " * 20}
    reply = {**REPLY, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    head = {**REPLY, "object": "chat.completion.chunk", "usage": None}
    text = {"index": 0, "delta": {"content": "total "}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [{**head, "choices": [text]}] * _CHUNKS
    chunks += [{**head, "choices": [last]}, {**head, "choices": [], "usage": REPLY["usage"]}]
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return json.dumps(reply).encode(), [*events, b"data: [DONE]\n\n"]


def _bare_client() -> Any:
    """Return an OpenAI client whose HTTP client answers from memory."""
    import httpx2
    import openai

    reply, events = _bodies()

    class Events(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return iter(events)

    def respond(request: httpx2.Request) -> httpx2.Response:
        if b'"stream":true' in request.content:
            headers = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=headers, stream=Events())
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=reply)

    return openai.OpenAI(
        api_key="stand-in",
        base_url="https://api.openai.com/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(respond)),
    )


def _call(client: Any) -> Operation:
    return lambda: client.chat.completions.create(**_ASK)


def _call_in_context(tracker: AIUsageTracker) -> Callable[[Any], Operation]:
    """Return what makes a call that has a context of its own, as that of each receipt may have."""

    def made(client: Any) -> Operation:
        def operation() -> object:
            with tracker.context(job_id=RECORD["job_id"], metadata=RECORD["metadata"]):
                return client.chat.completions.create(**_ASK)

        return operation

    return made


def _stream(client: Any) -> Operation:
    options = {"include_usage": True}
    return lambda: list(client.chat.completions.create(**_ASK, stream=True, stream_options=options))


def _pairs(bare: Operation, wrapped: Operation, pairs: int) -> list[array[int]]:
    """Return nanoseconds of bare calls, of wrapped ones, and of their difference."""
    taken = [array("q"), array("q"), array("q")]
    clock = time.perf_counter_ns
    for turn in range(pairs):
        first, second = (bare, wrapped) if turn % 2 else (wrapped, bare)
        start = clock()
        first()
        middle = clock()
        second()
        end = clock()
        spent = [middle - start, end - middle]
        bare_ns, wrapped_ns = spent if turn % 2 else spent[::-1]
        for samples, value in zip(taken, (bare_ns, wrapped_ns, wrapped_ns - bare_ns), strict=True):
            samples.append(value)
    return taken


def _after(call: Operation, operation: Operation, count: int) -> array[int]:
    """Return nanoseconds of an operation right after a call of the SDK: its code and data are out
    of the processor's caches then, which is how a pipeline meets it."""
    taken = array("q")
    clock = time.perf_counter_ns
    for _ in range(count):
        call()
        start = clock()
        operation()
        taken.append(clock() - start)
    return taken


def _parts(tracker: AIUsageTracker, call: Operation, count: int) -> list[Row]:
    """Time what a wrapped call is made of, each part alone, right after a bare call."""
    body, metric = _bodies()[0], ready_metric()
    reader = quick_reader("https://api.openai.com/v1/chat/completions")
    assert reader is not None
    reply = reader(body, "gpt-4o")
    assert reply is not None
    parts: tuple[tuple[str, Operation], ...] = (
        ("nothing", lambda: None),
        ("reading the bytes of the reply", lambda: reader(body, "gpt-4o")),
        ("recording what was read", lambda: tracker.record_quick_reply(reply, 1.5)),
        ("the same the long way", lambda: tracker.record_reply(reply.reply(), latency_ms=1.5)),
        ("of that, put of its metric", lambda: tracker.client.put_ai_usage_metric(metric)),
    )
    return [
        Row(f"after a bare call: {name}", timings(_after(call, operation, count)))
        for name, operation in parts
    ]


def _prepared(directory: Path) -> tuple[AIUsageTracker, Any, Any]:
    """Return a tracker, and a client bare and wrapped. What is spooled nobody delivers."""
    tracker = AIUsageTracker(client_of(directory / "usage"))
    tracker.context(job_id=RECORD["job_id"], user_id=RECORD["user_id"]).__enter__()
    bare = _bare_client()
    return tracker, bare, tracker.wrap(bare)


def _compared(
    name: str, bare: Operation, wrapped: Operation, pairs: int, goal: dict[str, float]
) -> list[Row]:
    _pairs(bare, wrapped, min(_WARM_UP, pairs))
    gc.collect()
    bare_ns, wrapped_ns, added = _pairs(bare, wrapped, pairs)
    median = max(0.0, statistics.median(added) / 1000)  # of a few pairs it may be noise
    return [
        Row(f"{name}, bare", timings(bare_ns), yardstick=True),
        Row(f"{name}, wrapped", timings(wrapped_ns)),
        Row(f"{name}: what wrapping adds", {"p50": median}, goal=goal),
    ]


def _measure_call(directory: Path, pairs: int) -> list[Row]:
    _, bare, wrapped = _prepared(directory)
    return _compared("chat.completions.create", _call(bare), _call(wrapped), pairs, {"p50": 50.0})


def _measure_others(directory: Path, pairs: int) -> list[Row]:
    tracker, bare, wrapped = _prepared(directory)
    in_context = _call_in_context(tracker)
    direct = time_calls(lambda: tracker.record_response(REPLY), pairs)
    return [
        *_compared("in a context of its own", in_context(bare), in_context(wrapped), pairs, {}),
        *_compared(
            f"a stream of {_CHUNKS} chunks",
            _stream(bare),
            _stream(wrapped),
            max(20, pairs // 4),
            {},
        ),
        *_parts(tracker, _call(bare), pairs),
        Row("record_response of the reply", timings(direct), yardstick=True),
    ]


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Time calls of an OpenAI client, bare and wrapped."""
    pairs = max(20, int(_PAIRS * scale))
    say("wrapped clients")
    with private_directory() as directory:
        runs = [in_fresh_process(_measure_call, directory, pairs) for _ in range(_PROCESSES)]
        others = in_fresh_process(_measure_others, directory, pairs)
    calls = median_of([Part("", "", rows) for rows in runs]).rows
    added = sorted(rows[-1].figures["p50"] for rows in runs)
    title = f"Wrapped OpenAI client, no network: microseconds per call ({pairs} pairs in turns)"
    share = statistics.median(added) / calls[0].figures["p50"]
    note = (
        f"The first three rows are medians of {_PROCESSES} processes, in which wrapping added "
        f"{added[0]:.1f} to {added[-1]:.1f}: {share:.1%} of a call that takes no time elsewhere."
    )
    return [Part("wrapping", title, [*calls, *others], note)]
