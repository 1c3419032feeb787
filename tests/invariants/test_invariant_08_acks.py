"""Invariant 8: no ack passes a record that is not in the store, in dead/ or in quarantine/."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import StoreError
from receipt_dynamo import delivery as delivery_module
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.spool.aside import Aside
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.store import Batch, WriteOutcome
from tests.support import FakeClock, encode, make_metric
from tests.support.stores import POISON, MemoryStore


class Moody(MemoryStore):
    """Takes a batch, refuses to, or takes it and says that it did not; as it is told."""

    def __init__(self, moods: list[str]) -> None:
        super().__init__()
        self.moods = moods

    def write(self, batch: Batch) -> WriteOutcome:
        mood = self.moods.pop(0) if self.moods else "takes"
        if mood == "refuses":
            raise StoreError("refused")
        outcome = super().write(batch)
        if mood == "takes in silence":
            raise StoreError("no answer")
        return outcome


MOODS = st.lists(st.sampled_from(["takes", "refuses", "takes in silence"]), max_size=10)
KINDS = st.lists(st.sampled_from(["good", "poison", "rubbish", "damaged"]), min_size=1, max_size=20)


@given(kinds=KINDS, moods=MOODS, grave=st.lists(st.booleans(), max_size=8))
def test_invariant_08_an_ack_never_passes_an_unsent_record(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str],
    moods: list[str],
    grave: list[bool],
) -> None:
    """Poison, rubbish and damage among good records, a store that fails, a dead/ that cannot be
    written: after every run all that lies before the ack is somewhere else."""
    directory: Path = tmp_path_factory.mktemp("eight") / "spool"
    writer = SpoolWriter(directory, 1 << 22)
    path, ends = _write(writer, directory, kinds)
    store = Moody(moods)
    append, refusals = Aside._append, grave

    def sometimes(self: Aside, *args: object) -> None:
        if refusals and refusals.pop(0):
            raise OSError("no room to set anything aside")
        append(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Aside, "_append", sometimes)
        patch.setattr(delivery_module, "BATCH_RECORDS", 3)
        for _ in range(len(moods) + len(grave) + 3):
            delivery = Delivery(directory, store, FakeClock())  # type: ignore[arg-type]
            with suppress(StoreError):
                delivery.run(float("inf"))
            _assert_safe_before_ack(directory, path, kinds, ends, store)
    with SegmentReader(path) as segment:
        assert segment.acked() == segment.size()
    writer.seal()


def _write(writer: SpoolWriter, directory: Path, kinds: list[str]) -> tuple[Path, list[int]]:
    ends = []
    for number, kind in enumerate(kinds):
        model = POISON if kind == "poison" else "gpt-4o"
        payload = encode(make_metric(request_id=f"r{number}", model=model))
        writer.append(b'{"no":"metric %d"}' % number if kind == "rubbish" else payload)
        (path,) = list_segments(directory)
        ends.append(path.stat().st_size)
        if kind == "damaged":
            with path.open("r+b") as file:
                file.seek(ends[-1] - 5)
                file.write(b"#")
    return path, ends


def _assert_safe_before_ack(
    directory: Path, path: Path, kinds: list[str], ends: list[int], store: MemoryStore
) -> None:
    with SegmentReader(path) as segment:
        acked = segment.acked()
    assert acked >= HEADER_BYTES
    in_store = {metric.request_id for metric in store.metrics.values()}
    dead = "".join(p.read_text() for p in directory.glob("dead/*"))
    quarantine = b"".join(p.read_bytes() for p in directory.glob("quarantine/*"))
    for number, (kind, end) in enumerate(zip(kinds, ends, strict=True)):
        if end > acked:
            continue
        if kind == "good":
            assert f"r{number}" in in_store
        elif kind == "damaged":
            assert f'"r{number}"'.encode() in quarantine
        else:
            name = f"metric {number}\\" if kind == "rubbish" else f'r{number}\\"'
            assert name in dead
