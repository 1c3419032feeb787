"""Contexts by name: ``ai_usage_context`` and its kin, which need no tracker at hand.

What they set travels with the caller, whatever tracker records. Those that leave a record of their
own take the tracker that they are given, else that of ``get_client_manager()``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from receipt_label import context as contexts
from receipt_label.faults import FaultLog
from receipt_label.operations import Operation, Plan, counting
from receipt_label.sensitive import mask_text
from receipt_label.tracking import Tracked

if TYPE_CHECKING:
    from receipt_label.tracker import AIUsageTracker

__all__ = [
    "PartialFailures",
    "ai_usage_context",
    "ai_usage_tracked",
    "batch_ai_usage_context",
    "partial_failure_context",
]

MAX_ERRORS = 100
"""Errors that a partial-failure context keeps, and types of errors that its summary names."""

MAX_ITEMS = 20
"""Failed items that its summary names, each by 100 characters at most."""

_MAX_ITEM = 100
_F = TypeVar("_F", bound=Callable[..., Any])
_faults = FaultLog(mask_text)


def ai_usage_context(operation: str, **fields: Any) -> contexts.ContextScope:
    """Return a scope within which every record carries ``operation`` and ``fields``.

        with ai_usage_context("label_receipts", job_id="j"):
            ...

    The metadata of what is recorded within has ``operation_type``, and ``parent_operation`` where
    scopes nest. It records nothing itself: see ``AIUsageTracker.track`` for that. ``fields`` are
    those of ``AIUsageTracker.context``; a bad value is left out and logged once, an unknown name is
    a TypeError. ``with`` and ``async with``; thread-safe, and may be entered again.
    """
    return contexts.ContextScope(
        _checked("ai_usage_context()", fields), _name(operation, "ai_usage_context")
    )


def batch_ai_usage_context(
    batch_id: str, operation: str = "batch_processing", **fields: Any
) -> contexts.ContextScope:
    """Return an ``ai_usage_context`` whose calls carry ``batch_id`` and have batch prices.

    For calls that the vendor bills as a batch, where neither the reply nor its file says so. Batch
    prices hold within the block and nowhere else; a call with a ``price_context`` of its own, and a
    reply that names its processing, win.
    """
    variant = {"processing": "batch"}
    given = fields.pop("price_context", None)
    if isinstance(given, Mapping):
        variant.update(given)
    return contexts.ContextScope(
        _checked(
            "batch_ai_usage_context()", {**fields, "batch_id": batch_id, "price_context": variant}
        ),
        _name(operation, "batch_ai_usage_context"),
    )


def partial_failure_context(
    operation: str,
    *,
    tracker: AIUsageTracker | None = None,
    continue_on_error: bool = True,
    **fields: Any,
) -> _PartialFailureScope:
    """Return a scope that counts what succeeds and what fails within, and records the summary.

        with partial_failure_context("label_batch", job_id="j") as batch:
            for receipt in receipts:
                with batch.attempt(receipt.id):
                    label(receipt)

    An exception of an attempt is counted by its type and, unless ``continue_on_error`` is False,
    goes no further; one outside an attempt goes on, as cancellation and KeyboardInterrupt always
    do. When the block ends, also by an exception, its summary is one record of service ``action``:
    not billable, standing for no call, with ``success_count``, ``failure_count``, ``errors`` (by
    type) and ``failed_items`` in its metadata. Its status is complete, partial, or aborted (nothing
    succeeded, or the block raised). Else as ``ai_usage_context``.
    """
    plan = Plan(
        name=_name(operation, "partial_failure_context"),
        fields=_checked("partial_failure_context()", fields),
    )
    return _PartialFailureScope(_late(tracker), plan, continue_on_error=continue_on_error)


@overload
def ai_usage_tracked(operation: _F, /) -> _F: ...
@overload
def ai_usage_tracked(
    operation: str | None = None, /, *, tracker: AIUsageTracker | None = None, **fields: Any
) -> Tracked: ...
def ai_usage_tracked(
    operation: str | Callable[..., Any] | None = None,
    /,
    *,
    tracker: AIUsageTracker | None = None,
    **fields: Any,
) -> Any:
    """Track a function as ``AIUsageTracker.track`` does, where no tracker is at hand yet.

        @ai_usage_tracked("label")
        def label(receipt, job_id=None): ...

    The tracker is looked for when the function is called. Where the function takes ``user_id``,
    ``job_id``, ``batch_id``, ``github_pr``, ``conversation_id`` or ``session_id``, their values are
    those of the operation. Without any usable tracker the function runs untracked, and that is
    logged as an error once.
    """
    plan = Plan(
        name=operation if isinstance(operation, str) else None,
        fields=_checked("ai_usage_tracked()", fields),
    )
    tracked = Tracked(_late(tracker), plan, ids_from_arguments=True)
    return tracked if operation is None or isinstance(operation, str) else tracked(operation)


class PartialFailures:
    """What ``partial_failure_context`` yields: the count of what succeeded and what failed.

    ``errors`` are the first 100 errors, as (item, error). ``operation`` has the figures of the
    calls within. Thread-safe.
    """

    def __init__(self, operation: Operation, *, continue_on_error: bool) -> None:
        self.operation = operation
        self.continue_on_error = continue_on_error
        self.success_count = 0
        self.failure_count = 0
        self.errors: list[tuple[object, BaseException]] = []
        self._kinds: Counter[str] = Counter()
        self._items: list[str] = []

    def attempt(self, item: object = None) -> _Attempt:
        """Return a block that counts as one success or failure; ``with`` and ``async with``.

        ``item`` names it in the summary where it fails.
        """
        return _Attempt(self, item)

    def succeeded(self) -> None:
        """Count one success."""
        with counting():
            self.success_count += 1

    def failed(self, error: BaseException, item: object = None) -> None:
        """Count one failure, by the type of its error."""
        kind = type(error).__qualname__
        name = _shown(item)
        with counting():
            self.failure_count += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append((item, error))
            if kind in self._kinds or len(self._kinds) < MAX_ERRORS:
                self._kinds[kind] += 1
            if name is not None and len(self._items) < MAX_ITEMS:
                self._items.append(name)

    def outcome(self) -> tuple[str, dict[str, Any]]:
        """Return the status of the whole and its counts, for the summary."""
        with counting():
            counts: dict[str, Any] = {
                "success_count": self.success_count,
                "failure_count": self.failure_count,
            }
            if self._kinds:
                counts["errors"] = dict(self._kinds)
            if self._items:
                counts["failed_items"] = list(self._items)
        if not self.failure_count:
            return "complete", counts
        return "partial" if self.success_count else "aborted", counts

    def __repr__(self) -> str:
        return (
            f"<PartialFailures {self.operation.name} "
            f"succeeded={self.success_count} failed={self.failure_count}>"
        )


class _Attempt:
    """One item of a partial-failure context."""

    def __init__(self, whole: PartialFailures, item: object) -> None:
        self._whole = whole
        self._item = item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self._whole.succeeded()
            return False
        self._whole.failed(error, self._item)
        return self._whole.continue_on_error and isinstance(error, Exception)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self.__exit__(kind, error, trace)


class _PartialFailureScope:
    """A tracked block that yields ``PartialFailures``."""

    def __init__(
        self,
        tracker: Callable[[], AIUsageTracker | None],
        plan: Plan,
        *,
        continue_on_error: bool,
    ) -> None:
        self._tracked = Tracked(tracker, plan)
        self._continue_on_error = continue_on_error

    def __enter__(self) -> PartialFailures:
        operation = self._tracked.__enter__()
        whole = PartialFailures(operation, continue_on_error=self._continue_on_error)
        operation.outcome = whole.outcome
        return whole

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tracked.__exit__(kind, error, trace)

    async def __aenter__(self) -> PartialFailures:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tracked.__exit__(kind, error, trace)


def _checked(what: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return contexts.fields_of_no_tracker(what, fields, _faults.log)


def _name(operation: object, what: str) -> str:
    if not isinstance(operation, str) or not operation:
        raise TypeError(f"{what}({operation!r}): name the operation, such as 'label_receipts'")
    return operation


def _late(tracker: AIUsageTracker | None) -> Callable[[], AIUsageTracker | None]:
    """Return how to find the tracker when it is needed: the given one, else the process's."""
    return partial(_process_tracker) if tracker is None else lambda: tracker


def _process_tracker() -> AIUsageTracker | None:
    from receipt_label.client_manager import get_client_manager

    try:
        return get_client_manager().usage_tracker
    except Exception as error:
        _faults.log_once(str(error), "no tracker can be made: operations run untracked", error)
        return None


def _shown(item: object) -> str | None:
    if item is None:
        return None
    try:
        text = str(item)
    except Exception:  # an item without text
        return None
    return text if len(text) <= _MAX_ITEM else f"{text[:_MAX_ITEM]}..."
