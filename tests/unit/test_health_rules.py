"""How a destination stands: every rule at its threshold, in words that whoever reads it needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import (
    ConfigurationError,
    Environment,
    Health,
    HealthLevel,
    Settings,
    plain_duration,
)
from receipt_dynamo.health_rules import RULES, judge
from tests.support import NOON

OK, WARNING, CRITICAL = HealthLevel.OK, HealthLevel.WARNING, HealthLevel.CRITICAL


def ago(**time: float) -> Any:
    return NOON - timedelta(**time)


CASES: list[tuple[str, dict[str, Any], HealthLevel]] = [
    ("destination", {"environment": Environment.DEVELOPMENT}, OK),
    ("destination", {"environment": Environment.PRODUCTION}, CRITICAL),
    ("queue", {"pending": 99}, OK),
    ("queue", {"pending": 100}, WARNING),
    ("queue", {"pending": 999}, WARNING),
    ("queue", {"pending": 1000}, CRITICAL),
    ("age", {"oldest_unsent_seconds": 59.9, "leader_seconds": 1.0}, OK),
    ("age", {"oldest_unsent_seconds": 60.0, "leader_seconds": 1.0}, WARNING),
    ("age", {"oldest_unsent_seconds": 600.0, "leader_seconds": 1.0}, CRITICAL),
    ("leader", {"oldest_unsent_seconds": 29.9}, OK),
    ("leader", {"oldest_unsent_seconds": 30.0}, WARNING),
    ("leader", {"oldest_unsent_seconds": 30.0, "leader_seconds": 29.9}, OK),
    ("leader", {"oldest_unsent_seconds": 30.0, "leader_seconds": 30.0}, WARNING),
    ("leader", {"leader_seconds": 10_000.0}, OK),
    ("throttled", {"throttled": "so", "last_throttled": ago(minutes=4.9)}, WARNING),
    ("throttled", {"throttled": "so", "last_throttled": ago(minutes=5)}, OK),
    ("disk", {"refused": "the disk is full"}, CRITICAL),
    ("memory", {"memory": 1}, WARNING),
    ("drops", {"dropped": {"disk": 1}, "last_drop": ago(hours=23.9)}, WARNING),
    ("drops", {"dropped": {"disk": 1}, "last_drop": ago(hours=24)}, OK),
    ("fsync", {"fsync_errors": 1, "last_fsync_error": ago(hours=23.9)}, WARNING),
    ("fsync", {"fsync_errors": 1, "last_fsync_error": ago(hours=24)}, OK),
    ("corrupt", {"corrupt_lines": 1, "last_corrupt_line": ago(hours=23.9)}, WARNING),
    ("corrupt", {"corrupt_lines": 1, "last_corrupt_line": ago(hours=24)}, OK),
    ("dead", {"dead": 1}, WARNING),
    ("dead", {"dead_ever": 1}, OK),
    ("store set aside", {"corrupt_stores": (Path("usage.db.corrupt-1"),)}, WARNING),
    ("store", {"store_reachable": None}, OK),
    ("store", {"store_reachable": True}, OK),
    ("store", {"store_reachable": False, "store_error": "it is away"}, CRITICAL),
    ("elsewhere", {"elsewhere": {"t@us-east-1": 1}}, WARNING),
]


def test_other_destinations_are_told_in_words(settings: Settings) -> None:
    """As places, not as the names of their directories."""
    elsewhere = {"t@127.0.0.1_9": 1, "local": 2}
    health = Health(destination="other", spool_dir=settings.spool_dir, at=NOON, elsewhere=elsewhere)
    (reason,) = judge(health, settings).reasons
    assert reason.text.endswith("1 for the table t at http://127.0.0.1:9, 2 for the embedded store")


@pytest.mark.parametrize(("rule", "fields", "level"), CASES)
def test_every_rule_at_its_threshold(
    settings: Settings, rule: str, fields: dict[str, Any], level: HealthLevel
) -> None:
    """A case makes the level that the table says, by that one rule, and says it in words."""
    found_at = dict(fields)
    environment = found_at.pop("environment", settings.environment)
    health = judge(
        Health(destination="local", spool_dir=settings.spool_dir, at=NOON, **found_at),
        replace(settings, environment=environment),
    )
    assert health.level is level
    found = {reason.rule: reason for reason in health.reasons}
    assert list(found) == ([] if level is OK else [rule])
    for reason in health.reasons:
        assert reason.level is level
        assert reason.text


def test_every_rule_has_a_case_above() -> None:
    """And each says when it is a warning or critical, and what helps."""
    assert {rule for rule, _, _ in CASES} == {rule.name for rule in RULES}
    for rule in RULES:
        levels = {level for name, _, level in CASES if name == rule.name}
        assert bool(rule.warning) == (WARNING in levels), rule.name
        assert bool(rule.critical) == (CRITICAL in levels), rule.name
        assert rule.remedy


def test_the_documentation_has_the_table_as_it_is() -> None:
    """docs/health.md is written from the rules, word by word."""
    page = (Path(__file__).parents[2] / "docs" / "health.md").read_text(encoding="utf-8")
    for rule in RULES:
        line = f"| {rule.name} | {rule.warning} | {rule.critical} | {rule.remedy} |"
        assert line.replace("|  |", "| |") in page


def test_the_worst_reason_is_the_level_and_stands_first(settings: Settings) -> None:
    """Whoever reads one line reads the one that matters."""
    health = Health(
        destination="local", spool_dir=settings.spool_dir, at=NOON, dead=1, pending=5000, memory=1
    )
    health = judge(health, settings)
    assert health.level is CRITICAL
    assert [reason.rule for reason in health.reasons] == ["queue", "memory", "dead"]
    assert [level.exit_code for level in HealthLevel] == [0, 1, 2]
    later = judge(replace(health, pending=100, refused="the disk is full"), settings)
    assert [reason.rule for reason in later.reasons] == ["disk", "queue", "memory", "dead"]


def test_thresholds_are_settings(tmp_path: Path) -> None:
    """Each from its variable; an order that makes no sense is refused by name."""
    names = "WARNING_PENDING CRITICAL_PENDING WARNING_AGE_SECONDS CRITICAL_AGE_SECONDS".split()
    values = ("5", "6", "0.5", "inf")
    environ = {
        "RECEIPT_USAGE_DIR": str(tmp_path),
        **{f"RECEIPT_USAGE_HEALTH_{n}": v for n, v in zip(names, values, strict=True)},
    }
    settings = Settings.from_env(environ)
    health = Health(
        destination="local", spool_dir=tmp_path, at=NOON, pending=5, oldest_unsent_seconds=0.7
    )
    assert judge(health, settings).level is WARNING
    assert judge(replace(health, pending=6), settings).level is CRITICAL
    for change in ({"WARNING_PENDING": "7"}, {"WARNING_AGE_SECONDS": "nan"}):
        wrong = {f"RECEIPT_USAGE_HEALTH_{name}": value for name, value in change.items()}
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            Settings.from_env({**environ, **wrong})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    """Two of a unit at least, so that no figure is coarse."""
    assert plain_duration(seconds) == text
