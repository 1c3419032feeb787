"""How a destination stands: a look that changes nothing, and all that it shows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import HealthLevel, Settings, UsageClient, read_health
from receipt_dynamo import health_check as module
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import NOON, FakeClock, damage, encode, make_metric, only_segment

OK, WARNING, CRITICAL = HealthLevel.OK, HealthLevel.WARNING, HealthLevel.CRITICAL
Open = Callable[..., UsageClient]


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
