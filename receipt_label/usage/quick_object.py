"""The short way from the object that OpenAI's SDK made of a chat completion to what it used.

What the SDK has just read need not be read again. It admits what :mod:`~receipt_label.usage.quick`
admits of the bytes, and nothing else; anything that looks different, a field of a later version of
the SDK among it, is left to the bytes. Where it reads a reply it says the same as they do
(tests/unit/test_usage_quick_object.py).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Final

from receipt_label.usage.figures import MAX_TOKENS
from receipt_label.usage.quick import NO_MADE, NO_SENT, QuickReader, counted, read_chat
from receipt_label.usage.reply import Reply

__all__ = ["ObjectReader", "object_reader"]

ObjectReader = Callable[[Any, str | None], Reply | None]
"""From what the SDK made of a reply, and the model that was asked for, to the reply; None where its
bytes have to be read. Thread-safe. Raises nothing."""

# What no reply has: see the types of quick.py.
_NEVER: Final = frozenset(
    "error Error custom_id recordId response success usage_metadata model_version".split()
)
_KNOWN: Final = frozenset(
    (
        "prompt_tokens completion_tokens total_tokens prompt_tokens_details "
        "completion_tokens_details cached_tokens cache_write_tokens reasoning_tokens text_tokens "
        "audio_tokens image_tokens video_tokens accepted_prediction_tokens "
        "rejected_prediction_tokens"
    ).split()
)
_CLASSES: set[tuple[type, ...]] = set()
"""The classes of a usage and its two parts that have no field but these: few, the SDK's own."""

_MOST_CLASSES: Final = 64
_TYPES: Final = frozenset(product((int,), (int,), (int,), *[(int, type(None))] * 3))
"""The types of six counts, of which the last three may be missing."""


def object_reader(reader: QuickReader | None) -> ObjectReader | None:
    """Return what reads objects as ``reader`` reads bytes, or None where nothing does."""
    return _read_chat_object if reader is read_chat else None


def _read_chat_object(body: Any, request_model: str | None) -> Reply | None:
    try:
        usage, choices = body.usage, body.choices
        into, out = usage.prompt_tokens_details, usage.completion_tokens_details
        classes = type(usage), type(into), type(out)
        if classes not in _CLASSES and not _are_known(classes):
            return None
        extra, more = body.__pydantic_extra__, usage.__pydantic_extra__
        if into is None:
            into = NO_SENT
        else:
            more = more or into.__pydantic_extra__ or into.audio_tokens or into.image_tokens
        if out is None:
            out = NO_MADE
        else:
            more = more or out.__pydantic_extra__ or out.audio_tokens
        tokens = sent, made, total = (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
        )
        inside = into.cached_tokens, into.cache_write_tokens, out.reasoning_tokens
        cached, written, reasoning = inside
        if (
            more
            or (*map(type, tokens), *map(type, inside)) not in _TYPES
            or min(sent, made, cached or 0, written or 0, reasoning or 0) < 0
            or total > MAX_TOKENS
            or (extra and not _NEVER.isdisjoint(extra))
            or body.object != "chat.completion"
            or not type(body.model) is type(body.id) is str
            or type(body.created) is not int
            or type(choices) is not list
        ):
            return None
        reason = choices[0].finish_reason if choices else None
        if reason is not None and type(reason) is not str:
            return None
        return counted(body, request_model, tokens, into, out, body.created, reason)
    except Exception:  # it is none of these, or of another version of the SDK
        return None


def _are_known(classes: tuple[type, ...]) -> bool:
    """Whether classes of a usage have known fields alone; remembers those that have."""
    for kind in classes:
        if not _KNOWN.issuperset(getattr(kind, "model_fields", ())):
            return False
    if len(_CLASSES) < _MOST_CLASSES:
        _CLASSES.add(classes)
    return True
