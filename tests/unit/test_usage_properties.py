"""Whatever happens to a vendor's reply on its way, reading it neither raises nor lies."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receipt_label.usage import Reply, Skipped, read_reply

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
BODIES = [line for line in LINES if "body" in line]
STREAMS = [line for line in LINES if "stream" in line]

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    if isinstance(value, dict):
        for key, inside in value.items():
            found += _places(inside, (*at, key))
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            found += _places(inside, (*at, index))
    return found


def _mutate(data: st.DataObject, body: Any) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        places = _places(body)
        if not places:
            return
        *way, last = data.draw(st.sampled_from(places))
        holder = body
        for step in way:
            holder = holder[step]
        if data.draw(st.booleans()):
            holder[last] = data.draw(ODD)
        else:
            del holder[last]


def _check(result: Reply | Skipped) -> None:
    if isinstance(result, Skipped):
        return
    assert result.service
    assert result.model
    json.dumps(result.metadata)
    for reply in (result, *result.also):
        if reply.usage is None:
            assert reply.fault is not None
            continue
        usage = reply.usage
        figures = (
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        )
        assert all(figure is None or (type(figure) is int and figure >= 0) for figure in figures)
        cached = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        assert cached <= (usage.input_tokens or 0)
        assert (usage.reasoning_tokens or 0) <= (usage.output_tokens or 0)
        assert all(value > 0 for value in usage.details.values())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_reply_is_still_read(data: st.DataObject) -> None:
    """Keys dropped and values of any type never raise and never give figures that contradict."""
    line = data.draw(st.sampled_from(BODIES))
    body = copy.deepcopy(line["body"])
    _mutate(data, body)
    before = copy.deepcopy(body)
    _check(read_reply(body, url=line["url"], request_model=line["request_model"]))
    assert repr(body) == repr(before)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_usage_block_never_costs_the_call(data: st.DataObject) -> None:
    """With only the usage block damaged the call is kept under its own id."""
    lines = [line for line in BODIES if isinstance(line["body"].get("usage"), dict)]
    line = data.draw(st.sampled_from([it for it in lines if it["body"].get("id")]))
    body = copy.deepcopy(line["body"])
    _mutate(data, body["usage"])
    result = read_reply(body, url=line["url"], request_model=line["request_model"])
    assert isinstance(result, Reply)
    assert result.response_id == body["id"]
    _check(result)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_stream_may_end_anywhere(data: st.DataObject) -> None:
    """A stream cut off at any character is read; what it lacks is not invented."""
    line = data.draw(st.sampled_from(STREAMS))
    text = line["stream"].lstrip()
    whole = read_reply(text, url=line["url"])
    cut = data.draw(st.integers(6, len(text)))
    result = read_reply(text[:cut], url=line["url"])
    _check(result)
    assert isinstance(result, Reply)
    assert isinstance(whole, Reply)
    if result.status == "complete" and result.usage is not None:
        assert result.usage == whole.usage


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_is_a_reply_or_one_clear_error(text: str | bytes) -> None:
    """Nothing but a ValueError comes of text that is no reply."""
    with contextlib.suppress(ValueError):
        read_reply(text)
