"""Replies that a tracker has recorded lately: told by their ids, or by the objects themselves."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from receipt_label.reply_metric import REMEMBERED_REPLIES, request_id_of
from receipt_label.usage.reply import MIN_ID_CHARACTERS

if TYPE_CHECKING:
    from receipt_label.usage.reply import Reply

__all__ = ["USAGE_KEYS", "KnownReplies"]

USAGE_KEYS = ("usage", "usageMetadata", "usage_metadata")
"""Where a reply that is a dict has its usage."""

REMEMBERED_OBJECTS = 256

_Known = tuple[str, float | None, datetime | None]
_UNKNOWN = (None, None, None)


class KnownReplies:
    """The last 4,096 ids of replies, with their services, latencies and times, and the last 256
    objects without one.

    An object is held weakly where it can be; of a dict only its usage is held. Thread-safe without
    a lock: what two threads note at the same moment may push out an older entry too early.
    """

    def __init__(self) -> None:
        self.calls: dict[str, _Known] = {}
        """The newest ones by id; who adds one says ``turn_over`` where they are too many."""
        self._older_calls: dict[str, _Known] = {}
        self._objects: dict[int, Any] = {}
        self._older_objects: dict[int, Any] = {}

    def note(self, reply: Reply, latency_ms: float | None = None) -> None:
        """Take note of a reply that is recorded, by its id, and of how long its call took."""
        response_id = request_id_of(reply)
        if response_id is not None:
            self.calls[response_id] = reply.service, latency_ms, reply.created
            if len(self.calls) >= REMEMBERED_REPLIES:
                self.turn_over()

    def turn_over(self) -> None:
        """Forget what is older than the newest 4,096."""
        self._older_calls, self.calls = self.calls, {}

    def service_of(self, reply: Reply) -> str | None:
        """Return the service that a reply of this id was recorded under, if one was."""
        return self._known(reply)[0]

    def latency_of(self, reply: Reply) -> float | None:
        """Return the latency that a reply of this id and time was recorded with, if one was.

        Some gateways give every reply one id: another time is another call's.
        """
        _, latency_ms, created = self._known(reply)
        return latency_ms if created == reply.created else None

    def _known(self, reply: Reply) -> _Known | tuple[None, None, None]:
        response_id = request_id_of(reply)
        if response_id is None:
            return _UNKNOWN
        return self.calls.get(response_id) or self._older_calls.get(response_id) or _UNKNOWN

    def note_object(self, response: object) -> None:
        """Take note of what stands for a recorded call, unless its id does that."""
        own_id = getattr(response, "id", None)
        if type(own_id) is str and len(own_id) >= MIN_ID_CHARACTERS:
            return
        anchor = _anchor(response)
        if anchor is None:
            return
        held: Any
        try:
            held = weakref.ref(anchor)
        except TypeError:  # a dict, an object with slots
            held = anchor
        objects = self._objects
        objects[id(anchor)] = held
        if len(objects) >= REMEMBERED_OBJECTS:
            self._older_objects, self._objects = objects, {}

    def has(self, reply: Reply, response: object) -> bool:
        """Whether ``reply``, which was read from ``response``, is of a call that is recorded."""
        if request_id_of(reply) is not None:
            return self.service_of(reply) is not None
        anchor = _anchor(response)
        for objects in (self._objects, self._older_objects):
            held = objects.get(id(anchor))
            if isinstance(held, weakref.ref):
                held = held()
            if held is not None and held is anchor:
                return True
        return False


def _anchor(response: object) -> object:
    """Return what a reply is told by: itself, or the usage of a dict, which is small."""
    if not isinstance(response, dict):
        return None if isinstance(response, (str, bytes, list)) else response
    return next(
        (response[key] for key in USAGE_KEYS if isinstance(response.get(key), Mapping)), None
    )
