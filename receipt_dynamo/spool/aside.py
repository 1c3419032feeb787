"""What is set aside: damaged lines in ``quarantine/``, records that no store takes in ``dead/``.

A file of ``dead/`` has one JSON object a line: the reason, the record as its segment held it, and
when it died. A line that begins with a blank is a letter that was retried or dropped. Who appends
or removes lines holds ``aside.lock``, which lies beside the segments.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from receipt_dynamo.errors import DirectoryRefusedError, StoreBusyError
from receipt_dynamo.files import FileLock, create_private_file, secure_directory, sync_directory
from receipt_dynamo.logs import safe_logger
from receipt_dynamo.utils.clock import Clock

__all__ = ["DEAD", "DEAD_SUFFIX", "QUARANTINE", "Aside", "Letter", "aside_lock", "letter_id"]

DEAD = "dead"
QUARANTINE = "quarantine"
DEAD_SUFFIX = ".jsonl"
_ID_DIGITS = 12
_LOCK_SECONDS = 1.0  # how long a command keeps a drainer waiting, which holds the store meanwhile
_BUSY_SECONDS = 10.0  # after that it only looks: a command that was stopped may never go on
_log = safe_logger("receipt_dynamo.delivery")
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Letter(msgspec.Struct, frozen=True):
    """A line of ``dead/``: why the record died, the record as text, and when it died."""

    reason: str
    record: str
    died: datetime | None = None


@dataclass(slots=True)
class _Seen:
    """What was set aside of the batch that begins at ``offset``."""

    offset: int
    bad: int = 0
    dead: set[str] = field(default_factory=set)


def letter_id(record: str) -> str:
    """Return the name of a dead record: 12 hex digits, the same wherever and whenever it died, and
    in whatever order its fields stand."""
    data = record.encode("utf-8", "replace")
    with suppress(msgspec.MsgspecError, RecursionError):  # what is no record has a name as well
        fields = _decode_fields(data)
        data = b"\n".join(
            b"%b:%b" % (name.encode("utf-8", "replace"), fields[name]) for name in sorted(fields)
        )
    return hashlib.sha256(data).hexdigest()[:_ID_DIGITS]


def aside_lock(spool_dir: Path) -> FileLock:
    """Return the lock that whoever changes what was set aside holds."""
    return FileLock(spool_dir / "aside.lock")


class Aside:
    """The drainer's end of ``dead/`` and ``quarantine/`` of one spool. One thread at a time.

    What is set aside is on the disk when a method returns, all of it or none. A batch that a
    failing store sends again is set aside once. Where a command holds the lock for longer than a
    second the segment waits for a later round; who waited in vain does not wait again for a while.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._seen: dict[str, _Seen] = {}  # by segment
        self._busy_until = float("-inf")

    def forget(self) -> None:
        """Forget the batches of segments that are gone."""
        self._seen.clear()

    def quarantine(self, segment: str, offset: int, bad: Sequence[bytes]) -> None:
        """Keep the damaged lines of the batch at ``offset``. Raises OSError."""
        seen = self._at(segment, offset)
        new = bad[seen.bad :]
        if new:
            self._append(QUARANTINE, f"{segment}.bad", new)
            seen.bad += len(new)
            _log.warning("%s: %d damaged lines are in quarantine/", segment, len(new))

    def bury_once(self, segment: str, offset: int, dead: Sequence[tuple[bytes, str]]) -> None:
        """``bury`` what was not buried before of the batch at ``offset``. Raises OSError."""
        seen = self._at(segment, offset).dead
        named = [(letter_id(_text(payload)), payload, reason) for payload, reason in dead]
        new = [(payload, reason) for name, payload, reason in named if name not in seen]
        if new:
            self.bury(segment, new)
            seen.update(name for name, _, _ in named)

    def bury(self, source: str, dead: Sequence[tuple[bytes, str]]) -> None:
        """Keep records of ``source`` that can never be stored, each with its reason.

        Raises OSError.
        """
        now = self._clock.now()
        letters = [Letter(reason, _text(payload), now) for payload, reason in dead]
        self._append(DEAD, f"{source}{DEAD_SUFFIX}", [msgspec.json.encode(x) for x in letters])
        _log.error(
            "%s: records that can never be stored: %d (%s). See: receipt-usage dead list",
            source,
            len(letters),
            letters[0].reason,
        )

    def _at(self, segment: str, offset: int) -> _Seen:
        seen = self._seen.get(segment)
        if seen is None or seen.offset != offset:
            seen = self._seen[segment] = _Seen(offset)
        return seen

    def _append(self, place: str, name: str, lines: Sequence[bytes]) -> None:
        directory = self._directory / place
        try:
            secure_directory(directory)
            with aside_lock(self._directory) as lock:
                lock.acquire(self._patience())
                _append_lines(directory / name, lines)
        except DirectoryRefusedError as error:  # a file in the way: the segment waits
            raise OSError(errno.EACCES, str(error)) from error
        except StoreBusyError as error:
            if self._patience() > 0:
                self._busy_until = self._clock.monotonic() + _BUSY_SECONDS
            raise OSError(errno.EAGAIN, str(error)) from error

    def _patience(self) -> float:
        return 0.0 if self._clock.monotonic() < self._busy_until else _LOCK_SECONDS


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Append lines to a private file and bring them to the disk: all of them, or none."""
    descriptor = create_private_file(path, os.O_RDWR | os.O_APPEND)
    try:
        size, start = _end_of_lines(descriptor)
        os.ftruncate(descriptor, size)
        data = start + b"".join(line + b"\n" for line in lines)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fdatasync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    for directory in (path.parent, path.parent.parent):  # also what one before us could not sync
        sync_directory(directory)


def _end_of_lines(descriptor: int) -> tuple[int, bytes]:
    """Return how much of a file to keep, and what the next line needs before it.

    What has no newline comes from a drainer that was killed within its write: its segment has not
    acked it, so that it is set aside again. A whole letter may come from an editor, and is kept.
    """
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size, b""
    data = os.pread(descriptor, size, 0)
    tail = data[data.rfind(b"\n") + 1 :]
    try:
        msgspec.json.decode(tail, type=Letter)
    except msgspec.MsgspecError:
        return size - len(tail), b""
    return size, b"\n"
