"""flush() and close() return by their deadline, whatever hangs: no test here waits for one."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from receipt_dynamo import PutResult, Settings, StoreError, UsageClient, open_usage_client
from receipt_dynamo import drainer as drainer_module
from receipt_dynamo.delivery import Delivery, DeliveryReport, LeadLostError
from receipt_dynamo.drainer import Drainer
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.utils.clock import SystemClock
from tests.support import FakeClock, encode, make_metric, stored_ids

Open = Callable[..., UsageClient]
SHORT = 0.05  # seconds; what hangs here hangs until the test is over


@dataclass
class Hanging:
    """Something that hangs until it is let go."""

    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *_: object) -> object:
        self.reached.set()
        assert self.released.wait(30)
        raise StoreError("it hung")


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    thing = Hanging()
    yield thing
    thing.released.set()


@pytest.mark.parametrize("drain", ["thread", "manual", "external"])
@pytest.mark.parametrize("what", ["store", "disk"])
def test_what_hangs_keeps_nobody_waiting(
    open_client: Open, monkeypatch: pytest.MonkeyPatch, hanging: Hanging, drain: str, what: str
) -> None:
    """A store that never answers and a disk that never syncs: pending is said, nothing is lost."""
    client = open_client(drain=drain)
    with monkeypatch.context() as hung:
        if what == "store":
            hung.setattr(SqliteStore, "write", hanging)
        else:
            hung.setattr(os, "fdatasync", hanging)
        client.put_ai_usage_metric(make_metric(request_id="a"))
        report = client.flush(SHORT)
        assert (report.delivered, report.pending, report.dead) == (0, 1, 0)
        client.close(SHORT)
        assert hanging.reached.wait(30)
        hanging.released.set()
        client.close()
    assert stored_ids(client) == ["a"]


def test_a_flush_from_the_drainer_itself_does_not_wait_for_itself(
    open_client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log handler that flushes runs in whichever thread logs."""
    client = open_client(drain="thread")
    write, pending, done = SqliteStore.write, [], threading.Event()

    def reentrant(self: SqliteStore, batch: object) -> object:
        pending.append(client.flush(30.0).pending)
        done.set()
        return write(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteStore, "write", reentrant)
    client.put_ai_usage_metric(make_metric(request_id="a"))
    assert done.wait(30)
    client.close(30.0)
    assert pending[0] == 1
    assert stored_ids(client) == ["a"]


def refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_where_the_system_has_too_many_threads_the_caller_flushes_itself(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound of a container: what can be delivered is."""
    client.put_ai_usage_metric(make_metric(request_id="a"))
    monkeypatch.setattr(drainer_module._thread, "start_new_thread", refuse)
    assert client.flush().delivered == 1
    client.close()
    assert stored_ids(client) == ["a"]


def test_where_no_thread_runs_any_more_nothing_is_waited_for(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit hooks of Python 3.12 and later: memory and losses are brought into the spool, and what
    could wait for a disk or a store is the next process's to do."""
    client.put_ai_usage_metric(make_metric(request_id="a"))
    client._pipeline.spool.ring.offer(encode(make_metric(request_id="b")))
    with monkeypatch.context() as shutdown:
        shutdown.setattr(drainer_module._thread, "start_new_thread", refuse)
        shutdown.setattr(threading.main_thread(), "is_alive", lambda: False)
        shutdown.setattr(os, "fdatasync", refuse)
        shutdown.setattr(SqliteStore, "exclusive", refuse)
        report = client.flush()
        assert (report.delivered, report.pending) == (0, 2)
        client.count_dropped("invalid")
        client.close()
        assert client._pipeline.spool.writer.active_segment is None
    assert stored_ids(client) == ["a", "b"]
    assert client.dropped().by_reason == {"invalid": 1}


def test_a_job_is_done_once_however_the_thread_ends() -> None:
    """Between the last look for jobs and the end of the thread none falls through."""
    for _ in range(200):
        drainer = Drainer(lambda: 0, FakeClock())
        drainer.start()
        ran: list[int] = []
        stopper = threading.Thread(target=drainer.stop, args=(30.0,))
        stopper.start()
        assert drainer.call(lambda: ran.append(1), 30.0)  # noqa: B023 - called before the next
        stopper.join()
        assert ran == [1]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("no")])
def test_whatever_is_raised_in_the_thread_does_not_end_it(error: BaseException) -> None:
    """A log handler that calls sys.exit() would else end delivery while the process runs on."""
    ticked = threading.Event()
    errors = [error, None]

    def tick() -> int:
        if errors and (raised := errors.pop(0)):
            raise raised
        ticked.set()
        return 0

    def fail() -> None:
        raise error

    drainer = Drainer(tick, FakeClock())
    drainer.start()
    assert drainer.call(fail, 30.0)
    assert ticked.wait(30)
    assert drainer.call(lambda: None, 30.0)
    assert drainer.stop(30.0)


def test_a_thread_that_died_all_the_same_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, and the next record starts another."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    class Broken(FakeClock):
        broken = True

        def receive(self, inbox: Any, timeout: float) -> Any:
            if self.broken:
                raise SystemExit
            return super().receive(inbox, timeout)

    drainer = Drainer(lambda: 0, broken := Broken())
    drainer.start()
    assert drainer._ended.wait(30)
    assert drainer.stop(30.0)
    assert not drainer.started
    broken.broken = False
    broken.advance(1.0)
    drainer.start()
    assert drainer.call(lambda: None, 30.0)
    assert drainer.stop(30.0)


def test_a_thread_that_could_not_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    """A system that has too many threads for a moment; a second later, and not with each record."""
    tries: list[int] = []

    def refuse(*_: object) -> None:
        tries.append(1)
        raise RuntimeError("can't start new thread")

    drainer = Drainer(lambda: 0, clock)
    with monkeypatch.context() as full:
        full.setattr(drainer_module._thread, "start_new_thread", refuse)
        for _ in range(3):
            drainer.start()
        assert (len(tries), drainer.started) == (1, False)
    clock.advance(1.0)
    drainer.start()
    assert drainer.started
    assert drainer.stop(30.0)


def test_when_the_interpreter_finalises_nobody_waits_for_a_frozen_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frozen within its work it may hold locks: nothing is done. Frozen while it waited for work it
    holds none: the caller does what waits for nothing."""
    within, go_on, ran = threading.Event(), threading.Event(), []

    def tick() -> int:
        within.set()
        assert go_on.wait(30)
        return 0

    drainer = Drainer(tick, SystemClock())
    drainer.start()
    drainer.notify()
    assert within.wait(30)
    with monkeypatch.context() as shutdown:
        shutdown.setattr(drainer_module.sys, "is_finalizing", lambda: True)
        assert not drainer.call(lambda: ran.append("frozen"), 300.0)
        assert not drainer.stop(300.0)
    go_on.set()
    assert drainer.stop(30.0)
    drainer._takes_jobs = drainer._resting = True
    with monkeypatch.context() as shutdown:
        shutdown.setattr(drainer_module.sys, "is_finalizing", lambda: True)
        assert not drainer.call(refuse, 300.0, at_shutdown=lambda: ran.append("resting"))
    assert ran == ["resting"]


def test_whoever_lets_go_of_a_client_waits_for_no_disk(
    monkeypatch: pytest.MonkeyPatch, hanging: Hanging, tmp_path: Path
) -> None:
    """The last reference may go anywhere, and the collector runs in any thread."""
    client = open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual"))
    client.put_ai_usage_metric(make_metric(request_id="a"))
    real, main = os.fdatasync, threading.get_ident()

    def sync(descriptor: int) -> None:
        assert threading.get_ident() != main, "a caller waits for the disk"
        if not hanging.released.is_set():
            hanging.reached.set()
            hanging.released.wait(30)
        real(descriptor)

    with monkeypatch.context() as hung:
        hung.setattr(os, "fdatasync", sync)
        del client
        gc.collect()
        assert hanging.reached.wait(30)
        hanging.released.set()
        for thread in threading.enumerate():
            if thread.name == "receipt-usage" and thread.is_alive():
                thread.join(30)


def test_the_thread_rests_until_fifty_records_have_gathered() -> None:
    """Between a tenth of a second and a second, by how many came; nothing wakes it meanwhile. Only
    where none came is it woken, and then it lets a batch gather first."""
    waits: list[float] = []
    answers = iter([100_000, 40, 50, 1, 0, 0])

    class Listening(FakeClock):
        def receive(self, inbox: Any, timeout: float) -> Any:
            waits.append(round(timeout, 3))
            drainer.notify()  # a record arrives
            return super().receive(inbox, timeout)

    def tick() -> int:
        answer = next(answers, None)
        if answer is None:
            drainer._inbox.put(drainer_module._Stop())
        return answer or 0

    drainer = Drainer(tick, Listening())
    drainer._run()
    woken = [1.0, 0.2]
    assert waits == [*woken, 0.1, 0.125, 0.125, 1.0, *woken, *woken, 1.0]


def test_a_signal_handler_may_record_and_flush_at_any_line(open_client: Open) -> None:
    """Whatever its own thread holds: at every line of a first put, with the start of the thread in
    it, of a flush and of a close, a handler that interrupts there comes back."""
    client = open_client(drain="thread")
    answers: list[PutResult] = []

    def handler() -> None:
        answers.append(client.put_ai_usage_metric(make_metric()))
        client.flush(SHORT)

    def on_line(frame: FrameType, event: str, _argument: object) -> Any:
        if "receipt_dynamo" not in frame.f_code.co_filename:
            return None
        if event == "line":
            sys.settrace(None)  # one interruption at a time
            handler()
            sys.settrace(on_line)
        return on_line

    before = sys.gettrace()
    sys.settrace(on_line)
    try:
        answers.append(client.put_ai_usage_metric(make_metric()))
        client.flush(5.0)
        client.close(5.0)
    finally:
        sys.settrace(before)
    client.close(30.0)
    assert len(answers) > 150
    assert len(stored_ids(client)) == answers.count(PutResult.STORED)
    assert client.health().dropped.get("closed", 0) == answers.count(PutResult.DROPPED)


def test_a_leader_that_was_passed_over_acks_nothing(
    open_client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records went to the store under their keys; the ack is the new leader's."""
    client = open_client()
    client.put_ai_usage_metric(make_metric(request_id="a"))
    pipeline = client._pipeline
    (segment,) = list_segments(client.settings.spool_dir)
    before = segment.read_bytes()
    with pytest.raises(LeadLostError):
        pipeline.delivery.run(float("inf"), may_ack=lambda: False)
    assert segment.read_bytes() == before
    monkeypatch.setattr(type(pipeline.leader), "still_leads", lambda _: False)
    client.put_ai_usage_metric(make_metric(request_id="b"))
    assert client.ship() == 0
    assert pipeline.counters.last_error is None
    assert stored_ids(client) == ["a", "b"]


def test_what_a_run_did_before_it_failed_is_counted(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that ends in an error says what it delivered until then."""
    client.put_ai_usage_metric(make_metric(request_id="a"))

    def partly(_: Delivery, *_args: object, report: DeliveryReport, **_more: object) -> None:
        report.delivered = 7
        raise StoreError("away")

    monkeypatch.setattr(Delivery, "run", partly)
    assert client.flush().delivered == 7
    assert client.health().delivered == 7
