"""A model of the spool: whatever happens in whatever order, STORED = in the store + pending."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle as Things
from hypothesis.stateful import (
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from receipt_dynamo import StoreError, UsageQuery
from receipt_dynamo import delivery as delivery_module
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.spool import writer as writer_module
from receipt_dynamo.spool.pending import pending_records
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.sqlite_store import SqliteStore
from tests.support import FakeClock, damage, encode, make_metric


class Crash(BaseException):
    """The process dies here: nothing behind this line happens."""


class SpoolModel(RuleBasedStateMachine):
    """Writers and drainers that live, fail and die, against a set of ids that were STORED."""

    writers = Things("writers")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.spool = self.directory / "spool"
        self.store_path = self.directory / "usage.db"
        self.stored: list[str] = []
        self.known: list[SpoolWriter] = []
        self.batch = mock.patch.object(delivery_module, "BATCH_RECORDS", 3)
        self.batch.start()

    def teardown(self) -> None:
        self.batch.stop()
        for writer in self.known:
            writer.seal()
        shutil.rmtree(self.directory)

    @initialize(target=writers)
    def first(self) -> SpoolWriter:
        return self.open_writer()

    @rule(target=writers)
    def open_writer(self) -> SpoolWriter:
        """Another process begins to record: one after a crash, or one beside."""
        writer = SpoolWriter(self.spool, 600)
        self.known.append(writer)
        return writer

    def _payload(self) -> tuple[str, bytes]:
        request_id = f"r{len(self.stored)}-{os.urandom(4).hex()}"
        return request_id, encode(make_metric(request_id=request_id))

    @rule(writer=writers, count=st.integers(1, 7))
    def append(self, writer: SpoolWriter, count: int) -> None:
        for _ in range(count):
            request_id, payload = self._payload()
            writer.append(payload)
            self.stored.append(request_id)

    @rule(writer=writers, missing=st.just(1) | st.integers(1, 300))
    def short_write(self, writer: SpoolWriter, missing: int) -> None:
        """The disk takes all but the last bytes of a record, of its newline or of a header."""
        request_id, payload = self._payload()
        real = os.write
        cut = lambda fd, data: real(fd, data[: max(0, len(data) - missing)])  # noqa: E731
        with mock.patch.object(writer_module.os, "write", cut):
            try:
                writer.append(payload)
            except OSError:
                return
        self.stored.append(request_id)

    @rule(writer=writers)
    def refuse(self, writer: SpoolWriter) -> None:
        """The disk takes nothing at all."""
        full = OSError(errno.ENOSPC, "full")
        with mock.patch.object(writer_module.os, "write", side_effect=full):
            try:
                writer.append(self._payload()[1])
            except OSError:
                return
            raise AssertionError("a refused record was stored")

    @rule(target=writers, writer=consumes(writers), torn=st.integers(0, 200))
    def crash(self, writer: SpoolWriter, torn: int) -> object:
        """A process is killed in the middle of a write; its lock is free, its last bytes torn."""
        path = writer.active_segment
        ended = b"\n\n" if writer._active is not None and writer._active.torn else b""
        line = ended + writer_module.encode_line(self._payload()[1])
        if path is not None:
            with path.open("ab") as file:
                file.write(line[: min(torn, 100)])
        writer.seal()
        return multiple(self.open_writer())

    @rule(writer=writers)
    def seal(self, writer: SpoolWriter) -> None:
        writer.seal()

    @rule()
    def drain(self) -> None:
        assert self._delivery().run(float("inf")).failed_segments == 0

    @rule(
        step=st.sampled_from(["write", "ack", "remove"]), nth=st.integers(0, 4), after=st.booleans()
    )
    def drain_and_crash(self, step: str, nth: int, after: bool) -> None:
        """A drainer is killed before or after its nth put, ack or unlink."""
        owner = SqliteStore if step == "write" else SegmentReader
        real, calls = getattr(owner, step), [0]

        def dies(self: object, *args: object) -> object:
            calls[0] += 1
            if calls[0] <= nth:
                return real(self, *args)
            if after:
                real(self, *args)
            raise Crash

        with mock.patch.object(owner, step, dies), suppress(Crash):
            self._delivery().run(float("inf"))

    @rule(nth=st.integers(0, 3))
    def drain_into_a_failing_store(self, nth: int) -> None:
        real, calls = SqliteStore.write, [0]

        def fails(self: SqliteStore, batch: object) -> object:
            calls[0] += 1
            if calls[0] > nth:
                raise StoreError("away")
            return real(self, batch)  # type: ignore[arg-type]

        with mock.patch.object(SqliteStore, "write", fails), suppress(StoreError):
            self._delivery().run(float("inf"))

    @rule(bits=st.binary(min_size=1, max_size=HEADER_BYTES), at=st.integers(0, HEADER_BYTES - 1))
    def damage_a_header(self, bits: bytes, at: int) -> None:
        """Bytes of a header rot, short of passing for another version of the format."""
        if at <= len(b"#spool") or not (paths := list_segments(self.spool)):
            return
        damage(paths[0], at, bits[: HEADER_BYTES - at])

    def _delivery(self) -> Delivery:
        return Delivery(self.spool, SqliteStore(self.store_path), FakeClock())

    def _in_store(self) -> list[str]:
        return [m.request_id for m in SqliteStore(self.store_path).query(UsageQuery())]

    def _in_spool(self) -> set[str]:
        found = set()
        for path in list_segments(self.spool):
            data = path.read_bytes()
            for request_id in self.stored:
                if f'"{request_id}"'.encode() in data:
                    found.add(request_id)
        return found

    @invariant()
    def nothing_is_lost_and_none_is_there_twice(self) -> None:
        in_store = self._in_store()
        assert len(in_store) == len(set(in_store))
        assert set(in_store) <= set(self.stored), "a record that was refused arrived"
        missing = set(self.stored) - set(in_store) - self._in_spool()
        assert not missing, "a STORED record is neither in the store nor in the spool"

    @rule()
    def settle(self) -> None:
        """Everything ends and one good run follows: the store holds exactly what was STORED."""
        for writer in self.known:
            writer.seal()
        assert self._delivery().run(float("inf")).finished
        assert sorted(self._in_store()) == sorted(self.stored)
        assert list_segments(self.spool) == []
        assert pending_records(self.spool) == 0


SpoolModel.TestCase.settings = settings(max_examples=250, stateful_step_count=30, deadline=None)
TestSpoolModel = pytest.mark.slow(SpoolModel.TestCase)
