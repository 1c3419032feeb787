"""A reply as it is read, and OpenAI's shape around a usage."""

from __future__ import annotations

from typing import Any

from receipt_label.usage import Reply, read_reply


def read(response: object, **hints: Any) -> Reply:
    reply = read_reply(response, **hints)
    assert isinstance(reply, Reply), reply
    return reply


def chat(usage: object, **more: Any) -> dict[str, Any]:
    return {"object": "chat.completion", "id": "chatcmpl-1", "model": "m", "usage": usage, **more}
