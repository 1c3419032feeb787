"""What callers learn of the client: the answer to a put, a flush, and its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

__all__ = ["FlushReport", "Health", "PutResult"]


class PutResult(StrEnum):
    """What became of a record."""

    STORED = "STORED"
    """In a file of ours: it survives the death of the process, and it will be delivered."""
    MEMORY = "MEMORY"
    """In memory only, because the disk refuses: a kill would lose it."""
    DROPPED = "DROPPED"
    """Lost; counted with its tokens and cost, and shown by every report."""
    SKIPPED = "SKIPPED"
    """Not a finished, billable call; there was nothing to record."""


@dataclass(frozen=True, slots=True)
class FlushReport:
    """Records that a flush delivered, that still wait in the spool, and that went to ``dead/``."""

    delivered: int
    pending: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of one client. Counts are this process's; the spool's figures are everybody's.

    ``oldest_unsent_seconds`` is the age of the oldest segment that still holds records.
    """

    destination: str
    spool_dir: Path
    recorded: int = 0
    stored: int = 0
    memory: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    delivered: int = 0
    dead: int = 0
    corrupt_lines: int = 0
    fsync_errors: int = 0
    pending: int = 0
    spool_bytes: int = 0
    spool_segments: int = 0
    oldest_unsent_seconds: float | None = None
    last_delivery: datetime | None = None
    last_record: datetime | None = None
    last_error: str | None = None
