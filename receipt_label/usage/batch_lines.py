"""Lines of batch outputs: OpenAI's (Azure, Groq, Mistral alike), Anthropic's, Gemini's, Bedrock's.

Each line wraps one reply; batches have prices of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from receipt_label.usage.figures import Json, inner, word

BATCH: Final = {"processing": "batch"}


class Unwrapped(NamedTuple):
    """The reply inside a line, or the error that stands in its place."""

    body: Json
    error: str | None = None
    http_status: int | None = None


def unwrap(line: Json) -> Unwrapped | None:
    """Return what a line of a batch output holds, or None where it is no such line."""
    if "custom_id" in line:
        if "result" in line:
            return _anthropic(inner(line, "result"))
        if "response" in line or "error" in line:
            return _openai(line)
        return None
    if "recordId" in line and ("modelOutput" in line or "error" in line):
        error = inner(line, "error").get("errorCode")
        return Unwrapped(
            inner(line, "modelOutput"), word(error) or "failed" if "error" in line else None
        )
    response = line.get("response")
    if isinstance(response, Mapping) and ("candidates" in response or "usageMetadata" in response):
        return Unwrapped(response)
    return None


def _openai(line: Json) -> Unwrapped:
    response = inner(line, "response")
    status = response.get("status_code")
    body = inner(response, "body") or ({} if "body" in response else response)
    error = line.get("error")
    name: str | None = None
    if error:
        name = word(inner(line, "error").get("code")) or "failed"
    elif not response:
        name = "failed"
    return Unwrapped(body, name, status if isinstance(status, int) else None)


def _anthropic(result: Json) -> Unwrapped:
    """succeeded holds the message; errored, canceled and expired were not processed."""
    kind = result.get("type")
    if kind == "succeeded":
        return Unwrapped(inner(result, "message"))
    error = inner(result, "error")
    name = word(inner(error, "error").get("type")) or word(error.get("type"))
    return Unwrapped({}, name or word(kind) or "failed")
