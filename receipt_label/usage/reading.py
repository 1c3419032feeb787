"""What an adapter hands back: one reply in its vendor's own words, before hints are applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from receipt_label.usage.figures import InconsistentUsageError, Json, word
from receipt_label.usage.reply import Reply, Status, Usage

# Tiers that are the ordinary price list and select nothing.
ORDINARY_TIERS: Final = frozenset(
    {"", "default", "standard", "auto", "on_demand", "on-demand", "standard_only", "unspecified"}
)


@dataclass(slots=True)
class Reading:
    """One reply as its vendor wrote it.

    ``service`` is what the reply's own shape says, None where it says nothing. ``model``,
    ``response_id`` and ``created`` are still the vendor's raw values.
    """

    operation: str
    service: str | None = None
    model: object = None
    response_id: object = None
    created: object = None
    raw_usage: object = None
    usage: Usage | None = None
    inconsistent: bool = False
    cost: Decimal | None = None
    status: Status = "complete"
    error: str | None = None
    price_context: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)
    also: tuple[Reply, ...] = ()

    def measure(self, raw: object, read: Callable[[Json], Usage | None]) -> None:
        """Read the vendor's usage block; where it contradicts itself keep it raw instead."""
        self.raw_usage = raw
        if raw is None:
            return
        try:
            if not isinstance(raw, Mapping):
                raise InconsistentUsageError("usage is not an object")
            self.usage = read(raw)
        except InconsistentUsageError:
            self.usage, self.inconsistent = None, True

    def tier(self, value: object) -> None:
        """Note a service tier that is not the ordinary one, and let it select the price."""
        name = word(value)
        if name:
            name = name.lower()
            if name not in ORDINARY_TIERS:
                self.metadata["service_tier"] = self.price_context["service_tier"] = name

    def finished(self, reason: object) -> None:
        """Note why the vendor stopped."""
        name = word(reason)
        if name:
            self.metadata["finish_reason"] = name


class Call(NamedTuple):
    """What the caller and the address say about a call before its reply is read."""

    service: str | None = None
    model: str | None = None
    streamed: bool = False
    interrupted: bool = False


Adapter = Callable[[Json, Call], Reading]
