"""The background thread of a process: it syncs the spool, writes gaps, delivers as leader."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from receipt_dynamo.logs import safe_logger
from receipt_dynamo.utils.clock import Clock

__all__ = ["Drainer"]

TICK_SECONDS = 1.0
BUSY_SECONDS = 0.1
LINGER_SECONDS = 0.2
_log = safe_logger("receipt_dynamo.drainer")


class _Job:
    """Work that somebody waits for, and whether it is done."""

    __slots__ = ("_work", "done")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._work()
        except Exception:
            _log.exception("the drainer goes on after an error of its own")
        finally:
            self.done.set()


class Drainer:
    """Runs ``tick`` in a daemon thread, started by ``start``.

    Every second; soon after ``notify``; and ten times a second for as long as a tick returns that
    it has delivered something. Thread-safe. Nothing depends on it: what it has not done, the next
    report or process does.
    """

    def __init__(self, tick: Callable[[], int], clock: Clock) -> None:
        self._tick = tick
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget the thread: the child of a fork has none."""
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._urgent = threading.Event()  # to stop, or a job: no lingering
        self._jobs: deque[_Job] = deque()
        self._starting = threading.RLock()  # a signal handler may record within start()
        self._takes_jobs = False  # guarded by _starting
        self.idle = False
        self.started = False

    def start(self) -> None:
        """Start the thread unless it runs. At interpreter shutdown there is none; that is fine.

        A finaliser may record that late: Thread.start() would wait for ever for a thread that the
        interpreter no longer lets run.
        """
        with self._starting:
            if self.started or sys.is_finalizing():
                return
            self.started = True
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, name="receipt-usage-drainer", daemon=True
            )
            try:
                self._thread.start()
                self._takes_jobs = True
            except RuntimeError:
                self._thread = None

    def notify(self) -> None:
        """Tell the thread that a record has arrived. Costs nothing while it is awake."""
        if self.idle:
            self.idle = False
            self._wake.set()

    def call(self, work: Callable[[], object], timeout: float) -> bool:
        """Do ``work`` and wait for it, ``timeout`` seconds at most; return whether it is done.

        A disk that hangs or a lock that is held keeps a thread of ours waiting, not the caller.
        Only where there is no thread and none can be started, at interpreter shutdown, does the
        caller do the work itself. What is not done in time goes on behind the caller's back.
        """
        job = _Job(work)
        own = threading.current_thread() is self._thread
        if own or not (self._hand_over(job) or _start_thread(job.run)):
            job.run()
        return job.done.wait(min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def _hand_over(self, job: _Job) -> bool:
        with self._starting:
            if not self._takes_jobs:
                return False
            self._jobs.append(job)
        self._urgent.set()
        self._wake.set()
        return True

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end and wait for it; return whether it has ended."""
        self._stop.set()
        self._urgent.set()
        self._wake.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(max(0.0, timeout))
        ended = not thread.is_alive()
        if ended:
            with self._starting:
                self._thread, self.started = None, False
        return ended

    def _run(self) -> None:
        wake, stop, urgent = self._wake, self._stop, self._urgent
        busy = False
        while not stop.is_set():
            self.idle = True
            woken = self._clock.wait(wake, BUSY_SECONDS if busy else TICK_SECONDS)
            self.idle = False
            wake.clear()
            if woken and not busy:  # the first of many, perhaps: let a batch gather
                self._clock.wait(urgent, LINGER_SECONDS)
            urgent.clear()
            self._run_jobs()
            if not stop.is_set():
                busy = self._tick_safely()
        with self._starting:
            self._takes_jobs = False
        self._run_jobs()

    def _run_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft().run()

    def _tick_safely(self) -> bool:
        try:
            return self._tick() > 0
        except Exception:
            _log.exception("the drainer goes on after an error of its own")
            return False


def _start_thread(work: Callable[[], object]) -> bool:
    """Run ``work`` in a daemon thread; return False where the interpreter starts none any more."""
    if sys.is_finalizing():
        return False
    thread = threading.Thread(target=work, name="receipt-usage-flush", daemon=True)
    with suppress(RuntimeError):
        thread.start()
        return True
    return False
