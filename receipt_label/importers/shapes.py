"""What a line of a file says about a call: the reply itself, or an envelope around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from receipt_label.usage.epoch import moment_of

__all__ = ["Entry", "entry_of"]

_EVENT_STREAM = ("data:", "event:", "id:", "retry:", ": ")


@dataclass(frozen=True, slots=True)
class Entry:
    """One reply, as ``read_reply`` takes it, and what the line knows about its call."""

    response: object
    url: str | None = None
    http_status: int | None = None
    request_model: str | None = None
    timestamp: datetime | None = None


def entry_of(value: object) -> Entry:
    """Return the reply that a line holds. Raises ValueError for a line that holds none.

    An envelope is an object with ``url`` and with ``body`` (JSON) or ``stream`` (the text of an
    event stream), perhaps with ``status``, ``request_model`` and ``timestamp`` (ISO 8601, without
    an offset UTC; or seconds or milliseconds since 1970). Anything else is the reply itself.
    """
    if isinstance(value, list):
        return Entry(value)
    if not isinstance(value, Mapping):
        if isinstance(value, str) and value.lstrip().startswith(_EVENT_STREAM):
            return Entry(value)
        raise ValueError(f"{_kind(value)}, not a reply: a line holds one JSON object")
    if "custom_id" in value and "method" in value and "body" in value:
        raise ValueError("a request of a batch, not its result: import the batch's output file")
    url = value.get("url")
    if isinstance(url, str) and ("body" in value or "stream" in value or "status" in value):
        return _envelope(value, url)
    return Entry(value, timestamp=_own_time(value.get("timestamp")))


def _envelope(value: Mapping[str, object], url: str) -> Entry:
    status, model = value.get("status"), value.get("request_model")
    response = value.get("body")
    if response is None:
        response = value.get("stream")
    return Entry(
        {} if response is None else response,
        url=url,
        http_status=status if type(status) is int else None,
        request_model=model if isinstance(model, str) and model else None,
        timestamp=_time(value.get("timestamp")),
    )


def _own_time(value: object) -> datetime | None:
    """Return the ``timestamp`` of a plain reply; a vendor may mean something else by the word."""
    try:
        return _time(value)
    except ValueError:
        return None


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            return moment_of(value)
    except (ValueError, OverflowError, OSError, ArithmeticError):
        pass
    raise ValueError(
        f"timestamp {str(value)[:40]!r} is no time: use ISO 8601 or seconds since 1970"
    )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a truth value", int: "a number", Decimal: "a number", str: "a text"}
    return names.get(type(value), type(value).__name__)
