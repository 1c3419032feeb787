"""Ollama's own API: /api/chat, /api/generate, /api/embed."""

from __future__ import annotations

from receipt_label.usage.figures import Json, count, settle
from receipt_label.usage.reading import Call, Reading
from receipt_label.usage.reply import Usage


def read_ollama(body: Json, call: Call) -> Reading:
    """Read a native reply of Ollama; it has no id."""
    if "embeddings" in body or "embedding" in body:
        operation = "embeddings"
    else:
        operation = "text_completion" if "response" in body else "chat"
    reading = Reading(operation, "ollama", body.get("model"), created=body.get("created_at"))
    raw = {key: body[key] for key in ("prompt_eval_count", "eval_count") if key in body}
    if raw:
        no_output = operation == "embeddings"
        reading.measure(raw, lambda usage: _usage(usage, no_output=no_output))
    if body.get("done") is False:  # a line of a stream, and not its last
        reading.status = "partial"
    reading.finished(body.get("done_reason"))
    return reading


def _usage(raw: Json, *, no_output: bool) -> Usage | None:
    """A prompt that Ollama has cached whole is left out of the reply, so None stays unknown."""
    made = count(raw.get("eval_count"))
    return settle(
        input_tokens=count(raw.get("prompt_eval_count")),
        output_tokens=made if made is not None or not no_output else 0,
    )


def is_ollama(body: Json) -> bool:
    """Whether this is a native reply of Ollama."""
    return (
        "prompt_eval_count" in body
        or "eval_count" in body
        or ("done" in body and "model" in body and "created_at" in body)
    )
