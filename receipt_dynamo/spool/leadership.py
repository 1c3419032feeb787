"""Who drains a spool: one process of all that share the directory.

The leader holds the lock of ``drain.lock``. The kernel frees it when the process dies, however it
dies: a lease without a clock. What a lock cannot tell is a leader that lives and does nothing: one
that was stopped, hangs, or is a child forked in C that keeps the descriptor of its dead parent. So
the leader also gives a sign of life, the modification time of the file ``leader``. Where that is
older than five minutes, another process takes the lock of the next generation, ``drain.lock.1``,
``drain.lock.2``, ...; the old leader looks before each ack, sees that, and steps down.

While both believe to lead, records are sent twice, under the same keys: they count once.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from receipt_dynamo.files import READ_FLAGS, FileLock, create_private_file
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.utils.clock import Clock

__all__ = ["STALE_SECONDS", "Heartbeat", "Leadership", "read_heartbeat"]

STALE_SECONDS = 300.0
"""A leader that has given no sign of life for this long is passed over."""

_BEAT_SECONDS = 10.0
"""How often a leader gives a sign within a long delivery."""

_LOCK = "drain.lock"
_LEADER = "leader"
_GENERATION = re.compile(r"|\.[1-9][0-9]{0,8}")
_log = safe_logger("receipt_dynamo.leadership")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Who led last, and when it last gave a sign of life. ``at`` is aware, in UTC."""

    pid: int
    host: str
    generation: int
    at: datetime

    def age(self, now: datetime) -> float:
        """Return the seconds since the sign; one from the future is as odd as an old one."""
        return abs((now - self.at).total_seconds())


def read_heartbeat(directory: Path) -> Heartbeat | None:
    """Return the last sign of life in a spool directory, or None. Raises nothing."""
    try:
        descriptor = os.open(directory / _LEADER, READ_FLAGS)
        try:
            changed = os.fstat(descriptor).st_mtime_ns
            text = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    at = datetime.fromtimestamp(changed / 1e9, UTC)
    try:
        said = msgspec.json.decode(text, type=dict[str, int | str])
        return Heartbeat(int(said["pid"]), str(said["host"]), int(said["generation"]), at)
    except (msgspec.MsgspecError, KeyError, ValueError):  # a full disk took the name, not the words
        return Heartbeat(0, "", 0, at)


class Leadership:
    """One process's part in the election. For the one thread that delivers.

    After a fork the child does not lead: it closes the descriptor that it inherited, and never
    unlocks it, for that would free its parent's.
    """

    def __init__(self, directory: Path, clock: Clock, stale_seconds: float = STALE_SECONDS) -> None:
        self._directory = directory
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock: FileLock | None = None
        self._generation = 0
        self._beaten = float("-inf")
        self._suspected: datetime | None = None

    @property
    def leads(self) -> bool:
        """Whether this process took the lead and has not given it up."""
        return self._lock is not None and self._lock.held and self._pid == os.getpid()

    def try_lead(self) -> bool:
        """Take the lead if nobody has it, or keep it; return whether this process leads now.

        Gives the sign of life. Raises OSError when the directory cannot be used.
        """
        if self._pid != os.getpid() and self._lock is not None:  # a fork in C, which no hook saw
            self._lock.forget()
            self._forget()
        if self.leads:
            return self.still_leads(every=0.0)
        generation = self._newest_generation()
        if self._take(generation):
            return True
        heartbeat = read_heartbeat(self._directory)
        if heartbeat is None:  # its leader was stopped before it gave one, or somebody removed it
            self._await_sign()
        if heartbeat is None or heartbeat.age(self._clock.now()) <= self._stale_seconds:
            self._suspected = None
            return False
        if self._suspected != heartbeat.at:  # who has just taken the lock may not have written yet
            self._suspected = heartbeat.at
            return False
        if not self._take(generation + 1):
            return False
        _log.warning(
            "process %d on %s has given no sign for %.0f s: this process delivers in its place",
            heartbeat.pid,
            heartbeat.host,
            heartbeat.age(self._clock.now()),
        )
        return True

    def still_leads(self, every: float = _BEAT_SECONDS) -> bool:
        """Return whether no other has passed this leader over; asked before each ack.

        Gives the sign of life when the last one is ``every`` seconds old. Raises OSError.
        """
        lock = self._lock
        if lock is None or not self.leads:
            return False
        if lock.is_gone() or os.path.exists(self._path(self._generation + 1)):
            _log.warning("another process delivers by now: process %d steps down", self._pid)
            self.release()
            return False
        if self._clock.monotonic() - self._beaten >= every:
            if self._is_introduced():
                self._beat()
            else:  # somebody has removed it
                self._introduce()
        return True

    def release(self) -> None:
        """Give up the lead. Does nothing when this process does not have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            if self._pid == os.getpid():
                lock.release()
            else:
                lock.forget()

    def _take(self, generation: int) -> bool:
        """Lock a generation, unless it has a leader or is no longer the newest."""
        lock = FileLock(self._path(generation))
        if not lock.try_acquire():
            return False
        if lock.is_gone() or self._newest_generation() > generation:
            lock.release()
            return False
        self._pid, self._lock, self._generation = os.getpid(), lock, generation
        for older in self._generations():
            if older < generation:
                with suppress(FileNotFoundError):
                    os.unlink(self._path(older))
        self._introduce()
        return True

    def _introduce(self) -> None:
        """Write who leads. On a full disk the name and the time of the file are enough."""
        said = {"pid": self._pid, "host": socket.gethostname(), "generation": self._generation}
        with suppress(OSError):
            descriptor = create_private_file(self._directory / _LEADER, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(descriptor, msgspec.json.encode(said) + b"\n")
            finally:
                os.close(descriptor)
        self._beat()

    def _is_introduced(self) -> bool:
        """Whether ``leader`` says something: a follower that missed it leaves an empty one."""
        try:
            return os.lstat(self._directory / _LEADER).st_size > 0
        except OSError:
            return False

    def _await_sign(self) -> None:
        """Give a leader without a sign of life the same time as any other, beginning now."""
        with suppress(OSError):
            os.close(create_private_file(self._directory / _LEADER, os.O_WRONLY | os.O_EXCL))
            self._set_time()

    def _beat(self) -> None:
        """Set the time of ``leader``: that needs no room on the disk."""
        self._beaten = self._clock.monotonic()
        self._set_time()

    def _set_time(self) -> None:
        now = int(self._clock.now().timestamp() * 1e9)
        with suppress(OSError):
            os.utime(self._directory / _LEADER, ns=(now, now), follow_symlinks=False)

    def _path(self, generation: int) -> Path:
        return self._directory / (f"{_LOCK}.{generation}" if generation else _LOCK)

    def _generations(self) -> list[int]:
        """Return the generations that have a lock file."""
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(_LOCK)]
        suffixes = (name.removeprefix(_LOCK) for name in names)
        return [int(suffix[1:] or 0) for suffix in suffixes if _GENERATION.fullmatch(suffix)]

    def _newest_generation(self) -> int:
        return max(self._generations(), default=0)

    def __repr__(self) -> str:
        state = f"leads generation {self._generation}" if self.leads else "follows"
        return f"<Leadership {self._directory} {state}>"
