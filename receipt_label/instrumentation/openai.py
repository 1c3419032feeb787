"""OpenAI's SDK: OpenAI, AzureOpenAI and their async forms, whatever service they talk to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import Context, copy_context
from typing import Any, Final

from receipt_label.instrumentation.calls import Instrument
from receipt_label.instrumentation.event_log import EventLog, body_of
from receipt_label.instrumentation.http_streams import watch_response
from receipt_label.instrumentation.stainless import Dialect, Exchange, wrap_stainless
from receipt_label.usage.reply import Skipped

__all__ = ["wrap"]

_REMEMBERED: Final = 4096
_RETRIEVED: Final = re.compile(r"/responses/[^/?]+/?(\?|$)")
_BACKGROUND: Final = re.compile(rb'"background"\s*:\s*true')
_UNFINISHED: Final = ("queued", "in_progress")


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose calls are recorded."""
    return wrap_stainless(client, instrument, _OpenAI(include_usage=include_usage))


class _OpenAI(Dialect):
    """``include_usage``: ask for the usage of streams, and hide the chunk that brings it.

    A background response is a call when it is complete, whoever fetches it; it belongs to the
    context that created it, where that was this client. Anything else that is fetched was counted
    when it was made.
    """

    def __init__(self, *, include_usage: bool) -> None:
        self.prepares = include_usage
        self._created: dict[str, Context | None] = {}
        """Background responses of this client; None once recorded. Each access is atomic."""

    def service(self, client: Any) -> str | None:
        """Return azure for its own client, whatever gateway it is behind."""
        return "azure" if "Azure" in type(client).__name__ else None

    def rewrites(self, client: Any) -> bool:
        """Return whether it is Azure's: deployments go into the address."""
        return self.service(client) is not None

    def prepare(self, exchange: Exchange, options: Any) -> Any:
        """Ask for the usage of a stream that would not tell it, where the user wants that."""
        if not isinstance(options.json_data, Mapping):
            return options
        extra = getattr(options, "extra_json", None)  # the caller's extra_body: it wins
        body = {**options.json_data, **extra} if isinstance(extra, Mapping) else options.json_data
        if body.get("stream") is not True or not exchange.address.partition("?")[0].endswith(
            "/completions"
        ):
            return options
        asked = body.get("stream_options")
        if isinstance(asked, Mapping) and "include_usage" in asked:
            return options
        more = {**(asked if isinstance(asked, Mapping) else {}), "include_usage": True}
        exchange.hide_usage = True
        name = "extra_json" if extra and "stream_options" in extra else "json_data"
        changed = {**getattr(options, name), "stream_options": more}
        return options.model_copy(update={name: changed})

    def answered(self, exchange: Exchange, response: Any, metadata: dict[str, Any]) -> bool:
        """See to background responses: when they are created, and when they are fetched."""
        if exchange.fetches:
            if _RETRIEVED.search(exchange.address):
                self._retrieved(exchange, response, metadata)
            return True
        created = exchange.address.endswith("/responses") and response.is_closed
        if created and _BACKGROUND.search(response.content):
            body = body_of(response.content)
            if isinstance(body, Mapping) and body.get("status") in _UNFINISHED:
                self._remember(str(body.get("id")), copy_context())
        return False

    def _retrieved(self, exchange: Exchange, response: Any, metadata: dict[str, Any]) -> None:
        if not response.is_closed:
            kind = response.headers.get("content-type", "")
            if "event-stream" in kind:
                watch_response(exchange, response, log=_BackgroundLog())
            return
        body = body_of(response.content)
        if not isinstance(body, Mapping) or body.get("background") is not True:
            return
        if body.get("status") in _UNFINISHED:
            return
        name = str(body.get("id"))
        context = self._created.get(name, copy_context())
        if context is None:
            return
        self._remember(name, None)
        exchange.operation = "chat"
        context.copy().run(
            exchange.reply,
            body,
            url=str(response.url),
            latency_ms=_duration_ms(body),
            metadata=metadata,
        )

    def _remember(self, name: str, context: Context | None) -> None:
        self._created[name] = context
        if len(self._created) > _REMEMBERED:
            self._created.pop(next(iter(tuple(self._created))), None)


class _BackgroundLog(EventLog):
    """The stream of a response that is fetched: a call only if it was made in the background."""

    def reply(self) -> object:
        """Return its events, or that it is none."""
        events = super().reply()
        if isinstance(events, bytes) and _BACKGROUND.search(events):
            return events
        return Skipped("not_usage", "fetched")


def _duration_ms(body: Mapping[str, Any]) -> float | None:
    """Return how long a background response took: the request that fetches it says nothing."""
    try:
        return float(body["completed_at"] - body["created_at"]) * 1000
    except (KeyError, TypeError):
        return None
