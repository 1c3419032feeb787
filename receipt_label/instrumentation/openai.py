"""OpenAI's SDK: OpenAI, AzureOpenAI and their async forms, whatever service they talk to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final

from receipt_label.instrumentation.calls import Instrument
from receipt_label.instrumentation.event_log import BodyLog, EventLog, body_of, is_event_stream
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
        if not exchange.address.endswith("/responses"):
            return False
        if response.is_closed:
            if _BACKGROUND.search(response.content):
                self._note_creation(body_of(response.content), copy_context())
            return False
        if is_event_stream(response.headers.get("content-type", "")):
            return False
        log = _SeenBody(partial(self._note_creation, context=copy_context()))
        watch_response(exchange, response, log=log).metadata.update(metadata)
        return True

    def _note_creation(self, body: object, context: Context) -> object:
        """Note whom a background response is for, while it is not complete; return its body."""
        if (
            isinstance(body, Mapping)
            and body.get("background") is True
            and body.get("status") in _UNFINISHED
        ):
            self._remember(str(body.get("id")), context)
        return body

    def _retrieved(self, exchange: Exchange, response: Any, metadata: dict[str, Any]) -> None:
        take = partial(self._fetched, exchange, str(response.url), metadata)
        if response.is_closed:
            take(body_of(response.content))
        elif is_event_stream(response.headers.get("content-type", "")):
            watch_response(exchange, response, log=_BackgroundLog())
        else:
            watch_response(exchange, response, log=_SeenBody(take))

    def _fetched(
        self, exchange: Exchange, url: str, metadata: dict[str, Any], body: object
    ) -> Skipped:
        """Record a background response that is complete, for whom it was created; what was fetched
        is no call itself."""
        fetched = Skipped("not_usage", "fetched")
        if not isinstance(body, Mapping) or body.get("background") is not True:
            return fetched
        if body.get("status") in _UNFINISHED:
            return fetched
        name = str(body.get("id"))
        context = self._created.get(name, copy_context())
        if context is not None:
            self._remember(name, None)
            exchange.operation = "chat"
            context.copy().run(
                exchange.reply,
                body,
                url=url,
                latency_ms=_duration_ms(body),
                metadata=metadata,
            )
        return fetched

    def _remember(self, name: str, context: Context | None) -> None:
        self._created[name] = context
        if len(self._created) > _REMEMBERED:
            self._created.pop(next(iter(tuple(self._created))), None)


class _SeenBody(BodyLog):
    """A JSON body that its owner reads bit by bit, shown to somebody once it is read."""

    def __init__(self, see: Callable[[object], object]) -> None:
        super().__init__()
        self._see = see

    def reply(self) -> object:
        """Return what is made of the body."""
        return self._see(super().reply())


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
