"""The background thread of a process: it syncs the spool, writes gaps, delivers as leader.

A signal handler may record or flush while its own thread is within any of these lines. So the
thread is told through a SimpleQueue, whose ``put`` is reentrant (an Event's ``set`` is not), and
started by another one (``Thread.start`` takes a lock of its module, which is not reentrant either).
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from receipt_dynamo.forks import notice_fork
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.utils.clock import Clock

__all__ = ["Drainer", "start_thread"]

TICK_SECONDS = 1.0
BUSY_SECONDS = 0.1
LINGER_SECONDS = 0.2
GATHER_RECORDS = 50
"""How many records a tick should find: few enough that a steady flow is no queue to warn of."""
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
        except BaseException:  # whoever waits raises nothing, and the thread goes on
            if not sys.is_finalizing():  # then modules lose their names, in whatever order
                _log.exception("the drainer goes on after an error of its own")
        finally:
            self.done.set()


class _Wake:
    """A record has arrived."""


class _Stop:
    """The thread is to end."""


_Message = _Job | _Wake | _Stop


class Drainer:
    """Runs ``tick`` in a thread that keeps no process alive, started by ``start``.

    Every second, and soon after the first record that comes after a quiet second (``notify``).
    While records arrive, as often as fifty of them gather, ten times a second at most: a delivery
    costs milliseconds and tens of kilobytes, however little it brings. Thread-safe. Nothing depends
    on it: what it has not done, the next report or process does.
    """

    def __init__(self, tick: Callable[[], int], clock: Clock) -> None:
        self._tick = tick
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget the thread: the child of a fork has none."""
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._takes_jobs = False  # guarded by _starting
        self._next_start = float("-inf")
        self._resting = False  # the thread waits for a message, and holds nothing
        self.idle = False
        self.started = False

    def start(self) -> None:
        """Start the thread unless it runs. Where none can be started (the system has too many, the
        interpreter shuts down) it is tried again, once a second at most.
        """
        with self._starting:
            now = self._clock.monotonic()
            if self.started or now < self._next_start:
                return
            self._next_start = now + TICK_SECONDS
            self.started = True  # for a handler that interrupts here
            self._ended = threading.Event()
            self._takes_jobs = self.started = start_thread(self._run)

    def notify(self) -> None:
        """Tell the thread that a record has arrived. Costs nothing while it is awake."""
        if self.idle:
            self.idle = False
            self._inbox.put(_Wake())

    def call(
        self,
        work: Callable[[], object],
        timeout: float,
        at_shutdown: Callable[[], object] = lambda: None,
    ) -> bool:
        """Do ``work`` and wait for it, ``timeout`` seconds at most; return whether it is done.

        A disk that hangs or a lock that is held keeps a thread of ours waiting, not the caller.
        What is not done in time goes on behind the caller's back. Where the system has too many
        threads the caller does the work itself.

        When the interpreter shuts down no thread may run or start any more. Then the caller does
        ``at_shutdown`` in place of the work, which must not wait for anything; and nothing at all
        where our thread was frozen within its work, for it may hold locks.
        """
        notice_fork()
        job, instead = _Job(work), _Job(at_shutdown)
        if sys.is_finalizing():
            if not self._takes_jobs or self._resting:
                instead.run()
            return False
        if self._is_current():
            job.run()
        elif not (self._hand_over(job) or start_thread(job.run)):
            if not threading.main_thread().is_alive():  # exit hooks of Python 3.12 and later
                instead.run()
                return False
            job.run()
        return job.done.wait(min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def _hand_over(self, job: _Job) -> bool:
        with self._starting:
            if self._takes_jobs:
                self._inbox.put(job)
            return self._takes_jobs

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end and wait for it; return whether it has ended."""
        if not self._takes_jobs:
            return True
        if sys.is_finalizing():
            return False
        self._inbox.put(_Stop())
        return self._is_current() or self._ended.wait(min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def _is_current(self) -> bool:
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def _run(self) -> None:
        self._thread = threading.current_thread()
        ended = self._ended
        try:
            self._serve()
        finally:  # whatever ended it, the next record starts another
            with self._starting:
                self._takes_jobs = self.started = self.idle = False
                self._thread = None
                left = self._take_messages()
            try:
                self._handle(left)
            finally:
                ended.set()

    def _serve(self) -> None:
        """Do what is asked for, and tick, until told to stop."""
        rest, last = None, self._clock.monotonic()
        while True:
            self.idle = rest is None
            first = self._receive(rest or TICK_SECONDS)
            self.idle = False
            if isinstance(first, _Wake):  # the first of many: let a batch gather
                first = self._receive(LINGER_SECONDS)
            if self._handle([first, *self._take_messages()]):
                return
            delivered = self._tick_safely()
            now = self._clock.monotonic()
            rest, last = _rest(delivered, now - last), now

    def _receive(self, timeout: float) -> _Message | None:
        self._resting = True
        message = self._clock.receive(self._inbox, timeout)
        self._resting = False
        return message

    def _take_messages(self) -> list[_Message]:
        messages = []
        while not self._inbox.empty():
            messages.append(self._inbox.get())
        return messages

    def _handle(self, messages: Iterable[_Message | None]) -> bool:
        """Do what the messages say; return whether one of them is to stop."""
        stopping = False
        for message in messages:
            if isinstance(message, _Job):
                message.run()
            stopping = stopping or isinstance(message, _Stop)
        return stopping

    def _tick_safely(self) -> int:
        try:
            return self._tick()
        except BaseException:  # SystemExit as well: it would end the thread, and nothing else
            _log.exception("the drainer goes on after an error of its own")
            return 0


def _rest(delivered: int, seconds: float) -> float | None:
    """Return how long to let records gather that came at this rate; None where none came."""
    if delivered <= 0:
        return None
    return min(TICK_SECONDS, max(BUSY_SECONDS, GATHER_RECORDS * seconds / delivered))


def start_thread(work: Callable[[], object]) -> bool:
    """Run ``work`` in a thread; return False where the interpreter lets none run any more."""

    def begin() -> None:
        try:
            threading.Thread(target=work, name="receipt-usage", daemon=True).start()
        except RuntimeError:  # the interpreter has begun to shut down
            work()

    if sys.is_finalizing():
        return False
    try:
        _thread.start_new_thread(begin, ())
    except RuntimeError:
        return False
    return True
