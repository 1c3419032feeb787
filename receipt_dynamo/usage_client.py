"""UsageClient: what callers hold. Recording is an append to the spool; the rest is delivery.

The client of the embedded store is this class; the client of a DynamoDB table differs by its store.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Self

import msgspec

from receipt_dynamo.delivery import Delivery, DeliveryReport
from receipt_dynamo.drainer import Drainer
from receipt_dynamo.drops import DropTally
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.errors import ConfigurationError, UsageError
from receipt_dynamo.files import FileLock, secure_directory
from receipt_dynamo.health import FlushReport, Health, PutResult
from receipt_dynamo.settings import Settings
from receipt_dynamo.spool.pending import oldest_age, pending_records
from receipt_dynamo.spool.reader import list_segments, spool_bytes
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.store import DroppedSummary, UsageQuery, UsageStore, UsageSummary
from receipt_dynamo.utils.clock import Clock, SystemClock

__all__ = ["UsageClient", "check_destination", "open_usage_client"]

MAX_RECORD_BYTES = 350_000
"""Longest record in the spool: a DynamoDB item holds 400 KB (AWS, "Quotas")."""

_GAP_SECONDS = 1.0
_log = logging.getLogger("receipt_dynamo.client")
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Counters:
    """What this process has done. Written by the thread that holds ``delivering``."""

    delivered: int = 0
    dead: int = 0
    bad_lines: int = 0
    last_record: datetime | None = None
    last_delivery: datetime | None = None
    last_error: str | None = None


@dataclass(slots=True)
class _Machinery:
    """Everything that works below the client, and lives on for the exit hook when it is gone."""

    writer: SpoolWriter
    drops: DropTally
    delivery: Delivery
    leader: FileLock
    clock: Clock
    counters: _Counters = field(default_factory=_Counters)
    delivering: threading.Lock = field(default_factory=threading.Lock)
    deliverer: int | None = None
    last_gap: float = float("-inf")

    def write_gaps(self) -> None:
        """Write what was lost into the spool; what the disk refuses is tallied again."""
        self.last_gap = self.clock.monotonic()
        for gap in self.drops.take(self.clock.now()):
            try:
                self.writer.append(_encode(gap), count=0)
            except OSError:
                self.drops.restore(gap)

    def tick(self) -> None:
        """One round of the background thread."""
        self.write_gaps()
        try:
            self.writer.sync()
        except OSError as error:
            self.counters.last_error = f"fsync: {error}"
            _log.error("the spool could not be synced to the disk: %s", error)
        try:
            if self.leader.try_acquire():
                self.deliver(self.clock.monotonic() + 30.0)
        except (UsageError, OSError) as error:
            self.note_error(error)

    def deliver(
        self, deadline: float, progress: Callable[[int], None] | None = None
    ) -> DeliveryReport:
        """Drain the spool in the calling thread."""
        left = max(0.0, deadline - self.clock.monotonic())
        if self.deliverer == threading.get_ident():  # a signal handler within a delivery
            return DeliveryReport()
        if not self.delivering.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
            return DeliveryReport()
        try:
            self.deliverer = threading.get_ident()
            report = self.delivery.run(deadline, progress)
            counters = self.counters
            counters.delivered += report.delivered
            counters.dead += report.dead
            counters.bad_lines += report.bad_lines
            if report.delivered:
                counters.last_delivery = self.clock.now()
            counters.last_error = None
            return report
        finally:
            self.deliverer = None
            self.delivering.release()

    def note_error(self, error: Exception) -> None:
        """Remember why delivery failed; say it once for as long as it stays the same."""
        text = str(error)
        if text != self.counters.last_error:
            self.counters.last_error = text
            _log.warning("delivery waits: %s. Nothing is lost; it is tried again.", text)

    def forget_after_fork(self) -> None:
        """New locks and counters in a child; the parent's tally stays the parent's."""
        self.delivering = threading.Lock()
        self.deliverer = None
        self.drops = DropTally()
        self.counters = _Counters()


class UsageClient:
    """Records metrics and answers questions about them. Thread-safe; a context manager.

    ``put_ai_usage_metric`` never raises and never waits for the store or the network. Queries take
    in what the spool still holds first, so a client reads its own writes. May be closed any number
    of times; a put after ``close`` is dropped and counted, a query still answers.
    """

    def __init__(
        self, settings: Settings, store: UsageStore, *, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self._store = store
        self._clock = clock or SystemClock()
        self._closed = False
        secure_directory(settings.usage_dir)
        secure_directory(settings.usage_dir / "spool")
        directory = secure_directory(settings.spool_dir)
        self._machinery = _Machinery(
            writer=SpoolWriter(directory, settings.segment_bytes),
            drops=DropTally(),
            delivery=Delivery(directory, store, self._clock),
            leader=FileLock(directory / "drain.lock"),
            clock=self._clock,
        )
        self._drainer = Drainer(self._machinery.tick, self._clock)
        self._external = settings.drain == "external"
        self._forgotten = weakref.finalize(self, _let_go, self._machinery, self._drainer)
        self._forgotten.atexit = False
        _clients.add(self)

    def put_ai_usage_metric(self, metric: AIUsageMetric) -> PutResult:
        """Append one metric to the spool. Microseconds; no network, no fsync, no exception.

        STORED: it survives the death of the process. DROPPED: the disk refuses, the client is
        closed, or ``metric`` is none; counted with its tokens and cost.
        """
        machinery = self._machinery
        try:
            if self._closed:
                return self._drop("closed", metric)
            payload = _encode(metric)
            if len(payload) > MAX_RECORD_BYTES or not isinstance(metric, AIUsageMetric):
                payload = _shortened(metric, len(payload))
            machinery.writer.append(payload)
        except OSError as error:
            return self._drop("disk", metric, error)
        except Exception as error:  # recording never raises into the pipeline
            return self._drop("invalid", metric, error)
        machinery.counters.last_record = metric.timestamp
        drainer = self._drainer
        if drainer.idle:
            drainer.notify()
        elif not drainer.started and not self._external:
            drainer.start()
        return PutResult.STORED

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
        machinery = self._machinery
        machinery.drops.add(
            reason,
            service=service,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
        )
        with suppress(Exception):  # counted above; written with the next gap
            if self._clock.monotonic() - machinery.last_gap >= _GAP_SECONDS:
                machinery.write_gaps()
                if self._closed:
                    machinery.writer.seal()
        return PutResult.DROPPED

    def _drop(self, reason: str, metric: object, error: Exception | None = None) -> PutResult:
        answer = self._count(reason, metric)
        if self._machinery.drops.by_reason().get(reason) == 1:
            with suppress(Exception):  # a log handler of the pipeline's may raise
                cause = f": {error}" if error is not None else ""
                _log.error("a usage record was dropped (%s)%s. Drops are counted.", reason, cause)
        return answer

    def _count(self, reason: str, metric: object) -> PutResult:
        if not isinstance(metric, AIUsageMetric):
            return self.count_dropped(reason)
        return self.count_dropped(
            reason,
            service=metric.service,
            model=metric.model,
            input_tokens=metric.input_tokens or 0,
            output_tokens=metric.output_tokens or 0,
            cost_usd=metric.cost_usd,
        )

    def take_in(self, progress: Callable[[int], None] | None = None) -> DeliveryReport:
        """Bring what the spool holds into the store now, in the calling thread.

        ``progress`` is told how many records each batch delivered. Raises StoreError.
        """
        self._machinery.write_gaps()
        return self._machinery.deliver(float("inf"), progress)

    def flush(self, timeout: float = 30.0) -> FlushReport:
        """Deliver what is spooled, within ``timeout`` seconds. Raises nothing; what could not be
        delivered is reported as pending and stays in the spool."""
        machinery = self._machinery
        deadline = self._clock.monotonic() + max(0.0, timeout)
        report = DeliveryReport()
        try:
            machinery.write_gaps()
            report = machinery.deliver(deadline)
        except Exception as error:  # the exit hook and close() come through here
            machinery.note_error(error)
        pending = 0 if report.finished else self.pending()
        return FlushReport(delivered=report.delivered, pending=pending, dead=report.dead)

    def exit_flush(self) -> None:
        """What the exit hook does: write what was lost, deliver for as long as settings allow."""
        with suppress(Exception):
            self._machinery.write_gaps()
            if self.settings.exit_flush_seconds > 0:
                self.flush(self.settings.exit_flush_seconds)

    def pending(self) -> int:
        """Return how many records of this destination wait in the spool, for all processes."""
        return pending_records(self.settings.spool_dir)

    def close(self, timeout: float = 5.0) -> None:
        """Flush and stop within ``timeout`` seconds. Idempotent. What is unsent stays spooled."""
        self._closed = True
        deadline = self._clock.monotonic() + max(0.0, timeout)
        self._drainer.stop(timeout)
        self.flush(deadline - self._clock.monotonic())
        self._machinery.writer.seal()
        self._machinery.leader.release()
        self._store.close()

    def has_recorded(self) -> bool:
        """Whether this process has stored or lost anything through this client."""
        return self._machinery.writer.records > 0 or bool(self._machinery.drops.by_reason())

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def health(self) -> Health:
        """Return the state of this client and of its spool. Raises nothing."""
        machinery = self._machinery
        counters = machinery.counters
        try:
            segments = list_segments(self.settings.spool_dir)
        except OSError:
            segments = []
        stored = machinery.writer.records
        dropped = machinery.drops.by_reason()
        return Health(
            destination=self.settings.destination,
            spool_dir=self.settings.spool_dir,
            recorded=stored + sum(dropped.values()),
            stored=stored,
            dropped=dropped,
            delivered=counters.delivered,
            dead=counters.dead,
            corrupt_lines=counters.bad_lines,
            pending=self.pending(),
            spool_bytes=spool_bytes(segments),
            spool_segments=len(segments),
            oldest_unsent_seconds=oldest_age(self.settings.spool_dir, self._clock.now()),
            last_delivery=counters.last_delivery,
            last_record=counters.last_record,
            last_error=counters.last_error,
        )

    def recorded_times(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], datetime]:
        """Return the first time recorded under each (service, request id), as far as there is one.

        For importers: a reply that carries no time of its own keeps the one it has. Takes in the
        spool first. Raises StoreError.
        """
        self.take_in()
        return self._store.recorded_times(keys)

    def query(self, query: UsageQuery | None = None) -> Iterator[AIUsageMetric]:
        """Yield the metrics that match, by time. Takes in the spool first. Raises StoreError."""
        self.take_in()
        yield from self._store.query(query or UsageQuery())

    def summarize(
        self,
        query: UsageQuery | None = None,
        by: Sequence[str] = (),
        timezone: str = "UTC",
    ) -> list[UsageSummary]:
        """Return sums per group (see ``DIMENSIONS``); days are those of ``timezone``.

        Takes in the spool first. Without ``by`` one summary of everything. Raises StoreError, and
        ValueError for an unknown word or timezone.
        """
        self.take_in()
        return self._store.summarize(query or UsageQuery(), by, timezone)

    def dropped(self, query: UsageQuery | None = None) -> DroppedSummary:
        """Return what was lost in the time range of ``query``. Takes in the spool first."""
        self.take_in()
        return self._store.dropped(query or UsageQuery())

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
        self._machinery.forget_after_fork()
        self._drainer.reset()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        stored = self._machinery.writer.records
        return f"<{type(self).__name__} {self.settings.destination} {state} stored={stored}>"


def _shortened(metric: object, size: int) -> bytes:
    """Return a record without its metadata: figures are kept before words."""
    if not isinstance(metric, AIUsageMetric):
        raise TypeError(f"put_ai_usage_metric takes an AIUsageMetric, not {type(metric).__name__}")
    _log.warning("the metadata of a usage record was left out: the record has %d bytes", size)
    return _encode(msgspec.structs.replace(metric, metadata={"metadata_left_out_bytes": size}))


def _let_go(machinery: _Machinery, drainer: Drainer) -> None:
    """When a client is garbage: never wait; what it spooled is the next one's to send."""
    drainer.stop(0.0)
    machinery.write_gaps()
    machinery.writer.seal()
    machinery.leader.release()


def check_destination(settings: Settings) -> None:
    """Raise ConfigurationError unless these settings name a place that records can go to."""
    if settings.table_name is not None:
        raise ConfigurationError(
            f"DYNAMODB_TABLE_NAME={settings.table_name!r} is set, but this version delivers to the "
            "embedded store only. Unset it, or upgrade receipt-usage."
        )
    if settings.environment in ("production", "staging"):
        raise ConfigurationError(
            f"DYNAMODB_TABLE_NAME is not set, and {settings.environment_variable} says "
            f"{settings.environment}. Set it, or set ENVIRONMENT=development to use the local "
            "store."
        )


def open_usage_client(settings: Settings | None = None) -> UsageClient:
    """Return the client for this environment.

    Without ``DYNAMODB_TABLE_NAME`` that is the embedded store, except where the environment says
    production or staging: there a missing table is an error. Raises ConfigurationError.
    """
    chosen = settings or Settings.from_env()
    check_destination(chosen)
    from receipt_dynamo.sqlite_store import SqliteStore  # sqlite3 loads when it is used

    client = UsageClient(chosen, SqliteStore(chosen.store_path))
    _log.info(
        "DYNAMODB_TABLE_NAME is not set: usage is recorded in the embedded store %s. "
        "Read it with: receipt-usage report",
        chosen.store_path,
    )
    return client


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
os.register_at_fork(after_in_child=_forget_all)
