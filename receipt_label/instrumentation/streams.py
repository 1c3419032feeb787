"""Streams: looked at as they pass, recorded once, whichever way they end.

Exhausted, closed, left, broken off, failed, cancelled, garbage-collected, or still open when the
interpreter exits: the first of these that is seen records the call, in the context it was made in.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Protocol

from receipt_label.instrumentation.calls import Call, Once, log_fault

__all__ = ["ChunkStream", "StreamRecord", "watch_async_iterator", "watch_iterator"]

_KEPT = 64
"""Of a stream's chunks the first so many and the last so many: ids at the start, usage at the end.

Bounds the memory of a stream that reports usage in every chunk; of snapshots the last counts.
"""


class Kept:
    """The first and the last of many things, in their order."""

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first: list[Any] = []
        self._last: deque[Any] = deque(maxlen=_KEPT)

    def add(self, thing: Any) -> None:
        """Keep it, and if need be let one from the middle go."""
        (self._first if len(self._first) < _KEPT else self._last).append(thing)

    def all(self) -> list[Any]:
        """Return what is kept."""
        return [*self._first, *self._last]


class Log(Protocol):
    """What has been seen of a stream."""

    @property
    def telling(self) -> bool:
        """Whether a stream of this kind says what the call used."""
        ...

    def reply(self) -> object:
        """Return what ``read_reply`` makes one reply of, or None for nothing."""
        ...


class StreamRecord:
    """The one record of a streamed call. Thread-safe, raises nothing.

    ``arrived`` is called at each event, so that the latency is that of the last, however long its
    consumer then takes.
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_finalizer",
        "_first_token",
        "_last",
        "_log",
        "_once",
        "metadata",
        "url",
    )

    def __init__(self, call: Call, log: Log, *, url: str | None = None) -> None:
        self._call = call
        self._log = log
        self._once = Once()
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._last: float | None = None
        self._first_token: float | None = None
        self.url = url
        self.metadata: dict[str, Any] = {}

    @property
    def over(self) -> bool:
        """Whether it is recorded."""
        return self._once.over

    @property
    def has_token(self) -> bool:
        """Whether the first token has been seen."""
        return self._first_token is not None

    def arrived(self) -> None:
        """Note the time of an event."""
        self._last = self._call.instrument.clock()

    def first_token(self) -> None:
        """Note that the event just arrived is the first with content of the model's."""
        self._first_token = self._last

    def end(self, *, exhausted: bool = False) -> None:
        """Record the call. Its events say whether it is complete; without any, ``exhausted``."""
        self._once.run(self._record, None, exhausted)

    def fail(self, error: BaseException) -> None:
        """Record a call that broke, with what the vendor had told until then."""
        self._once.run(self._record, type(error).__name__, False)

    def end_with(self, owner: object) -> None:
        """End when ``owner`` is garbage-collected, or at exit. ``owner`` is not held."""
        self._finalizer = weakref.finalize(owner, self.end)

    def _record(self, error: str | None, exhausted: bool) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()  # or it would keep all this as long as its owner
        metadata = dict(self.metadata)
        if self._first_token is not None:
            metadata["time_to_first_token_ms"] = self._call.elapsed_ms(self._first_token)
        seen = self._log.reply()
        unknown = seen is None and not (exhausted and not self._log.telling)
        self._call.reply(
            seen,
            url=self.url,
            latency_ms=self._call.elapsed_ms(self._last),
            status="partial" if unknown else None,
            error=error,
            metadata=metadata,
        )


class ChunkStream(StreamRecord):
    """The record of a stream of objects (an SDK's chunks): hand each to ``take``."""

    __slots__ = ("_chunks",)

    telling = True

    def __init__(self, call: Call, *, url: str | None = None) -> None:
        self._chunks = Kept()
        super().__init__(call, self, url=url)

    def take(self, chunk: object) -> None:
        """Note a chunk; it is neither changed nor copied."""
        try:
            self.arrived()
            if not self.has_token:
                self.first_token()
            self._chunks.add(chunk)
        except Exception as fault:
            log_fault(fault)

    def reply(self) -> object:
        """Return the chunks, as ``read_reply`` takes them."""
        return self._chunks.all() or None


def watch_iterator(record: ChunkStream, chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield the chunks; record the call once they end, break, or are no longer wanted."""

    def watched() -> Iterator[Any]:
        try:
            for chunk in chunks:
                record.take(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            record.end()
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    iterator = watched()
    record.end_with(iterator)  # one that is never started runs no finally
    return iterator


def watch_async_iterator(record: ChunkStream, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the chunks; record the call once they end, break, or are no longer wanted."""
    iterator = _AsyncChunks(record, chunks)
    record.end_with(iterator)
    return iterator


class _AsyncChunks(AsyncGenerator[Any, None]):
    """No generator of its own: a loop that ends closes those left open all at once, and one more
    around another would be found running by it.
    """

    def __init__(self, record: ChunkStream, chunks: AsyncIterator[Any]) -> None:
        self._record = record
        self._chunks = chunks

    async def asend(self, value: Any) -> Any:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._record.end()
            raise
        except BaseException as error:
            self._record.fail(error)
            raise
        self._record.take(chunk)
        return chunk

    async def athrow(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        error = kind if value is None else value
        self._record.fail(error() if isinstance(error, type) else error)
        throw = getattr(self._chunks, "athrow", None)
        if throw is None:
            raise error
        return await throw(error)

    async def aclose(self) -> None:
        self._record.end()
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()
