"""The local pipeline of one destination: from the spool to the store, by whichever thread comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from receipt_dynamo.delivery import BUSY_SECONDS, Delivery, DeliveryReport, LeadLostError
from receipt_dynamo.errors import UsageError
from receipt_dynamo.figures import Figures
from receipt_dynamo.forks import notice_fork
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.spool.bounds import SpoolBounds
from receipt_dynamo.spool.leadership import Leadership
from receipt_dynamo.spool.pending import backlog, left_of
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.stats import StatsFile
from receipt_dynamo.utils.clock import Clock

__all__ = ["Counters", "Pipeline"]

MAINTAIN_SECONDS = 1.0
"""How often the background thread syncs the spool and measures its directory."""

_LOOK_SECONDS = 0.05  # how soon it is seen what another process has delivered
_SLICE_SECONDS = 2.0  # how long one round may deliver; who waits for the thread waits so long
_log = safe_logger("receipt_dynamo.pipeline")


@dataclass(slots=True)
class Counters:
    """What this process has done. Written by the thread that holds ``delivering``."""

    delivered: int = 0
    past_disk: int = 0  # of the delivered, those that came from memory and were in no segment
    dead: int = 0
    damaged_lines: int = 0
    last_delivery: datetime | None = None
    last_error: str | None = None  # why delivery waits
    spool_error: str | None = None  # what the last look after the spool could not do


@dataclass(slots=True)
class Pipeline:
    """Spool, delivery and leadership of one destination. It lives on when its client is gone.

    ``needs_lead``: only the leader delivers, for nothing else keeps two processes from sending the
    same; elsewhere anybody may, in turns. Thread-safe: one thread delivers at a time, and one
    signal handler may interrupt it.
    """

    directory: Path
    spool: Spool
    delivery: Delivery
    leader: Leadership
    clock: Clock
    external: bool
    drops_oldest: bool
    needs_lead: bool
    bounds: SpoolBounds
    stats: StatsFile
    counters: Counters = field(default_factory=Counters)
    delivering: threading.RLock = field(default_factory=threading.RLock)
    running: bool = False
    maintained: float = float("-inf")

    def maintain(self, *, sync: bool = True) -> None:
        """Bring what lies in memory to the disk, and everything on the disk to safety.

        Without ``sync`` it waits for no disk.
        """
        notice_fork()
        self.maintained = self.clock.monotonic()
        self.counters.spool_error = None
        try:
            self.spool.maintain(sync=sync)
        except OSError as error:
            self.counters.spool_error = f"the spool: {error}"
        self.stats.save(self.figures())

    def tick(self, progress: Callable[[int], None] | None = None) -> int:
        """One round of the background thread; return how many records it delivered."""
        is_due = self.clock.monotonic() - self.maintained >= MAINTAIN_SECONDS
        if is_due:
            self.maintain()
        delivered = 0 if self.external else self.lead(progress)
        if is_due and self.drops_oldest:  # what could be delivered is gone by now
            self.make_room()
        return delivered

    def lead(self, progress: Callable[[int], None] | None = None) -> int:
        """Deliver if this process leads, or can take the lead; return how many records.

        Raises nothing: why delivery waits is logged, and in ``counters.last_error``.
        """
        report = DeliveryReport()
        try:
            deadline = self.clock.monotonic() + _SLICE_SECONDS
            self.deliver(deadline, progress, report=report, lead=True, linger=True)
        except LeadLostError:
            pass  # the new leader says so
        except (UsageError, OSError) as error:
            self.note_error(error)
        if self.leader.leads:
            self.stats.merge()
        return report.delivered

    def make_room(self) -> None:
        """Remove the oldest segments where the bound leaves no room; count what they held."""
        try:
            if self.bounds.excess() > 0 and self.delivering.acquire(blocking=False):
                try:
                    # What another process is sending must not be counted as lost.
                    if not self.running and (self.leader.leads or not self.needs_lead):
                        self.delivery.drop_oldest(self.bounds.excess, self.spool)
                finally:
                    self.delivering.release()
        except (UsageError, OSError) as error:
            self.note_error(error)

    def deliver(
        self,
        deadline: float,
        progress: Callable[[int], None] | None = None,
        *,
        report: DeliveryReport | None = None,
        lead: bool = False,
        patience: float = BUSY_SECONDS,
        linger: bool = False,
    ) -> DeliveryReport:
        """Drain the spool in the calling thread; see ``Delivery.run``. Raises UsageError, OSError.

        With ``lead``, or where the store ``needs_lead``, only as the leader. Where another process
        leads, or another thread delivers until ``deadline``, or for longer than ``patience``
        seconds, the report stays empty and unfinished.
        """
        notice_fork()
        report = report or DeliveryReport()
        left = min(patience, max(0.0, deadline - self.clock.monotonic()))
        if not self.delivering.acquire(timeout=left):
            return report
        try:
            if not self.running:  # else a signal handler within a delivery of its own thread
                self.running = True
                try:
                    may_ack = None
                    if lead or self.needs_lead:
                        if not self.leader.try_lead():
                            return report
                        may_ack = self.leader.still_leads
                    self._deliver(deadline, progress, report, may_ack, patience, linger)
                finally:
                    self.running = False
        finally:
            self.delivering.release()
        return report

    def deliver_or_await(
        self,
        deadline: float,
        progress: Callable[[int], None] | None = None,
        *,
        report: DeliveryReport | None = None,
    ) -> DeliveryReport:
        """``deliver``; where only the leader may, and another process leads, wait until it has
        delivered what waits now. What it delivers is not in the report. Raises as ``deliver``.
        """
        report = self.deliver(deadline, progress, report=report)
        left: Callable[[], int] | None = None
        while self.needs_lead and not (report.finished or self.leader.leads):
            if self.clock.monotonic() >= deadline:
                break
            left = left or partial(left_of, backlog(self.directory))
            if left() == 0:
                report.finished = True
            else:
                self.clock.sleep(_LOOK_SECONDS)
                self.deliver(deadline, progress, report=report)  # it may have gone meanwhile
        return report

    def _deliver(
        self,
        deadline: float,
        progress: Callable[[int], None] | None,
        report: DeliveryReport,
        may_ack: Callable[[], bool] | None,
        patience: float,
        linger: bool,
    ) -> None:
        counters = self.counters
        try:
            self.delivery.run(
                deadline,
                progress,
                report=report,
                may_ack=may_ack,
                patience=patience,
                linger=linger,
            )
            if len(self.spool.ring):
                self._deliver_memory(report)
            counters.last_error = None
        finally:
            counters.delivered += report.delivered
            counters.dead += report.dead
            counters.damaged_lines += report.damaged_lines
            if report.delivered:
                counters.last_delivery = self.clock.now()
            self.stats.save(self.figures())

    def _deliver_memory(self, report: DeliveryReport) -> None:
        settled = report.delivered + report.dead
        try:
            self.delivery.deliver_memory(self.spool.ring, report)
        finally:
            self.counters.past_disk += report.delivered + report.dead - settled

    def figures(self) -> Figures:
        """Return what this process has done for its destination so far."""
        notice_fork()
        spool, counters = self.spool, self.counters
        throttled_at, throttled = self.delivery.throttling() or (None, None)
        return Figures(
            stored=spool.writer.records + counters.past_disk,
            memory=len(spool.ring),
            dropped=dict(spool.drops.by_reason()),
            delivered=counters.delivered,
            dead=counters.dead,
            corrupt_lines=counters.damaged_lines,
            fsync_errors=spool.writer.fsync_errors,
            last_record=spool.last_record,
            last_delivery=counters.last_delivery,
            last_throttled=throttled_at,
            throttled=throttled,
            last_error=counters.last_error or counters.spool_error or spool.last_error,
            refused=spool.last_error,
        )

    def keep_stats(self) -> None:
        """Keep the figures now: the process may end. Raises nothing."""
        self.stats.save(self.figures(), at_once=True)

    def retire_stats(self) -> None:
        """Leave the figures to ``total.json``: this client is done. Raises nothing."""
        self.stats.retire(self.figures())

    def let_go(self, *, sync: bool = True) -> None:
        """Seal the spool and give up the lead; what lies in memory only is lost, and counted.

        Without ``sync`` it waits for no disk.
        """
        self.spool.give_up_memory()
        if sync:
            self.spool.writer.close()
        else:
            self.spool.writer.seal()
        self.leader.release()
        if sync:
            self.retire_stats()
        else:
            self.keep_stats()

    def note_error(self, error: Exception) -> None:
        """Remember why delivery failed; say it once for as long as it stays the same."""
        text = str(error)
        if text != self.counters.last_error:
            self.counters.last_error = text
            _log.warning(
                "delivery waits: %s. Nothing is lost; it is tried again.", text.rstrip(".")
            )

    def forget_after_fork(self) -> None:
        """New locks and counters in a child; the parent's tally stays the parent's."""
        self.delivering = threading.RLock()
        self.running = False
        self.spool.forget_after_fork()
        self.delivery.forget_after_fork()
        self.counters = Counters()
