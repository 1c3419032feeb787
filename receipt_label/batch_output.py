"""Outputs of vendors' batch APIs: each line is a call, at the price of batches.

Under an identity that reading the same output again repeats: the vendor's id, else that of the
line, as ``receipt-usage import`` gives it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from receipt_dynamo import PutResult
from receipt_label.importers.exact_json import line_id, parse
from receipt_label.usage import Skipped, read_reply
from receipt_label.usage.batch_lines import unwrap
from receipt_label.usage.epoch import moment_of
from receipt_label.usage.plain import plain

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = ["BatchOutput", "record_line", "record_output"]

_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """What became of the lines of a batch's output.

    ``recorded`` counts calls, also those that the vendor refused (they are records with an error);
    ``unreadable`` lines are no results of a batch, ``dropped`` ones could not be kept.
    """

    recorded: int = 0
    unreadable: int = 0
    dropped: int = 0


def record_output(
    tracker: AIUsageTracker,
    content: object,
    *,
    timestamp: datetime | float | None = None,
    **fields: Any,
) -> BatchOutput:
    """Record each line; see ``AIUsageTracker.record_batch_output``."""
    time = _moment(tracker, timestamp)
    recorded = unreadable = dropped = 0
    for line in _lines(content):
        result = record_line(tracker, line, timestamp=time, **fields)
        if result is None:
            unreadable += 1
        elif result is PutResult.DROPPED:
            dropped += 1
        else:
            recorded += 1
    return BatchOutput(recorded, unreadable, dropped)


def record_line(
    tracker: AIUsageTracker, line: object, *, timestamp: datetime | None = None, **fields: Any
) -> PutResult | None:
    """Record one line: its text, a dict, or an SDK's object. None where it is no batch's result.

    ``timestamp`` dates replies that say no time themselves; ``fields`` as in ``record``. Raises
    nothing unless the tracker is ``strict``.
    """
    try:
        text = line if isinstance(line, bytes) else json.dumps(plain(line).data).encode()
        value = parse(text)
        if not isinstance(value, Mapping) or unwrap(value) is None:
            return None
        reply = read_reply(value, service=fields.pop("service", None))
        if isinstance(reply, Skipped):
            return None
        name = line_id(value)
    except _FAULTS:
        return None
    metadata = dict(fields.pop("metadata", None) or {})
    custom_id = value.get("custom_id")
    if isinstance(custom_id, str) and custom_id:
        metadata.setdefault("custom_id", custom_id[:256])
    return tracker.record_reply(
        reply,
        fallback_request_id=name,
        fallback_timestamp=timestamp,
        metadata=metadata,
        **fields,
    )


def _lines(content: object) -> Iterator[object]:
    """Return the lines of text, bytes, an SDK's file content, or an iterable of results."""
    if not isinstance(content, (str, bytes, Mapping)):
        inside = getattr(content, "content", None)
        content = inside if isinstance(inside, bytes) else content
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    if isinstance(content, bytes):
        yield from (line for line in content.split(b"\n") if line.strip())
    elif isinstance(content, Iterable) and not isinstance(content, Mapping):
        for line in content:
            yield line.encode() if isinstance(line, str) else line
    else:
        raise TypeError(
            f"not a batch's output: {type(content).__name__}. Pass its text or bytes, what "
            "client.files.content(...) returned, or an iterable of its results"
        )


def _moment(tracker: AIUsageTracker, timestamp: datetime | float | None) -> datetime | None:
    """Return an aware time. Raises ValueError for another only where the tracker is ``strict``."""
    try:
        if timestamp is None:
            return None
        if not isinstance(timestamp, datetime):
            return moment_of(timestamp)
        if timestamp.tzinfo is not None:
            return timestamp
    except (ValueError, TypeError, OSError, ArithmeticError):
        pass  # said below
    fault = (
        f"timestamp={timestamp!r} is no time of a batch: pass an aware datetime, or seconds "
        "or milliseconds since 1970"
    )
    if tracker.strict:
        raise ValueError(fault)
    tracker.faults.log(f"{fault}. Replies without a time are dated now, and count again next time")
    return None
