"""Gap: the record of what was lost, so that a total is never quietly too low."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

__all__ = ["GAP_PREFIX", "Gap"]

GAP_PREFIX = b'{"gap":'


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Records dropped for one reason and model since the last such gap.

    ``gap`` is its id, unique over all processes; ``cost_usd`` adds what was known of the costs.
    """

    gap: str
    timestamp: datetime
    reason: str
    count: int
    service: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
