"""Looking at a destination: what its processes did, what waits, who delivers. Changes nothing.

It works on an empty directory, on a full disk and where no process runs: nothing is created, taken
in, or locked for longer than a look. No step keeps another from being done, and a backlog of any
length takes bounded time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from receipt_dynamo.destinations import waiting_elsewhere
from receipt_dynamo.errors import UsageError
from receipt_dynamo.figures import Figures
from receipt_dynamo.file_systems import why_not_made
from receipt_dynamo.files import READ_FLAGS, secure_directory
from receipt_dynamo.health import Health
from receipt_dynamo.health_rules import judge
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.aside import DEAD, DEAD_SUFFIX
from receipt_dynamo.spool.bounds import SpoolBounds, SpoolFullError
from receipt_dynamo.spool.leadership import read_heartbeat
from receipt_dynamo.spool.pending import backlog, count_left, oldest_age
from receipt_dynamo.sqlite_aside import corrupt_stores
from receipt_dynamo.stats import STATS, read_stats
from receipt_dynamo.store import UsageStore
from receipt_dynamo.stores import open_store
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = ["check_health", "read_health"]

COUNT_SECONDS = 0.5
"""How long waiting records may be counted before the rest is estimated."""

PROBE_SECONDS = 5.0
"""How long the store may take to answer."""

_NOBODY = ("receipt-usage", "health-probe")  # a key that no record has
_log = safe_logger("receipt_dynamo.health")
Part = Mapping[str, Any]


def read_health(settings: Settings, *, probe: bool = False, clock: Clock | None = None) -> Health:
    """Return how the destination of ``settings`` stands, without a client.

    For monitors, and for whoever runs no pipeline of his own. Nothing is created or changed. With
    ``probe`` the store is asked as well, within a few seconds. Raises nothing.
    """
    return check_health(
        settings,
        clock or SystemClock(),
        count=lambda: read_stats(settings.spool_dir / STATS),
        store=(lambda: open_store(settings)) if probe else None,
    )


def check_health(
    settings: Settings,
    clock: Clock,
    *,
    count: Callable[[], Figures],
    store: Callable[[], UsageStore] | None,
) -> Health:
    """Return how a destination stands. ``count`` says what its processes did;
    ``store`` is opened and asked, unless there is none. Raises nothing."""
    deadline = clock.monotonic() + COUNT_SECONDS

    def is_late() -> bool:
        return clock.monotonic() >= deadline

    health = Health(destination=settings.destination, spool_dir=settings.spool_dir, at=clock.now())
    parts: tuple[Callable[[], Part], ...] = (
        lambda: _counted(count()),
        lambda: _waiting(settings, health, is_late),
        lambda: _leader(settings, health),
        lambda: {"dead": _dead_letters(settings.spool_dir / DEAD, is_late)},
        lambda: {"elsewhere": waiting_elsewhere(settings, is_late)},
        lambda: {"corrupt_stores": tuple(corrupt_stores(settings.usage_dir))},
        lambda: {"refused": _refusal(settings) or health.refused},
        lambda: {} if store is None else _asked(store),
    )
    for part in parts:
        try:
            health = replace(health, **part())
        except Exception as error:  # what lies there may be anything
            _log.warning("a part of the state of %s is unknown: %s", settings.destination, error)
    return judge(health, settings)


def _counted(figures: Figures) -> Part:
    delivered_since = (
        figures.last_error_at is not None
        and figures.last_delivery is not None
        and figures.last_delivery > figures.last_error_at
    )
    return {
        "recorded": figures.recorded(),
        "stored": figures.stored,
        "memory": figures.memory,
        "dropped": dict(figures.dropped),
        "delivered": figures.delivered,
        "dead_ever": figures.dead,
        "corrupt_lines": figures.corrupt_lines,
        "fsync_errors": figures.fsync_errors,
        "last_record": figures.last_record,
        "last_delivery": figures.last_delivery,
        "last_drop": figures.last_drop,
        "last_corrupt_line": figures.last_corrupt_line,
        "last_fsync_error": figures.last_fsync_error,
        "throttled": figures.throttled,
        "last_throttled": figures.last_throttled,
        "last_error": None if delivered_since else figures.last_error,
        "last_error_at": None if delivered_since else figures.last_error_at,
        "refused": figures.refused,
    }


def _waiting(settings: Settings, health: Health, is_late: Callable[[], bool]) -> Part:
    extents = backlog(settings.spool_dir)
    left = count_left(extents, is_late)
    return {
        "pending": left.records,
        "pending_estimated": left.estimated,
        "spool_bytes": sum(extent.size for extent in extents),
        "spool_segments": len(extents),
        "oldest_unsent_seconds": oldest_age(settings.spool_dir, health.at),
    }


def _leader(settings: Settings, health: Health) -> Part:
    heartbeat = read_heartbeat(settings.spool_dir)
    if heartbeat is None:
        return {}
    return {
        "leader_pid": heartbeat.pid or None,  # on a full disk the file may hold no words
        "leader_host": heartbeat.host or None,
        "leader_generation": heartbeat.generation,
        "leader_seconds": heartbeat.age(health.at),
    }


def _dead_letters(directory: Path, is_late: Callable[[], bool]) -> int:
    """Return how many records lie in ``dead/``; blank lines were retried or dropped."""
    count = 0
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(directory.iterdir()):
            if path.suffix == DEAD_SUFFIX and not is_late():
                with suppress(OSError):
                    descriptor = os.open(path, READ_FLAGS)
                    with os.fdopen(descriptor, "rb") as lines:
                        count += sum(1 for line in lines if line.strip())
    return count


def _refusal(settings: Settings) -> str | None:
    """Return why the disk takes no records of this destination now, or None.

    What is not there yet is no refusal, where the first record can create it.
    """
    directory = settings.spool_dir
    try:
        for path in (settings.usage_dir, directory.parent, directory):
            if not os.path.lexists(path):
                return why_not_made(path)
            secure_directory(path)
        if not os.access(directory, os.W_OK | os.X_OK):
            return f"{directory} cannot be written"
        bounds = SpoolBounds(
            directory,
            max_bytes=settings.max_bytes,
            min_free_bytes=settings.min_free_bytes,
            grant_bytes=settings.segment_bytes,
        )
        bounds.grant()
    except SpoolFullError as full:
        makes_room = full.reason == "max_bytes" and settings.overflow == "drop_oldest"
        return None if makes_room else str(full)
    except (OSError, UsageError) as error:
        return str(error)
    return None


def _asked(store: Callable[[], UsageStore]) -> Part:
    """Ask the store for a record that is not there; wait for the answer no longer than allowed.

    In a thread of its own: a disk or a network that hangs keeps that one waiting, not the caller.
    """
    answers: list[str | None] = []
    answered = threading.Event()

    def ask() -> None:
        try:
            store().recorded_times([_NOBODY])
            answers.append(None)
        except Exception as error:
            answers.append(str(error) or type(error).__name__)
        finally:
            answered.set()

    try:
        threading.Thread(target=ask, name="receipt-usage-probe", daemon=True).start()
    except RuntimeError:  # at interpreter shutdown no thread starts any more
        return {}
    if not answered.wait(PROBE_SECONDS):
        return {
            "store_reachable": False,
            "store_error": f"it gave no answer within {PROBE_SECONDS:g} s",
        }
    error = answers[0]
    return {"store_reachable": error is None, "store_error": error}
