"""From the bytes that a spool holds to what they stand for: a metric, or a gap."""

from __future__ import annotations

import msgspec

from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import GAP_PREFIX, Gap
from receipt_dynamo.errors import UsageError
from receipt_dynamo.store import StoredRecord

__all__ = ["encode_payload", "parse_payload"]

_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode
_decode_gap = msgspec.json.Decoder(Gap).decode
_encode = msgspec.json.Encoder().encode


def parse_payload(payload: bytes) -> StoredRecord | Gap:
    """Return the record of ``payload``. Raises ValueError that says why it is none."""
    try:
        if payload.startswith(GAP_PREFIX):
            return _decode_gap(payload)
        return StoredRecord(_decode_metric(payload), payload)
    except (msgspec.MsgspecError, ValueError, UsageError, RecursionError) as error:
        raise ValueError(str(error)) from error


def encode_payload(record: StoredRecord | Gap) -> bytes:
    """Return the bytes of a record, as the spool holds them."""
    return record.payload if isinstance(record, StoredRecord) else _encode(record)
