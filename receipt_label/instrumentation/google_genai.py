"""Google's SDK google-genai: ``genai.Client`` and its ``aio``, for the Gemini API and Vertex AI.

Every method ends in four methods of one object, the API client, and each call of these is one
request that Google bills: function calls that the SDK answers by itself are requests of their own,
and what it retries is one. Interactions go past it, through the same HTTP client.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, NamedTuple

import msgspec

from receipt_label.instrumentation.calls import Call, Instrument, log_fault, observe, status_of
from receipt_label.instrumentation.http_streams import watch_response
from receipt_label.instrumentation.streams import (
    ChunkStream,
    watch_async_iterator,
    watch_iterator,
)
from receipt_label.instrumentation.twins import Twin, bare_class, state_of, twin_of
from receipt_label.usage.address import locate

__all__ = ["wrap"]

_REQUESTS = ("request", "request_streamed", "async_request", "async_request_streamed")
_STREAMED = "generate_content_stream"
_GENERATED = "google.genai._gaos"


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose calls are recorded.

    Its streams tell their usage unasked: ``include_usage`` changes nothing. Raises TypeError for
    what is no client, or one of a version that is built differently.
    """
    api = getattr(client, "_api_client", None)
    if not all(callable(getattr(api, name, None)) for name in _REQUESTS):
        kind = type(client)
        raise TypeError(
            f"cannot wrap {kind.__module__}.{kind.__qualname__}: it is not the client itself, or "
            f"of a version of the SDK that is not supported. docs/wrapping.md has the versions"
        )
    return _rewired(client, api, twin_of(api, _Api, _State(instrument)))


def _rewired(owner: Any, api: Any, watched: Any) -> Any:
    """Return a copy of the client, or of a part of it, whose parts request through ``watched``."""
    kind = bare_class(type(owner))
    if hasattr(kind, "aio") or kind.__name__ == "AsyncClient":
        own = twin_of(owner, _Client, watched)
        own.__dict__ = dict(owner.__dict__)
    else:
        own = copy.copy(owner)
    for name, part in list(vars(own).items()):
        if part is api:
            own.__dict__[name] = watched
        elif type(part).__module__.startswith(_GENERATED):
            own.__dict__[name] = None  # made anew, with the watched connections, when it is used
        elif getattr(part, "__dict__", {}).get("_api_client") is api:
            own.__dict__[name] = _rewired(part, api, watched)
    if callable(getattr(kind, _STREAMED, None)):
        own.__dict__[_STREAMED] = _in_its_context(own)
    return own


def _in_its_context(models: Any) -> Any:
    """Return ``generate_content_stream`` for calls that belong to where they are made.

    The SDK sends the request when the stream is first read, which may be anywhere.
    """
    method = getattr(bare_class(type(models)), _STREAMED)

    def here() -> Any:
        own = copy.copy(models)
        del own.__dict__[_STREAMED]
        state = state_of(models._api_client)  # noqa: SLF001 - the SDK's own name for it
        own._api_client = twin_of(  # noqa: SLF001
            models._api_client,  # noqa: SLF001
            _Api,
            state._replace(context=copy_context()),
        )
        return own

    if "Async" in type(models).__name__:

        @functools.wraps(method)
        async def streamed(*args: Any, **kwargs: Any) -> Any:
            return await method(here(), *args, **kwargs)

    else:

        @functools.wraps(method)
        def streamed(*args: Any, **kwargs: Any) -> Any:
            return method(here(), *args, **kwargs)

    return streamed


class _State(NamedTuple):
    """What the twin of an API client knows; ``context`` is the one that its streams belong to."""

    instrument: Instrument
    context: Context | None = None

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any], api: Any) -> Call | None:
        """Start a call, if this request is one that Google bills by what it used."""
        path = kwargs["path"] if "path" in kwargs else args[1]
        url = f"{_base_url(api)}/{path}"
        where = locate(url)
        if where.operation is None:
            return None
        operation = None
        if where.operation == "image_generation":  # :predict, of images and of older embeddings
            operation = "embeddings" if "embedding" in (where.model or "") else where.operation
        return self.instrument.begin(
            url=url, service="google", operation=operation, request_model=where.model
        )

    def stream(self, call: Call) -> _BodyStream:
        """Return the record of a stream, in the context that it was asked for in."""
        if self.context is None:
            return _BodyStream(call)
        return self.context.copy().run(_BodyStream, call)


def _base_url(api: Any) -> str:
    options = api._http_options  # noqa: SLF001 - a dict in 1.0, an object since
    base = options.get("base_url") if isinstance(options, dict) else options.base_url
    return str(base or "").rstrip("/")


def _said(answer: Any) -> Any:
    """Return what one answer said: an object, in early versions the answer itself, or None."""
    body = getattr(answer, "body", answer)
    if not isinstance(body, str):
        return body or None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:  # nothing, or no JSON: the SDK will say so
        return None


class _BodyStream(ChunkStream):
    """The record of a stream of answers, each with the JSON of a chunk."""

    __slots__ = ()

    def take(self, chunk: Any) -> None:
        """Note a chunk. Early versions hand out dicts, and take what they know out of them."""
        super().take({**chunk} if isinstance(chunk, dict) else chunk)

    def fail(self, error: BaseException) -> None:
        """Record a call that broke, with the HTTP status of a refusal."""
        status = status_of(error)
        if status is not None:
            self.metadata["http_status"] = status
        super().fail(error)

    def reply(self) -> object:
        """Return the chunks, read only now."""
        said = [_said(chunk) for chunk in self._chunks.all()]
        return [body for body in said if body is not None] or None


class _Api(Twin):
    """The API client's four methods, looked at."""

    __slots__ = ()

    def request(self, *args: Any, **kwargs: Any) -> Any:
        state: _State = state_of(self)
        return observe(
            super().request,  # type: ignore[misc]  # of the SDK's class, beneath this one
            lambda args, kwargs: state.begin(args, kwargs, self),
            _answered,
        )(*args, **kwargs)

    async def async_request(self, *args: Any, **kwargs: Any) -> Any:
        state: _State = state_of(self)
        return await observe(
            super().async_request,  # type: ignore[misc]
            lambda args, kwargs: state.begin(args, kwargs, self),
            _answered,
        )(*args, **kwargs)

    def request_streamed(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        state: _State = state_of(self)
        chunks: Iterator[Any] = super().request_streamed(*args, **kwargs)  # type: ignore[misc]
        try:
            call = state.begin(args, kwargs, self)
            if call is None:
                return chunks
            return watch_iterator(state.stream(call), chunks)
        except Exception as fault:
            log_fault(fault)
            return chunks

    async def async_request_streamed(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        state: _State = state_of(self)

        def finish(call: Call, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
            return watch_async_iterator(state.stream(call), chunks)

        streamed: AsyncIterator[Any] = await observe(
            super().async_request_streamed,  # type: ignore[misc]
            lambda args, kwargs: state.begin(args, kwargs, self),
            finish,
        )(*args, **kwargs)
        return streamed

    @property
    def _httpx_client(self) -> Any:
        return _watched_http(self, "_httpx_client", _Http)

    @_httpx_client.setter
    def _httpx_client(self, client: Any) -> None:
        self.__dict__["_httpx_client"] = client

    @property
    def _async_httpx_client(self) -> Any:
        return _watched_http(self, "_async_httpx_client", _AsyncHttp)

    @_async_httpx_client.setter
    def _async_httpx_client(self, client: Any) -> None:
        self.__dict__["_async_httpx_client"] = client


class _Client(Twin):
    """The client itself, or its ``aio``: what goes past the API client is looked at too.

    Twin of a client that closes its connections when it is collected, which they share.
    """

    __slots__ = ()

    @property
    def interactions(self) -> Any:
        """The resource of the SDK's, whose failures are recorded."""
        resource = super().interactions  # type: ignore[misc]  # of the SDK's class
        own = vars(resource)
        if "create" not in own:
            instrument: Instrument = state_of(state_of(self)).instrument
            bare = type(resource).create.__get__(resource)
            own.setdefault("create", _failing(bare, instrument))  # atomic: of two threads one does
        return resource


class _Attempt:
    """What a call of ``create`` has sent last, and whether that was answered."""

    __slots__ = ("_call", "answered", "model", "sent")

    def __init__(self, instrument: Instrument) -> None:
        self._call = instrument.begin(service="google", operation="generate_content")
        self.model: str | None = None
        self.sent = False
        self.answered = False

    def send(self, body: Mapping[str, Any]) -> None:
        """Note that a request goes out: the first, another try, or one that continues."""
        model = body.get("model") or body.get("agent")
        self.model = model if isinstance(model, str) else None
        self.sent, self.answered = True, False

    def fail(self, error: BaseException) -> None:
        """Record the failure, unless nothing was sent, or its answer is recorded already."""
        if self.sent and not self.answered:
            self._call.request_model = self.model
            self._call.fail(error, http_status=status_of(error))


_attempt: ContextVar[_Attempt | None] = ContextVar("receipt_usage_interaction", default=None)


@contextmanager
def _attempted(instrument: Instrument) -> Iterator[None]:
    """Record the failure of what is done within, a call of ``create``."""
    attempt, before = _Attempt(instrument), _attempt.get()
    _attempt.set(attempt)
    try:
        yield
    except BaseException as error:
        attempt.fail(error)
        raise
    finally:
        _attempt.set(before)  # no token: a coroutine may be closed in another context


def _failing(create: Callable[..., Any], instrument: Instrument) -> Callable[..., Any]:
    """Return ``create`` as it is, with its failures recorded: once, however often it tried."""
    if inspect.iscoroutinefunction(create):

        @functools.wraps(create)
        async def created(*args: Any, **kwargs: Any) -> Any:
            with _attempted(instrument):
                return await create(*args, **kwargs)

        return created

    @functools.wraps(create)
    def created_sync(*args: Any, **kwargs: Any) -> Any:
        with _attempted(instrument):
            return create(*args, **kwargs)

    return created_sync


def _answered(call: Call, answer: Any) -> Any:
    call.reply(_said(answer))
    return answer


def _watched_http(api: Any, name: str, methods: type[Twin]) -> Any:
    """Return the HTTP client whose interactions are recorded, or None where there is none."""
    try:
        client = api.__dict__[name]
    except KeyError:
        raise AttributeError(name) from None
    if client is None or not hasattr(client, "__dict__"):
        return client
    return twin_of(client, methods, state_of(api).instrument)


def _begin_interaction(http: Any, request: Any) -> Call | None:
    instrument: Instrument = state_of(http)
    url = str(request.url)
    if request.method != "POST" or not request.url.path.endswith("/interactions"):
        return None
    body = msgspec.json.decode(request.content)
    attempt = _attempt.get()
    if attempt is not None:
        attempt.send(body)
    model = body.get("model")
    asked = model if isinstance(model, str) else None
    return _Interaction(instrument, url, "google", None, asked, instrument.clock())


class _Interaction(Call):
    """A request for an interaction. Whether it failed is for ``create`` to say: it tries again."""

    def fail(
        self,
        error: BaseException,
        *,
        http_status: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record nothing."""


def _received(call: Call, response: Any) -> Any:
    """Record an answer. A refusal is not one yet: the SDK may try again."""
    if not response.is_error:
        if response.is_closed:
            call.reply(response.content)
        else:
            watch_response(call, response)
        attempt = _attempt.get()
        if attempt is not None:
            attempt.answered = True
    return response


class _Http(Twin):
    """An HTTP client of httpx whose interactions are recorded."""

    __slots__ = ()

    def send(self, request: Any, **kwargs: Any) -> Any:
        return observe(
            super().send,  # type: ignore[misc]
            lambda args, kwargs: _begin_interaction(self, args[0]),
            _received,
        )(request, **kwargs)


class _AsyncHttp(Twin):
    """An asynchronous HTTP client of httpx whose interactions are recorded."""

    __slots__ = ()

    async def send(self, request: Any, **kwargs: Any) -> Any:
        return await observe(
            super().send,  # type: ignore[misc]
            lambda args, kwargs: _begin_interaction(self, args[0]),
            _received,
        )(request, **kwargs)
