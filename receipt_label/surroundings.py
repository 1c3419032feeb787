"""What is around a call: the fields that its record has from its process, context and caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from receipt_dynamo import Settings
from receipt_label import context as contexts
from receipt_label.context import as_id
from receipt_label.masking import RecordMask

__all__ = ["Surroundings"]

_NOTHING: Mapping[str, Any] = {}


class Surroundings:
    """What a tracker adds to each record. Thread-safe.

    ``defaults`` hold where neither context nor caller says another: the environment and deployment
    of the client's ``settings``, and what is added before the first record.
    """

    def __init__(self, settings: Settings, mask: RecordMask) -> None:
        self._mask = mask
        self.defaults: dict[str, Any] = {"environment": str(settings.environment)}
        if settings.deployment_version:
            self.defaults["deployment_version"] = settings.deployment_version

    def of(
        self,
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any] | None,
        price_context: Mapping[str, str] | None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Return the fields that the context in force and the caller give, and the variant of the
        price."""
        inner, defaults = contexts.current(), self.defaults
        merged = {**defaults, **inner}
        for name in contexts.MERGED:
            if name in defaults and name in inner:
                merged[name] = {**defaults[name], **inner[name]}
        merged["metadata"] = _both(merged.get("metadata"), metadata)
        variant = _both(merged.pop("price_context", None), price_context)
        for name, value in fields.items():
            if value is not None:
                # A float is no id: the latency, of every call.
                is_float = type(value) is float
                merged[name] = value if is_float else self._mask.id(as_id(name, value))
        return merged, variant


def _both(outer: Mapping[str, Any] | None, inner: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if outer and inner:
        return {**outer, **inner}
    return outer or inner or _NOTHING
