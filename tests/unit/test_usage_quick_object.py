"""What the SDK's object says of a chat completion is what its bytes say, or it says nothing."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from receipt_label.usage.quick import quick_reader
from receipt_label.usage.quick_object import ObjectReader, object_reader
from tests.unit.test_usage_quick import KEYS, LIMITS, OWN, PLAIN, VALUES, holders, long_way

URL = "https://api.openai.com/v1/chat/completions"
CHATS = [line for line in OWN if line["url"].endswith("/chat/completions")]


@pytest.fixture(scope="module")
def read() -> ObjectReader:
    reader = object_reader(quick_reader(URL))
    assert reader is not None
    return reader


def made_of(body: dict[str, Any]) -> Any:
    """Return what the SDK makes of a body, which it checks as little as it does an answer's."""
    return ChatCompletion.construct(None, **copy.deepcopy(body))


def test_recorded_replies_read_the_same_as_their_bytes(read: ObjectReader) -> None:
    """Of every recorded chat completion, and whatever the bytes can be read of so is the object."""
    seen = 0
    for line in CHATS:
        content, asked = json.dumps(line["body"]).encode(), line.get("request_model")
        reader = quick_reader(line["url"])
        assert reader is not None
        assert read(made_of(line["body"]), asked) == reader(content, asked)
        seen += reader(content, asked) is not None
    assert seen >= 3


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_reply_that_is_changed_reads_the_same_as_its_bytes(
    read: ObjectReader, data: st.DataObject
) -> None:
    """Whatever key or value is added, changed or missing: the object never knows better."""
    body = copy.deepcopy(data.draw(st.sampled_from([*(c["body"] for c in CHATS), PLAIN[URL]])))
    for _ in range(data.draw(st.integers(1, 3))):
        holder = data.draw(st.sampled_from(holders(body)))
        if isinstance(holder, list):
            holder.insert(0, copy.deepcopy(data.draw(VALUES)))
            continue
        key = data.draw(st.sampled_from([*holder, *KEYS]))
        if key in holder and data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(data.draw(VALUES))
    reply = read(made_of(body), "gpt-4o")
    assert reply is None or reply == long_way(json.dumps(body).encode(), URL, "gpt-4o")


@pytest.mark.parametrize("value", LIMITS)
def test_a_figure_that_is_off_by_a_little_reads_the_same(read: ObjectReader, value: Any) -> None:
    """Each value of a plain reply, replaced by each of the odd ones."""
    for path in paths(PLAIN[URL]):
        body = copy.deepcopy(PLAIN[URL])
        holder: Any = body
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        reply = read(made_of(body), "gpt-4o")
        assert reply is None or reply == long_way(json.dumps(body).encode(), URL, "gpt-4o"), path


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where each value within another lies."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[Any, ...]] = []
    for key, inner in inside:
        found.append((*before, key))
        if isinstance(inner, (dict, list)):
            found += paths(inner, (*before, key))
    return found


def test_a_field_of_a_later_version_is_left_to_the_bytes(read: ObjectReader) -> None:
    """A usage that the SDK knows more of than this: something may have a price of its own."""

    class LaterUsage(CompletionUsage):
        search_units: int = 3

    body = made_of(PLAIN[URL])
    assert read(body, None) is not None
    body.usage = LaterUsage.construct(None, **PLAIN[URL]["usage"])
    assert read(body, None) is None


@pytest.mark.parametrize("odd", [None, b"{}", "text", {}, object()])
def test_what_is_no_chat_completion_is_left_to_the_bytes(read: ObjectReader, odd: object) -> None:
    """A raw response, a stream, a class of the user's."""
    assert read(odd, None) is None


@pytest.mark.parametrize("url", ["https://api.openai.com/v1/responses", "https://x.test/v1"])
def test_other_addresses_have_none(url: str) -> None:
    """Their objects are others."""
    assert object_reader(quick_reader(url)) is None
