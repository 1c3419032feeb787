"""How a destination stands: every rule at its threshold, and a look that changes nothing."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
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
    PutResult,
    Settings,
    StoreError,
    UsageClient,
    plain_duration,
    read_health,
)
from receipt_dynamo import health_check as module
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.figures import Figures
from receipt_dynamo.health_rules import RULES, judge
from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.leadership import Leadership
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.stats_files import process_files
from tests.support import (
    NOON,
    FakeClock,
    damage,
    encode,
    leave_stats,
    make_metric,
    only_segment,
)

OK, WARNING, CRITICAL = HealthLevel.OK, HealthLevel.WARNING, HealthLevel.CRITICAL
Open = Callable[..., UsageClient]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(usage_dir=tmp_path / "usage", drain="manual")


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


def test_a_look_at_nothing_creates_nothing(settings: Settings) -> None:
    """Before the first record everything is fine, and still not there afterwards."""
    health = read_health(settings, probe=True)
    assert (health.level, health.recorded, health.pending) == (OK, 0, 0)
    assert (health.store_reachable, health.refused) == (True, None)
    assert not settings.usage_dir.exists()


def tree(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every file with its inode, its time of change and its content."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_look_changes_no_byte(open_client: Open, settings: Settings) -> None:
    """Nothing is taken in, merged, acked or removed, with and without asking the store."""
    client = open_client()
    client.put_ai_usage_metrics([make_metric() for _ in range(3)])
    client.flush()
    client.close()
    other = open_client()
    other.put_ai_usage_metrics([make_metric() for _ in range(2)])
    before = tree(settings.usage_dir)
    for probe in (False, True):
        health = read_health(settings, probe=probe)
        assert (health.pending, health.delivered) == (2, 3)
    after = tree(settings.usage_dir)
    assert {name for name in after if not name.endswith(("-wal", "-shm"))} == set(before)
    assert all(after[name] == before[name] for name in before)


def test_figures_are_kept_over_restarts_and_shared(open_client: Open, settings: Settings) -> None:
    """What ended clients counted, what others count, and this one as it is now."""
    first = open_client()
    first.put_ai_usage_metrics([make_metric() for _ in range(3)])
    first.count_dropped("invalid")
    first.close()
    first.put_ai_usage_metric(make_metric())
    second, third = open_client(), open_client()
    second.put_ai_usage_metric(make_metric())
    assert second.flush().delivered == 1
    third.put_ai_usage_metric(make_metric())
    health = third.health()
    assert (health.recorded, health.stored, health.delivered) == (6, 5, 4)
    assert dict(health.dropped) == {"invalid": 1}
    assert (health.level, health.reasons[0].rule) == (WARNING, "drops")
    assert dict(first.health().dropped) == {"invalid": 1, "closed": 1}
    third.close()
    outside = read_health(settings)
    assert (outside.recorded, outside.stored, outside.delivered) == (6, 5, 5)
    assert outside.last_record is not None
    assert outside.last_delivery is not None


def test_a_put_touches_no_figures(client: UsageClient, settings: Settings) -> None:
    """They are kept by the background, a flush or a close, never on the way of a record."""
    client.put_ai_usage_metrics([make_metric() for _ in range(100)])
    assert not (settings.spool_dir / "stats").exists()
    client.flush()
    assert (settings.spool_dir / "stats").is_dir()


def test_a_full_disk_is_critical_and_what_lies_in_memory_a_warning(
    open_client: Open, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by the process itself, by others through its figures, and gone when there is room."""
    client = open_client()
    client.put_ai_usage_metric(make_metric())
    client.flush()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(writer_module.os, "write", full)
        assert client.put_ai_usage_metric(make_metric()) is PutResult.MEMORY
        client._pipeline.maintain()
        client._pipeline.keep_stats()
        for health in (client.health(), read_health(settings)):
            assert health.memory == 1
            assert (health.recorded, health.stored) == (2, 1)
            assert [reason.rule for reason in health.reasons] == ["disk", "memory"]
            assert health.level is CRITICAL
            assert "No space left" in (health.refused or "")
    client.flush()
    health = read_health(settings)
    assert (health.level, health.stored, health.memory) == (OK, 2, 0)


def test_what_goes_from_memory_into_the_store_was_stored(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that never saw the disk is recorded, stored and delivered once."""
    monkeypatch.setattr(writer_module.SpoolWriter, "append", _refuse)
    assert client.put_ai_usage_metric(make_metric()) is PutResult.MEMORY
    assert client.flush().delivered == 1
    health = client.health()
    assert (health.recorded, health.stored, health.memory, health.delivered) == (1, 1, 0, 1)


def _refuse(*_args: object, **_options: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"min_free_bytes": 1 << 60}, "stay free"),
        ({"max_bytes": 1}, "its bound is 1"),
        ({"max_bytes": 1, "overflow": "drop_oldest"}, None),
        ({"max_bytes": 1 << 20, "min_free_bytes": 0}, None),
    ],
)
def test_bounds_that_are_reached_are_seen_without_a_process(
    client: UsageClient, settings: Settings, changes: dict[str, Any], refused: str | None
) -> None:
    """No pipeline need run to see that none could record."""
    client.put_ai_usage_metric(make_metric())
    health = read_health(replace(settings, **changes))
    assert (health.refused is None) == (refused is None)
    assert (refused or "") in (health.refused or "")


def test_a_directory_that_is_refused_is_critical(client: UsageClient, settings: Settings) -> None:
    """Records in it could be read or forged: recording would be refused as well."""
    client.put_ai_usage_metric(make_metric())
    settings.spool_dir.chmod(0o777)
    health = read_health(settings)
    assert health.level is CRITICAL
    assert "chmod go-w" in (health.refused or "")
    settings.spool_dir.chmod(0o700)


def test_the_leader_and_its_sign_of_life_are_shown(settings: Settings, clock: FakeClock) -> None:
    """Who delivers, where, and how long ago it said so; nobody is a warning once records wait."""
    settings.spool_dir.mkdir(parents=True, mode=0o700)
    leader = Leadership(settings.spool_dir, clock)
    assert leader.try_lead()
    begun = int((NOON - timedelta(seconds=40)).timestamp() * 1e9)
    line = encode_line(encode(make_metric(timestamp=NOON - timedelta(seconds=40))))
    segment = settings.spool_dir / f"{begun:019d}-1-aa.seg"
    segment.write_bytes(format_header(HEADER_BYTES) + line)
    clock.advance(5)
    health = read_health(settings, clock=clock)
    assert (health.leader_pid, health.leader_generation) == (os.getpid(), 0)
    assert health.leader_host
    assert health.leader_seconds == pytest.approx(5)
    assert health.oldest_unsent_seconds == pytest.approx(45)
    assert health.level is OK
    clock.advance(100)
    reasons = read_health(settings, clock=clock).reasons
    assert [reason.rule for reason in reasons] == ["age", "leader"]
    assert "2 min (warning from 60 s)" in reasons[0].text
    assert f"process {os.getpid()}" in reasons[1].text
    leader.release()


def test_a_leader_of_whom_only_the_sign_is_known_is_one(
    settings: Settings, clock: FakeClock
) -> None:
    """On a full disk the file has its name and its time, and no words."""
    settings.spool_dir.mkdir(parents=True, mode=0o700)
    sign = settings.spool_dir / "leader"
    sign.touch()
    os.utime(sign, (clock.now().timestamp() - 50, clock.now().timestamp() - 50))
    health = read_health(settings, clock=clock)
    assert (health.leader_pid, health.leader_host) == (None, None)
    assert health.leader_seconds == pytest.approx(50)
    late = judge(replace(health, oldest_unsent_seconds=40.0), settings)
    assert "an unknown process is 50 s old" in late.reasons[0].text


def test_a_disk_and_a_store_that_fail_together_are_each_said_once(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two faults that alternate do not fill the log with each other."""
    client.put_ai_usage_metric(make_metric())

    def away(*_: object) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr(SqliteStore, "write", away)
    monkeypatch.setattr(writer_module.SpoolWriter, "sync", _refuse)
    for _ in range(3):
        client.flush()
    assert caplog.text.count("the store is away") == 1
    assert client.health().last_error == "the store is away"


def test_an_error_is_shown_until_a_delivery_succeeds(
    client: UsageClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others see it as well, through the figures."""
    client.put_ai_usage_metric(make_metric())

    def fail(*_: object) -> None:
        raise StoreError("the store is away")

    with monkeypatch.context() as failing:
        failing.setattr(SqliteStore, "write", fail)
        client.flush()
    for health in (client.health(), read_health(settings)):
        assert health.last_error == "the store is away"
        assert health.last_error_at is not None
    client.flush()
    for health in (client.health(), read_health(settings)):
        assert (health.last_error, health.last_error_at) == (None, None)


def test_an_error_of_who_died_is_shown_until_another_delivers(
    open_client: Open, settings: Settings
) -> None:
    """The last words of a drainer are kept, and forgotten once they are no longer true."""
    clock = FakeClock()
    words = Figures(stored=1, last_error="access denied")
    leave_stats(settings.spool_dir / "stats", words, clock)
    assert read_health(settings, clock=clock).last_error == "access denied"
    clock.advance(10)
    leave_stats(
        settings.spool_dir / "stats", Figures(delivered=1, last_delivery=clock.now()), clock
    )
    health = read_health(settings, clock=clock)
    assert (health.delivered, health.last_error, health.last_error_at) == (1, None, None)


def test_a_closed_client_leaves_only_the_total(client: UsageClient, settings: Settings) -> None:
    """A thousand commands leave one file, not a thousand."""
    client.put_ai_usage_metric(make_metric())
    client.flush()
    assert len(process_files(settings.spool_dir / "stats")) == 1
    client.close()
    assert process_files(settings.spool_dir / "stats") == []
    assert read_health(settings).delivered == 1


def test_who_leads_adds_up_what_ended_processes_left(settings: Settings, clock: FakeClock) -> None:
    """Once a minute, in the background; who does not lead leaves it to the leader."""
    client = UsageClient(settings, SqliteStore(settings.store_path), clock=clock)
    stats = settings.spool_dir / "stats"
    leave_stats(stats, Figures(stored=1), clock)
    client._pipeline.tick()
    clock.advance(60)
    with pytest.MonkeyPatch.context() as followed:
        followed.setattr(Leadership, "try_lead", lambda _: False)
        followed.setattr(Leadership, "leads", False)
        client._pipeline.tick()
    assert len(process_files(stats)) == 1
    client._pipeline.tick()
    assert process_files(stats) == []
    client.close()


def test_damaged_lines_are_counted_and_torn_ones_are_none(
    client: UsageClient, settings: Settings
) -> None:
    """What a disk cut short was never stored; what it spoiled was."""
    client.put_ai_usage_metrics([make_metric() for _ in range(2)])
    client._pipeline.spool.writer.seal()
    path = only_segment(settings.spool_dir)
    damage(path, HEADER_BYTES + 30, b"\0")
    with path.open("ab") as file:
        file.write(b"0badc0de {torn\n\n")
    client.flush()
    health = client.health()
    assert (health.corrupt_lines, health.delivered, health.level) == (1, 1, WARNING)
    assert [reason.rule for reason in health.reasons] == ["corrupt"]


def test_dead_letters_count_as_long_as_they_lie_there(
    client: UsageClient, settings: Settings
) -> None:
    """What was retried or dropped leaves a blank line, and is dead no more."""
    client.put_ai_usage_metric(make_metric())
    client._pipeline.spool.writer.append(b'{"no":"metric"}')
    client.flush()
    health = client.health()
    assert (health.dead, health.dead_ever, health.level) == (1, 1, WARNING)
    (letters,) = (settings.spool_dir / "dead").iterdir()
    letters.write_bytes(b" " * 10 + b"\n")
    health = client.health()
    assert (health.dead, health.dead_ever, health.level) == (0, 1, OK)


def test_damaged_stores_that_were_set_aside_are_named(
    client: UsageClient, settings: Settings
) -> None:
    """Until somebody has looked at them and moved them away."""
    for name in ("usage.db.corrupt-1", "usage.db.corrupt-1-wal", "usage.db.v1"):
        (settings.usage_dir / name).touch()
    health = client.health()
    assert health.corrupt_stores == (settings.usage_dir / "usage.db.corrupt-1",)
    assert health.level is WARNING


def test_other_destinations_are_named(open_client: Open, settings: Settings) -> None:
    """Records of a table that is no longer configured do not wait unseen."""
    open_client().put_ai_usage_metric(make_metric())
    elsewhere = replace(settings, table_name="receipts", region="eu-central-1")
    health = read_health(elsewhere)
    assert (health.destination, health.pending) == ("receipts@eu-central-1", 0)
    assert dict(health.elsewhere) == {"local": 1}
    assert health.level is WARNING


def test_a_store_is_asked_only_on_request(
    client: UsageClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, or it is critical, with what it says."""
    client.put_ai_usage_metric(make_metric())
    client.flush()
    assert client.health().store_reachable is None
    assert client.health(probe=True).store_reachable is True
    with closing(sqlite3.connect(settings.store_path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for health in (client.health(probe=True), read_health(settings, probe=True)):
        assert (health.store_reachable, health.level) == (False, CRITICAL)
        assert "usage.db" in (health.store_error or "")
    table = read_health(replace(settings, table_name="receipts"), probe=True)
    assert table.store_reachable is False


def test_a_store_that_hangs_keeps_nobody_waiting(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question ends when its time is up, whatever the store does."""
    release = threading.Event()
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(SqliteStore, "recorded_times", lambda *_: release.wait(20))
    health = client.health(probe=True)
    release.set()
    assert health.store_reachable is False
    assert "no answer within 0.05 s" in (health.store_error or "")


def test_a_backlog_of_any_length_takes_bounded_time(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time for counting is up, the rest is estimated, and the answer says so."""
    settings.spool_dir.mkdir(parents=True, mode=0o700)
    line = encode_line(encode(make_metric()))
    for begun in range(1, 21):
        path = settings.spool_dir / f"{begun:019d}-1-aa.seg"
        path.write_bytes(format_header(HEADER_BYTES) + line * 10)
    real, counted = module.count_left, []

    def slowly(extents: Any, is_late: Callable[[], bool]) -> Any:
        def and_time_passes() -> bool:
            counted.append(1)
            clock.advance(0.1)
            return is_late()

        return real(extents, and_time_passes)

    monkeypatch.setattr(module, "count_left", slowly)
    health = read_health(settings, clock=clock)
    assert (health.pending, health.pending_estimated) == (200, True)
    assert len(counted) <= 20
    assert "about 200 records" in next(r.text for r in health.reasons if r.rule == "queue")


@pytest.mark.parametrize("broken", ["backlog", "read_heartbeat", "waiting_elsewhere"])
def test_a_part_that_cannot_be_seen_keeps_nothing_else_from_view(
    client: UsageClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    """It is logged, and the rest is shown."""
    client.put_ai_usage_metric(make_metric())
    client.count_dropped("invalid")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, broken, fail)
    health = client.health()
    assert (health.recorded, health.level) == (2, WARNING)
    assert "Input/output error" in caplog.text


def test_gaps_are_no_records_that_wait(client: UsageClient, settings: Settings) -> None:
    """What was lost is said by drops; the queue is of records only."""
    gap = Gap(gap="g", timestamp=NOON, reason="disk", count=1)
    client._pipeline.spool.writer.append(encode(gap), count=0)
    health = read_health(settings)
    assert (health.pending, health.oldest_unsent_seconds, health.level) == (0, None, OK)
    assert health.spool_segments == 1
    assert health.spool_bytes > HEADER_BYTES


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days")],
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    """Two of a unit at least, so that no figure is coarse."""
    assert plain_duration(seconds) == text
