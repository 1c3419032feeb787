"""How many senders are started: as many as one call's waiting leaves room for, and no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from receipt_dynamo.dispatch import Dispatcher
from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.senders import Senders
from receipt_dynamo.spool.segment import Lines
from receipt_dynamo.table import BATCH_ITEMS, Key
from receipt_dynamo.unacked import Chunk, Unsent
from tests.support import FakeClock

MOST = 4


class WorkingClock(FakeClock):
    """Knows how much of the time was work."""

    def __init__(self) -> None:
        super().__init__()
        self.worked = 0.0

    def cpu_time(self) -> float:
        return self.worked


class Bench:
    """Senders whose threads run when the test says so; a call works for 1 ms and waits."""

    def __init__(self) -> None:
        self.clock = WorkingClock()
        self.dispatcher: Dispatcher[Unsent] = Dispatcher(clock=self.clock, chance=lambda: 0.5)
        self.threads: list[Callable[[], object]] = []
        self.wait_seconds = 0.0
        self.failure: Exception | None = None
        self.keep_on = False  # senders go on after a failure
        self.at_each_call: Callable[[], object] = lambda: None
        self.senders = Senders(
            self.dispatcher,
            self._send,
            most=MOST,
            clock=self.clock,
            start_thread=self._start,
        )
        self._put = 0
        self.refuse_threads = False

    def _start(self, work: Callable[[], object]) -> bool:
        if not self.refuse_threads:
            self.threads.append(work)
        return not self.refuse_threads

    def _send(self, _puts: Sequence[Put]) -> Sequence[Put]:
        self.at_each_call()
        self.clock.worked += 0.001
        self.clock.advance(0.001 + self.wait_seconds)
        if self.failure is not None:
            if not self.keep_on:
                self.senders.stop()
            raise self.failure
        return []

    def put(self, batches: int) -> None:
        chunk = Chunk(None, 0, Lines([], [], 0))
        for _ in range(batches * BATCH_ITEMS):
            self._put += 1
            key = Key("U#openai#2026-11-21T12#0", f"{self._put:06d}")
            self.dispatcher.put(key, Unsent(Put(key, "openai", b"{}", b"{}"), chunk), 2)

    def started(self) -> int:
        """Return how many threads are started for ten batches, and let none of them begin."""
        self.put(10 - len(self.dispatcher) // BATCH_ITEMS)
        before = len(self.threads)
        self.senders.work()
        return len(self.threads) - before

    def run_all(self) -> None:
        while self.threads:
            self.threads.pop()()
        self.senders.wait(0.0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_first_call_is_made_by_one(bench: Bench) -> None:
    """What nobody has measured yet is no reason for more threads."""
    assert bench.started() == 1


@pytest.mark.parametrize(
    ("wait_seconds", "senders"), [(0.0, 1), (0.0009, 1), (0.0015, 2), (0.0025, 3), (0.008, MOST)]
)
def test_others_use_what_a_call_waits(bench: Bench, wait_seconds: float, senders: int) -> None:
    """On loopback one is enough; a table 8 ms away keeps as many busy as there may be."""
    bench.wait_seconds = wait_seconds
    bench.started()
    bench.run_all()
    assert bench.started() == senders


@pytest.mark.parametrize(("at_once", "senders"), [(4, MOST), (12, 1)])
def test_the_usual_wait_counts(bench: Bench, at_once: int, senders: int) -> None:
    """Of 16 answers some come at once, or late: what most of them take is how far the table is."""
    waits = iter([0.0 if place % 16 < at_once else 0.05 for place in range(100)])
    bench.at_each_call = lambda: setattr(bench, "wait_seconds", next(waits))
    for _ in range(3):
        bench.started()
        bench.run_all()
    assert bench.started() == senders


def test_a_failure_says_nothing_of_how_long_an_answer_takes(bench: Bench) -> None:
    """A connection that is refused comes back at once; the table behind it is no nearer."""
    bench.wait_seconds = 0.008
    bench.started()
    bench.run_all()
    bench.wait_seconds, bench.failure = 0.0, ConnectionRefusedError()
    bench.started()
    bench.run_all()
    bench.failure = None
    assert bench.started() == MOST


def test_a_call_that_hangs_keeps_nobody(bench: Bench) -> None:
    """It is made up for by another sender, up to as many as there may be."""
    hanging, go_on = threading.Semaphore(0), threading.Event()

    def hang(_puts: Sequence[Put]) -> Sequence[Put]:
        hanging.release()
        assert go_on.wait(60)
        return []

    bench.senders._send = hang
    bench.started()
    threads = []
    for _ in range(MOST):
        threads.append(threading.Thread(target=bench.threads.pop()))
        threads[-1].start()
        assert hanging.acquire(timeout=60)
        assert bench.started() == 0
        bench.clock.advance(0.2)
        assert bench.started() == (len(threads) < MOST)
    bench.senders.stop()
    go_on.set()
    for thread in threads:
        thread.join(60)


def test_a_sender_that_pauses_keeps_nobody(bench: Bench) -> None:
    """While it waits for its retry, another one sends."""
    answers = iter([ConnectionResetError(), None])
    seen: list[int] = []

    def answer() -> None:
        bench.failure = next(answers, None)
        bench.keep_on = True

    bench.started()
    bench.run_all()
    bench.at_each_call = answer
    sleep = bench.clock.sleep
    bench.clock.sleep = lambda seconds: seen.append(bench.started()) or sleep(seconds)  # type: ignore[method-assign,func-returns-value]
    assert bench.started() == 1
    bench.threads.pop()()
    assert 1 in seen


def test_a_sender_too_many_ends(bench: Bench) -> None:
    """Four were worth it; when answers come at once, one remains, and sends the rest."""
    bench.wait_seconds = 0.008
    bench.started()
    bench.run_all()
    assert bench.started() == MOST
    bench.wait_seconds = 0.0
    bench.put(10)
    bench.at_each_call = lambda: bench.senders.wait(0.0)
    for left in (3, 2, 1):
        bench.threads.pop()()
        bench.senders.wait(0.0)
        assert (bench.senders.running, len(bench.dispatcher) > 0) == (left, True)
    bench.threads.pop()()
    bench.senders.wait(0.0)
    assert (bench.senders.running, len(bench.dispatcher)) == (0, 0)


def test_the_reader_is_woken_before_the_senders_starve(bench: Bench) -> None:
    """Not for each batch, which costs a change of threads: when no more is left than it said."""
    waited: list[float] = []

    def wait() -> None:
        begun = bench.clock.seconds
        bench.senders.wait(0.25)
        waited.append(bench.clock.seconds - begun)
        bench.clock.worked += waited[-1]  # it is none of what the call waits

    bench.at_each_call = wait
    bench.put(4)
    bench.senders.work(plenty=2 * BATCH_ITEMS)
    bench.threads.pop()()
    assert waited == pytest.approx([0.25, 0.25, 0.0, 0.0])


def test_the_reader_is_woken_when_more_senders_are_worth_it(bench: Bench) -> None:
    """The first answer says how far the table is: the other senders start then."""
    bench.wait_seconds = 0.02
    bench.put(10)
    bench.senders.work()
    seen: list[float] = []

    def wait() -> None:
        begun = bench.clock.seconds
        if bench.senders.running == 1 and len(bench.dispatcher) < 10 * BATCH_ITEMS:
            bench.senders.wait(0.25)
            bench.senders.work()
            seen.append(bench.clock.seconds - begun)

    bench.at_each_call = wait
    bench.threads.pop()()
    assert seen[0] == pytest.approx(0.0)
    assert bench.senders.running == MOST - 1


def test_one_dear_call_is_no_measure(bench: Bench) -> None:
    """A handshake, an import, a collection of garbage: the table is no nearer for it."""
    bench.wait_seconds = 0.03
    bench.started()
    bench.run_all()
    work = iter([0.5])
    bench.at_each_call = lambda: setattr(
        bench.clock, "worked", bench.clock.worked + next(work, 0.0)
    )
    bench.started()
    bench.run_all()
    assert bench.started() == MOST


def test_a_sender_too_many_leaves_no_batch_behind(bench: Bench) -> None:
    """What it holds for a retry is sent, or given back: a lease lasts half a minute."""
    answers = iter([ConnectionResetError(), ConnectionResetError()])
    sleep, started = bench.clock.sleep, []

    def answer() -> None:
        bench.failure = next(answers, None)

    def look(seconds: float) -> None:  # the reader, while the first sender pauses
        bench.clock.sleep = sleep  # type: ignore[method-assign]
        bench.senders.wait(0.0)
        bench.senders.work()
        started.append(len(bench.threads))
        sleep(seconds)

    bench.keep_on, bench.at_each_call = True, answer
    bench.put(2)
    bench.senders.work()
    bench.clock.sleep = look  # type: ignore[method-assign]
    bench.threads.pop()()
    assert started == [1]  # another one was started, which has not sent yet
    begun = bench.clock.seconds
    bench.run_all()
    assert (len(bench.dispatcher), bench.dispatcher.in_flight) == (0, 0)
    assert bench.clock.seconds - begun < 1.0


def test_where_no_thread_can_be_started_it_ends_in_time(bench: Bench) -> None:
    """It sends in the calling thread, one call after the other, until the round is over."""
    bench.refuse_threads = True
    bench.put(10)
    bench.wait_seconds = 1.0
    bench.senders.work(until=bench.clock.seconds + 2.0)
    assert len(bench.dispatcher) == 8 * BATCH_ITEMS
    assert bench.senders.running == 0
