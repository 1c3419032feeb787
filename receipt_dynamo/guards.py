"""Two guards of the delivery: against a storm of poison, and against a batch that blocks the rest.

Both hold only counts: they are told what became of batches, and say what to do. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

from receipt_dynamo.failure_rules import STORM, Kind
from receipt_dynamo.failures import Verdict
from receipt_dynamo.utils.settings_checks import check_number

__all__ = ["Blockage", "GuardSettings", "HeadOfLineGuard", "PoisonStormGuard"]

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """``storm_batches`` refused whole in a row are a storm; ``strikes`` make a batch suspect, and
    ``strikes_alone`` convict a record."""

    storm_batches: int = 3
    strikes: int = 3
    strikes_alone: int = 8

    def __post_init__(self) -> None:
        names = ("storm_batches", "strikes", "strikes_alone")
        check_number(self, *names, least=1, whole=True)


class PoisonStormGuard:
    """Notices that the table refuses everything: then it is the table, and not the records.

    A batch is refused whole when each of its records was refused alone, with one message. After
    ``storm_batches`` such batches in a row ``judge`` makes configuration of poison: nothing more is
    declared dead, until the table takes a record again. What is refused in a storm should go
    behind what else waits, so that a few bad batches cannot keep it up.
    """

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self._settings = settings or GuardSettings()
        self._lock = threading.RLock()
        # Guarded by _lock:
        self._refused: dict[int, list[str]] = {}  # messages, by family
        self._run: list[str] = []  # the message of each batch that was refused whole

    @property
    def storm(self) -> str | None:
        """The message that everything is refused with, or None."""
        with self._lock:
            return self._run[-1] if len(self._run) >= self._settings.storm_batches else None

    def judge(self, verdict: Verdict) -> Verdict:
        """Return ``verdict``, or in a storm what becomes of poison."""
        if verdict.kind is not Kind.POISON or self.storm is None:
            return verdict
        return replace(verdict, rule=STORM)

    def refused_alone(self, family: int, family_size: int, message: str) -> None:
        """Take note that a record of batch ``family``, of that size, was refused alone."""
        with self._lock:
            messages = self._refused.setdefault(family, [])
            messages.append(message)
            if len(messages) < family_size:
                return
            del self._refused[family]
            if len(set(messages)) > 1:
                self._run = []
            elif self._run and self._run[-1] != message:
                self._run = [message]
            else:
                self._run.append(message)

    def accepted(self) -> None:
        """Take note that the table took a record: the records before were to blame themselves."""
        with self._lock:
            self._refused.clear()
            self._run = []

    def after_fork(self) -> None:
        """Make a forked child's copy its own."""
        self._lock = threading.RLock()
        self.accepted()


class Blockage(StrEnum):
    """What to do with a batch whose dispatch failed by no fault of its content, as it seemed."""

    FRONT = "front"
    BEHIND = "behind"
    SPLIT = "split"
    """Suspect: while it failed, others passed. Halve it, to find the record."""
    PARK = "park"
    """A suspect record alone: set it aside, try it now and then, and say so. It is not dead."""


@dataclass(slots=True)
class _Suspicion:
    strikes: int = 0
    strikes_alone: int = 0
    failures: int = 0
    passed: int = -1  # how many batches had passed at the last strike


class HeadOfLineGuard(Generic[K]):
    """Finds the batch that the server fails on each time, which would block all that follows.

    A key has a strike for a failed dispatch if since its last strike another batch passed; in an
    outage nobody passes, so nobody is suspected. ``strikes`` make it suspect. From then on each
    failure halves its batch, and a record that has ``strikes_alone`` in a batch of its own is
    parked: in a service that fails every other call that is bad luck once in many thousand batches.
    Where everything that is held has failed as often as a suspect, and so nothing is left that
    could pass, a batch is halved as well. Keys are forgotten when they are settled; a parked one
    stays suspect, and its next failure parks it again.
    """

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self._settings = settings or GuardSettings()
        self._lock = threading.RLock()
        # Guarded by _lock:
        self._passed = 0
        self._suspicions: dict[K, _Suspicion] = {}

    def failed(
        self, keys: Collection[K], *, probe: bool = False, held: Iterable[K] | None = None
    ) -> Blockage:
        """Return where a batch goes whose dispatch failed.

        ``probe``: it was a breaker's probe; ``held``: all keys that wait or are in flight, these
        among them.
        """
        enough = self._settings.strikes
        with self._lock:
            seen = [self._note_locked(key, alone=len(keys) == 1) for key in keys]
            suspect = max((one.strikes for one in seen), default=0) >= enough
            if len(seen) > 1:
                if suspect or (held is not None and all(map(self._was_tried_locked, held))):
                    return Blockage.SPLIT
            elif suspect and seen[0].strikes_alone >= self._settings.strikes_alone:
                return Blockage.PARK
        return Blockage.BEHIND if probe else Blockage.FRONT

    def suspects(self, keys: Collection[K]) -> bool:
        """Return whether a batch is suspect: one attempt at it is enough, with no inline retry.

        Its retries would trip the breaker, and make a minute's break of each step of the search.
        """
        with self._lock:
            known = [self._suspicions[key] for key in keys if key in self._suspicions]
            return any(one.strikes >= self._settings.strikes for one in known)

    def settled(self, keys: Collection[K]) -> None:
        """Take note that the table took these, or that it refused them for what they hold."""
        with self._lock:
            self._passed += 1
            if self._suspicions:
                for key in keys:
                    self._suspicions.pop(key, None)

    def after_fork(self) -> None:
        """Make a forked child's copy its own."""
        self._lock = threading.RLock()
        self._suspicions.clear()

    def _was_tried_locked(self, key: K) -> bool:
        seen = self._suspicions.get(key)
        return seen is not None and seen.failures >= self._settings.strikes

    def _note_locked(self, key: K, *, alone: bool) -> _Suspicion:
        seen = self._suspicions.setdefault(key, _Suspicion())
        if seen.passed != self._passed:
            seen.passed = self._passed
            seen.strikes += 1
            seen.strikes_alone += alone
        seen.failures += 1
        return seen
