"""HTTP responses that are not read yet: their bytes are looked at as their owner reads them.

The response stays the object that it is (of httpx or httpx2). Until the call is recorded its class
is a subclass of its own, in which ``iter_bytes`` and ``close`` (``aiter_bytes``, ``aclose``) look:
everything that reads a response goes through these. Then it is of its own class again.

Methods put on the instance would do as well but for one thing: they hold it in a cycle, or hold it
weakly and find it gone while the collector still closes it. A dropped stream must close at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import closing
from functools import lru_cache
from typing import Any

from receipt_label.instrumentation.calls import Call, log_fault
from receipt_label.instrumentation.event_log import Log, log_for
from receipt_label.instrumentation.streams import StreamRecord

__all__ = ["watch_response"]

_WATCH = "_receipt_usage_watch"


def watch_response(
    call: Call, response: Any, *, hide_usage: bool = False, log: Log | None = None
) -> StreamRecord:
    """Record the call once the owner of this unread response is done with it.

    Read to its end, closed, left, failed, cancelled, or garbage-collected: see ``StreamRecord``.
    """
    log = log or log_for(response.headers.get("content-type", ""), hide_usage=hide_usage)
    record = StreamRecord(call, log, url=str(response.url))
    base: Any = type(response)
    response.__dict__[_WATCH] = _Watch(record, log, base)
    watched = _async_class if hasattr(response.stream, "__aiter__") else _sync_class
    response.__class__ = watched(base)
    record.end_with(response)
    return record


class _Watch:
    """What is known of one response. Raises nothing, and does not hold the response."""

    __slots__ = ("_base", "_log", "_reading", "_record")

    def __init__(self, record: StreamRecord, log: Log, base: type) -> None:
        self._record = record
        self._log = log
        self._base = base
        self._reading = False  # what a response closes while it reads, it closes from within

    def piece(self, response: Any, data: bytes | None) -> bytes:
        """Look at a piece of the body, None for its end; return what the owner gets."""
        try:
            if data is None:
                data = self._log.rest()
                self._record.end(exhausted=True)
                self._release(response)
                return data
            if self._record.over:
                return data
            self._record.arrived()
            shown = self._log.feed(data)
            if self._log.content and not self._record.has_token:
                self._record.first_token()
        except Exception as fault:
            log_fault(fault)
            return data or b""
        return shown

    def pull(self, response: Any, source: Iterator[bytes]) -> bytes | None:
        """Return the next piece, None at the end."""
        self._reading = True
        try:
            return next(source, None)
        except BaseException as error:
            self._broken(response, error)
            raise
        finally:
            self._reading = False

    async def pull_async(self, response: Any, source: AsyncIterator[bytes]) -> bytes | None:
        """Return the next piece, None at the end."""
        self._reading = True
        try:
            return await anext(source, None)
        except BaseException as error:
            self._broken(response, error)
            raise
        finally:
            self._reading = False

    def _broken(self, response: Any, error: BaseException) -> None:
        """Record a body that could not be read to its end."""
        self._record.fail(error)
        self._release(response)

    def closed(self, response: Any) -> None:
        """Record what was read until now, unless there may still be decoded bytes to hand over."""
        if not self._reading:
            self._record.end()
            self._release(response)

    def _release(self, response: Any) -> None:
        """Give the response its own class back: it may be pickled, or read again."""
        if response.__dict__.pop(_WATCH, None) is not None:
            response.__class__ = self._base


@lru_cache(maxsize=64)
def _sync_class(base: Any) -> type:
    """Return a subclass of a response's class that looks.

    It calls ``base`` by name: another thread may give the response its class back at any time.
    """

    def iter_bytes(self: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        watch: _Watch | None = self.__dict__.get(_WATCH)
        source: Iterator[bytes] = base.iter_bytes(self, *args, **kwargs)
        return source if watch is None else _pieces(self, watch, source)

    def close(self: Any) -> None:
        watch: _Watch | None = self.__dict__.get(_WATCH)
        try:
            base.close(self)
        finally:
            if watch is not None:
                watch.closed(self)

    return _subclass(base, iter_bytes=iter_bytes, close=close)


@lru_cache(maxsize=64)
def _async_class(base: Any) -> type:
    """Return a subclass of an asynchronous response's class that looks."""

    def aiter_bytes(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        watch: _Watch | None = self.__dict__.get(_WATCH)
        source: AsyncGenerator[bytes, None] = base.aiter_bytes(self, *args, **kwargs)
        return source if watch is None else _AsyncPieces(self, watch, source)

    async def aclose(self: Any) -> None:
        watch: _Watch | None = self.__dict__.get(_WATCH)
        try:
            await base.aclose(self)
        finally:
            if watch is not None:
                watch.closed(self)

    return _subclass(base, aiter_bytes=aiter_bytes, aclose=aclose)


def _pieces(response: Any, watch: _Watch, source: Any) -> Iterator[bytes]:
    with closing(source):
        data: bytes | None = b""
        while data is not None:
            data = watch.pull(response, source)
            if shown := watch.piece(response, data):
                yield shown


class _AsyncPieces(AsyncGenerator[bytes, None]):
    """What an asynchronous response yields, looked at.

    No generator of its own: a loop that ends closes those left open all at once, and one more
    around the response's would be found running by it.
    """

    def __init__(self, response: Any, watch: _Watch, source: AsyncGenerator[bytes, None]) -> None:
        self._response = response
        self._watch = watch
        self._source = source
        self._over = False

    async def asend(self, value: None) -> bytes:
        while not self._over:
            data = await self._watch.pull_async(self._response, self._source)
            self._over = data is None
            if shown := self._watch.piece(self._response, data):
                return shown
        raise StopAsyncIteration

    async def athrow(self, kind: Any, value: Any = None, trace: Any = None) -> bytes:
        self._over = True
        return await self._source.athrow(kind if value is None else value)

    async def aclose(self) -> None:
        self._over = True
        await self._source.aclose()


def _subclass(base: Any, **methods: Any) -> type:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (base,), {**methods, **names})
