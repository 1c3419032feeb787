"""Delivery of what is torn, rotten, strange or poison: it is set aside and stops nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from receipt_dynamo import StoreError, UsageQuery
from receipt_dynamo.delivery import Delivery, LeadLostError
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import damage, encode, make_metric, only_segment
from tests.support.delivery_bench import Bench
from tests.support.file_store import FileStore


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_torn_tail_is_set_aside_and_the_segment_ends(bench: Bench) -> None:
    """The record that a kill tore was never answered; it stops nothing."""
    bench.spool("a")
    with only_segment(bench.directory).open("ab") as file:
        file.write(b'0badc0de {"half')
    report = bench.run()
    assert (report.delivered, report.bad_lines, report.finished) == (1, 1, True)
    assert list_segments(bench.directory) == []
    (kept,) = (bench.directory / "quarantine").iterdir()
    assert kept.read_bytes() == b'0badc0de {"half\n'


POISON = [
    b"no json",
    b"[]",
    b"5",
    b'"text"',
    b"{}",
    b'{"gap":5}',
    b'{"gap":"g","timestamp":"2026-01-01T00:00:00Z","reason":"r","count":99999999999999999999}',
    b'{"gap":"g","timestamp":"2026-01-01T00:00:00Z","reason":"r","count":-1}',
    b'{"gap":"g","timestamp":"2026-01-01T00:00:00Z","reason":"r","count":1,"cost_usd":"ten"}',
    encode(make_metric()).replace(b"openai", b"open#ai"),
    encode(make_metric()).replace(b"+00:00", b"").replace(b"Z", b""),
    encode(make_metric(input_tokens=5)).replace(b":5", b":-5"),
    encode(make_metric(input_tokens=5)).replace(b":5", b":5e400"),
    encode(make_metric(model="surrogate")).replace(b"surrogate", b"\\ud800"),
    encode(make_metric(model="notutf")).replace(b"notutf", b"\xff\xfe"),
    b"[" * 10_000,
    b'{"metadata":' * 500,
]


@pytest.mark.parametrize("poison", POISON, ids=range(len(POISON)))
def test_a_record_that_can_never_be_stored_goes_to_dead_and_stops_nothing(
    bench: Bench, poison: bytes
) -> None:
    """Its neighbours arrive; the record is kept with the reason."""
    writer = bench.spool("a", seal=False)
    writer.append(poison)
    writer.append(encode(make_metric(request_id="b")))
    writer.seal()
    report = bench.run()
    assert (report.delivered, report.dead, report.finished) == (2, 1, True)
    assert bench.stored == ["a", "b"]
    (kept,) = (bench.directory / "dead").iterdir()
    dead = msgspec.json.decode(kept.read_bytes())
    assert dead["reason"]
    assert dead["record"] == poison.decode("utf-8", "replace")


@pytest.mark.parametrize("name", [{"request_id": ""}, {}], ids=["empty", "absent"])
def test_a_record_without_a_request_id_is_dead_and_the_store_stays_whole(
    bench: Bench, name: dict[str, str]
) -> None:
    """A line without a request id gets none minted: it would never be the same record again."""
    fields = {**msgspec.json.decode(encode(make_metric(request_id="a"))), "service": "by-hand"}
    del fields["request_id"]
    writer = bench.spool("a", seal=False)
    writer.append(encode(fields | name))
    writer.seal()
    report = bench.run()
    assert (report.delivered, report.dead) == (1, 1)
    assert [metric.request_id for metric in bench.store.query(UsageQuery())] == ["a"]
    letter = msgspec.json.decode(next((bench.directory / "dead").iterdir()).read_bytes())
    assert letter["reason"].startswith("request_id is missing")


def test_a_segment_of_another_version_is_left_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """An older library never destroys what a newer one wrote; it says so once."""
    bench.spool("a")
    newer = only_segment(bench.directory)
    damage(newer, 0, b"#spool2")
    before = newer.read_bytes()
    bench.spool("b")
    for _ in range(3):
        assert bench.run().finished
    assert bench.stored == ["b"]
    assert newer.read_bytes() == before
    assert [r.message for r in caplog.records if "#spool2" in r.message] != []
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "header", [b"\0" * HEADER_BYTES, b"x" * HEADER_BYTES, format_header(10**9)]
)
def test_a_damaged_header_sends_everything_once_more(bench: Bench, header: bytes) -> None:
    """Under fixed keys that changes nothing in the store."""
    writer = bench.spool("a", "b", seal=False)
    bench.run()
    damage(only_segment(bench.directory), 0, header)
    bench.spool("c")
    writer.append(encode(make_metric(request_id="d")))
    writer.seal()
    assert bench.run().finished
    assert sorted(bench.stored) == ["a", "b", "c", "d"]
    assert list_segments(bench.directory) == []


@pytest.mark.parametrize("kind", ["directory", "link", "empty"])
def test_a_strange_file_never_stops_the_others(
    bench: Bench, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No condition of one segment may stop the rest, or the start of a process."""
    bench.spool("a")
    strange = bench.directory / "0000000000000000001-1-aa.seg"
    if kind == "directory":
        strange.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_text("precious")
        strange.symlink_to(tmp_path / "elsewhere")
    else:
        strange.touch()
    bench.run()
    assert bench.stored == ["a"]
    assert strange.exists() == (kind in ("directory", "link"))
    assert len(caplog.records) == (kind in ("directory", "link"))


def test_a_dead_record_that_cannot_be_set_aside_stays_spooled(bench: Bench) -> None:
    """The segment waits, the others go on; once there is room, everything moves."""
    writer = bench.spool("a", seal=False)
    writer.append(b"poison")
    writer.seal()
    bench.spool("b")
    (bench.directory / "dead").write_text("in the way")
    report = bench.run()
    assert (report.failed_segments, report.finished) == (1, False)
    assert bench.stored == ["b"]
    (bench.directory / "dead").unlink()
    assert bench.run().finished
    assert sorted(bench.stored) == ["a", "b"]


def test_a_stored_record_that_rotted_on_disk_is_shown_as_lost(bench: Bench) -> None:
    """Every loss is itself counted, and every report shows it."""
    bench.spool("a", "b")
    damage(only_segment(bench.directory), HEADER_BYTES + 20, b"?")
    bench.run()
    assert bench.stored == ["b"]
    assert bench.store.dropped(UsageQuery()).count == 1


def test_a_store_that_is_away_does_not_fill_the_quarantine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often delivery is tried again, a damaged line is kept once."""
    bench.spool("a", "b")
    damage(only_segment(bench.directory), HEADER_BYTES + 20, b"?")

    def away(*_: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(SqliteStore, "write", away)
    for _ in range(5):
        with pytest.raises(StoreError):
            bench.run()
    monkeypatch.undo()
    bench.run()
    (kept,) = (bench.directory / "quarantine").iterdir()
    assert len(kept.read_bytes().splitlines()) == 1


def test_a_damaged_line_that_is_read_again_counts_once(tmp_path: Path) -> None:
    """Where the ack was not written the next batch may end elsewhere: a store that keeps no
    positions gets the same gap once more, not another one."""
    bench, store = Bench(tmp_path), FileStore(tmp_path / "usage.jsonl")
    writer = bench.spool("a", "b", seal=False)
    damage(only_segment(bench.directory), HEADER_BYTES + 20, b"?")
    for _ in range(2):
        with pytest.raises(LeadLostError):
            Delivery(bench.directory, store, bench.clock).run(float("inf"), may_ack=lambda: False)
        writer.append(encode(make_metric(request_id="c")))
    assert store.dropped(UsageQuery()).by_reason == {"corrupt": 1}


@pytest.mark.parametrize("ack", ["0000000000000429", "0000000000004029", "0000000000004429"])
def test_a_damaged_ack_that_a_record_ends_at_skips_nothing(tmp_path: Path, ack: str) -> None:
    """A store that keeps no positions has only the header to go by."""
    bench, store = Bench(tmp_path), FileStore(tmp_path / "usage.jsonl")
    writer = SpoolWriter(bench.directory, 1 << 22)
    bare = len(encode_line(encode(make_metric(request_id="00", metadata={"pad": ""}))))
    metrics = [
        make_metric(request_id=f"{n:02}", metadata={"pad": "x" * (400 - bare)}) for n in range(20)
    ]
    for metric in metrics:
        writer.append(encode(metric))
    writer.seal()
    damage(only_segment(bench.directory), 0, b"#spool1 ack=" + ack.encode())
    Delivery(bench.directory, store, bench.clock).run(float("inf"))
    assert list(store.query(UsageQuery())) == metrics
