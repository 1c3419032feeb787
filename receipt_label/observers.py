"""Who learns of each record beside the store: the operation around it, and the exporters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from receipt_dynamo import AIUsageMetric, PutResult
from receipt_label import context as contexts
from receipt_label.faults import FaultLog
from receipt_label.reply_metric import REMEMBERED_REPLIES

if TYPE_CHECKING:
    from receipt_label.exporters import MetricExporter
    from receipt_label.tracker import AIUsageTracker

__all__ = ["Observers", "Recent"]


class Recent:
    """The identities that were recorded lately: the last 4,096 at least.

    A record that is made again replaces the first in the store, so nothing else may count it twice.
    Thread-safe without a lock: two threads that record the same at once may both be the first.
    """

    def __init__(self) -> None:
        self._new: set[object] = set()
        self._old: set[object] = set()

    def has(self, identity: object) -> bool:
        """Return whether ``identity`` was seen lately, and take note of it."""
        if identity in self._new or identity in self._old:
            return True
        new = self._new
        new.add(identity)
        if len(new) >= REMEMBERED_REPLIES:
            self._old, self._new = new, set()
        return False

    def take(self, identity: object) -> bool:
        """Return whether ``identity`` was seen lately, and forget it: of two threads one has it."""
        for known in (self._new, self._old):
            try:
                known.remove(identity)
            except KeyError:
                continue
            return True
        return False


class Observers:
    """Tells the operation in force, and each exporter, of every record once. Raises nothing."""

    def __init__(self, exporters: Iterable[MetricExporter], faults: FaultLog) -> None:
        self._unshown = Recent()  # what was dropped: its caller may record it again
        self._exporters = tuple(exporters)
        self._faults = faults
        self._repeats = Recent()
        self.export = bool(self._exporters)
        """Whether anybody but an operation is told."""

    def bind(self, tracker: AIUsageTracker) -> None:
        """Show each exporter the tracker whose metrics will come."""
        for exporter in self._exporters:
            self._try(exporter, exporter.bind, tracker)

    def tell(self, metric: AIUsageMetric, answer: PutResult) -> None:
        """Pass on a call; exporters learn of what was kept, once it is."""
        operation = contexts.in_force().operation
        if operation is None and not self._exporters:
            return
        identity = metric.identity
        is_first = not self._repeats.has(identity)
        if is_first and operation is not None:
            operation.note(metric)
        if not self._exporters:
            return
        if answer is PutResult.DROPPED:
            if is_first:
                self._unshown.has(identity)
        elif is_first or self._unshown.take(identity):
            for exporter in self._exporters:
                self._try(exporter, exporter.export, metric)

    def _try(self, exporter: object, method: Callable[[Any], object], value: object) -> None:
        try:
            method(value)
        except Exception as error:
            self._faults.log_once(
                (id(exporter), type(error)),
                f"{type(exporter).__name__} cannot export metrics, which are recorded all the same",
                error,
            )
