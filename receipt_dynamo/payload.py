"""From the bytes that a spool holds to what they stand for: a metric, or a gap."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from receipt_dynamo.cooperation import cooperatively
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import GAP_PREFIX, Gap
from receipt_dynamo.errors import UsageError
from receipt_dynamo.store import StoredRecord
from receipt_dynamo.utils.clock import Clock

__all__ = ["Parsed", "encode_payload", "parse_payload", "parse_payloads"]


class _Named(msgspec.Struct):
    request_id: str = ""


_decode_name = msgspec.json.Decoder(_Named).decode
_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode
_decode_gap = msgspec.json.Decoder(Gap).decode
_encode = msgspec.json.Encoder().encode


def parse_payload(payload: bytes) -> StoredRecord | Gap:
    """Return the record of ``payload``. Raises ValueError that says why it is none.

    A record without a request id is none: each reading would mint another one, and each delivery
    would count it anew.
    """
    try:
        if payload.startswith(GAP_PREFIX):
            return _decode_gap(payload)
        metric = _decode_metric(payload)
        if not _decode_name(payload).request_id:  # the metric's own is never empty: it was minted
            raise ValueError("request_id is missing: a record is known by it, give it one")
        return StoredRecord(metric, payload)
    except (msgspec.MsgspecError, ValueError, UsageError, RecursionError) as error:
        raise ValueError(str(error)) from error


@dataclass(slots=True)
class Parsed:
    """What some payloads stand for. ``dead``: what stands for nothing, and why."""

    records: list[StoredRecord] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    dead: list[tuple[bytes, str]] = field(default_factory=list)


def parse_payloads(payloads: list[bytes], clock: Clock) -> Parsed:
    """Return what ``payloads`` stand for, in their order. Leaves time to other threads."""
    parsed = Parsed()
    for payload in cooperatively(payloads, clock):
        try:
            record = parse_payload(payload)
        except ValueError as error:
            parsed.dead.append((payload, str(error)))
            continue
        if isinstance(record, Gap):
            parsed.gaps.append(record)
        else:
            parsed.records.append(record)
    return parsed


def encode_payload(record: StoredRecord | Gap) -> bytes:
    """Return the bytes of a record, as the spool holds them."""
    return record.payload if isinstance(record, StoredRecord) else _encode(record)
