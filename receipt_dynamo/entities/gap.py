"""Gap: the record of what was lost, so that a total is never quietly too low."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import msgspec

__all__ = ["GAP_PREFIX", "Gap"]

GAP_PREFIX = b'{"gap":'
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a store can keep. Checked on reading: a gap beyond it goes to ``dead/``."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_HIGHEST, _LOWEST = 140, -170


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Records dropped for one reason and model since the last such gap.

    ``gap`` is its id, unique over all processes; ``cost_usd`` adds what was known of the costs.
    """

    gap: str
    timestamp: Moment
    reason: str
    count: Count
    service: str | None = None
    model: str | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        cost = self.cost_usd
        if cost is not None and not (cost.is_finite() and cost >= 0 and _summable(cost)):
            raise ValueError(f"cost_usd={cost!r:.60} is no sum of costs")


def _summable(cost: Decimal) -> bool:
    """Whether ``cost`` can be a sum of what metrics can cost: digits between 1E+140 and 1E-170."""
    return cost == 0 or (cost.adjusted() <= _HIGHEST and int(cost.as_tuple().exponent) >= _LOWEST)
