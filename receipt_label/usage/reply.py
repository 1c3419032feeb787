"""The normalised reading of one reply of an AI service.

Every adapter of a vendor family turns what that vendor sends into these types; the tracker and the
price book know nothing else. Token counts follow the OpenTelemetry GenAI meaning: input includes
cached reads and writes, output includes reasoning. ``None`` is unknown, ``0`` a known zero.

Usage and Reply are made for every call that is recorded: as msgspec structs they take a fifth of
the time that frozen dataclasses take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

MIN_ID_CHARACTERS = 20
"""Vendors' ids below this length repeat (``chatcmpl-887``, ``stub``): they are no identity."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Billable units of one call.

    ``details`` holds further units by name, in genai-prices' vocabulary where it has one
    (``cache_write_5m_tokens``, ``cache_write_1h_tokens``, ``input_audio_tokens``,
    ``output_audio_tokens``, ``web_searches``, ...). Token details are subsets of the five counts
    above, never additions to them.
    """

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    details: Mapping[str, int | float] = msgspec.field(default_factory=dict)


Fault = Literal["no_usage", "inconsistent_usage", "failed_call"]
Status = Literal["complete", "partial", "aborted"]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A finished call of an AI service: what was called, and what it used.

    ``service`` is genai-prices' provider id where it has one (``aws`` for Bedrock, ``google`` for
    Gemini and Vertex). ``response_id`` is the vendor's own, as it is.

    ``usage`` is None when the reply carries none that can be believed; ``fault`` then says why, and
    figures that contradict each other are kept in ``metadata``. ``created`` is the vendor's own
    time of the reply (aware, UTC) or None. ``price_context`` selects the price variant in
    genai-prices' words (``service_tier``, ``processing``, ``speed``, ...).

    ``error`` is the vendor's code, never its message. ``metadata`` holds short facts, never text.
    ``also`` are further calls that the vendor made inside this one and bills at another model's
    rates (an advisor of Anthropic's): none of their tokens is in ``usage``.
    """

    service: str
    model: str
    operation: str
    request_model: str | None = None
    response_id: str | None = None
    created: datetime | None = None
    usage: Usage | None = None
    provider_cost_usd: Decimal | None = None
    price_context: Mapping[str, str] = msgspec.field(default_factory=dict)
    status: Status = "complete"
    fault: Fault | None = None
    error: str | None = None
    metadata: Mapping[str, object] = msgspec.field(default_factory=dict)
    also: tuple[Reply, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """Not a finished, billable reply. ``reason`` is ``not_finished`` or ``not_usage``."""

    reason: Literal["not_finished", "not_usage"]
    what: str = ""
