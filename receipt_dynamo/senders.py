"""The threads that send: a few, started when there are batches, gone when there are none."""

from __future__ import annotations

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
    and fro between processors, which costs more than it brings. What counts is the shortest wait
    of late: the longer ones waited for the interpreter. For one thread.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waits: deque[float] = deque(maxlen=_RECENT_CALLS)  # in times of its own work
        self.senders = 1

    def note(self, wait: float) -> None:
        """Take in for how long an answered call waited, in times of the work that it was."""
        self._waits.append(wait)
        self.senders = int(min(self._most, 1 + min(self._waits)))


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
        self._answers: deque[tuple[Settled[Unsent], float | None]] = deque()
        self._stopping = False
        self._plenty = 0
        self.throttling: tuple[datetime, str] | None = None
        """When the table last refused what was too much for it, and why."""
        self.after_fork()
        self.trouble: BaseException | None = None
        """Why the table took nothing when it was last asked to, if it did not."""

    def work(self) -> None:
        """Start as many senders as there are batches for, and as are worth it; where no thread
        can be started, send one batch after the other in this one."""
        self._stopping = False
        batches = -(-len(self._dispatcher) // BATCH_ITEMS)
        wanted = min(batches, self._worth.senders + self._slow())
        while self._resting and self.running < wanted:
            sender = self._resting.pop()
            self.running += 1
            if not self._start_thread(partial(self._run, sender)):
                self._run_here(sender)
                break

    def wait(self, timeout: float, plenty: int = 0) -> list[Settled[Unsent]]:
        """Return what has become of batches, after ``timeout`` seconds at most.

        Sooner where a sender ends, a batch fails, or no more than ``plenty`` records are held.
        """
        self._plenty = plenty
        event = self._clock.receive(self._events, max(0.0, timeout))
        while event is not None:
            self.running -= event
            event = None if self._events.empty() else self._events.get()
        settled = []
        while self._answers:
            answer, wait = self._answers.popleft()
            settled.append(answer)
            if wait is not None:
                self._worth.note(wait)
        return settled

    def _slow(self) -> int:
        """Return how many senders pause, or are in a call that takes its time."""
        since = self._clock.monotonic() - _SLOW_SECONDS
        return sum(begun < since for begun in list(self._out.values()))

    def stop(self) -> None:
        """Begin no other call until there is ``work`` again."""
        self._stopping = True

    def _run(self, sender: Sender[Unsent]) -> None:
        """Send until nothing is held any more."""
        try:
            while not self._stopping:
                step = sender.next()
                if not isinstance(step, Wait):
                    self._fly(sender, step.items)
                elif len(self._dispatcher):
                    self._out[sender] = -inf
                    self._clock.sleep(min(step.seconds, _LOOK_SECONDS))
                else:
                    break
                if self.running > self._worth.senders + self._slow():
                    break
        finally:
            self._rest(sender)
            self._events.put(True)

    def _run_here(self, sender: Sender[Unsent]) -> None:
        """Send until there is something to wait for."""
        try:
            while not (self._stopping or isinstance(step := sender.next(), Wait)):
                self._fly(sender, step.items)
        finally:
            self._rest(sender)
            self.running -= 1

    def _rest(self, sender: Sender[Unsent]) -> None:
        self._out.pop(sender, None)
        if self._stopping:
            sender.close()
        self._resting.append(sender)

    def _fly(self, sender: Sender[Unsent], items: Mapping[Key, Unsent]) -> None:
        """Send one batch, once, and tell what it came to."""
        failure: BaseException | None = None
        begun, worked = self._clock.monotonic(), self._clock.cpu_time()
        self._out[sender] = begun
        try:
            left = self._send([unsent.put for unsent in items.values()])
            verdict = classify_left([put.key for put in left], sent=items)
        except BaseException as error:
            failure, verdict = error, classify(error, sent=items)
            if not isinstance(error, Exception):
                raise
        finally:
            self._out.pop(sender, None)
            worked = self._clock.cpu_time() - worked
            took = self._clock.monotonic() - begun
            settled = sender.answered(verdict)
            self._note(settled, failure)
            wait = max(0.0, took - worked) / worked if worked else inf
            self._answers.append((settled, wait if failure is None else None))
            if failure is not None or len(self._dispatcher) <= self._plenty:
                self._events.put(False)

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
        self._events: SimpleQueue[bool] = SimpleQueue()  # whether a sender has ended
        self._answers.clear()
        self._out: dict[Sender[Unsent], float] = {}  # since when each is in a call; -inf: it pauses
        self._worth = _Worth(self.most)
        self._resting = [self._dispatcher.sender() for _ in range(self.most)]  # without a thread
        self.running = 0

    def __repr__(self) -> str:
        return f"<Senders {self.running} running, {len(self._resting)} resting>"
