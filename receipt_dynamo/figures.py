"""Figures: what a process has counted, and how the counts of several are added up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

__all__ = ["Figures"]

DROP_OLDEST = "drop_oldest"
_KILLED = "memory"
"""Why a record is lost that was in memory only when its process died."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class Figures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one process has done, or several together.

    ``stored`` records reached the disk or the store; ``memory`` are in memory only, at this moment;
    ``dropped`` are lost, by reason. The times are aware, in UTC; ``refused`` says why the disk
    refuses records now, ``throttled`` why the table refused some of what it was last sent too
    much of.
    """

    stored: Count = 0
    memory: Count = 0
    dropped: dict[str, Count] = {}
    delivered: Count = 0
    dead: Count = 0
    corrupt_lines: Count = 0
    fsync_errors: Count = 0
    last_record: datetime | None = None
    last_delivery: datetime | None = None
    last_drop: datetime | None = None
    last_corrupt_line: datetime | None = None
    last_fsync_error: datetime | None = None
    last_throttled: datetime | None = None
    throttled: str | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    refused: str | None = None

    def plus(self, other: Figures) -> Figures:
        """Return both together: counts are added, of times and errors the later one is kept."""
        later = max(self, other, key=lambda figures: figures.last_error_at or _LONG_AGO)
        slowed = max(self, other, key=lambda figures: figures.last_throttled or _LONG_AGO)
        sums: dict[str, Any] = {
            name: getattr(self, name) + getattr(other, name) for name in _COUNTS
        }
        times: dict[str, Any] = {
            name: _later(getattr(self, name), getattr(other, name)) for name in _TIMES
        }
        return Figures(
            **sums,
            **times,
            dropped={
                reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0)
                for reason in {**self.dropped, **other.dropped}
            },
            throttled=slowed.throttled,
            last_error=later.last_error,
            last_error_at=later.last_error_at,
            refused=self.refused or other.refused,
        )

    def minus(self, before: Figures) -> Figures:
        """Return what has been counted since ``before``. No count falls below zero."""
        dropped = {
            reason: count - before.dropped.get(reason, 0) for reason, count in self.dropped.items()
        }
        return msgspec.structs.replace(
            self,
            **{
                name: max(0, getattr(self, name) - getattr(before, name))
                for name in _COUNTS
                if name != "memory"
            },
            dropped={reason: count for reason, count in dropped.items() if count > 0},
        )

    def of_the_dead(self, at: datetime) -> Figures:
        """Return what is left of a process that died: what it had in memory only is lost."""
        if not self.memory:
            return msgspec.structs.replace(self, refused=None)
        lost = Figures(dropped={_KILLED: self.memory}, last_drop=at)
        return msgspec.structs.replace(self, memory=0, refused=None).plus(lost)

    def lost(self) -> int:
        """Return how many records were lost, for whatever reason."""
        return sum(self.dropped.values())

    def recorded(self) -> int:
        """Return how many records were put: each is stored, in memory, or lost.

        What ``drop_oldest`` removed had been stored before.
        """
        afterwards = self.dropped.get(DROP_OLDEST, 0)
        return self.stored + self.memory + self.lost() - afterwards

    def counts_anything(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self.dropped or self.last_error or self.refused) or any(
            getattr(self, name) for name in _COUNTS
        )


_COUNTS = ("stored", "memory", "delivered", "dead", "corrupt_lines", "fsync_errors")
_TIMES = (
    "last_record",
    "last_delivery",
    "last_drop",
    "last_corrupt_line",
    "last_fsync_error",
    "last_throttled",
)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return one if other is None else other if one is None else max(one, other)
