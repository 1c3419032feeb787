"""Streams of the vendors' SDKs, and the answers that were recorded of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.vendor_calls import SAY
from tests.support.vendor_server import Answer, recorded

USAGE = {"include_usage": True}


def chat_stream(client: Any, stream_options: Any = USAGE) -> Any:
    """Ask for a stream of eleven chunks; the last has usage and no choices."""
    more = {} if stream_options is None else {"stream_options": stream_options}
    return client.chat.completions.create(model="gpt-4o-mini", messages=SAY, stream=True, **more)


def message_stream(client: Any) -> Any:
    """Ask for a stream whose first event tells its input, and one near its end its output."""
    return client.messages.create(
        model="claude-sonnet-4-6", max_tokens=64, messages=SAY, stream=True
    )


def answer_of(path: str, model: str, **changes: Any) -> Answer:
    found = recorded(path, stream=True, model=model)
    assert found is not None
    return replace(found, **changes)


def chat_answer(**changes: Any) -> Answer:
    return answer_of("/v1/chat/completions", "gpt-4o-mini", **changes)


def message_answer(**changes: Any) -> Answer:
    return answer_of("/v1/messages", "claude-sonnet-4-6", **changes)
