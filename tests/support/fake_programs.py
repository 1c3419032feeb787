"""Programs that record and deliver on the fake file system, and what an observer sees of it.

A program is a fake process with the real ``Spool`` and the real ``Delivery``. ``forked`` copies all
of it, as a fork does. What lies on the disk is read by a few lines of their own, not by the reader
under test.
"""

from __future__ import annotations

import copy
import copyreg
import errno
import os
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from receipt_dynamo import StoreBusyError, StoreError
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.spool.bounds import SpoolBounds
from receipt_dynamo.spool.ring import MemoryRing
from receipt_dynamo.spool.spool import Spool
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.store import Batch, WriteOutcome
from tests.support import FakeClock
from tests.support.fake_fs import Inode
from tests.support.fake_os import FakeProcess, FakeSystem

DIRECTORY = Path("/usage/spool")
SEGMENT_BYTES = 600
HEADER = 29
_SEGMENT = re.compile(rb"#spool1 ack=(\d{4})(\d{12})")
_START = re.compile(rb"[0-9a-f]{8} \{")

copyreg.pickle(type(threading.RLock()), lambda _lock: (threading.RLock, ()))  # what a fork leaves


class ModelStore:
    """A store in memory, which no power cut harms. Its writes are calls that faults can strike.

    With ``keeps_positions`` as the embedded one: one drainer at a time, positions and records in
    one step. Without: nobody is kept away, and the acks in the segments count.
    """

    def __init__(self, system: FakeSystem, *, keeps_positions: bool) -> None:
        self._system = system
        self._keeps_positions = keeps_positions
        self._owner: FakeProcess | None = None
        self.records: dict[str, bytes] = {}
        self.gaps: dict[str, Gap] = {}
        self.positions: dict[str, int] = {}

    def __deepcopy__(self, _memo: object) -> ModelStore:
        return self

    @contextmanager
    def exclusive(self, _timeout: float) -> Iterator[None]:
        """As a file lock: the dead hold none."""
        owner, current = self._owner, self._system.current
        if self._keeps_positions and owner not in (None, current):
            assert owner is not None
            if not owner.dead:
                raise StoreBusyError("the store was held by another process")
        self._owner = current
        try:
            yield
        finally:
            self._owner = owner

    def position(self, segment: str) -> int | None:
        return self.positions.get(segment, 0) if self._keeps_positions else None

    def prune_positions(self, segments: Collection[str]) -> None:
        for gone in set(self.positions) - set(segments):
            del self.positions[gone]

    def write(self, batch: Batch) -> WriteOutcome:
        def take_in(_keep: object) -> WriteOutcome:
            for record in batch.records:
                known = self.records.setdefault(record.metric.request_id, record.payload)
                assert known == record.payload, "a record came again, and otherwise"
            self.gaps.update((gap.gap, gap) for gap in batch.gaps)
            if self._keeps_positions:
                self.positions[batch.segment] = batch.position
            return WriteOutcome(len(batch.records))

        try:
            outcome: WriteOutcome = self._system.call("store", take_in)
        except OSError as error:
            raise StoreError(f"the store is away: {error}") from error
        return outcome


@dataclass(eq=False)
class Program:
    """A process that records and delivers."""

    process: FakeProcess
    spool: Spool
    delivery: Delivery
    unsynced: set[str] = field(default_factory=set)
    """Ids that it was told STORED for since its last whole sync."""
    remembered: set[str] = field(default_factory=set)
    """Ids that it was told MEMORY for."""

    @property
    def is_itself(self) -> bool:
        """Whether it has noticed that it was forked."""
        return not self.process.hooks

    @property
    def tally(self) -> int:
        """How many losses it has counted and not written yet."""
        unwritten = self.spool.drops._unwritten.items() if self.is_itself else ()
        return sum(lost.count for (reason, *_), lost in unwritten if reason != "corrupt")

    @property
    def in_memory(self) -> set[str]:
        """The ids of what its memory holds."""
        return {name_of(p) for p in self.spool.ring._payloads} if self.is_itself else set()


def start(
    system: FakeSystem, store: ModelStore, clock: FakeClock, max_bytes: int, fsync: bool
) -> Program:
    """Start a program with small segments, a small memory and batches of three."""
    process = system.spawn()
    with system.running(process):
        bounds = SpoolBounds(
            DIRECTORY, max_bytes=max_bytes, min_free_bytes=0, grant_bytes=SEGMENT_BYTES
        )
        spool = Spool(SpoolWriter(DIRECTORY, SEGMENT_BYTES, bounds, fsync=fsync), clock)
        spool.ring = MemoryRing(max_records=3)
        return Program(process, spool, Delivery(DIRECTORY, store, clock))  # type: ignore[arg-type]


def forked(system: FakeSystem, parent: Program, clock: FakeClock, *, hooks: bool) -> Program:
    """Fork: everything is copied, open files are shared. In C, Python's hooks do not run."""
    process = system.fork(parent.process)
    memo: dict[int, Any] = {id(clock): clock}
    child = Program(process, *copy.deepcopy((parent.spool, parent.delivery), memo))
    process.hooks = (child.spool.forget_after_fork, child.spool.writer.forget_after_fork)
    if hooks:
        with system.running(process):
            system.notice_fork()
    return child


@dataclass(eq=False)
class Segment:
    """A segment as an observer reads it: where it stands, and what lies behind that."""

    path: str
    inode: Inode
    start: int
    lines: list[tuple[int, int, bytes | None]]
    """Beginning, end and payload of every line from the first record on; None: not readable."""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[1]

    @property
    def is_live(self) -> bool:
        return bool(self.inode.holders)

    def pending(self) -> Iterator[bytes]:
        """Yield the records that the next drainer will send."""
        for begin, _end, payload in self.lines:
            if begin >= self.start and payload is not None:
                yield payload


def observe(system: FakeSystem, store: ModelStore) -> list[Segment]:
    """Read every segment from the disk."""
    found = []
    for path, inode in system.disk.walk():
        if path.startswith(f"{DIRECTORY}/") and path.endswith(".seg"):
            data = bytes(inode.data)
            start = _start(data, store.position(path.rsplit("/", 1)[1]))
            found.append(Segment(path, inode, start, list(find_lines(data))))
    return found


def _start(data: bytes, position: int | None) -> int:
    header = _SEGMENT.match(data)
    if position is not None:
        start = position
    else:
        start = int(header[2]) if header else HEADER
        if header and int(header[1]) != (start - HEADER) % 9973:
            return HEADER
    if start < HEADER or not (data[start - 1 : start] == b"\n" or start == position == len(data)):
        return HEADER
    return start


def find_lines(data: bytes) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield beginning, end and payload of every line of a segment, as it will be delivered."""
    begin = HEADER
    while begin < len(data):
        end = data.find(b"\n", begin) + 1 or len(data)
        starts = [begin, *(found.start() + begin for found in _START.finditer(data[begin:end], 1))]
        while starts:
            at = starts.pop(0)
            # One byte may be lost: its newline, which another record follows, or its last brace.
            last = end - (data[end - 1 : end] == b"\n")
            cuts = [(to, to - 1) for to in starts] + [(end, last), (end, last - 1)]
            found = [(to, payload_of(data[at:cut])) for to, cut in cuts]
            to, payload = next((pair for pair in found if pair[1]), (cuts[0][0], None))
            if payload or data[at:to].strip(b"\n"):
                yield at, to, payload
            starts = [start for start in starts if start >= to]
        begin = end


def payload_of(line: bytes) -> bytes | None:
    """Return the record of a line, also where its last brace is missing."""
    for payload in (line[9:], line[9:] + b"}"):
        if line[:9] == b"%08x " % crc32(payload):
            return payload
    return None


def name_of(payload: bytes) -> str:
    """Return the id of a record, a poison or a gap."""
    found = msgspec.json.decode(payload)
    return str(found.get("request_id") or found.get("poison") or found["gap"])


def letters(system: FakeSystem) -> set[str]:
    """Return the ids of what lies in ``dead/``."""
    found = set()
    for path, inode in system.disk.walk():
        if path.startswith(f"{DIRECTORY}/dead/"):
            for line in bytes(inode.data).split(b"\n"):
                try:
                    found.add(name_of(msgspec.json.decode(line)["record"].encode()))
                except (msgspec.MsgspecError, KeyError, TypeError):
                    continue  # torn: its segment was not acked past it
    return found


ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.EDQUOT)


def plant(system: FakeSystem, name: str, data: bytes) -> None:
    """Put a file into the spool, as a process that is dead has left it."""
    with system.running(system.spawn()):
        descriptor = system.os.open(DIRECTORY / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if data:
            system.os.write(descriptor, data)
        system.kill(system.current)
