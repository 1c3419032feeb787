"""UsageClient without room: a full disk, a bound, memory; each record is kept or counted."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

from receipt_dynamo import PutResult, Settings, StoreError, UsageClient
from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import FakeClock, encode, make_metric, only_segment, payloads_of, stored_ids

if TYPE_CHECKING:
    import pytest

Open = Callable[..., UsageClient]


def refuse(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_in_memory_then_drops_and_recovers_by_itself(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored stays; what memory holds is written as soon as there is room; the rest is
    one gap record."""
    client._pipeline.spool.ring = MemoryRing(max_records=3)
    client.put_ai_usage_metric(make_metric(request_id="before"))
    client._pipeline.spool.writer.seal()
    with monkeypatch.context() as disk:
        disk.setattr(writer_module.os, "write", refuse)
        answers = [
            client.put_ai_usage_metric(make_metric(request_id=f"m{n}", input_tokens=3))
            for n in range(5)
        ]
        held = client.health()
    assert answers == [PutResult.MEMORY] * 3 + [PutResult.DROPPED] * 2
    assert (held.recorded, held.stored, held.memory) == (6, 1, 3)
    assert client.put_ai_usage_metric(make_metric(request_id="after")) is PutResult.STORED
    assert sorted(stored_ids(client)) == ["after", "before", "m0", "m1", "m2"]
    dropped = client.dropped()
    assert (dropped.count, dropped.input_tokens, dropped.by_reason) == (2, 6, {"disk": 2})
    health = client.health()
    assert (health.recorded, health.stored, health.memory) == (7, 5, 0)
    assert dict(health.dropped) == {"disk": 2}


def test_memory_is_delivered_past_a_disk_that_stays_full(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may take what the spool's disk refuses."""
    spool = client._pipeline.spool
    refused = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(spool.writer, "append", Mock(side_effect=refused))
    assert client.put_ai_usage_metric(make_metric(request_id="m")) is PutResult.MEMORY
    assert client.flush().delivered == 1
    assert len(spool.ring) == 0
    assert stored_ids(client) == ["m"]


def test_two_that_write_memory_back_at_once_lose_nothing(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes into memory while it is written back by two threads is neither's to discard."""
    spool, append = client._pipeline.spool, SpoolWriter.append
    for name in ("a", "b"):
        spool.ring.offer(encode(make_metric(request_id=name)))
    within: list[bytes] = []

    def interrupted(self: SpoolWriter, payload: bytes, count: int = 1) -> None:
        if not within:
            within.append(payload)
            spool._write_back()  # the other one, in the middle of ours
            spool.ring.offer(encode(make_metric(request_id="c")))
        append(self, payload, count)

    monkeypatch.setattr(SpoolWriter, "append", interrupted)
    spool._write_back()
    assert sorted(stored_ids(client)) == ["a", "b", "c"]


def test_what_memory_still_holds_at_the_end_is_counted(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that closes while neither disk nor store takes a record counts it as lost."""
    spool = client._pipeline.spool
    refused = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as disk:
        disk.setattr(spool.writer, "append", Mock(side_effect=refused))
        disk.setattr(SqliteStore, "write", Mock(side_effect=StoreError("full")))
        client.put_ai_usage_metric(make_metric(input_tokens=7, output_tokens=0))
        client.close(1)
    assert client.dropped().by_reason == {"memory": 1}
    assert client.dropped().input_tokens == 7


def test_the_bound_of_the_spool_holds_and_opens_again(open_client: Open) -> None:
    """At max_bytes records go to memory; once the spool is drained they are stored again."""
    client = open_client(segment_bytes=4096, max_bytes=20_000)
    spool = client._pipeline.spool
    answers = [client.put_ai_usage_metric(make_metric(request_id=f"{n:04}")) for n in range(400)]
    assert set(answers) == {PutResult.STORED, PutResult.MEMORY}
    held = sum(path.stat().st_size for path in client.settings.spool_dir.glob("*.seg"))
    assert held <= 20_000 + 4096
    assert client.flush().pending == 0
    assert len(stored_ids(client)) == 400
    assert len(spool.ring) == 0
    assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED


def test_room_that_must_stay_free_is_kept(open_client: Open) -> None:
    """A disk with less than min_free_bytes is left to others."""
    client = open_client(min_free_bytes=1 << 60)
    assert client.put_ai_usage_metric(make_metric()) is PutResult.MEMORY


def test_the_oldest_go_first_where_that_is_chosen(open_client: Open) -> None:
    """drop_oldest removes sealed segments and counts each record in them with its figures."""
    client = open_client(segment_bytes=4096, max_bytes=16_384, overflow="drop_oldest")
    pipeline = client._pipeline
    for n in range(400):
        metric = make_metric(request_id=f"{n:04}", input_tokens=2, output_tokens=1)
        client.put_ai_usage_metric(metric)
        if n % 10 == 9:
            pipeline.make_room()
            pipeline.maintain()
    kept = stored_ids(client)
    dropped = client.dropped()
    assert 0 < dropped.count < 400
    assert dropped.by_reason == {"drop_oldest": dropped.count}
    assert dropped.input_tokens == 2 * dropped.count
    assert kept == [f"{n:04}" for n in range(dropped.count, 400)]


def test_nothing_goes_while_there_is_room(open_client: Open) -> None:
    """A bound that is no larger than a segment is one all the same: what fits is delivered."""
    client = open_client(max_bytes=4 << 20, overflow="drop_oldest")
    client.put_ai_usage_metric(make_metric(request_id="a"))
    client._pipeline.spool.writer.seal()
    client._pipeline.make_room()
    assert stored_ids(client) == ["a"]
    assert client.dropped().count == 0


def test_a_bound_smaller_than_a_segment_lets_the_oldest_go(open_client: Open) -> None:
    """A segment is an eighth of the bound at most: only sealed ones can make room."""
    client = open_client(max_bytes=64 << 10, overflow="drop_oldest")
    for n in range(1000):
        client.put_ai_usage_metric(make_metric(request_id=f"{n:04}"))
        if n % 10 == 9:
            client._pipeline.make_room()
            client._pipeline.maintain()
    kept = stored_ids(client)
    assert client.dropped().by_reason == {"drop_oldest": 1000 - len(kept)}
    assert kept[-1] == "0999"


def test_what_can_be_delivered_makes_room_by_itself(open_client: Open) -> None:
    """A round delivers before it removes anything."""
    client = open_client(max_bytes=16 << 10, overflow="drop_oldest")
    for n in range(100):
        client.put_ai_usage_metric(make_metric(request_id=f"{n:03}"))
    assert client._pipeline.bounds.excess() > 0
    client.ship()
    assert len(stored_ids(client)) == 100
    assert client.dropped().count == 0


def test_drops_are_written_at_once_then_once_a_second(tmp_path: Path, clock: FakeClock) -> None:
    """A storm of drops costs one gap record a second, and the first one none of its time."""
    settings = Settings(usage_dir=tmp_path / "u", drain="manual")
    client = UsageClient(settings, SqliteStore(settings.store_path), clock=clock)
    for _ in range(3):
        client.count_dropped("disk")
    segment = only_segment(settings.spool_dir)
    assert len(payloads_of(segment)) == 1
    clock.advance(1)
    client.count_dropped("disk")
    assert len(payloads_of(segment)) == 2
    assert client.pending() == 0, "a gap is no record that waits"
    assert client.dropped().count == 4
    client.close()
