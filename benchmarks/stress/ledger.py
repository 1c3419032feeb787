"""What workers say they recorded: one entry for each call, written when recording had returned.

The entry is in the kernel's hands before the next call: it outlives a SIGKILL of its worker.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

__all__ = ["Answer", "Entry", "Ledger", "last_number", "read_ledger"]

_ENTRY = struct.Struct("<qqqq")


class Answer(IntEnum):
    """What recording answered the pipeline."""

    ACCEPTED = 1
    MEMORY = 2
    DROPPED = 3
    """Refused, and said so."""
    RAISED = 4
    """An exception reached the pipeline."""

    @property
    def accepted(self) -> bool:
        """Whether the pipeline may believe that the record is kept."""
        return self in (Answer.ACCEPTED, Answer.MEMORY)


class Entry(NamedTuple):
    """One call of a worker: which record, when recording began (CLOCK_MONOTONIC) and how long it
    took, in nanoseconds, and what it answered."""

    number: int
    begun: int
    taken: int
    answer: Answer


class Ledger:
    """One worker's ledger; a worker that takes its place goes on in the same file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, number: int, begun: int, taken: int, answer: Answer) -> None:
        """Note one call."""
        os.write(self._file, _ENTRY.pack(number, begun, taken, answer))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_ledger(path: Path) -> Iterator[Entry]:
    """Yield the entries of a ledger, in the order of the calls."""
    data = path.read_bytes()
    whole = len(data) - len(data) % _ENTRY.size
    for number, begun, taken, answer in _ENTRY.iter_unpack(data[:whole]):
        yield Entry(number, begun, taken, Answer(answer))


def last_number(path: Path) -> int:
    """Return the number of the last call that is noted, -1 if none is."""
    if not path.exists() or path.stat().st_size < _ENTRY.size:
        return -1
    data = path.read_bytes()
    whole = len(data) - len(data) % _ENTRY.size
    number: int = _ENTRY.unpack(data[whole - _ENTRY.size : whole])[0]
    return number
