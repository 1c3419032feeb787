"""Anthropic's SDK: Anthropic, AnthropicBedrock, AnthropicVertex and their async forms."""

from __future__ import annotations

from typing import Any

from receipt_label.instrumentation.calls import Instrument
from receipt_label.instrumentation.stainless import Dialect, wrap_stainless

__all__ = ["wrap"]


def wrap(client: Any, instrument: Instrument, *, include_usage: bool) -> Any:
    """Return a client like ``client`` whose calls are recorded.

    Its streams tell their usage unasked: ``include_usage`` changes nothing.
    """
    return wrap_stainless(client, instrument, _Anthropic())


class _Anthropic(Dialect):
    def service(self, client: Any) -> str | None:
        """Return whose service a client is for: behind a gateway no address says so."""
        name = type(client).__name__
        if "Bedrock" in name:
            return "aws"
        return "google" if "Vertex" in name else "anthropic"
