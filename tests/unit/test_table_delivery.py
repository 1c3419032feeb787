"""Delivery to a table: few calls, each record settled by itself, acks in order, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from receipt_dynamo import StoreError
from receipt_dynamo.delivery import DeliveryReport
from receipt_dynamo.drainer import start_thread
from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.utils.circuit_breaker import CircuitState
from receipt_dynamo.utils.clock import SystemClock
from tests.support import NOON, encode, make_metric, only_segment
from tests.support.fake_table import Answer, FakeTable, fail, lose_reply, take, take_all
from tests.support.table_bench import TableBench as Bench
from tests.support.table_bench import names


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_backlog_goes_in_full_batches_and_leaves_no_file(bench: Bench) -> None:
    """One call for 25 records; what is finished is removed."""
    bench.spool(1010)
    told: list[int] = []
    report = bench.run(progress=told.append)
    assert (report.delivered, report.finished, sum(told)) == (1010, True, 1010)
    assert bench.table.calls == [25] * 40 + [10]
    assert bench.table.ids == names(1010)
    assert list_segments(bench.directory) == []


def test_what_fills_no_batch_waits_once_for_more(bench: Bench) -> None:
    """While records arrive calls are full; nothing waits longer than the linger."""
    writer = bench.spool(60, seal=False)
    report = bench.run(linger=True)
    assert (bench.table.calls, report.delivered) == ([25, 25], 50)
    bench.clock.advance(0.1)
    for number in range(60, 110):
        writer.append(encode(make_metric(request_id=f"{number:05d}")))
    bench.run(linger=True)
    assert set(bench.table.calls) == {25}
    bench.clock.advance(0.2)
    assert bench.run(linger=True).finished
    assert bench.table.ids == names(110)
    bench.run(linger=True)
    assert len(bench.table.calls) <= 12


def test_only_what_was_not_taken_is_sent_again(bench: Bench) -> None:
    """A table at its limit takes part of a batch: the rest goes first in the next one."""
    bench.spool(50)
    bench.table.answers.extend([take(10), take(0), take(20)])
    bench.run()
    assert bench.table.ids == names(50)
    assert bench.table.refused > 0
    assert sum(bench.table.calls) == 50 + bench.table.refused
    throttling = bench.delivery.throttling()
    assert throttling is not None
    assert "the table is at its limit" in throttling[1]
    assert bench.delivery.dispatcher.breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize(
    "answer",
    [
        fail("InternalServerError", 500),
        fail("ProvisionedThroughputExceededException"),
        fail("ReplicatedWriteConflictException"),
        lose_reply,
    ],
)
def test_what_passes_is_sent_again(bench: Bench, answer: Answer) -> None:
    """The same records under the same keys: what was applied before counts once."""
    bench.spool(30)
    bench.table.answers.extend([answer] * 3)
    bench.run_out()
    assert bench.table.ids == names(30)
    assert list_segments(bench.directory) == []


def test_an_outage_costs_probes_and_is_said_once(bench: Bench) -> None:
    """While the breaker is open no call is made; when the table is back all of it arrives."""
    bench.spool(500)
    bench.table.always = fail("ServiceUnavailable", 503)
    with pytest.raises(StoreError, match="ServiceUnavailable"):
        bench.run()
    calls = len(bench.table.calls)
    assert calls <= 8
    for _ in range(20):
        with pytest.raises(StoreError, match="ServiceUnavailable"):
            bench.run()
    assert len(bench.table.calls) == calls
    for _ in range(10):
        bench.clock.advance(61.0)
        with pytest.raises(StoreError):
            bench.run()
    assert len(bench.table.calls) == calls + 10
    assert bench.table.items == {}
    assert only_segment(bench.directory).stat().st_size > 500 * 100
    bench.table.always = None
    bench.clock.advance(61.0)
    bench.run_out()
    assert bench.table.ids == names(500)


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException"])
def test_configuration_is_never_a_reason_to_discard(bench: Bench, code: str) -> None:
    """A missing table or permission: tried for ever, slowly, and never dead."""
    bench.spool(60)
    bench.table.always = fail(code)
    for _ in range(50):
        with pytest.raises(StoreError, match=code):
            bench.run()
        bench.clock.advance(10.0)
    assert len(bench.table.calls) < 20
    assert not (bench.directory / "dead").exists()
    bench.table.always = None
    bench.clock.advance(61.0)
    bench.run_out()
    assert bench.table.ids == names(60)


def test_a_table_that_cannot_even_be_asked_for_its_shards_keeps_all(bench: Bench) -> None:
    """The first question of a process counts for the breaker as every other call."""
    bench.spool(3)
    bench.table.ready = False
    bench.table.away = OSError("no route")
    for _ in range(10):
        with pytest.raises(StoreError, match="no route"):
            bench.run()
    assert bench.delivery.dispatcher.breaker.state is CircuitState.OPEN
    bench.table.away = None
    bench.clock.advance(61.0)
    bench.run_out()
    assert bench.table.ids == names(3)


def test_poison_dies_alone_with_its_reason(bench: Bench) -> None:
    """Halving finds the record that the table refuses; its neighbours arrive."""
    bench.spool(120)
    bench.table.poison = {"00007", "00060"}
    report = bench.run()
    assert (report.delivered, report.dead, report.finished) == (118, 2, True)
    assert bench.table.ids == sorted(set(names(120)) - bench.table.poison)
    (dead,) = (bench.directory / "dead").iterdir()
    assert dead.read_text().count("an item is odd") == 2
    assert list_segments(bench.directory) == []


def test_a_storm_of_poison_is_the_tables_fault(bench: Bench) -> None:
    """Where everything is refused with one message nothing more dies: it is configuration."""
    bench.spool(400)
    bench.table.always = fail("ValidationException")
    for _ in range(5):
        with pytest.raises(StoreError):
            bench.run()
        bench.clock.advance(61.0)
    letters = sum(
        path.read_text().count("\n") for path in (bench.directory / "dead").glob("*.jsonl")
    )
    assert letters <= 3 * 25


def test_a_newer_record_of_the_same_identity_is_the_one_that_stays(bench: Bench) -> None:
    """In one batch, or over several: the table ends with the last, and both are acked."""
    writer = SpoolWriter(bench.directory, 1 << 22)
    for version in range(120):
        writer.append(encode(make_metric(request_id="same", timestamp=NOON, input_tokens=version)))
    writer.seal()
    bench.table.answers.extend([take(0), lose_reply])
    bench.run_out()
    assert len(bench.table.items) == 1
    (payload,) = bench.table.items.values()
    assert b'"input_tokens":119' in payload
    assert list_segments(bench.directory) == []


def test_after_an_outage_what_happens_now_goes_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest segment of a process before the backlog; without a backlog by age."""
    monkeypatch.setattr("receipt_dynamo.table_delivery._BACKLOG_BYTES", 1000)
    bench.spool(30)
    bench.spool(30, first=100)
    bench.spool(30, first=200, seal=False)
    sent: list[str] = []

    def note(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
        sent.extend(map(table.request_id, puts))
        return take_all(table, puts)

    bench.table.always = note
    bench.run()
    assert sent[:30] == names(30, 200)
    assert sorted(sent) == [*names(30), *names(30, 100), *names(30, 200)]


def test_memory_is_delivered_past_the_disk(bench: Bench) -> None:
    """What the table does not take stays in memory, in its order."""
    ring = MemoryRing()
    for name in names(40):
        ring.offer(encode(make_metric(request_id=name)))
    report = DeliveryReport()
    bench.table.poison = {"00003"}
    bench.delivery.deliver_memory(ring, report)
    assert (report.delivered, report.dead, len(ring)) == (39, 1, 0)
    for name in names(3, 100):
        ring.offer(encode(make_metric(request_id=name)))
    bench.table.always = fail("InternalServerError", 500)
    bench.delivery.deliver_memory(ring, report)
    assert [b'"00100"' in ring.peek()[0], len(ring)] == [True, 3]


def test_a_sender_that_hangs_is_left_behind(tmp_path: Path) -> None:
    """The round ends soon after its time is up; what the sender says then counts no more."""
    begun, hanging, finished = (threading.Event() for _ in range(3))

    class Clock(SystemClock):
        """Time is up as soon as the sender hangs, and not before."""

        def monotonic(self) -> float:
            return super().monotonic() + 20.0 * begun.is_set()

    def hang(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
        begun.set()
        hanging.wait(60)
        try:
            return take_all(table, puts)
        finally:
            finished.set()

    bench = Bench(tmp_path, start_thread=start_thread, clock=Clock())
    bench.spool(10)
    bench.table.always = hang
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("receipt_dynamo.table_round._GRACE_SECONDS", 0.05)
        report = bench.run(15.0)
    assert (report.delivered, report.finished) == (0, False)
    hanging.set()
    assert finished.wait(60)
    bench.table.always = None
    assert bench.run().delivered == 10
    assert list_segments(bench.directory) == []


def test_senders_work_side_by_side(tmp_path: Path) -> None:
    """As many calls at a time as there are senders: the first only answers when the last asks."""
    together = threading.Barrier(4)

    def meet(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
        together.wait(60)
        return take_all(table, puts)

    bench = Bench(tmp_path, start_thread=start_thread, clock=SystemClock())
    bench.spool(200)
    bench.table.always = meet
    assert bench.run().delivered == 200


def test_a_thousand_segments_need_few_descriptors(bench: Bench) -> None:
    """Each is open while its records are on their way, and no longer."""
    for number in range(300):
        bench.spool(1, first=number)
    assert bench.run().delivered == 300
    assert bench.table.ids == names(300)
    assert list_segments(bench.directory) == []


def test_a_child_of_a_fork_starts_with_a_clean_slate(bench: Bench) -> None:
    """No permit, pace or suspicion of the parent's counts in it; an open break does."""
    bench.spool(30)
    bench.table.always = fail("ServiceUnavailable", 503)
    with pytest.raises(StoreError):
        bench.run()
    bench.delivery.forget_after_fork()
    assert bench.delivery.dispatcher.breaker.state is CircuitState.OPEN
    assert bench.delivery.dispatcher.snapshot().limiter.rate is None
    bench.table.always = None
    bench.clock.advance(timedelta(minutes=2).total_seconds())
    bench.run_out()
    assert bench.table.ids == names(30)
