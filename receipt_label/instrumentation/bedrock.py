"""Bedrock through boto3: the client of ``bedrock-runtime``.

Each of its methods ends in ``_make_api_call``, whose every call is one that AWS bills, retries
included. What it returns stays what it is: a stream of events is still an EventStream, a body is
still unread, and the caller reads the same bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec

from receipt_label.instrumentation.calls import Call, Instrument, log_fault, observe
from receipt_label.instrumentation.streams import ChunkStream, StreamRecord
from receipt_label.instrumentation.twins import Twin, state_of, twin_of

__all__ = ["wrap"]

_ACTIONS = {
    "Converse": "converse",
    "ConverseStream": "converse-stream",
    "InvokeModel": "invoke",
    "InvokeModelWithResponseStream": "invoke-with-response-stream",
}
"""The operations that report what they used -> the last part of their address."""

_REFUSED_HERE = ("ParamValidationError", "NoCredentialsError", "PartialCredentialsError")
_WATCH = "_receipt_usage_watch"
_MAX_BODY = 16 << 20
"""Bytes of a body that are kept to be read: embeddings of a full request take a few millions."""


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose calls are recorded.

    Its streams tell their usage unasked: ``include_usage`` changes nothing. Raises TypeError for
    the client of another service, and for one of aiobotocore.
    """
    service = client.meta.service_model.service_name
    if service != "bedrock-runtime" or inspect.iscoroutinefunction(client._make_api_call):  # noqa: SLF001 - see the module
        raise TypeError(
            f"cannot wrap {type(client).__module__}.{type(client).__qualname__} ({service}): pass "
            'boto3.client("bedrock-runtime")'
        )
    return twin_of(client, _BedrockRuntime, instrument)


class _BedrockRuntime(Twin):
    """The client's one method for every operation, looked at."""

    __slots__ = ()

    def _make_api_call(self, operation_name: str, api_params: Any) -> Any:
        call_of: Any = super()._make_api_call  # type: ignore[misc]  # of botocore's class
        if operation_name not in _ACTIONS:
            return call_of(operation_name, api_params)
        return observe(
            call_of,
            lambda args, kwargs: _begin(state_of(self), self, operation_name, api_params),
            lambda call, result: _answered(call, operation_name, result),
        )(operation_name, api_params)


def _begin(instrument: Instrument, client: Any, operation_name: str, params: Any) -> Call:
    model = model_of(params.get("modelId")) if isinstance(params, Mapping) else None
    region = client.meta.region_name or "us-east-1"
    url = (
        f"https://bedrock-runtime.{region}.amazonaws.com/model/{quote(model or '', safe='')}/"
        f"{_ACTIONS[operation_name]}"
    )
    return _BedrockCall(instrument, url, "aws", None, model, instrument.clock())


class _BedrockCall(Call):
    """A call whose failure says more than its type."""

    def fail(
        self,
        error: BaseException,
        *,
        http_status: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record that it failed, with the status and the attempts that botocore's error knows.

        What botocore refuses before it asks anybody is no call.
        """
        if type(error).__name__ in _REFUSED_HERE:
            return
        response = getattr(error, "response", None)
        said = response.get("ResponseMetadata") if isinstance(response, dict) else None
        if isinstance(said, dict):
            http_status = said.get("HTTPStatusCode", http_status)
            metadata = {**attempts_of(said), **(metadata or {})}
        super().fail(error, http_status=http_status, metadata=metadata)


def model_of(model_id: object) -> str | None:
    """Return the model's own name: of the ARN of a model or of an inference profile, its end.

    The ARN of anything else (a provisioned throughput, a profile or an import of one's own) names
    no model, and stays: an alias in the price file says what it stands for.
    """
    if not isinstance(model_id, str):
        return None
    if model_id.startswith("arn:"):
        kind, _, name = model_id.split(":", 5)[-1].partition("/")
        if kind in ("foundation-model", "inference-profile"):
            return name
    return model_id


def _answered(call: Call, operation_name: str, result: Any) -> Any:
    response = result.get("ResponseMetadata") or {}
    metadata = attempts_of(response)
    if operation_name == "Converse":
        call.reply(result, metadata=metadata)
        return result
    stream = result.get("stream" if operation_name == "ConverseStream" else "body")
    if operation_name == "InvokeModel":
        _watch(stream, _body_class, _BodyRecord(call, _Body(response)), metadata)
    else:
        _watch(stream, _stream_class, _EventRecord(call, response), metadata)
    return result


def attempts_of(response: Mapping[str, Any]) -> dict[str, Any]:
    """Note how often boto3 tried, where it was more than once."""
    retries = response.get("RetryAttempts")
    return {"attempts": retries + 1} if type(retries) is int and retries > 0 else {}


def _watch(stream: Any, class_of: Any, record: StreamRecord, metadata: dict[str, Any]) -> None:
    """Look at what is read from ``stream`` from now on; its class becomes a subclass of its own."""
    record.metadata.update(metadata)
    stream.__dict__[_WATCH] = record
    stream.__class__ = class_of(type(stream))
    record.end_with(stream)


class _EventRecord(ChunkStream):
    """The record of a stream of events, with what the headers of its answer say."""

    __slots__ = ("_response",)

    def __init__(self, call: Call, response: Mapping[str, Any]) -> None:
        super().__init__(call)
        self._response = response

    def reply(self) -> object:
        """Return the events, after the answer that they came in."""
        events = self._chunks.all()
        return [{"ResponseMetadata": self._response}, *events] if events else None


@lru_cache(maxsize=4)
def _stream_class(base: Any) -> type:
    """Return a subclass of EventStream that looks at each event."""

    def events(self: Any) -> Iterator[Any]:
        record: _EventRecord = self.__dict__[_WATCH]
        try:
            for event in base.__iter__(self):
                record.take(event)
                yield event
        except GeneratorExit:  # its owner may read on: closing or dropping it is the end
            raise
        except BaseException as error:
            record.fail(error)
            raise
        record.end(exhausted=True)

    def close(self: Any) -> None:
        try:
            base.close(self)
        finally:
            self.__dict__[_WATCH].end()

    return _subclass(base, __iter__=events, close=close)


class _Body:
    """What has been read of a body, and the headers that came before it."""

    __slots__ = ("_pieces", "_response", "_size")

    telling = True

    def __init__(self, response: Mapping[str, Any]) -> None:
        self._response = response
        self._pieces: list[bytes] | None = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Note a piece. A body too long to be kept is known by its headers alone."""
        self._size += len(data)
        if self._pieces is not None:
            self._pieces.append(data)
            if self._size > _MAX_BODY:
                self._pieces = None

    def reply(self) -> object:
        """Return the body with the headers in it, which count where it says nothing itself."""
        said: dict[str, Any] = {}
        with suppress(ValueError, msgspec.DecodeError):  # cut off, or no JSON
            read = msgspec.json.decode(b"".join(self._pieces or ()))
            said = read if isinstance(read, dict) else {}
        return {"body": None, **said, "ResponseMetadata": self._response}


class _BodyRecord(StreamRecord):
    """The record of a body that is read by its owner."""

    __slots__ = ("body",)

    def __init__(self, call: Call, body: _Body) -> None:
        super().__init__(call, body)
        self.body = body
        self.arrived()

    def piece(self, data: bytes, *, last: bool) -> None:
        """Look at a piece. Raises nothing."""
        try:
            if not self.over:
                self.body.feed(data)
                self.arrived()
                if last:
                    self.end()
        except Exception as fault:
            log_fault(fault)


@lru_cache(maxsize=4)
def _body_class(base: Any) -> type:
    """Return a subclass of StreamingBody that looks at what is read."""

    def read(self: Any, amt: int | None = None) -> Any:
        record: _BodyRecord = self.__dict__[_WATCH]
        try:
            data = base.read(self, amt)
        except BaseException as error:
            record.fail(error)
            raise
        record.piece(data, last=amt is None or amt < 0 or (not data and amt > 0))
        return data

    def readinto(self: Any, buffer: Any) -> Any:
        record: _BodyRecord = self.__dict__[_WATCH]
        try:
            size = base.readinto(self, buffer)
        except BaseException as error:
            record.fail(error)
            raise
        record.piece(bytes(memoryview(buffer)[:size]), last=not size and len(buffer) > 0)
        return size

    def readlines(self: Any, *args: Any) -> Any:
        lines = base.readlines(self, *args)
        self.__dict__[_WATCH].piece(b"".join(lines), last=True)
        return lines

    def close(self: Any) -> None:
        try:
            base.close(self)
        finally:
            self.__dict__[_WATCH].end()

    methods = {"read": read, "close": close, "readinto": readinto, "readlines": readlines}
    return _subclass(base, **{name: it for name, it in methods.items() if hasattr(base, name)})


def _subclass(base: Any, **methods: Any) -> type:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    return type(base.__name__, (base,), {**methods, **names})
