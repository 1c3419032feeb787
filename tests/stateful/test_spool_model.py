"""A model of the spool: whatever happens in whatever order, nothing is lost that is not counted.

Programs record, sync, deliver, fork and die on a file system in memory; disks fill up, fail, rot
and lose power; drainers get in each other's way. After every step: STORED = in the store + pending
+ dead + what a documented damage may have cost; what was refused is nowhere; every loss is counted.
"""

from __future__ import annotations

import errno
import sys
from contextlib import suppress

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from receipt_dynamo import StoreError
from receipt_dynamo.entities.gap import GAP_PREFIX
from tests.support import encode
from tests.support.fake_os import MAY_FAIL, Fault
from tests.support.fake_programs import ERRORS, HEADER, SEGMENT_BYTES, forked, letters, name_of
from tests.support.spool_bench import ROOMY, SpoolBench

SHORT = st.just(0) | st.integers(2, 260)
"""What a write takes. Not one byte: where that is half of the mark behind a torn line, a reader
that comes before the other half counts a loss that is none. Disks give room in larger pieces."""

MOST_PROGRAMS = 5
DEEDS = ("drain", "put", "seal", "maintain", "crash")
PICK = st.integers(0, MOST_PROGRAMS)
COUNT = st.integers(1, 6)
SIZE = st.integers(0, 80)
kills = st.builds(
    lambda passing, kill, keep: Fault(passing=passing, kill=kill, keep=keep),
    st.integers(0, 25),
    st.sampled_from(["before", "after"]),
    SHORT | st.none(),
)
errors = st.builds(
    lambda passing, error, lasting: Fault(MAY_FAIL, passing=passing, error=error, lasting=lasting),
    st.integers(0, 25),
    st.sampled_from(ERRORS),
    st.booleans(),
)
short_writes = st.builds(
    lambda passing, keep: Fault(("write",), passing=passing, keep=keep), st.integers(0, 2), SHORT
)
store_faults = st.builds(
    lambda passing, kill, told: Fault(
        ("store",), passing=passing, kill=kill, error=None if kill else errno.EIO, late=told
    ),
    st.integers(0, 4),
    st.sampled_from([None, None, "before", "after"]),
    st.booleans(),
)


class SpoolModel(SpoolBench, RuleBasedStateMachine):
    """Programs that live, fail and die, against what they were answered."""

    @initialize(fsync=st.booleans(), positions=st.booleans(), bound=st.sampled_from([4000, ROOMY]))
    def begin(self, fsync: bool, positions: bool, bound: int) -> None:
        self.open_bench(fsync=fsync, positions=positions, bound=bound)
        self.was_cut = False

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.settle()
        finally:
            self.close_bench()

    # What programs do

    @precondition(lambda self: len(self.programs) < MOST_PROGRAMS)
    @rule()
    def start(self) -> None:
        """Another process begins to record: one after a crash, or one beside."""
        self.launch()

    @rule(who=PICK, fault=st.none() | short_writes | errors | kills, count=COUNT, size=SIZE)
    def put(self, who: int, fault: Fault | None, count: int, size: int) -> None:
        """Whatever the disk does, a put answers; unless its process dies."""
        program = self.pick(who)
        with self.acting(program, fault):
            self.put_some(program, count, size)

    @rule(who=PICK, passing=st.integers(0, 8), maintains=st.booleans())
    def put_within_a_put(self, who: int, passing: int, maintains: bool) -> None:
        """A signal handler records, and perhaps flushes, at any call of a put."""
        program = self.pick(who)

        def handler() -> None:
            self.put_some(program)
            if maintains:
                with suppress(OSError):
                    program.spool.maintain()

        with self.acting(program, Fault(passing=passing, act=handler)):
            self.put_some(program)

    @rule(who=PICK)
    def poison(self, who: int) -> None:
        """A record that no store will ever take."""
        program = self.pick(who)
        with self.acting(program), suppress(OSError):
            name = self.new_name()
            program.spool.writer.append(encode({"poison": name}))
            self.stored.add(name)
            program.unsynced.add(name)

    @rule(who=PICK, fault=st.none() | errors | kills | short_writes)
    def maintain(self, who: int, fault: Fault | None) -> None:
        self.run_maintenance(self.pick(who), fault)

    @rule(who=PICK)
    def seal(self, who: int) -> None:
        program = self.pick(who)
        with self.acting(program):
            program.spool.writer.seal()

    @precondition(lambda self: len(self.programs) < MOST_PROGRAMS)
    @rule(who=PICK, hooks=st.booleans())
    def fork(self, who: int, hooks: bool) -> None:
        """The child goes on beside its parent, and either may die first."""
        self.programs.append(forked(self.system, self.pick(who), self.clock, hooks=hooks))

    @rule(who=PICK)
    def crash(self, who: int) -> None:
        self.kill(self.pick(who))

    @rule(who=PICK)
    def close(self, who: int) -> None:
        """What memory still holds is counted, the segment is sealed, the process ends."""
        program = self.pick(who)
        self.run_maintenance(program)
        refuses = self.is_full or self.bound < ROOMY
        with self.acting(program):
            self.lost += len(program.in_memory)
            program.remembered.clear()
            program.spool.give_up_memory()
            program.spool.writer.close()
            assert refuses or not program.tally, "a client that closes has written what was lost"
            self.system.kill(program.process)

    # What drainers do

    @rule(who=PICK, fault=st.none() | store_faults | errors | kills | short_writes)
    def drain(self, who: int, fault: Fault | None) -> None:
        """A part is delivered: the store or the disk fails, or the drainer dies, at any call."""
        self.run_drainer(self.pick(who), fault)

    @rule(who=PICK, other=PICK, passing=st.integers(0, 30), deed=st.sampled_from(DEEDS))
    def drain_beside_others(self, who: int, other: int, passing: int, deed: str) -> None:
        """At any call of a drainer another process drains, records, seals, syncs or dies."""
        program, meanwhile = self.pick(who), self.pick(other)
        if program is meanwhile and deed in ("drain", "crash"):
            return

        def act() -> None:
            if deed == "drain":
                self.run_drainer(meanwhile, alone=False)
            elif deed == "maintain":
                self.run_maintenance(meanwhile)
            elif deed == "crash":
                self.kill(meanwhile)
            else:
                with self.acting(meanwhile):
                    if deed == "seal":
                        meanwhile.spool.writer.seal()
                    else:
                        self.put_some(meanwhile, 2)

        self.run_drainer(program, Fault(passing=passing, act=act))

    @rule(who=PICK, excess=st.integers(1, 2000))
    def drop_oldest(self, who: int, excess: int) -> None:
        """Sealed segments go, and each record in them that is not acked is counted.

        A gap that the store has already counts once more where no disk takes it under its id.
        """
        program = self.pick(who)
        with self.acting(program), suppress(StoreError):
            before = self.segments()
            before_bytes = self.held()
            program.delivery.drop_oldest(
                lambda: excess - (before_bytes - self.held()), program.spool
            )
            left = {segment.name for segment in self.segments()}
            gone = [p for found in before if found.name not in left for p in found.pending()]
            names = [name_of(p) for p in gone if not p.startswith(GAP_PREFIX)]
            self.lost += len(names)
            self.excused.update(names)
            self.rotten = {name: where for name, where in self.rotten.items() if where in left}
            if any(name_of(p) in self.store.gaps for p in gone if p.startswith(GAP_PREFIX)):
                assert self.counted() >= self.lost
                self.lost = self.counted()

    # What happens to disks

    @rule(seconds=st.sampled_from([0.5, 1.5, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(room=SHORT)
    def fill_the_disk(self, room: int) -> None:
        self.system.disk.capacity = self.system.disk.used() + room

    @rule()
    def make_room(self) -> None:
        self.system.disk.capacity = ROOMY

    @rule(which=PICK, at=st.integers(0, 2000), data=st.binary(min_size=1, max_size=40))
    def damage_a_line(self, which: int, at: int, data: bytes) -> None:
        """Bytes rot within a line, its newline included; a segment rots once.

        What then looks as a kill or a short write leaves it is lost without a count.
        """
        segment = self.pick_segment(which)
        if segment is None or segment.name in self.damaged or not segment.lines:
            return
        begin, end, _ = line = segment.lines[at % len(segment.lines)]
        where = begin + at % (end - begin)
        rot = data.replace(b"\n", b"?")[: end - where]
        behind = bytes(segment.inode.data[end : end + 1])
        looks_torn = behind == b"\n" or (behind == b"" and where + len(rot) == end)
        with self.rotting(segment, [line], counted=not looks_torn):
            segment.inode.write(rot, where)

    @rule(which=PICK, size=st.integers(0, 2000))
    def truncate(self, which: int, size: int) -> None:
        """A segment is cut short; one that is written to, not within what is acked."""
        segment = self.pick_segment(which)
        if segment is not None and segment.name not in self.damaged:
            size %= len(segment.inode.data) + 1
            size = max(size, segment.start) if segment.is_live else size
            cut = [line for line in segment.lines if line[1] > size]
            with self.rotting(segment, cut, counted=False):
                segment.inode.truncate(size)

    @rule(which=PICK, at=st.integers(len(b"#spool1"), HEADER - 1), data=st.binary(min_size=1))
    def damage_a_header(self, which: int, at: int, data: bytes) -> None:
        """An ack that rots into the offset of another line's end cannot be told from a true one."""
        segment = self.pick_segment(which)
        if segment is not None:
            segment.inode.write(data[: HEADER - at], at)
            after = next(s.start for s in self.segments() if s.path == segment.path)
            skipped = [line for line in segment.lines if segment.start <= line[0] < after]
            with self.rotting(segment, skipped, counted=False):
                pass

    @rule(cut=st.lists(st.integers(0, 2000), max_size=60))
    def cut_the_power(self, cut: list[int]) -> None:
        """What was synced is there, and nothing else need be."""
        sure = set(self.stored)
        if not self.fsync:
            sure -= self.unsure.union(*(program.unsynced for program in self.programs))
        for program in self.programs:
            self.system.kill(program.process)
        choices = iter(cut)
        self.system.disk.power_cut(lambda most: next(choices, 0) % (most + 1))
        missing = self.stored - self.present() - self.excused
        assert not missing & sure, "a record that was on the disk is gone"
        self.excused |= missing
        self.perhaps |= self.stored
        self.rotten.clear()
        self.was_cut = True
        self.programs.clear()
        self.lost = self.counted()
        self.launch()

    # What must hold

    @invariant(check_during_init=False)
    def every_record_is_where_it_should_be(self) -> None:
        present = self.present()
        missing = self.stored - present - self.excused
        assert not missing, "a STORED record is neither delivered nor pending nor dead"
        assert present <= self.stored | self.perhaps, "a record is there that was refused"
        for program in self.programs:
            if program.is_itself:
                forgotten = program.remembered - present - program.in_memory - self.excused
                assert not forgotten, "a record left the memory of a process that lives"

    @invariant(check_during_init=False)
    def every_loss_is_counted_once(self) -> None:
        assert self.counted() == self.lost

    @invariant(check_during_init=False)
    def the_bound_is_kept(self) -> None:
        assert self.held() <= self.bound + MOST_PROGRAMS * SEGMENT_BYTES

    @rule()
    def settle(self) -> None:
        """Everything ends well: all is delivered, nothing is left, every loss is in the store."""
        self.make_room()
        for _ in range(3):
            for program in list(self.programs):
                self.clock.advance(2)
                self.run_maintenance(program)
                self.run_drainer(program)
        for program in list(self.programs):
            assert not program.in_memory
            self.close(self.programs.index(program))
        self.clock.advance(61)
        self.launch()
        (last,) = self.programs
        with self.acting(last):
            self.put_some(last)
            last.spool.writer.seal()
        for _ in range(2):  # what a power cut left without a name gets one
            self.run_drainer(last)
        assert not self.waiting()
        files = [path for path, _ in self.system.disk.walk() if path.endswith((".seg", ".new"))]
        assert files == []
        arrived = set(self.store.records) | letters(self.system)
        assert arrived >= self.stored - self.excused
        corrupt = sum(gap.count for gap in self.store.gaps.values() if gap.reason == "corrupt")
        assert len(self.rotten.keys() - arrived) <= corrupt
        assert self.damaged or not corrupt or self.was_cut


class TestSpoolModel(SpoolModel.TestCase):  # type: ignore[misc]
    """Some stories, on every run."""

    settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@pytest.mark.slow
class TestSpoolModelAtLength(SpoolModel.TestCase):  # type: ignore[misc]
    """Longer stories, and more of them."""

    settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
