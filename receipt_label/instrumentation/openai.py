"""OpenAI's SDK: OpenAI, AzureOpenAI and their async forms, whatever service they talk to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from receipt_label.instrumentation.calls import Instrument
from receipt_label.instrumentation.stainless import Dialect, Exchange, wrap_stainless

__all__ = ["wrap"]


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose calls are recorded."""
    return wrap_stainless(client, instrument, _OpenAI(include_usage=include_usage))


class _OpenAI(Dialect):
    """``include_usage``: ask for the usage of streams, and hide the chunk that brings it."""

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage

    def service(self, client: Any) -> str | None:
        """Return azure for its own client: behind a gateway no address says so."""
        return "azure" if "Azure" in type(client).__name__ else None

    def prepare(self, exchange: Exchange, options: Any) -> Any:
        """Ask for the usage of a stream that would not tell it, where the user wants that."""
        body = options.json_data
        if (
            not self._include_usage
            or not isinstance(body, Mapping)
            or body.get("stream") is not True
            or exchange.call.operation not in ("chat", "text_completion")
            or not exchange.url.split("?")[0].endswith("/completions")
        ):
            return options
        asked = body.get("stream_options")
        if isinstance(asked, Mapping) and "include_usage" in asked:
            return options
        more = {**(asked if isinstance(asked, Mapping) else {}), "include_usage": True}
        exchange.hide_usage = True
        return options.model_copy(update={"json_data": {**body, "stream_options": more}})
