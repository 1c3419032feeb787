"""Delivery to a table: many batches at a time, each record settled by itself, acks in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from receipt_dynamo.delivery import BUSY_SECONDS, Delivery, DeliveryReport
from receipt_dynamo.dispatch import Dispatcher, DispatchSettings
from receipt_dynamo.errors import StoreError
from receipt_dynamo.failures import classify
from receipt_dynamo.senders import Senders, StartThread
from receipt_dynamo.spool.reader import list_segments, spool_bytes
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.table_round import Round, Spool, Table
from receipt_dynamo.unacked import Unsent
from receipt_dynamo.utils.batch_queue import BatchQueueSettings
from receipt_dynamo.utils.chance import Chance, system_chance
from receipt_dynamo.utils.circuit_breaker import (
    CircuitState,
    CircuitTransition,
    Outcome,
    Rejected,
)
from receipt_dynamo.utils.clock import Clock

__all__ = ["TableDelivery"]

_UNBOUNDED = 1 << 40  # a round reads no more ahead than its senders need
_BACKLOG_BYTES = 1 << 20  # above this there was an outage: what comes in now goes first
_MEMORY_RECORDS = 500
_MEMORY_SECONDS = 2.0


class TableDelivery(Delivery):
    """Drains one spool directory into a table, for the process that leads. One thread at a time.

    It reads, acks and removes segments, and waits for no network: senders do, ``senders`` at most,
    each in a thread that ``start_thread`` starts. What a round has read and not settled when it
    ends is still in the spool. ``listeners`` are told when the table is gone, and when it is back.
    """

    def __init__(
        self,
        directory: Path,
        table: Table,
        clock: Clock,
        *,
        senders: int,
        start_thread: StartThread,
        chance: Chance = system_chance,
        listeners: Iterable[Callable[[CircuitTransition], object]] = (),
    ) -> None:
        super().__init__(directory, table, clock)
        self._table = table
        queue = BatchQueueSettings(capacity_items=_UNBOUNDED, capacity_bytes=_UNBOUNDED)
        self.dispatcher: Dispatcher[Unsent] = Dispatcher(
            DispatchSettings(workers=senders, queue=queue),
            clock=clock,
            chance=chance,
            listeners=listeners,
        )
        self._senders = Senders(
            self.dispatcher, table.send, most=senders, clock=clock, start_thread=start_thread
        )
        self._linger = queue.linger
        self._tail_since: float | None = None  # since when records wait for a fuller batch

    def run(
        self,
        deadline: float,
        progress: Callable[[int], None] | None = None,
        *,
        report: DeliveryReport | None = None,
        may_ack: Callable[[], bool] | None = None,
        patience: float = BUSY_SECONDS,
        linger: bool = False,
    ) -> DeliveryReport:
        """Deliver what the spool holds at this moment, until ``deadline`` (monotonic seconds).

        With ``linger`` records that fill no batch may stay for the next round. Raises StoreError
        that says why the table takes nothing, LeadLostError.
        """
        report = report or DeliveryReport()
        segments = list_segments(self._directory)
        if not segments:
            report.finished = True
            return report
        self._get_ready()
        now = self._clock.monotonic()
        overdue = self._tail_since is not None and now - self._tail_since >= self._linger
        hurry = overdue or not linger
        round_ = self._round(report, may_ack, hurry=hurry, progress=progress)
        try:
            round_.deliver(_in_order(self._directory, segments), deadline)
            if not round_.left:
                self._tail_since = None
            elif hurry or self._tail_since is None:
                self._tail_since = now
        finally:
            self.dispatcher.clear()
        self._removed += round_.removed
        if round_.removed and report.finished:
            self._prune(deadline)
        self._complain(report)
        return report

    def deliver_memory(self, ring: MemoryRing, report: DeliveryReport) -> None:
        """Bring what lies in memory into the table, past a disk that refuses it.

        What can never be stored goes to ``dead/``; where the disk refuses even that, it stays in
        memory, and the others go on. Raises StoreError; what is in no store stays too.
        """
        self._get_ready()
        until = self._clock.monotonic() + _MEMORY_SECONDS
        waiting: list[bytes] = []
        try:
            while self._clock.monotonic() < until and (payloads := ring.take(_MEMORY_RECORDS)):
                left = payloads
                try:
                    round_ = self._round(report, None, hurry=True)
                    left = round_.deliver_payloads(payloads, until)
                finally:
                    self.dispatcher.clear()
                    waiting += left
        finally:
            ring.give_back(waiting)

    def _round(
        self,
        report: DeliveryReport,
        may_ack: Callable[[], bool] | None,
        *,
        hurry: bool,
        progress: Callable[[int], None] | None = None,
    ) -> Round:
        spool = Spool(
            directory=self._directory,
            aside=self._aside,
            start=self._start,
            warn=self._warn_segment,
            may_ack=may_ack,
            finished=self._acked,
        )
        return Round(
            self._table,
            self.dispatcher,
            self._senders,
            spool,
            report,
            self._clock,
            hurry=hurry,
            alone=self.alone,
            progress=progress,
        )

    def _get_ready(self) -> None:
        """Learn what must be known of the table. Raises StoreError where it may not be asked."""
        breaker = self.dispatcher.breaker
        probe_at = breaker.next_probe_at
        if breaker.state is CircuitState.FORCED_OPEN or (
            breaker.state is CircuitState.OPEN
            and probe_at is not None
            and probe_at > self._clock.monotonic()
        ):
            raise self._refusal()
        if self._table.ready:
            return
        permit = breaker.try_acquire()
        if isinstance(permit, Rejected):
            raise self._refusal()
        try:
            self._table.get_ready()
        except Exception as error:
            verdict = classify(error)
            self._senders.trouble = error
            breaker.record(permit, verdict.outcome(permit), reason=str(verdict))
            raise self._refusal() from error
        breaker.record(permit, Outcome.SUCCESS)

    def _complain(self, report: DeliveryReport) -> None:
        """Raise StoreError where the round ended because the table takes nothing."""
        closed = self.dispatcher.breaker.state is CircuitState.CLOSED
        if report.finished or self._senders.trouble is None or (closed and report.delivered):
            return
        raise self._refusal()

    def _refusal(self) -> Exception:
        trouble = self._senders.trouble
        if trouble is None:
            return StoreError(f"{self._table!r} may not be called now")
        return self._table.explain(trouble)

    def throttling(self) -> tuple[datetime, str] | None:
        """Return when the table last refused what was too much for it, and why, if it did."""
        return self._senders.throttling

    def forget_after_fork(self) -> None:
        """Make a forked child's copy its own."""
        self.dispatcher.after_fork()
        self._senders.after_fork()
        self._tail_since = None


def _in_order(directory: Path, segments: list[Path]) -> list[Path]:
    """Return segments in the order of delivery: by age, oldest first.

    After an outage those that are still written to go first: what happens now is seen at once, and
    the backlog follows. Such a segment is the newest of its process.
    """
    if spool_bytes(directory) <= _BACKLOG_BYTES:
        return segments
    newest = {_writer_of(path): path for path in segments}
    first = set(newest.values())
    return [*(p for p in segments if p in first), *(p for p in segments if p not in first)]


def _writer_of(segment: Path) -> str:
    """Return the process id in the name of a segment."""
    return segment.name.split("-", 2)[1] if "-" in segment.name else ""
