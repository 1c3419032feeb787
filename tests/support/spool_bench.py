"""What the model of the spool keeps count of, and how it lets programs act.

The rules are in ``tests/stateful``; here is the ledger that they write, and what an observer finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest import mock

import msgspec

from receipt_dynamo import PutResult, StoreError
from receipt_dynamo import delivery as delivery_module
from receipt_dynamo.entities.gap import GAP_PREFIX, Gap
from tests.support import FakeClock, make_metric
from tests.support.fake_os import FakeSystem, Fault, Killed
from tests.support.fake_programs import (
    ModelStore,
    Program,
    Segment,
    letters,
    name_of,
    observe,
    start,
)

ROOMY = 1 << 40


class SpoolBench:
    """Programs on a file system in memory, and what each of their records was answered."""

    def open_bench(self, *, fsync: bool, positions: bool, bound: int) -> None:
        """Begin with one program. ``close_bench`` gives the real file system back."""
        self._stack = ExitStack()
        self.clock = FakeClock()
        self.system = FakeSystem(self.clock, ROOMY)
        self._stack.enter_context(self.system.installed())
        self._stack.enter_context(mock.patch.object(delivery_module, "BATCH_RECORDS", 3))
        self.store = ModelStore(self.system, keeps_positions=positions)
        self.fsync, self.bound = fsync, bound
        self.programs: list[Program] = []
        self.names = 0
        self.stored: set[str] = set()
        self.perhaps: set[str] = set()  # may be there, and need not be
        self.unsure: set[str] = set()  # STORED, and no sync will ever prove that it is on the disk
        self.excused: set[str] = set()  # STORED, and lost to what no spool can survive
        self.rotten: dict[str, str] = {}  # of these, what is to be counted; and in which segment
        self.damaged: set[str] = set()  # segments
        self.lost = 0  # records whose loss has to be counted, by a gap or a tally
        self._forgiven = 0  # of these, what only the memory of the dead knew
        self.launch()

    def close_bench(self) -> None:
        self._stack.close()

    def launch(self) -> None:
        self.programs.append(start(self.system, self.store, self.clock, self.bound, self.fsync))

    @contextmanager
    def acting(self, program: Program, fault: Fault | None = None) -> Iterator[None]:
        """Let a program act, and perhaps die of it: what only its memory knew is forgiven."""
        tally, lost, forgiven = program.tally, self.lost, self._forgiven
        faults = () if fault is None else (fault,)
        with suppress(Killed), self.system.running(program.process), self.system.faults(*faults):
            yield
        if program.process.dead and program in self.programs:
            self.programs.remove(program)
            self.unsure |= program.unsynced
            counted = self.counted()
            assert lost - tally - (self._forgiven - forgiven) <= counted <= self.lost
            self._forgiven += self.lost - counted
            self.lost = counted

    @contextmanager
    def rotting(
        self, segment: Segment, lines: list[tuple[int, int, bytes | None]], *, counted: bool
    ) -> Iterator[None]:
        """Harm these lines: what they held is excused, and perhaps to be counted."""
        payloads = [payload for _, _, payload in lines if payload is not None]
        names = {name_of(p) for p in payloads if not p.startswith(GAP_PREFIX)}
        before = self.counted()
        yield
        segment.inode.sync()
        self.damaged.add(segment.name)
        self.excused |= names
        if counted:
            self.rotten.update(dict.fromkeys(names & self.stored, segment.name))
        self.lost -= before - self.counted()

    def run_maintenance(self, program: Program, fault: Fault | None = None) -> None:
        """Memory goes back to the disk, losses are written, everything is synced."""
        with self.acting(program, fault):
            told = set(program.unsynced)
            try:
                program.spool.maintain()
            except OSError:
                self.unsure |= told
            program.unsynced -= told

    def run_drainer(
        self, program: Program, fault: Fault | None = None, *, alone: bool = True
    ) -> None:
        with self.acting(program, fault), suppress(StoreError, OSError):
            report = program.delivery.run(float("inf"))
            assert not report.failed_segments or fault is not None or self.is_full or not alone
            program.delivery.deliver_memory(program.spool.ring, report)

    def put_some(self, program: Program, count: int = 1, size: int = 0) -> None:
        for _ in range(count):
            name = self.new_name()
            self.perhaps.add(name)
            answer = program.spool.put(make_metric(request_id=name, tool="x" * size or None))
            if answer is PutResult.STORED:
                self.stored.add(name)
                program.unsynced.add(name)
            elif answer is PutResult.MEMORY:
                program.remembered.add(name)
            else:
                self.lost += 1
                if not self.fsync:  # after a failed sync it may be there all the same
                    self.perhaps.remove(name)

    def kill(self, program: Program) -> None:
        with self.acting(program):
            self.system.kill(program.process)

    def new_name(self) -> str:
        self.names += 1
        return f"r{self.names}"

    def pick(self, who: int) -> Program:
        if not self.programs:
            self.launch()
        return self.programs[who % len(self.programs)]

    def pick_segment(self, which: int) -> Segment | None:
        segments = self.segments()
        return segments[which % len(segments)] if segments else None

    @property
    def is_full(self) -> bool:
        return self.system.disk.capacity < ROOMY

    def segments(self) -> list[Segment]:
        return observe(self.system, self.store)

    def held(self) -> int:
        """Return how many bytes all segments have."""
        return sum(len(segment.inode.data) for segment in self.segments())

    def waiting(self) -> list[bytes]:
        """Return the records that the next drainer will send, gaps among them."""
        return [payload for segment in self.segments() for payload in segment.pending()]

    def present(self) -> set[str]:
        """Return the ids of all records that are somewhere safe."""
        waiting = {name_of(p) for p in self.waiting() if not p.startswith(GAP_PREFIX)}
        return waiting | set(self.store.records) | letters(self.system)

    def counted(self) -> int:
        """Return how many losses are counted: in the store, in the spool, in somebody's tally."""
        waiting = [msgspec.json.decode(p, type=Gap) for p in self.waiting() if p[:7] == GAP_PREFIX]
        gaps = {**{gap.gap: gap for gap in waiting}, **self.store.gaps}.values()
        tallies = sum(program.tally for program in self.programs)
        return tallies + sum(gap.count for gap in gaps if gap.reason != "corrupt")
