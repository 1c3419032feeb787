"""From what a caller holds to plain data: SDK objects, dicts, JSON, event streams.

Nothing here consumes: an iterator, a stream or an unread HTTP response is refused, never read.
Nothing here changes what it was given.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from receipt_label.usage.figures import Json

_SSE: Final = re.compile(r"(?:data|event|id|retry)?:")
# Not str.splitlines: U+2028 and its like are legal inside a JSON string.
_LINE_END: Final = re.compile(r"\r\n|\n|\r")

_BLANK: Final = "\ufeff \t\r\n"

_NO_REPLY: Final = (
    "not a reply of an AI service: {what}. Pass the SDK's object, a dict, or the text of the JSON "
    "or of the event stream."
)
_UNREAD: Final = (
    "{what} has not been read, and reading it here would take it from its owner. Pass the reply "
    "itself, or the list of the stream's chunks."
)


class Plain(NamedTuple):
    """The reply as plain data: one object, or the chunks of a stream in their order.

    ``stream``: it came as the text of an event stream, so even one chunk alone is a stream's.
    """

    data: Json | list[Json]
    module: str = ""
    stream: bool = False
    url: str | None = None
    http_status: int | None = None


def plain(response: object) -> Plain:
    """Return the reply as plain data. Raises ValueError where it is no reply at all."""
    if type(response) is dict:
        if "ResponseMetadata" in response:
            _refuse_unread(response)
        return Plain(response)
    if isinstance(response, (str, bytes, bytearray, memoryview)):
        text = response if isinstance(response, str) else _decode(bytes(response))
        return Plain(_from_text(text), stream=_is_stream(text))
    if isinstance(response, Mapping):
        return Plain(response)
    if isinstance(response, (list, tuple)):
        module = next((_module(item) for item in response if not isinstance(item, Mapping)), "")
        return Plain(_chunks(response), module)
    if response is None or isinstance(response, (bool, int, float, Decimal)):
        raise ValueError(_NO_REPLY.format(what=f"it is {_kind(response)}"))
    raw = _attribute(response, "http_response") or response
    if _attribute(raw, "status_code") is not None and _attribute(raw, "headers") is not None:
        return _from_http(raw, type(response).__name__)
    return Plain(_from_object(response), _module(response))


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _module(value: object) -> str:
    return type(value).__module__ or ""


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name, None)
    except Exception:  # a property of somebody else's object may raise anything
        return None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(_NO_REPLY.format(what="the bytes are not UTF-8")) from None


def _is_stream(text: str) -> bool:
    return _SSE.match(text.lstrip(_BLANK)) is not None


def _refuse_unread(response: Json) -> None:
    """Refuse what boto3 returns for a stream: its events are the caller's to take."""
    for key in ("stream", "body"):
        value = response.get(key)
        plain_value = value is None or isinstance(value, (str, bytes, list, Mapping))
        if not plain_value and hasattr(value, "__iter__") and not hasattr(value, "read"):
            raise ValueError(_UNREAD.format(what=f"the {type(value).__name__}"))


def _from_text(text: str) -> Json | list[Json]:
    text = text.lstrip(_BLANK)
    if _SSE.match(text):
        return _from_event_stream(text)
    try:
        data = _loads(text)
    except ValueError:
        lines = _from_lines(text)
        if not lines:
            what = "the text is empty" if not text else "the text is neither JSON nor a stream"
            raise ValueError(_NO_REPLY.format(what=what)) from None
        return lines
    if isinstance(data, Mapping):
        return data
    if isinstance(data, list):
        return _chunks(data)
    raise ValueError(_NO_REPLY.format(what="the JSON is no object"))


def _loads(text: str) -> object:
    try:
        return json.loads(text, parse_float=Decimal)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _from_lines(text: str) -> list[Json]:
    """JSON lines, as Ollama streams them; a last line that was cut off is left out."""
    lines = [line for line in _LINE_END.split(text) if line.strip()]
    chunks: list[Json] = []
    for number, line in enumerate(lines, 1):
        try:
            chunk = _loads(line)
        except ValueError:
            return chunks if number == len(lines) else []
        if not isinstance(chunk, Mapping):
            return []
        chunks.append(chunk)
    return chunks


def _from_event_stream(text: str) -> list[Json]:
    """The JSON objects of a server-sent event stream; what is cut off or no JSON is left out."""
    chunks: list[Json] = []
    data: list[str] = []
    for line in [*_LINE_END.split(text), ""]:
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            _add_event(data, chunks)
            data = []
    return chunks


def _add_event(data: list[str], chunks: list[Json]) -> None:
    for text in ["\n".join(data)] if len(data) == 1 else ["\n".join(data), *data]:
        if text == "[DONE]":
            chunks.append({"[DONE]": True})
            continue
        try:
            chunk = _loads(text)
        except ValueError:
            continue
        if isinstance(chunk, Mapping):
            chunks.append(chunk)
            if len(data) > 1 and "\n" in text:
                return


def _chunks(listed: list[object] | tuple[object, ...]) -> list[Json]:
    chunks = [item if isinstance(item, Mapping) else _from_object(item) for item in listed]
    if not chunks:
        raise ValueError(_NO_REPLY.format(what="the list is empty"))
    return chunks


def _from_http(raw: object, name: str) -> Plain:
    """Read an HTTP response that its owner has read already (httpx, requests)."""
    if _attribute(raw, "is_stream_consumed") is not True and not _attribute(raw, "_content"):
        raise ValueError(_UNREAD.format(what=f"the {name}"))
    content = _attribute(raw, "content")
    if not isinstance(content, bytes):
        raise ValueError(_UNREAD.format(what=f"the {name}"))
    status = _attribute(raw, "status_code")
    text = _decode(content)
    return Plain(
        _from_text(text),
        stream=_is_stream(text),
        url=str(_attribute(raw, "url") or "") or None,
        http_status=status if isinstance(status, int) else None,
    )


def _from_object(value: object) -> Json:
    if isinstance(value, type) or not _convertible(value):
        if hasattr(value, "__next__") or hasattr(value, "__anext__") or hasattr(value, "__aiter__"):
            raise ValueError(_UNREAD.format(what=f"the stream ({type(value).__name__})"))
        raise ValueError(_NO_REPLY.format(what=f"it is {_kind(value)}"))
    for convert in _CONVERSIONS:
        try:
            data = convert(value)
        except Exception:  # noqa: S112 - each way is tried, the object is somebody else's
            continue
        if isinstance(data, Mapping):
            return data
    raise ValueError(_NO_REPLY.format(what=f"the {type(value).__name__} cannot be read"))


def _convertible(value: object) -> bool:
    if dataclasses.is_dataclass(value):
        return True
    cls = type(value)
    if cls.__module__ == "types" and hasattr(value, "__dict__"):  # SimpleNamespace
        return True
    return any(callable(getattr(cls, name, None)) for name in ("model_dump", "to_dict", "dict"))


def _method(value: object, name: str) -> Callable[..., object]:
    method: Callable[..., object] = getattr(value, name)
    return method


def _by_pydantic(value: object) -> object:
    # google-genai's models answer in snake case unless asked for the API's own names.
    by_alias = _module(value).startswith("google.")
    return _method(value, "model_dump")(mode="json", warnings=False, by_alias=by_alias)


def _by_pydantic_python(value: object) -> object:
    return _method(value, "model_dump")(warnings=False)


def _by_to_dict(value: object) -> object:
    return _method(value, "to_dict")()


def _by_class_to_dict(value: object) -> object:
    return _method(type(value), "to_dict")(value)  # proto-plus (Vertex AI)


def _by_dict(value: object) -> object:
    return _method(value, "dict")()


def _by_dataclass(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return None


def _by_attributes(value: object) -> object:
    def deep(item: object) -> object:
        if type(item).__module__ == "types" and hasattr(item, "__dict__"):
            return {key: deep(inside) for key, inside in vars(item).items()}
        return [deep(inside) for inside in item] if isinstance(item, list) else item

    return deep(value)


_CONVERSIONS: Final = (
    _by_pydantic,
    _by_pydantic_python,
    _by_to_dict,
    _by_class_to_dict,
    _by_dict,
    _by_dataclass,
    _by_attributes,
)
