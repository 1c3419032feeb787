"""The context that travels with the caller: who a call is made for, and within which operation.

One ContextVar holds an immutable chain of the entries in force. Each asyncio task and each thread
sees its own; a new thread or process starts without one, and takes one along by what ``carry.py``
and ``executor.py`` offer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from receipt_dynamo import AIUsageMetric
from receipt_label.sensitive import mask_credentials, mask_text

if TYPE_CHECKING:
    from receipt_label.operations import Operation

__all__ = ["CONTEXT_FIELDS", "ContextScope", "current"]

CONTEXT_FIELDS = frozenset(
    {
        "user_id",
        "job_id",
        "batch_id",
        "github_pr",
        "conversation_id",
        "session_id",
        "tool",
        "skill",
        "subagent",
        "environment",
        "deployment_version",
        "metadata",
        "price_context",
    }
)
"""What a context may carry: the attribution of a metric; metadata, and the variant of the price
(``{"processing": "batch"}``), both merged key by key."""

MERGED = ("metadata", "price_context")
_TEXT_IDS = CONTEXT_FIELDS - {"github_pr", *MERGED}
_EMPTY: Mapping[str, Any] = MappingProxyType({})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Frame:
    """One entry of a scope: what is in force from there on, and what was before."""

    __slots__ = ("fields", "operation", "outer", "scope")

    def __init__(
        self,
        fields: Mapping[str, Any],
        scope: object = None,
        outer: Frame | None = None,
        operation: Operation | None = None,
    ) -> None:
        self.fields = fields
        self.scope = scope
        self.outer = outer
        self.operation = operation


_context: ContextVar[Frame | None] = ContextVar("receipt_usage_context", default=None)
_root: Frame | None = None


def in_force() -> Frame:
    """Return the entry in force here; that of the process where no scope was entered."""
    return _context.get() or _of_process()


entered = _context.get
"""Returns the entry of a scope in force here, or None where none was entered."""


def put_in_force(frame: Frame) -> None:
    """Make ``frame`` the entry in force, without an end: the caller puts the old one back."""
    _context.set(frame)


def current() -> Mapping[str, Any]:
    """Return the fields in force here; read-only."""
    return (_context.get() or _of_process()).fields


def _of_process() -> Frame:
    """Return the entry that this process was started with (see ``carry.py``); read once."""
    global _root  # noqa: PLW0603 - a fact of the process
    if _root is None:
        from receipt_label.carry import fields_of_process

        _root = Frame(MappingProxyType(fields_of_process()))
    return _root


def _leave_all(_: object) -> None:
    """Begin without a context in a child of multiprocessing's: a worker is handed its tasks by
    others than whoever happened to start it. A plain ``os.fork`` goes on as its parent was."""
    _context.set(None)


def _before_fork() -> None:
    """Have multiprocessing call that in its children, where it is loaded: it is never loaded here.

    It keeps what it calls under the object that it is for, and this module lives on.
    """
    global _told_multiprocessing  # noqa: PLW0603 - a fact of the process
    util = sys.modules.get("multiprocessing.util")
    if _told_multiprocessing or util is None:
        return
    with suppress(Exception):  # half imported by another thread
        util.register_after_fork(_leave_all, _leave_all)
        _told_multiprocessing = True


_told_multiprocessing = False
os.register_at_fork(before=_before_fork)


class ContextScope:
    """Fields that hold within a ``with`` or ``async with`` block, on top of those outside.

    May be entered again, also while it is entered, also by other tasks and threads at once: it
    keeps nothing of its own, every entry lies in the context that it was made in.

    An exit restores what its entry found, and takes what was entered since and never left (an
    abandoned generator's scope) with it. Where its entry is no longer in force (a generator that
    another task finishes, or one that ends after the scope around it) there is nothing to restore.
    """

    __slots__ = ("_fields", "_operation")

    def __init__(self, fields: Mapping[str, Any], operation: str | None = None) -> None:
        self._fields = fields
        self._operation = operation

    def __enter__(self) -> Self:
        outer = in_force()
        fields = merged(outer.fields, self._fields, self._operation)
        _context.set(Frame(fields, self, outer, outer.operation))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leave(self)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leave(self)


def leave(scope: object) -> Frame | None:
    """Restore what the newest entry of ``scope`` found here, and return that entry.

    None where no entry of it is in force.
    """
    frame = in_force()
    while frame.outer is not None:
        if frame.scope is scope:
            _context.set(frame.outer)
            return frame
        frame = frame.outer
    return None


def merged(
    outer: Mapping[str, Any],
    inner: Mapping[str, Any],
    operation: str | None = None,
    operation_id: str | None = None,
) -> Mapping[str, Any]:
    """Return the fields of both, the inner ones first, and in their metadata the operation."""
    fields = {**outer, **inner}
    for name in MERGED:
        if name in outer and name in inner:
            fields[name] = {**outer[name], **inner[name]}
    if operation is not None:
        metadata = dict(fields.get("metadata", _EMPTY))
        around = outer.get("metadata", _EMPTY).get("operation_type")
        if around is not None:
            metadata["parent_operation"] = around
        metadata["operation_type"] = operation
        if operation_id is not None:
            metadata["operation_id"] = operation_id
        fields["metadata"] = metadata
    return MappingProxyType(fields)


def checked_fields(
    what: str,
    fields: Mapping[str, Any],
    *,
    strict: bool,
    complain: Callable[[str], None],
) -> dict[str, Any]:
    """Return the fields as records will carry them, without those that are None.

    A value that no metric may have is told to ``complain`` and left out; with ``strict`` it raises
    ValueError. Raises TypeError for a name that is no field, in the name of ``what``.
    """
    unknown = fields.keys() - CONTEXT_FIELDS
    if unknown:
        raise TypeError(
            f"{what} has no field {sorted(unknown)[0]!r}: one of "
            f"{', '.join(sorted(CONTEXT_FIELDS))}"
        )
    good: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        try:
            good[name] = _checked(name, value)
        except Exception as error:
            if strict:
                raise
            complain(f"{_text(error)}. It is left out of the context")
    return good


def fields_of_no_tracker(
    what: str, fields: Mapping[str, Any], complain: Callable[[str], None]
) -> dict[str, Any]:
    """Return the fields of a scope that any tracker may record in. Raises as ``checked_fields``.

    No tracker's mask has seen them: credentials are masked here, in ids and in what is logged.
    """
    found = checked_fields(
        what, fields, strict=False, complain=lambda text: complain(mask_text(text))
    )
    return {
        name: mask_credentials(value) if type(value) is str else value
        for name, value in found.items()
    }


def _checked(name: str, value: Any) -> Any:
    if name == "price_context":
        return _checked_price_context(value)
    probe = AIUsageMetric("context", "context", "context", EPOCH, "-", **{name: as_id(name, value)})
    return getattr(probe, name)


def _checked_price_context(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise ValueError(
            f"price_context={value!r:.60} is no variant of a price: pass a dict of texts, such as "
            "{'processing': 'batch'}"
        )
    return dict(value)


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # an error without text
        return type(error).__name__


def as_id(name: str, value: Any) -> Any:
    """Return numbers and UUIDs that stand for an id as text; everything else as it is."""
    if name in _TEXT_IDS and (type(value) is int or isinstance(value, UUID)):
        return str(value)
    return value
