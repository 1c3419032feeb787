"""Clients of AI services, wrapped: each call they make is recorded, and nothing else changes.

``wrap_client`` finds the module for a client by the names of its classes; no vendor's SDK is ever
imported here. Each such module has one function ``wrap(client, instrument, *, include_usage)``
that returns a client of the same type.

What such a module builds on:

- ``calls.Instrument`` is one per wrapped client. ``instrument.begin(url=, service=, operation=,
  request_model=)`` starts a ``Call``.
- ``call.reply(response)`` records what the vendor sent, ``call.fail(error)`` that it failed. Both
  may be given ``metadata`` and ``http_status``; neither raises, whatever happens within.
- ``calls.observe(method, begin, finish)`` wraps a bound method, sync or async, with these three.
  ``finish(call, result)`` returns what the caller gets; by default the result itself, recorded.
- ``streams.ChunkStream(call)`` is for a stream of objects: ``take(chunk)`` for each, ``end()`` or
  ``fail(error)`` once it is over; it is recorded once, also when it is only garbage-collected.
  ``watch_iterator`` and ``watch_async_iterator`` drive it around an iterator.
- ``http_streams.watch_response(call, response)`` does so for an HTTP response of httpx that is
  not read yet: the response stays the same object, its bytes are looked at as they pass.

A call is recorded in the context it was made in, wherever its stream is consumed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from receipt_label.instrumentation.calls import Instrument

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["wrap_client"]

_Client = TypeVar("_Client")

_WRAPPERS = {
    "openai": "receipt_label.instrumentation.openai",
    "anthropic": "receipt_label.instrumentation.anthropic",
    "google.genai": "receipt_label.instrumentation.google_genai",
    "googlemaps": "receipt_label.instrumentation.google_maps",
    "botocore.client": "receipt_label.instrumentation.bedrock",
}
"""Module of a client's class, or a package above it -> the module that wraps it."""

_KNOWN = (
    "openai.OpenAI, AzureOpenAI, anthropic.Anthropic and their async forms, google.genai.Client, "
    "boto3's bedrock-runtime, googlemaps.Client"
)


def wrap_client(
    tracker: AIUsageTracker, client: _Client, *, include_usage: bool = False
) -> _Client:
    """Return a client of the same type whose calls ``tracker`` records.

    Raises TypeError for what is no client known here.
    """
    wrapper = _wrapper_of(type(client))
    if wrapper is None:
        kind = type(client)
        raise TypeError(
            f"cannot wrap {kind.__module__}.{kind.__qualname__}: pass a client of a vendor's SDK "
            f"({_KNOWN}), not a resource or a module. Other calls: tracker.record_response(reply)"
        )
    module: Any = import_module(wrapper)
    wrapped: _Client = module.wrap(client, Instrument(tracker), include_usage=include_usage)
    return wrapped


def _wrapper_of(kind: type) -> str | None:
    """Return the module for a class or, for a subclass of a user's, for one of its bases."""
    for cls in kind.__mro__:
        name = cls.__module__
        while name:
            if name in _WRAPPERS:
                return _WRAPPERS[name]
            name = name.rpartition(".")[0]
    return None
