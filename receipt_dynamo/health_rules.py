"""What makes a warning, and what is critical: one table, ``RULES``, which docs/health.md shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from receipt_dynamo.destinations import place_of
from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.health import Health, HealthLevel, HealthReason
from receipt_dynamo.settings import Settings
from receipt_dynamo.stores import check_destination, check_region

__all__ = ["RULES", "Rule", "judge", "plain_duration"]

RECENT = timedelta(hours=24)
"""How long a loss, a failed sync or a damaged line is a warning."""

THROTTLED_LATELY = timedelta(minutes=5)
"""How long a table that refused some of what it was sent is a warning."""

LEADERLESS_SECONDS = 30.0
"""For how long records may wait without any sign of somebody who delivers them."""

Case = tuple[HealthLevel, str] | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of health: when it is a warning and when critical, in words; what then helps; and
    the function that decides, which answers with the level and the case in words, or None."""

    name: str
    warning: str
    critical: str
    remedy: str
    decide: Callable[[Health, Settings], Case]


def judge(health: Health, settings: Settings) -> Health:
    """Return ``health`` with its level, the worst of all rules, and the reasons, worst first."""
    reasons = []
    for rule in RULES:
        case = rule.decide(health, settings)
        if case is not None:
            reasons.append(HealthReason(case[0], rule.name, case[1]))
    reasons.sort(key=lambda reason: -reason.level.exit_code)
    level = reasons[0].level if reasons else HealthLevel.OK
    return replace(health, level=level, reasons=tuple(reasons))


def _destination(_health: Health, settings: Settings) -> Case:
    try:
        check_destination(settings)
        check_region(settings)
    except ConfigurationError as error:
        return HealthLevel.CRITICAL, str(error)
    return None


def _queue(health: Health, settings: Settings) -> Case:
    about = "about " if health.pending_estimated else ""
    return _beyond(
        health.pending,
        settings.health_warning_pending,
        settings.health_critical_pending,
        f"{about}{_records(health.pending)} in the spool",
    )


def _age(health: Health, settings: Settings) -> Case:
    age = health.oldest_unsent_seconds
    if age is None:
        return None
    return _beyond(
        age,
        settings.health_warning_age_seconds,
        settings.health_critical_age_seconds,
        f"the oldest record has waited for {plain_duration(age)}",
        " s",
    )


def _beyond(value: float, warning: float, critical: float, text: str, unit: str = "") -> Case:
    if value >= critical:
        return HealthLevel.CRITICAL, f"{text} (critical from {critical:,g}{unit})"
    if value >= warning:
        return HealthLevel.WARNING, f"{text} (warning from {warning:,g}{unit})"
    return None


def _leader(health: Health, _settings: Settings) -> Case:
    waited, sign = health.oldest_unsent_seconds, health.leader_seconds
    if waited is None or waited < LEADERLESS_SECONDS:
        return None
    if sign is None:
        return HealthLevel.WARNING, "records wait, and no drainer has run for this spool yet"
    if sign < LEADERLESS_SECONDS:
        return None
    last = f"the last sign of {_drainer(health)} is {plain_duration(sign)} old"
    return HealthLevel.WARNING, f"records wait, and nobody delivers: {last}"


def _drainer(health: Health) -> str:
    """Name the process that delivers, or did last."""
    if health.leader_pid is None:
        return "an unknown process"
    return f"process {health.leader_pid} on {health.leader_host}"


def _throttled(health: Health, _settings: Settings) -> Case:
    if health.last_throttled is None or health.at - health.last_throttled >= THROTTLED_LATELY:
        return None
    return HealthLevel.WARNING, f"{_ago(health.last_throttled, health)} {health.throttled}"


def _drops(health: Health, _settings: Settings) -> Case:
    if not _is_recent(health.last_drop, health):
        return None
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in health.dropped.items())
    return HealthLevel.WARNING, f"{_ago(health.last_drop, health)} a record was lost ({by_reason})"


def _memory(health: Health, _settings: Settings) -> Case:
    if not health.memory:
        return None
    return HealthLevel.WARNING, f"{_records(health.memory)} in memory only: a kill would lose them"


def _disk(health: Health, _settings: Settings) -> Case:
    return None if health.refused is None else (HealthLevel.CRITICAL, health.refused)


def _fsync(health: Health, _settings: Settings) -> Case:
    if not _is_recent(health.last_fsync_error, health):
        return None
    when = _ago(health.last_fsync_error, health)
    return HealthLevel.WARNING, f"{when} the disk failed to write what it had taken"


def _corrupt(health: Health, _settings: Settings) -> Case:
    if not _is_recent(health.last_corrupt_line, health):
        return None
    when = _ago(health.last_corrupt_line, health)
    return HealthLevel.WARNING, f"{when} a damaged line was found; it is in quarantine/"


def _dead(health: Health, _settings: Settings) -> Case:
    if not health.dead:
        return None
    return HealthLevel.WARNING, f"dead/ holds {health.dead:,} of what no store takes"


def _set_aside(health: Health, _settings: Settings) -> Case:
    if not health.corrupt_stores:
        return None
    names = ", ".join(path.name for path in health.corrupt_stores)
    return HealthLevel.WARNING, f"a damaged store was set aside: {names}"


def _store(health: Health, _settings: Settings) -> Case:
    if health.store_reachable is not False:
        return None
    return HealthLevel.CRITICAL, f"the store does not answer: {health.store_error}"


def _elsewhere(health: Health, _settings: Settings) -> Case:
    if not health.elsewhere:
        return None
    waiting = ", ".join(f"{count:,} for {place_of(it)}" for it, count in health.elsewhere.items())
    return HealthLevel.WARNING, f"records wait for other destinations: {waiting}"


def _is_recent(when: datetime | None, health: Health) -> bool:
    return when is not None and health.at - when < RECENT


def _ago(when: datetime | None, health: Health) -> str:
    return f"{plain_duration((health.at - when).total_seconds() if when else 0.0)} ago"


def _records(count: int) -> str:
    return f"{count:,} record{'s' if count != 1 else ''}"


def plain_duration(seconds: float) -> str:
    """Return ``12 s``, ``5 min``, ``3 h`` or ``8 days``: in the largest unit there are two of."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


RULES = (
    Rule(
        "destination",
        "",
        "production or staging without a table: no pipeline starts, nothing is recorded; a table "
        "without a region: nothing is delivered",
        "set `DYNAMODB_TABLE_NAME`, or `ENVIRONMENT=development` for the embedded store; set "
        "`AWS_REGION`",
        _destination,
    ),
    Rule(
        "queue",
        "from 100 waiting records (`RECEIPT_USAGE_HEALTH_WARNING_PENDING`)",
        "from 1,000 (`RECEIPT_USAGE_HEALTH_CRITICAL_PENDING`)",
        "see `last error`; `receipt-usage ship` delivers now",
        _queue,
    ),
    Rule(
        "age",
        "the oldest waits for 60 s (`RECEIPT_USAGE_HEALTH_WARNING_AGE_SECONDS`)",
        "for 600 s (`RECEIPT_USAGE_HEALTH_CRITICAL_AGE_SECONDS`)",
        "as above; without a running pipeline nothing delivers until a report or `ship` does",
        _age,
    ),
    Rule(
        "leader",
        "a record waits for 30 s, and no drainer gave a sign of life in the last 30 s",
        "",
        "start a pipeline or `receipt-usage ship --follow`",
        _leader,
    ),
    Rule(
        "throttled",
        "the table refused records in the last 5 minutes: they are sent again, at its pace",
        "",
        "raise the table's capacity; where one partition is at its limit, a table with more shards",
        _throttled,
    ),
    Rule(
        "disk",
        "",
        "the disk, its bounds or the directory refuse records now, or it cannot be created",
        "make room, raise `RECEIPT_USAGE_MAX_BYTES`, or do what the message says",
        _disk,
    ),
    Rule(
        "memory",
        "a record is in memory only",
        "",
        "make room: it is written as soon as the disk takes it",
        _memory,
    ),
    Rule(
        "drops",
        "a record was lost in the last 24 hours",
        "",
        "the reason says where; `receipt-usage report` shows tokens and cost",
        _drops,
    ),
    Rule(
        "fsync",
        "the disk failed to sync in the last 24 hours",
        "",
        "look at the disk (`dmesg`): a power cut could lose what it had taken",
        _fsync,
    ),
    Rule(
        "corrupt",
        "a damaged line was found in the last 24 hours",
        "",
        "look at the disk, and at `quarantine/`",
        _corrupt,
    ),
    Rule(
        "dead",
        "`dead/` holds a record",
        "",
        "`receipt-usage dead list`, then `retry` or `drop`",
        _dead,
    ),
    Rule(
        "store set aside",
        "`usage.db.corrupt-*` lies beside the store",
        "",
        "move it away once you have looked at it",
        _set_aside,
    ),
    Rule(
        "store",
        "",
        "the store does not answer (asked with `--probe` only)",
        "the message says why",
        _store,
    ),
    Rule(
        "elsewhere",
        "records wait for another destination",
        "",
        "the line names the way to deliver them",
        _elsewhere,
    ),
)
"""Every rule of health. A level is the worst of theirs."""
