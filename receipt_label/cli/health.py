"""``receipt-usage health``: how recording and delivery stand, for people and for monitors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from receipt_dynamo import (
    HealthReason,
    UsageError,
    place_of,
    plain_duration,
    read_health,
    way_to,
)
from receipt_label.cli.opening import read_settings
from receipt_label.cli.output import clean, counted, note, write_json

if TYPE_CHECKING:
    from receipt_dynamo import Health

__all__ = ["command"]

EXIT_UNKNOWN = 2  # as critical: a monitor that cannot look has no reason to be calm


@click.command(name="health")
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON.")
@click.option("--probe", is_flag=True, help="Ask the store as well whether it answers.")
def command(as_json: bool, probe: bool) -> int:
    """Show how recording and delivery stand: a level with its reasons, and all figures.

    Exit code 0: ok, 1: warning, 2: critical. Needs no running pipeline, delivers nothing and
    writes nothing. Figures are of all processes since the spool was made.
    """
    try:
        health = read_health(read_settings(drain=None), probe=probe)
    except UsageError as error:
        note(f"error: {' '.join(str(error).split())}")
        return EXIT_UNKNOWN
    if as_json:
        write_json({field.name: _plain(getattr(health, field.name)) for field in fields(health)})
    else:
        _print(health)
    return health.level.exit_code


def _plain(value: Any) -> Any:
    """Return a field as JSON has it: times in ISO 8601, paths as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, HealthReason):
        return {"level": value.level, "rule": value.rule, "text": value.text}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


def _print(health: Health) -> None:
    print(health.level)
    _print_rows([(f"  {reason.rule}", reason.text) for reason in health.reasons])
    print()
    _print_rows(list(_rows(health)))


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max((len(title) for title, _ in rows), default=0)
    for title, text in rows:
        print(f"{title.ljust(width)}  {clean(text)}")


def _rows(health: Health) -> Iterator[tuple[str, str]]:
    yield "destination", health.destination
    yield "recorded", _recorded(health)
    yield "delivered", f"{health.delivered:,}"
    yield "waiting", _waiting(health)
    yield "dead", f"{health.dead:,} ({health.dead_ever:,} ever)"
    yield "damaged lines", f"{health.corrupt_lines:,}"
    yield "failed syncs", f"{health.fsync_errors:,}"
    yield "last record", _when(health.last_record, health)
    yield "last delivery", _when(health.last_delivery, health)
    yield "drainer", _drainer(health)
    yield "store", _store(health)
    if health.last_error is not None:
        yield "last error", f"{health.last_error} ({_when(health.last_error_at, health)})"
    yield (
        "spool",
        (
            f"{health.spool_dir}: {counted(health.spool_segments, 'segment')}, "
            f"{counted(health.spool_bytes, 'byte')}"
        ),
    )
    for destination, count in health.elsewhere.items():
        records = f"{counted(count, 'record')} for {place_of(destination)}"
        yield "elsewhere", f"{records}. To deliver: {way_to(destination)}"
    for path in health.corrupt_stores:
        yield "set aside", str(path)


def _recorded(health: Health) -> str:
    parts = [f"{health.stored:,} stored"]
    if health.memory:
        parts.append(f"{health.memory:,} in memory")
    parts += [f"{count:,} dropped ({reason})" for reason, count in health.dropped.items()]
    return f"{health.recorded:,}: {', '.join(parts)}"


def _waiting(health: Health) -> str:
    about = "about " if health.pending_estimated else ""
    oldest = health.oldest_unsent_seconds
    since = "" if oldest is None else f", the oldest for {plain_duration(oldest)}"
    return f"{about}{health.pending:,}{since}"


def _when(time: datetime | None, health: Health) -> str:
    if time is None:
        return "never"
    ago = plain_duration((health.at - time).total_seconds())
    return f"{time.isoformat(' ', 'seconds')}, {ago} ago"


def _drainer(health: Health) -> str:
    if health.leader_seconds is None:
        return "none so far"
    who = "unknown process"
    if health.leader_pid is not None:
        who = f"process {health.leader_pid} on {health.leader_host}"
    sign = plain_duration(health.leader_seconds)
    return f"{who}, generation {health.leader_generation}, last sign {sign} ago"


def _store(health: Health) -> str:
    if health.store_reachable is None:
        return "not asked (--probe asks it)"
    return "answers" if health.store_reachable else f"does not answer: {health.store_error}"
