"""UsageClient: what callers hold. Recording is an append to the spool; the rest is delivery.

The client of the embedded store is this class; that of a DynamoDB table, ResilientDynamoClient,
differs by its store and its delivery.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from types import MethodType, TracebackType
from typing import Self

from receipt_dynamo.delivery import BUSY_SECONDS, Delivery, DeliveryReport
from receipt_dynamo.drainer import Drainer
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.metric_series import CallFigures, MetricSeries
from receipt_dynamo.files import secure_directory
from receipt_dynamo.forks import on_fork
from receipt_dynamo.health import FlushReport, Health, PutResult
from receipt_dynamo.pipeline import Pipeline
from receipt_dynamo.reports import Reports
from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.bounds import SpoolBounds, segment_size
from receipt_dynamo.spool.leadership import Heartbeat, Leadership, read_heartbeat
from receipt_dynamo.spool.pending import backlog, count_left, left_of, pending_records
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.stats import STATS, StatsFile
from receipt_dynamo.store import UsageStore
from receipt_dynamo.usage_questions import UsageQuestions
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = ["UsageClient"]


class UsageClient(UsageQuestions):
    """Records metrics and answers questions about them. Thread-safe; a context manager.

    ``put_ai_usage_metric`` never raises and never waits for the store or the network. Queries take
    in what the spool still holds first, so a client reads its own writes. May be closed any number
    of times; a put after ``close`` is dropped and counted, a query still answers.
    """

    def __init__(
        self,
        settings: Settings,
        store: UsageStore,
        *,
        clock: Clock | None = None,
        delivery: Delivery | None = None,
        needs_lead: bool = False,
    ) -> None:
        self.settings = settings
        self._store = store
        self._clock = clock or SystemClock()
        self._closed = False
        secure_directory(settings.usage_dir)
        secure_directory(settings.usage_dir / "spool")
        directory = secure_directory(settings.spool_dir)
        segment_bytes = segment_size(settings.segment_bytes, settings.max_bytes)
        bounds = SpoolBounds(
            directory,
            max_bytes=settings.max_bytes,
            min_free_bytes=settings.min_free_bytes,
            grant_bytes=segment_bytes,
        )
        writer = SpoolWriter(directory, segment_bytes, bounds, fsync=settings.durability == "fsync")
        self._pipeline = Pipeline(
            directory=directory,
            spool=Spool(writer, self._clock),
            delivery=delivery or Delivery(directory, store, self._clock),
            leader=Leadership(directory, self._clock),
            clock=self._clock,
            external=settings.drain == "external",
            drops_oldest=settings.overflow == "drop_oldest",
            needs_lead=needs_lead,
            bounds=bounds,
            stats=StatsFile(directory / STATS, self._clock),
        )
        super().__init__(Reports(self._pipeline, store, directory))
        self._manual = settings.drain == "manual"
        self._drainer = Drainer(self._pipeline.tick, self._clock)
        self._forgotten = weakref.finalize(self, _forgotten, self._pipeline, self._drainer)
        self._forgotten.atexit = False
        _clients.add(self)
        with suppress(OSError):  # measured here, where time may be taken: not within the first put
            writer.refill()

    def put_ai_usage_metric(self, metric: AIUsageMetric) -> PutResult:
        """Append one metric to the spool. Microseconds; no network, no exception; no fsync either,
        unless ``durability="fsync"``.

        STORED: it survives the death of the process. MEMORY: the disk refuses; it is written or
        delivered as soon as may be. DROPPED: memory is full too, the client is closed, or
        ``metric`` is none; counted with its tokens and cost.
        """
        closed = self._closed
        if closed:
            answer = self._pipeline.spool.drop("closed", metric)
            with suppress(Exception):
                self._pipeline.spool.writer.seal()
            return answer
        answer = self._pipeline.spool.put(metric)
        drainer = self._drainer
        if self._closed or drainer.idle or not (drainer.started or self._manual):
            return self._see_to(answer)
        return answer

    def put_call(self, series: MetricSeries, call: CallFigures) -> PutResult:
        """Append the metric of one more call of a series: as ``put_ai_usage_metric`` does with the
        whole of it, in less time."""
        if self._closed:
            return self.put_ai_usage_metric(series.metric(call))
        answer = self._pipeline.spool.put_call(series, call)
        drainer = self._drainer
        if self._closed or drainer.idle or not (drainer.started or self._manual):
            return self._see_to(answer)
        return answer

    @property
    def own_put(self) -> Callable[[AIUsageMetric], PutResult]:
        """``put_ai_usage_metric`` as it is here. Where the client's is another (of a subclass, of a
        test), that is to see every metric: ``put_call`` would pass it by."""
        return MethodType(_OWN_PUT, self)

    def _see_to(self, answer: PutResult) -> PutResult:
        """See to it that what was put is delivered; return what became of it."""
        drainer = self._drainer
        if self._closed:  # by another thread, or by a handler within this put
            return self._settle(answer)
        if drainer.idle:
            drainer.notify()
        else:
            drainer.start()
        return answer

    def _settle(self, answer: PutResult) -> PutResult:
        """Leave nothing behind that only a running client would look after."""
        with suppress(Exception):
            if self._pipeline.spool.give_up_memory():
                answer = PutResult.DROPPED
            self._pipeline.spool.writer.seal()
        return answer

    def put_ai_usage_metrics(self, metrics: Iterable[AIUsageMetric]) -> list[PutResult]:
        """Append several metrics; return one answer for each, in order."""
        return [self.put_ai_usage_metric(metric) for metric in metrics]

    def count_dropped(
        self,
        reason: str,
        *,
        service: str | None = None,
        model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_usd: Decimal | None = None,
    ) -> PutResult:
        """Count a record that could not even become a metric; return DROPPED. Raises nothing."""
        self._pipeline.spool.count(
            reason,
            service=service,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
        )
        if self._closed:
            with suppress(Exception):
                self._pipeline.spool.writer.seal()
        return PutResult.DROPPED

    def take_in(
        self, progress: Callable[[int], None] | None = None, *, patience: float = BUSY_SECONDS
    ) -> DeliveryReport:
        """Bring what the spool holds into the store now, in the calling thread.

        ``progress`` is told how many records each batch delivered. Waits ``patience`` seconds at
        once for a store that others use. Raises StoreError.
        """
        return self._reports.take_in(progress, patience)

    @property
    def store_refusal(self) -> str | None:
        """Why the store could not take in the spool when it last was to, or None."""
        return self._reports.refusal

    def ship(self, progress: Callable[[int], None] | None = None) -> int:
        """Do one round as the drainer of this spool, in the calling thread; return how many
        records were delivered.

        For a process that does nothing but ship. 0 also where another process leads, or the store
        fails: that is logged, and is ``health().last_error``. Raises nothing.
        """
        self._pipeline.delivery.alone = True
        return self._pipeline.tick(progress)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that drains the spool."""
        return self._pipeline.leader.leads

    def leader(self) -> Heartbeat | None:
        """Return the last sign of life of whoever drains the spool, or None. Raises nothing."""
        return read_heartbeat(self.settings.spool_dir)

    def backlog(self) -> Callable[[], int]:
        """Return a count of what waits at this moment: called later, it says how many of these
        records still wait, whoever delivers them. Raises nothing."""
        return partial(left_of, backlog(self.settings.spool_dir))

    def flush(self, timeout: float = 30.0) -> FlushReport:
        """Deliver what is spooled; return after ``timeout`` seconds at the latest. Raises nothing.

        What could not be delivered is reported as pending, and stays in the spool. When the
        interpreter shuts down and no thread runs any more, that is everything. A backlog too
        long to be counted in time is estimated from its bytes; where the spool cannot be read at
        all (too many open files), whatever this process has stored counts as pending.
        """
        deadline = self._clock.monotonic() + max(0.0, timeout)
        report = DeliveryReport()
        done = self._drainer.call(
            lambda: self._flush(deadline, report), timeout, at_shutdown=self._secure
        )
        waiting = 0 if done and report.finished else self._pending_by(deadline)
        in_memory = len(self._pipeline.spool.ring)
        return FlushReport(report.delivered, waiting + in_memory, report.dead)

    def _flush(self, deadline: float, report: DeliveryReport) -> None:
        pipeline = self._pipeline
        pipeline.maintain()
        try:
            pipeline.deliver_or_await(deadline, report=report)
        except Exception as error:  # the exit hook and close() come through here
            pipeline.note_error(error)
        pipeline.keep_stats()

    def _secure(self) -> None:
        """Write into the spool what lies in memory, and what was lost, without any waiting."""
        self._pipeline.maintain(sync=False)
        self._pipeline.keep_stats()

    def _pending_by(self, deadline: float) -> int:
        try:
            list_segments(self.settings.spool_dir)
        except OSError:
            return self._pipeline.spool.writer.records
        extents = backlog(self.settings.spool_dir)
        return count_left(extents, lambda: self._clock.monotonic() >= deadline).records

    def exit_flush(self) -> None:
        """What the exit hook does: write what was lost, and deliver for as long as settings allow,
        unless another process is to."""
        if self.settings.exit_flush_seconds > 0 and self.settings.drain != "external":
            self.flush(self.settings.exit_flush_seconds)
        else:
            with suppress(Exception):
                self._pipeline.maintain()
                self._pipeline.keep_stats()

    def pending(self) -> int:
        """Return how many records of this destination wait in the spool, for all processes."""
        return pending_records(self.settings.spool_dir)

    def waiting_files(self) -> int:
        """Return how many files of this destination's spool wait: each process leaves one at least.

        Cheap, however much they hold. Raises nothing.
        """
        return len(backlog(self.settings.spool_dir))

    def close(self, timeout: float = 5.0) -> None:
        """Flush and stop; return after ``timeout`` seconds at the latest. Raises nothing.

        Idempotent. What is unsent stays spooled, and is the next one's to send.
        """
        self._closed = True
        deadline = self._clock.monotonic() + max(0.0, timeout)

        def finish() -> None:
            self._flush(deadline, DeliveryReport())
            self._pipeline.let_go()
            self._store.close()

        def finish_at_shutdown() -> None:
            self._secure()
            self._pipeline.let_go(sync=False)

        self._drainer.call(finish, timeout, at_shutdown=finish_at_shutdown)
        self._drainer.stop(deadline - self._clock.monotonic())

    def has_recorded(self) -> bool:
        """Whether this process has stored or lost anything through this client."""
        spool = self._pipeline.spool
        return spool.writer.records > 0 or len(spool.ring) > 0 or bool(spool.drops.by_reason())

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def health(self, *, probe: bool = False) -> Health:
        """Return the state of this destination: what all its processes did, what waits, who
        delivers, and a level with its reasons.

        With ``probe`` the store is asked as well, within a few seconds. Raises nothing; takes
        bounded time whatever the backlog, and writes nothing.
        """
        from receipt_dynamo.health_check import check_health  # loads when it is asked for

        pipeline = self._pipeline
        return check_health(
            self.settings,
            self._clock,
            count=lambda: pipeline.stats.together(pipeline.figures()),
            store=(lambda: self._store) if probe else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _forget_after_fork(self) -> None:
        self._pipeline.forget_after_fork()
        self._reports.forget_after_fork()
        self._drainer.reset()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        stored = self._pipeline.spool.writer.records
        return f"<{type(self).__name__} {self.settings.destination} {state} stored={stored}>"


_OWN_PUT = UsageClient.put_ai_usage_metric


def _forgotten(pipeline: Pipeline, drainer: Drainer) -> None:
    """When a client is garbage: never wait; what it spooled is the next one's to send.

    Whoever lets go of it last, or whom the collector interrupts, may be anybody: the work is done
    in a thread, for its disk may hang.
    """

    def finish(*, sync: bool = True) -> None:
        pipeline.maintain(sync=sync)
        pipeline.let_go(sync=sync)

    drainer.call(finish, 0.0, at_shutdown=partial(finish, sync=False))
    drainer.stop(0.0)


_clients: weakref.WeakSet[UsageClient] = weakref.WeakSet()


def _flush_all() -> None:
    """At exit, send what can be sent in time. Nothing is closed, nothing depends on it."""
    for client in list(_clients):
        if client.has_recorded():
            client.exit_flush()


def _forget_all() -> None:
    for client in list(_clients):
        client._forget_after_fork()  # noqa: SLF001 - the same module


atexit.register(_flush_all)
on_fork(_forget_all)
