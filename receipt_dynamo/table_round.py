"""One round of delivery to a table: segments are read, batches sent, chunks acked.

The thread that runs it touches the disk; the senders touch the network.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from receipt_dynamo.cooperation import cooperatively
from receipt_dynamo.delivery import DeliveryReport, LeadLostError
from receipt_dynamo.dispatch import Dispatcher, Settled
from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.errors import StoreError, UsageError
from receipt_dynamo.payload import encode_payload
from receipt_dynamo.senders import Senders
from receipt_dynamo.spool.aside import Aside
from receipt_dynamo.spool.reader import SegmentReader
from receipt_dynamo.spool.segment import Lines, UnknownFormatError
from receipt_dynamo.store import UsageStore
from receipt_dynamo.table import BATCH_ITEMS
from receipt_dynamo.unacked import Chunk, OpenSegment, Unsent
from receipt_dynamo.utils.circuit_breaker import CircuitState
from receipt_dynamo.utils.clock import Clock

__all__ = ["Round", "Spool", "Table"]

READ_RECORDS = 250
"""How many records are read at a time."""

PARKED = "the table fails whenever it is sent, and takes others"
"""How the reason of a letter in ``dead/`` begins that is worth another try."""

_AHEAD = 4 * BATCH_ITEMS  # what is read before it is needed, for each sender
_OPEN_SEGMENTS = 64
_GRACE_SECONDS = 6.0  # for calls under way when time is up: longer than their own timeouts
_LOOK_SECONDS = 0.25


class Table(UsageStore, Protocol):
    """A table of DynamoDB's, as delivery uses it. Thread-safe."""

    @property
    def ready(self) -> bool:
        """Whether ``prepare`` knows all that it needs to know of the table."""

    def get_ready(self) -> None:
        """Learn that. Raises as ``send`` does."""

    def prepare(self, payload: bytes) -> Put:
        """Return a record of the spool made ready. Raises ValueError for what is none."""

    def send(self, puts: Sequence[Put]) -> Sequence[Put]:
        """Put up to 25 records; return those not taken. Raises what ``classify`` knows."""

    def explain(self, error: BaseException) -> UsageError:
        """Return the error in one line that names the table and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """What a round uses of the spool: see ``TableDelivery``."""

    directory: Path
    aside: Aside
    start: Callable[[SegmentReader], int]
    warn: Callable[[Path, str], None]
    may_ack: Callable[[], bool] | None
    finished: dict[str, int]  # how far segments were acked that others still write to


class Round:
    """Delivers some segments, or some payloads. Used once, by one thread.

    With ``hurry`` also what fills no batch is sent. ``alone`` in its process it gives way to none.
    """

    def __init__(
        self,
        table: Table,
        dispatcher: Dispatcher[Unsent],
        senders: Senders,
        spool: Spool,
        report: DeliveryReport,
        clock: Clock,
        *,
        hurry: bool,
        alone: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._table = table
        self._dispatcher = dispatcher
        self._senders = senders
        self._clock = clock
        self._spool = spool
        self._report = report
        self._hurry = hurry
        self._alone = alone
        self._progress = progress
        self._ahead = _AHEAD * senders.most
        self._paths: Iterator[Path] = iter(())
        self._reading: OpenSegment | None = None
        self._open: list[OpenSegment] = []
        self._read_all = False
        self.removed = 0
        """How many segments were finished and removed."""

    @property
    def left(self) -> int:
        """How many records were read and have not been settled."""
        return len(self._dispatcher)

    def deliver(self, segments: Iterable[Path], deadline: float) -> None:
        """Deliver what ``segments`` hold now, until ``deadline``.

        Raises LeadLostError, StoreError when the disk is read-only.
        """
        self._paths = iter(segments)
        try:
            self._run(deadline)
        finally:
            for segment in self._open:
                segment.close()
        whole = self._read_all and not self.left and not self._paths_left()
        self._report.finished = whole and self._report.failed_segments == 0

    def deliver_payloads(self, payloads: Sequence[bytes], deadline: float) -> list[bytes]:
        """Deliver records that no segment holds; return those that must stay where they are.

        What can never be stored is in ``dead`` of the returned chunk's report. Raises nothing.
        """
        chunk = Chunk(None, 0, Lines(list(payloads), [], 0))
        self._enqueue(chunk)
        self._read_everything()
        self._run(deadline)
        return self._settle_memory(chunk)

    def _run(self, deadline: float) -> None:
        over: float | None = None
        while True:
            now = self._clock.monotonic()
            if over is None and (now >= deadline or self._is_refused()):
                over = now + _GRACE_SECONDS
                self._senders.stop()
            if over is None:
                self._feed()
                plenty = BATCH_ITEMS if self._read_all else self._ahead // 2
                self._senders.work(deadline, plenty)
            if self._is_done() or (over is not None and now >= over):
                break
            left = (deadline if over is None else over) - now
            self._settle(self._senders.wait(min(_LOOK_SECONDS, left)))
            if over is not None and not self._senders.running:
                break
        self._senders.stop()
        self._settle(self._senders.wait(0.0))

    def _is_refused(self) -> bool:
        """Whether the breaker lets nobody send, for longer than is worth waiting."""
        breaker = self._dispatcher.breaker
        probe_at = breaker.next_probe_at
        return (
            breaker.state in (CircuitState.OPEN, CircuitState.FORCED_OPEN)
            and (probe_at is None or probe_at > self._clock.monotonic())
            and not self._dispatcher.in_flight
        )

    def _is_done(self) -> bool:
        """Whether all is settled that was read, but for a batch that may wait for more."""
        if not self._read_all or self._dispatcher.in_flight:
            return False
        return not self.left or (not self._hurry and self.left < BATCH_ITEMS)

    # -- from the spool into the queue ---------------------------------------------------------

    def _feed(self) -> None:
        """Read as much as keeps the senders busy."""
        while not self._read_all and self.left < self._ahead and len(self._open) < _OPEN_SEGMENTS:
            segment = self._reading = self._reading or self._open_next()
            if segment is None:
                self._read_everything()
            else:
                self._read_on(segment)

    def _read_everything(self) -> None:
        self._read_all = True
        if self._hurry:
            self._dispatcher.flush()

    def _read_on(self, segment: OpenSegment) -> None:
        try:
            chunks = segment.read(READ_RECORDS)
        except OSError as error:
            self._fail(segment.path, error)
            segment.failed = True
            chunks = []
        for chunk in chunks:
            self._enqueue(chunk)
        if segment.read_to_goal:
            self._reading = None
            self._ack(segment)

    def _enqueue(self, chunk: Chunk) -> None:
        now = self._clock.now()
        payloads = list(chunk.lines.payloads)
        if chunk.segment is not None:
            name = chunk.segment.path.name
            payloads += [
                encode_payload(Gap(f"{name}-{at}", now, "corrupt", 1)) for at in chunk.lines.damaged
            ]
        prepare, enqueue = self._table.prepare, self._dispatcher.put
        for payload in payloads if self._alone else cooperatively(payloads, self._clock):
            try:
                put = prepare(payload)
            except ValueError as error:
                chunk.dead.append((payload, str(error)))
                continue
            chunk.left += 1
            enqueue(put.key, Unsent(put, chunk), len(put.body))

    def _open_next(self) -> OpenSegment | None:
        """Open the next segment that holds anything, or return None where there is none."""
        for path in self._paths:
            reader = None
            try:
                reader = SegmentReader(path)
                sealed, size = reader.is_sealed(), reader.size()
                nothing_new = not sealed and self._spool.finished.get(path.name) == size
                if not (nothing_new or reader.is_gone()):
                    segment = OpenSegment(reader, self._spool.start(reader), sealed, size)
                    self._open.append(segment)
                    return segment
            except FileNotFoundError:
                pass  # another drainer has finished it
            except UnknownFormatError as error:
                self._spool.warn(path, f"is of another format ({error}); it is left alone")
            except OSError as error:
                self._fail(path, error)
            if reader is not None:
                reader.close()
        return None

    def _paths_left(self) -> bool:
        return next(self._paths, None) is not None

    # -- from the queue into acks --------------------------------------------------------------

    def _settle(self, answers: Iterable[Settled[Unsent]]) -> None:
        for settled in answers:
            verdict = settled.verdict
            for unsent in settled.acked:
                unsent.chunk.acknowledge(unsent.put)
            for unsent in settled.dead:
                unsent.chunk.bury(unsent.put, f"DynamoDB refuses it: {verdict.message}")
            for unsent in settled.parked:
                unsent.chunk.bury(unsent.put, f"{PARKED}: {verdict}")
        for segment in list(self._open):
            self._ack(segment)

    def _ack(self, segment: OpenSegment) -> None:
        """Ack what is settled without a hole, and remove a segment that is done."""
        try:
            if not segment.failed:
                self._ack_chunks(segment)
            if segment.read_to_goal and not segment.chunks and not segment.failed:
                if segment.sealed and segment.offset >= segment.reader.size():
                    segment.reader.remove()
                    self.removed += 1
                else:
                    self._spool.finished[segment.path.name] = segment.offset
        except OSError as error:
            self._fail(segment.path, error)
            segment.failed = True
        if segment.failed or (segment.read_to_goal and not segment.chunks):
            self._open.remove(segment)
            if self._reading is segment:
                self._reading = None
            segment.close()

    def _ack_chunks(self, segment: OpenSegment) -> None:
        """Ack settled chunks, as many at once as there are before one with letters or damage.

        What is set aside is acked before anything else is, so that no failure repeats it.
        """
        chunks = segment.chunks
        while chunks and not chunks[0].left:
            self._set_aside(segment, chunks[0])
            done = [chunks[0]]
            for chunk in islice(chunks, 1, None):
                if chunk.left or chunk.dead or chunk.lines.bad:
                    break
                done.append(chunk)
            self._acknowledge(segment, done)
            for _ in done:
                chunks.popleft()

    def _set_aside(self, segment: OpenSegment, chunk: Chunk) -> None:
        aside, name, lines = self._spool.aside, segment.path.name, chunk.lines
        try:
            aside.quarantine(name, chunk.start, lines.bad)
        except OSError:
            if lines.damaged:
                raise
            # Only what a full disk cut short, and answered nobody: it must not keep the disk full.
        aside.bury_once(name, chunk.start, chunk.dead)

    def _acknowledge(self, segment: OpenSegment, done: Sequence[Chunk]) -> None:
        if self._spool.may_ack is not None and not self._spool.may_ack():
            raise LeadLostError(f"another process delivers the spool {self._spool.directory}")
        segment.reader.ack(done[-1].lines.end)
        for chunk in done:
            self._count(chunk)
            self._report.bad_lines += len(chunk.lines.bad)
            self._report.damaged_lines += len(chunk.lines.damaged)

    def _count(self, chunk: Chunk) -> None:
        self._report.delivered += chunk.delivered
        self._report.dead += len(chunk.dead)
        if self._progress is not None:
            self._progress(chunk.delivered)

    def _settle_memory(self, chunk: Chunk) -> list[bytes]:
        """Bury what is dead; return what stays in memory, in its order."""
        dead = [payload for payload, _ in chunk.dead]
        if dead:
            try:
                self._spool.aside.bury("memory", chunk.dead)
            except OSError as error:
                told = f"holds records that can never be stored, and that wait in memory: {error}"
                self._spool.warn(self._spool.directory, told)
                chunk.dead, dead = [], []
        self._count(chunk)
        done = Counter([*chunk.acked, *dead])
        left = []
        for payload in chunk.lines.payloads:
            if done[payload]:
                done[payload] -= 1
            else:
                left.append(payload)
        return left

    def _fail(self, path: Path, error: OSError) -> None:
        if error.errno == errno.EROFS:  # of all segments, and of every ack
            raise StoreError(f"the disk of {self._spool.directory} is read-only") from error
        self._report.failed_segments += 1
        self._spool.warn(path, f"cannot be drained now: {error}")
