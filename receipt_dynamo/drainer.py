"""The background thread of a process: it syncs the spool, writes gaps, delivers as leader."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from receipt_dynamo.logs import safe_logger
from receipt_dynamo.utils.clock import Clock

__all__ = ["Drainer"]

TICK_SECONDS = 1.0
LINGER_SECONDS = 0.2
_log = safe_logger("receipt_dynamo.drainer")


class Drainer:
    """Runs ``tick`` every second, and soon after ``notify``. A daemon thread, started by ``start``.

    Thread-safe. Nothing depends on it: what it has not done, the next report or process does.
    """

    def __init__(self, tick: Callable[[], None], clock: Clock) -> None:
        self._tick = tick
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget the thread: the child of a fork has none."""
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._starting = threading.RLock()  # a signal handler may record within start()
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
            except RuntimeError:
                self._thread = None

    def notify(self) -> None:
        """Tell the thread that a record has arrived. Costs nothing while it is awake."""
        if self.idle:
            self.idle = False
            self._wake.set()

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end and wait for it; return whether it has ended."""
        self._stop.set()
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
        wake, stop = self._wake, self._stop
        while not stop.is_set():
            self.idle = True
            self._clock.wait(wake, TICK_SECONDS)
            self.idle = False
            wake.clear()
            if self._clock.wait(stop, LINGER_SECONDS):
                return
            try:
                self._tick()
            except Exception:
                _log.exception("the drainer goes on after an error of its own")
