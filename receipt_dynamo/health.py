"""What callers learn of the client: the answer to a put and to a flush, and how things stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

__all__ = ["FlushReport", "Health", "HealthLevel", "HealthReason", "PutResult"]


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


class HealthLevel(StrEnum):
    """How a destination stands. A monitor's exit codes: ok 0, warning 1, critical 2."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2: the worse, the higher."""
        return list(HealthLevel).index(self)


@dataclass(frozen=True, slots=True)
class HealthReason:
    """Why the level is not ok: the rule (see docs/health.md), its level, and the case in words."""

    level: HealthLevel
    rule: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a destination stands at the time ``at``. Times are aware, in UTC.

    ``recorded`` to ``fsync_errors``, and ``last_record`` to ``last_error``, are of all processes of
    the destination since its spool was made, over restarts: those that ended, those that run (up to
    a second old), and this one as it is now. A killed process may lack its last second.
    ``recorded`` records were put; each is ``stored`` (on the disk, or in the store), in ``memory``
    only at this moment, or ``dropped``, by reason. ``delivered`` counts what stores acknowledged,
    a record that was sent twice as two; ``dead_ever`` what went to ``dead/``, ``dead`` what lies
    there now.

    ``pending`` records wait in the spool, of which ``spool_bytes`` are held in ``spool_segments``
    files; with ``pending_estimated`` there were too many to count in time. ``elsewhere`` are
    records that wait for other destinations. ``leader_seconds`` is the age of the last sign that
    the drainer ``leader_pid`` on ``leader_host`` gave. ``store_reachable`` is None unless the store
    was asked. ``refused`` says why the disk takes no records now, ``throttled`` what was at
    its limit when the table last refused some (at ``last_throttled``), ``last_error`` why delivery
    failed last, if it has not succeeded since.
    """

    destination: str
    spool_dir: Path
    at: datetime
    level: HealthLevel = HealthLevel.OK
    reasons: tuple[HealthReason, ...] = ()
    recorded: int = 0
    stored: int = 0
    memory: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    delivered: int = 0
    dead: int = 0
    dead_ever: int = 0
    corrupt_lines: int = 0
    fsync_errors: int = 0
    pending: int = 0
    pending_estimated: bool = False
    spool_bytes: int = 0
    spool_segments: int = 0
    oldest_unsent_seconds: float | None = None
    last_record: datetime | None = None
    last_delivery: datetime | None = None
    last_drop: datetime | None = None
    last_corrupt_line: datetime | None = None
    last_fsync_error: datetime | None = None
    throttled: str | None = None
    last_throttled: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    leader_pid: int | None = None
    leader_host: str | None = None
    leader_generation: int | None = None
    leader_seconds: float | None = None
    store_reachable: bool | None = None
    store_error: str | None = None
    refused: str | None = None
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    corrupt_stores: tuple[Path, ...] = ()
