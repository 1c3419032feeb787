"""What processes leave of themselves: figures, faults, and who of them leads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from receipt_dynamo import HealthLevel, PutResult, Settings, StoreError, UsageClient, read_health
from receipt_dynamo.figures import Figures
from receipt_dynamo.health_rules import judge
from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.leadership import Leadership
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.stats_files import process_files
from tests.support import NOON, FakeClock, encode, leave_stats, make_metric

OK, WARNING, CRITICAL = HealthLevel.OK, HealthLevel.WARNING, HealthLevel.CRITICAL
Open = Callable[..., UsageClient]


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
