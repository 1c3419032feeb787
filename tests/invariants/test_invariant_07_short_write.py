"""Invariant 7: after a write that the disk cut short, the neighbours are intact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receipt_dynamo.delivery import Delivery
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import FakeClock, encode, make_metric
from tests.support.stores import MemoryStore


@example(cuts=[29, 1])  # the mark itself, one byte of it, and nothing after
@given(cuts=st.lists(st.none() | st.integers(0, 250), min_size=1, max_size=12))
def test_invariant_07_neighbours_of_torn_records_are_whole(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int | None]
) -> None:
    """Any number of writes is cut anywhere, also the mark that ends a torn line: what was stored
    arrives, what was refused does not, and no torn line counts as damage."""
    directory: Path = tmp_path_factory.mktemp("seven") / "spool"
    writer = SpoolWriter(directory, 2000)
    write, stored = os.write, []
    for number, cut in enumerate(cuts):
        payload = encode(make_metric(request_id=f"r{number}"))
        with pytest.MonkeyPatch.context() as patch:
            if cut is not None:
                patch.setattr(os, "write", lambda fd, data, cut=cut: write(fd, data[:cut]))
            try:
                writer.append(payload)
            except OSError:
                continue
        stored.append(f"r{number}")
    writer.seal()
    store = MemoryStore()
    Delivery(directory, store, FakeClock()).run(float("inf"))  # type: ignore[arg-type]
    assert sorted(m.request_id for m in store.metrics.values()) == sorted(stored)
    assert store.gaps == {}
