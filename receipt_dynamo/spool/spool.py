"""Spool: what a record is entrusted to. The file, memory where the disk refuses, or the tally."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from decimal import Decimal

import msgspec

from receipt_dynamo.drops import DropTally
from receipt_dynamo.entities.ai_usage_metric import AIUsageMetric
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.entities.metric_series import CallFigures, MetricSeries
from receipt_dynamo.forks import notice_fork
from receipt_dynamo.health import PutResult
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.spool.bounds import SpoolFullError
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.utils.clock import Clock

__all__ = ["MAX_RECORD_BYTES", "Spool"]

MAX_RECORD_BYTES = 350_000
"""Longest record in the spool: a DynamoDB item holds 400 KB (AWS, "Quotas")."""

_GAP_SECONDS = 1.0
_RING_AT_ONCE = 100
_log = safe_logger("receipt_dynamo.spool")
_encode = msgspec.json.Encoder().encode
_decode_metric = msgspec.json.Decoder(AIUsageMetric).decode


class Spool:
    """The recording half of one destination. Thread-safe; ``put`` raises nothing.

    ``maintain`` is for a background thread or a flush: it measures, syncs, and brings what lies in
    memory back to the disk.
    """

    def __init__(self, writer: SpoolWriter, clock: Clock) -> None:
        self.writer = writer
        self.drops = DropTally()
        self.ring = MemoryRing()
        self.last_error: str | None = None
        """Why the disk refuses, or None while it does not."""
        self._clock = clock
        self._last_gap = float("-inf")
        self.last_record: datetime | None = None

    def forget_after_fork(self) -> None:
        """A child starts with nothing lost and nothing in memory: both are its parent's."""
        self.drops = DropTally()
        self.ring = self.ring.empty_copy()
        self.last_record = None

    def put(self, metric: AIUsageMetric) -> PutResult:
        """Keep one metric: STORED in the file, MEMORY where the disk refuses, else DROPPED."""
        try:
            payload = _encode(metric)
            if len(payload) > MAX_RECORD_BYTES or not isinstance(metric, AIUsageMetric):
                payload = _shortened(metric, len(payload))
        except Exception as error:  # recording never raises into the pipeline
            return self.drop("invalid", metric, error)
        try:
            self.writer.append(payload)
        except Exception as error:
            return self._keep_in_memory(payload, metric, error)
        self.last_record = metric.timestamp
        return PutResult.STORED

    def put_call(self, series: MetricSeries, call: CallFigures) -> PutResult:
        """Keep the metric of one more call of a series, as ``put`` does."""
        try:
            payload = series.head + _encode(call)[1:]
        except Exception as error:  # a figure that is none
            return self.drop("invalid", series.metric(call), error)
        if len(payload) > MAX_RECORD_BYTES:
            return self.put(series.metric(call))
        try:
            self.writer.append(payload)
        except Exception as error:
            return self._keep_in_memory(payload, series.metric(call), error)
        self.last_record = call.timestamp
        return PutResult.STORED

    def _keep_in_memory(self, payload: bytes, metric: AIUsageMetric, error: Exception) -> PutResult:
        if self.ring.offer(payload):
            self._note(error)
            return PutResult.MEMORY
        return self.drop(
            error.reason if isinstance(error, SpoolFullError) else "disk", metric, error
        )

    def _note(self, error: Exception) -> None:
        """Say once, for as long as it lasts, that the disk refuses."""
        if self.last_error is None:
            _log.error("the spool refuses records, which are kept in memory: %s", error)
        self.last_error = str(error)

    def drop(self, reason: str, metric: object, error: Exception | None = None) -> PutResult:
        """Count a metric as lost, with its figures; return DROPPED."""
        if isinstance(metric, AIUsageMetric):
            self.count(
                reason,
                service=metric.service,
                model=metric.model,
                input_tokens=metric.input_tokens or 0,
                output_tokens=metric.output_tokens or 0,
                cost_usd=metric.cost_usd,
            )
        else:
            self.count(reason)
        if self.drops.by_reason().get(reason) == 1:
            with suppress(Exception):  # an error without text
                cause = f": {error}" if error is not None else ""
                _log.error("a usage record was dropped (%s)%s. Drops are counted.", reason, cause)
        return PutResult.DROPPED

    def count(
        self,
        reason: str,
        *,
        service: str | None = None,
        model: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_usd: Decimal | None = None,
    ) -> None:
        """Count one loss; it is written as a gap at once, or with the next. Raises nothing."""
        notice_fork()
        self.drops.add(
            reason,
            service=service,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
        )
        with suppress(Exception):  # counted above
            if self._clock.monotonic() - self._last_gap >= _GAP_SECONDS:
                self.write_gaps()

    def write_gaps(self) -> None:
        """Write what was lost into the spool; what the disk refuses is tallied again."""
        notice_fork()
        self._last_gap = self._clock.monotonic()
        for gap in self.drops.take(self._clock.now()):
            self.keep_gap(gap)

    def keep_gap(self, gap: Gap) -> None:
        """Write a gap into the spool; one that the disk refuses is tallied."""
        notice_fork()
        try:
            self.writer.append(_encode(gap), count=0)
        except OSError:
            self.drops.restore(gap)

    def maintain(self, *, sync: bool = True) -> None:
        """Renew the writer's grant, write memory back to the disk, write gaps, ``sync``.

        Raises OSError, after all of it was tried.
        """
        failure: OSError | None = None
        writer = self.writer
        steps = [writer.refill, writer.end_line, self._write_back, self.write_gaps]
        if sync:
            steps.append(writer.sync)
        for step in steps:
            try:
                step()
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        if self.last_error is not None and not len(self.ring):
            self.last_error = None
            _log.warning("the spool takes records again")

    def give_up_memory(self) -> int:
        """Count what lies in memory as lost: nothing will write or deliver it any more.

        Returns how many records that were.
        """
        payloads = self.ring.take(len(self.ring))
        for payload in payloads:
            self.drop("memory", _decode_metric(payload))
        return len(payloads)

    def _write_back(self) -> None:
        """Bring what lies in memory back to the disk, oldest first. Raises OSError."""
        while payloads := self.ring.take(_RING_AT_ONCE):
            written = 0
            try:
                for payload in payloads:
                    self.writer.append(payload)
                    written += 1
            finally:
                self.ring.give_back(payloads[written:])


def _shortened(metric: object, size: int) -> bytes:
    """Return a record without its metadata: figures are kept before words."""
    if not isinstance(metric, AIUsageMetric):
        raise TypeError(f"put_ai_usage_metric takes an AIUsageMetric, not {type(metric).__name__}")
    _log.warning("the metadata of a usage record was left out: the record has %d bytes", size)
    return _encode(msgspec.structs.replace(metric, metadata={"metadata_left_out_bytes": size}))
