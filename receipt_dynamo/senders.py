"""The threads that send: a few, started when there are batches, gone when there are none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from math import inf
from queue import SimpleQueue

from receipt_dynamo.dispatch import Dispatcher, Sender, Settled, Wait
from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.failures import Key, Kind, classify, classify_left
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.table import BATCH_ITEMS
from receipt_dynamo.unacked import Unsent
from receipt_dynamo.utils.circuit_breaker import CircuitState
from receipt_dynamo.utils.clock import Clock

__all__ = ["Senders", "StartThread"]

StartThread = Callable[[Callable[[], object]], bool]
"""Runs a function in a thread; answers False where none can be started."""

_LOOK_SECONDS = 0.02  # how soon a sender that rests sees that it is needed, or not any more
_RECENT_CALLS = 16
_SLOW_SECONDS = 0.1  # a call that takes longer hangs, or the table is busy: others may go on
_OF_THE_MOMENT = frozenset({Kind.CONFLICT, Kind.POISON, Kind.SPLIT, Kind.THROTTLED})
"""Answers that do not say why the table takes nothing at all."""
_log = safe_logger("receipt_dynamo.delivery")


class _Worth:
    """How many senders are worth their threads: what one call waits, the calls of others can use.

    Where the answer comes sooner than the next batch is made, threads only hand the interpreter to
    and fro between processors, which costs more than it brings. What counts is the median of late:
    one call may have waited for the interpreter, or have had work of its own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waits: deque[float] = deque(maxlen=_RECENT_CALLS)  # in times of its own work
        self.senders = 1

    def note(self, took: float, worked: float) -> bool:
        """Take in how long an answered call took, and how much of that was work, in seconds.

        Return whether more senders are worth it than before. For one thread at a time.
        """
        self._waits.append(max(0.0, took - worked) / worked if worked else inf)
        usual = sorted(self._waits)[len(self._waits) // 2]
        before, self.senders = self.senders, int(min(self._most, 1 + usual))
        return self.senders > before


class Senders:
    """Sends what a dispatcher holds, ``most`` batches at a time. For the one thread that delivers.

    Nothing here waits for the network but the senders' threads: one that hangs is left behind.
    ``stop`` ends them; what they say after that is not listened to.
    """

    def __init__(
        self,
        dispatcher: Dispatcher[Unsent],
        send: Callable[[Sequence[Put]], Sequence[Put]],
        *,
        most: int,
        clock: Clock,
        start_thread: StartThread,
    ) -> None:
        self._dispatcher = dispatcher
        self._send = send
        self._clock = clock
        self._start_thread = start_thread
        self.most = most
        self._stopping = False
        self._plenty = 0
        self._until = inf
        self.throttling: tuple[datetime, str] | None = None
        """When the table last refused what was too much for it, and why."""
        self.after_fork()
        self.trouble: BaseException | None = None
        """Why the table took nothing when it was last asked to, if it did not."""

    def work(self, until: float = inf, plenty: int = 0) -> None:
        """Start as many senders as there are batches for, and as are worth it; where no thread
        can be started, send one batch after the other in this one, ``until`` then (monotonic).

        ``wait`` returns when no more than ``plenty`` records are held.
        """
        self._stopping = False
        self._until, self._plenty = until, plenty
        while (sender := self._needed()) is not None:
            if not self._start_thread(partial(self._run, sender)):
                self._run_here(sender)
                break

    def _needed(self) -> Sender[Unsent] | None:
        """Return one more sender, which counts as running, if one is needed."""
        batches = -(-len(self._dispatcher) // BATCH_ITEMS)
        with self._lock:
            if not self._resting or self.running >= min(batches, self._useful_locked()):
                return None
            self.running += 1
            return self._resting.pop()

    def _useful_locked(self) -> int:
        """Return how many senders may run: those that pause or hang are made up for."""
        since = self._clock.monotonic() - _SLOW_SECONDS
        return self._worth.senders + sum(begun < since for begun in self._out.values())

    def wait(self, timeout: float) -> list[Settled[Unsent]]:
        """Return what has become of batches, after ``timeout`` seconds at most.

        Sooner where few records are held, a batch fails, a sender ends, or more are worth it.
        """
        event = self._clock.receive(self._events, max(0.0, timeout))
        while event is not None:
            event = None if self._events.empty() else self._events.get()
        return [self._settled.popleft() for _ in range(len(self._settled))]

    def stop(self) -> None:
        """Begin no other call until there is ``work`` again."""
        self._stopping = True

    def _run(self, sender: Sender[Unsent]) -> None:
        """Send until nothing is held any more, or others are enough."""
        resting = False
        try:
            while not self._stopping:
                step = sender.next()
                if not isinstance(step, Wait):
                    self._fly(sender, step.items)
                elif len(self._dispatcher):
                    self._pause(sender, step.seconds)
                else:
                    break
                if resting := self._rest_if_too_many(sender):
                    break
        finally:
            if not resting:
                self._rest(sender)
            self._events.put(True)

    def _run_here(self, sender: Sender[Unsent]) -> None:
        """Send until there is something to wait for, or it is time to end."""
        try:
            while not self._stopping and self._clock.monotonic() < self._until:
                if isinstance(step := sender.next(), Wait):
                    break
                self._fly(sender, step.items)
        finally:
            self._rest(sender)

    def _pause(self, sender: Sender[Unsent], seconds: float) -> None:
        with self._lock:
            self._out[sender] = -inf
        self._clock.sleep(min(seconds, _LOOK_SECONDS))

    def _rest(self, sender: Sender[Unsent]) -> None:
        """Give back what a sender holds: it may be long before it runs again."""
        sender.close()
        with self._lock:
            self._rest_locked(sender)

    def _rest_if_too_many(self, sender: Sender[Unsent]) -> bool:
        """Return whether a sender with no batch of its own rests now, for others are enough."""
        with self._lock:
            too_many = not sender.holds_batch and self.running > self._useful_locked()
            if too_many:
                self._rest_locked(sender)
            return too_many

    def _rest_locked(self, sender: Sender[Unsent]) -> None:
        self._out.pop(sender, None)
        self._resting.append(sender)
        self.running -= 1

    def _fly(self, sender: Sender[Unsent], items: Mapping[Key, Unsent]) -> None:
        """Send one batch, once, and tell what it came to."""
        failure: BaseException | None = None
        begun, worked = self._clock.monotonic(), self._clock.cpu_time()
        with self._lock:
            self._out[sender] = begun
        try:
            left = self._send([unsent.put for unsent in items.values()])
            verdict = classify_left([put.key for put in left], sent=items)
        except BaseException as error:
            failure, verdict = error, classify(error, sent=items)
            if not isinstance(error, Exception):
                raise
        finally:
            worked = self._clock.cpu_time() - worked
            took = self._clock.monotonic() - begun
            settled = sender.answered(verdict)
            self._note(settled, failure)
            self._settled.append(settled)
            with self._lock:
                self._out.pop(sender, None)
                more = failure is None and self._worth.note(took, worked)
            if more or failure is not None or len(self._dispatcher) <= self._plenty:
                self._events.put(True)

    def _note(self, settled: Settled[Unsent], failure: BaseException | None) -> None:
        verdict = settled.verdict
        kind = verdict.kind
        if kind in (Kind.THROTTLED, Kind.PARTIAL):
            whose = "one partition is" if verdict.hot_partition else "the table is"
            told = f" ({', '.join(verdict.throttling)})" if verdict.throttling else ""
            self.throttling = self._clock.now(), f"{whose} at its limit{told}"
        if failure is None:
            if self._dispatcher.breaker.state is CircuitState.CLOSED:
                self.trouble = None
        elif kind not in _OF_THE_MOMENT:
            self.trouble = failure
        if kind is Kind.BUG:
            _log.error("a batch cannot be sent", exc_info=failure)

    def after_fork(self) -> None:
        """Forget the threads: the child of a fork has none."""
        self._events: SimpleQueue[bool] = SimpleQueue()  # wakes ``wait``
        self._settled: deque[Settled[Unsent]] = deque()
        self._lock = threading.RLock()  # reentrant: a signal handler may look in
        # Guarded by _lock:
        self._resting = [self._dispatcher.sender() for _ in range(self.most)]  # without a thread
        self._out: dict[Sender[Unsent], float] = {}  # since when each is in a call; -inf: it pauses
        self._worth = _Worth(self.most)
        self.running = 0

    def __repr__(self) -> str:
        return f"<Senders {self.running} running, {len(self._resting)} resting>"
