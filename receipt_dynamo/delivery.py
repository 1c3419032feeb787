"""Delivery: from the segments of one spool directory into the store.

Put, ack, unlink, in that order; each step may be repeated without harm. A record leaves the spool
only when the store has acknowledged it, or when it lies in ``dead/`` or ``quarantine/``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.errors import StoreError, UsageError
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.payload import encode_payload, parse_payloads
from receipt_dynamo.spool.aside import Aside
from receipt_dynamo.spool.reader import SegmentReader, list_segments, settle_unborn
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.segment import Lines, UnknownFormatError
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.store import Batch, UsageStore, WriteOutcome
from receipt_dynamo.utils.clock import Clock

__all__ = ["BATCH_RECORDS", "BUSY_SECONDS", "Delivery", "DeliveryReport", "LeadLostError"]

BATCH_RECORDS = 500
BUSY_SECONDS = 60.0  # how long to wait for a store that others use
_ROOM_SECONDS = 1.0  # the same, where the next round tries again
_MEMORY = "memory"  # what stands for a segment's name where records come out of memory
_UNBORN_SECONDS = 60.0  # a segment that has no name after this has no writer either
_PAUSE_SECONDS = 0.01  # longer than a waiting process rests between two tries for the lock
_SLICE_SECONDS = 0.5  # how long one drainer keeps the store before others may have it
_log = safe_logger("receipt_dynamo.delivery")


class LeadLostError(UsageError):
    """Another process delivers by now. What was not acked yet is its to send again."""


@dataclass(slots=True)
class DeliveryReport:
    """What one run has done, kept up to date while it runs.

    ``finished``: nothing is left of what the spool held at its start.
    """

    delivered: int = 0
    dead: int = 0
    bad_lines: int = 0
    damaged_lines: int = 0  # of the bad ones, those that were records once
    failed_segments: int = 0
    finished: bool = False


class Delivery:
    """Drains one spool directory. Used by one thread at a time.

    Several processes may drain at once: the store's ``exclusive`` keeps them apart.
    """

    def __init__(self, directory: Path, store: UsageStore, clock: Clock) -> None:
        self._directory = directory
        self._store = store
        self._clock = clock
        self._warned: set[str] = set()
        self._removed = 0
        self._acked: dict[str, int] = {}  # how far we brought a segment ourselves
        self._aside = Aside(directory, clock)
        self.alone = False
        """Whether this process does nothing but deliver: then nobody waits for the interpreter."""
        self._may_ack: Callable[[], bool] | None = None
        self._patience = BUSY_SECONDS

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
        """Take in what the spool holds at this moment, until ``deadline`` (monotonic seconds).

        With ``linger`` some may be left to the next round, for a fuller batch; here nothing is.
        ``report`` is filled in as the run goes on. ``may_ack`` is asked before each ack: where it
        says no, the run ends with LeadLostError. For a store that others use it waits ``patience``
        seconds at once. A segment that fails is left for the next run and never stops the others.
        Raises StoreError when the store itself cannot be used.
        """
        report = report or DeliveryReport()
        self._may_ack = may_ack
        self._patience = patience
        segments = list_segments(self._directory)
        removed = self._removed
        for path in segments:
            if not self._drain_segment(path, deadline, report, progress):
                break
        else:
            report.finished = report.failed_segments == 0
        if self._removed > removed and report.finished:
            self._prune(deadline)
        return report

    def drop_oldest(self, excess: Callable[[], int], spool: Spool) -> None:
        """Remove sealed segments, oldest first, for as long as ``excess()`` bytes are too many.

        It is asked anew for each, for other processes make room as well, and one that delivers.
        What the segments held and no store has is counted as lost, record by record. Raises
        StoreError.
        """
        for path in list_segments(self._directory):
            with (
                suppress(FileNotFoundError, UnknownFormatError),
                SegmentReader(path) as segment,
                self._store.exclusive(_ROOM_SECONDS),
            ):
                if excess() <= 0:
                    return
                if segment.is_gone() or not segment.is_sealed():
                    continue
                self._count_unsent(segment, spool)
                segment.remove()
                with suppress(OSError):
                    spool.write_gaps()

    def deliver_memory(self, ring: MemoryRing, report: DeliveryReport) -> None:
        """Bring what lies in memory into the store, past a disk that refuses it.

        What can never be stored goes to ``dead/``; where the disk refuses even that, it stays in
        memory, and the others go on. Raises StoreError, OSError; what is in no store stays too.
        """
        waiting: list[bytes] = []
        try:
            while payloads := ring.take(BATCH_RECORDS):
                try:
                    waiting += self._deliver_payloads(payloads, report)
                except BaseException:
                    ring.give_back(payloads)
                    raise
        finally:
            ring.give_back(waiting)

    def _deliver_payloads(self, payloads: list[bytes], report: DeliveryReport) -> list[bytes]:
        """Settle records that no segment holds; return those that must wait."""
        parsed = parse_payloads(payloads, self._clock)
        with self._store.exclusive(self._patience):
            outcome = self._store.write(
                Batch(records=parsed.records, gaps=parsed.gaps, segment=_MEMORY, position=0)
            )
        report.delivered += outcome.acknowledged
        dead = [*parsed.dead, *_rejected(outcome)]
        if not dead:
            return []
        try:
            self._aside.bury(_MEMORY, dead)
        except OSError as error:
            self._warn_once(_MEMORY, f"records can never be stored, and wait in memory: {error}")
            return [payload for payload, _ in dead]
        report.dead += len(dead)
        return []

    def throttling(self) -> tuple[datetime, str] | None:
        """Return when the store last refused what was too much for it, and why, if it did."""
        return None

    def forget_after_fork(self) -> None:
        """Make a forked child's copy its own."""

    def _count_unsent(self, segment: SegmentReader, spool: Spool) -> None:
        offset = self._start(segment)
        while (lines := segment.read(offset, BATCH_RECORDS, sealed=True)).end > offset:
            offset = lines.end
            parsed = parse_payloads(lines.payloads, self._clock)
            for record in parsed.records:
                spool.drop("drop_oldest", record.metric)
            for _ in parsed.dead:
                spool.count("drop_oldest")
            for _ in lines.damaged:
                spool.count("corrupt")
            for gap in parsed.gaps:  # what was lost before stays counted, under its id
                spool.keep_gap(gap)

    def _start(self, segment: SegmentReader) -> int:
        """Return where the unsent records of a segment begin."""
        acked = segment.acked()
        position = self._store.position(segment.name)
        return acked if position is None else segment.line_start(position)

    def _prune(self, deadline: float) -> None:
        """Forget what the store and we noted of segments that are gone."""
        self._aside.forget()
        self._acked.clear()
        young = self._clock.now() - timedelta(seconds=_UNBORN_SECONDS)
        settle_unborn(self._directory, int(young.timestamp() * 1e9))
        with self._store.exclusive(self._left(deadline)):
            self._store.prune_positions([path.name for path in list_segments(self._directory)])

    def _left(self, deadline: float) -> float:
        return min(self._patience, max(0.0, deadline - self._clock.monotonic()))

    def _drain_segment(
        self,
        path: Path,
        deadline: float,
        report: DeliveryReport,
        progress: Callable[[int], None] | None,
    ) -> bool:
        """Drain one segment; return False when time is up."""
        try:
            with SegmentReader(path) as segment:
                sealed, goal = segment.is_sealed(), segment.size()
                if not sealed and self._acked.get(segment.name) == goal:
                    return True  # nothing new: the store need not be opened
                while True:
                    with self._store.exclusive(self._left(deadline)):
                        until = min(self._clock.monotonic() + _SLICE_SECONDS, deadline)
                        more = self._drain_slice(segment, goal, until, report, progress)
                    if not more:
                        return True
                    if self._clock.monotonic() >= deadline:
                        return False
                    self._clock.sleep(_PAUSE_SECONDS)  # who waits for the store gets it now
        except FileNotFoundError:
            return True  # another drainer has finished it
        except UnknownFormatError as error:
            self._warn_segment(path, f"is of another format ({error}); it is left alone")
        except OSError as error:
            if error.errno == errno.EROFS:  # of all segments, and of every ack
                raise StoreError(f"the disk of {self._directory} is read-only") from error
            report.failed_segments += 1
            self._warn_segment(path, f"cannot be drained now: {error}")
        return True

    def _drain_slice(
        self,
        segment: SegmentReader,
        goal: int,
        until: float,
        report: DeliveryReport,
        progress: Callable[[int], None] | None,
    ) -> bool:
        """Drain under the store's lock; return at ``until`` whether ``goal`` is still ahead.

        At least one batch goes in, however late it is: some progress is always made.
        """
        if segment.is_gone():
            return False
        offset = self._start(segment)
        while True:
            sealed = segment.is_sealed()
            size = segment.size()
            lines = segment.read(offset, BATCH_RECORDS, sealed=sealed)
            read_on = lines.end > offset
            if read_on:
                delivered = self._deliver(segment, offset, lines, report)
                offset = lines.end
                if progress is not None:
                    progress(delivered)
            if sealed and offset >= size:
                segment.remove()
                self._removed += 1
                return False
            if offset >= goal or not read_on:
                return False
            if self._clock.monotonic() >= until:
                return True

    def _deliver(
        self, segment: SegmentReader, offset: int, lines: Lines, report: DeliveryReport
    ) -> int:
        parsed = parse_payloads(lines.payloads, self._clock)
        try:
            self._aside.quarantine(segment.name, offset, lines.bad)
        except OSError:
            if lines.damaged:
                raise
            # Only what a full disk cut short, and answered nobody: it must not keep the disk full.
        self._aside.bury_once(segment.name, offset, parsed.dead)
        now = self._clock.now()
        parsed.gaps += [Gap(f"{segment.name}-{at}", now, "corrupt", 1) for at in lines.damaged]
        end = lines.end
        outcome = self._store.write(
            Batch(records=parsed.records, gaps=parsed.gaps, segment=segment.name, position=end)
        )
        if self._may_ack is not None and not self._may_ack():
            raise LeadLostError(f"another process delivers the spool {self._directory}")
        if outcome.rejected:
            self._aside.bury_once(segment.name, offset, _rejected(outcome))
            self._store.write(Batch(records=(), segment=segment.name, position=end))
        segment.ack(end)
        self._acked[segment.name] = end
        report.delivered += outcome.acknowledged
        report.dead += len(parsed.dead) + len(outcome.rejected)
        report.bad_lines += len(lines.bad)
        report.damaged_lines += len(lines.damaged)
        return outcome.acknowledged

    def _warn_segment(self, path: Path, what: str) -> None:
        self._warn_once(path.name, f"the spool segment {path} {what}")

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            _log.warning("%s", text)


def _rejected(outcome: WriteOutcome) -> list[tuple[bytes, str]]:
    return [(encode_payload(found.record), found.reason) for found in outcome.rejected]
