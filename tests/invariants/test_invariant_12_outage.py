"""Invariant 12: a store that is away for hours (credentials expired, no permission, no table) kills
no record: all of it is delivered afterwards. (One poison among 25: test_invariant_12_poison.py.)"""

from __future__ import annotations

from pathlib import Path

from receipt_dynamo import Settings, StoreError, UsageClient
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, WriteOutcome
from tests.support import FakeClock, make_metric


class Expiring(SqliteStore):
    """A store that answers nothing but errors for as long as it is told to."""

    expired = True

    def write(self, batch: Batch) -> WriteOutcome:
        if self.expired:
            raise StoreError("ExpiredTokenException: the security token is expired")
        return super().write(batch)


def test_invariant_12_six_hours_without_credentials(tmp_path: Path, clock: FakeClock) -> None:
    """A tick a minute, records all the while: nothing dead, nothing dropped, then everything."""
    settings = Settings(usage_dir=tmp_path / "usage", drain="manual", segment_bytes=8192)
    store = Expiring(settings.store_path)
    client = UsageClient(settings, store, clock=clock)
    names = []
    for minute in range(360):
        names.append(f"r{minute:03}")
        client.put_ai_usage_metric(make_metric(request_id=names[-1]))
        clock.advance(60.0)
        assert client.ship() == 0
    health = client.health()
    assert (health.pending, health.dead, health.dropped) == (360, 0, {})
    assert "ExpiredTokenException" in str(health.last_error)
    store.expired = False
    client.ship()
    assert [metric.request_id for metric in client.query()] == names
    assert client.pending() == 0
    client.close()
    assert not (settings.spool_dir / "dead").exists()
