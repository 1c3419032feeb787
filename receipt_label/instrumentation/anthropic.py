"""Anthropic's SDK: Anthropic, AnthropicBedrock, AnthropicVertex and their async forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from receipt_label.batch_output import record_line
from receipt_label.context import current
from receipt_label.instrumentation.calls import Instrument
from receipt_label.instrumentation.event_log import body_of
from receipt_label.instrumentation.http_streams import watch_response
from receipt_label.instrumentation.stainless import Dialect, Exchange, wrap_stainless
from receipt_label.usage.address import locate
from receipt_label.usage.reply import Skipped

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["wrap"]

_REMEMBERED: Final = 1024
_BATCH: Final = re.compile(r"/messages/batches/([^/?]+)(/results)?/?(\?|$)")


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose calls are recorded.

    Its streams tell their usage unasked: ``include_usage`` changes nothing.
    """
    return wrap_stainless(client, instrument, _Anthropic())


class _Anthropic(Dialect):
    """The results of a batch are its calls, each recorded as its line is read.

    Messages say no time. They get the end of their batch, which the SDK asks for before it fetches
    results, so that fetched again, also by another process, they count once.
    """

    def __init__(self) -> None:
        self._ended: dict[str, datetime] = {}

    def service(self, client: Any) -> str | None:
        """Return whose service a client is for, unless its address names another's."""
        name = type(client).__name__
        if "Bedrock" in name:
            return "aws"
        if "Vertex" in name:
            return "google"
        return None if locate(str(client.base_url)).service else "anthropic"

    def rewrites(self, client: Any) -> bool:
        """Return whether it is a cloud's: the model goes into the address."""
        return self.service(client) in ("aws", "google")

    def answered(self, exchange: Exchange, response: Any, metadata: dict[str, Any]) -> bool:
        """Note when a batch ended, and record its results."""
        batch = _BATCH.search(exchange.address) if exchange.fetches else None
        if batch is None:
            return False
        if batch[2]:
            tracker = exchange.instrument.tracker
            log = _ResultsLog(tracker, batch[1], self._ended.get(batch[1]))
            if response.is_closed:
                log.feed(response.content)
            else:
                watch_response(exchange, response, log=log)
        elif response.is_closed:
            self._note_end(body_of(response.content))
        return True

    def _note_end(self, batch: object) -> None:
        if isinstance(batch, Mapping) and isinstance(batch.get("ended_at"), str):
            self._ended[str(batch.get("id"))] = datetime.fromisoformat(batch["ended_at"])
            if len(self._ended) > _REMEMBERED:
                self._ended.pop(next(iter(tuple(self._ended))), None)


class _ResultsLog:
    """Records the lines of a batch's results in the context that asked for them."""

    content = False
    telling = True

    def __init__(self, tracker: AIUsageTracker, batch_id: str, ended: datetime | None) -> None:
        self._tracker = tracker
        self._ended = ended
        self._fields = {} if current().get("batch_id") else {"batch_id": batch_id}
        self._context = copy_context()
        self._tail: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Record the lines that this piece completes."""
        self._tail.append(data)
        if b"\n" in data:
            *lines, rest = b"".join(self._tail).split(b"\n")
            self._tail = [rest]
            for line in lines:
                self._record(line)
        return data

    def rest(self) -> bytes:
        """Record a last line without an end."""
        line, self._tail = b"".join(self._tail), []
        self._record(line)
        return b""

    def _record(self, line: bytes) -> None:
        if line.strip():
            self._context.run(
                record_line, self._tracker, line, timestamp=self._ended, **self._fields
            )

    def reply(self) -> object:
        """Tell that the request itself is no call."""
        return Skipped("not_usage", "batch results")
