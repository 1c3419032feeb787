"""Invariant 2: no identity is in the store twice; what is sent again is the same to the byte; no
two processes ever mint one id."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import StoreError, UsageClient, mint_request_id
from receipt_dynamo import delivery as delivery_module
from receipt_dynamo.delivery import Delivery
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.store import Batch, WriteOutcome
from tests.support import FakeClock, encode, in_fork, make_metric
from tests.support.stores import MemoryStore


class Remembering(MemoryStore):
    """Remembers every payload that it was ever sent; fails as told, before or after taking it."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__()
        self.sent: dict[object, set[bytes]] = defaultdict(set)
        self.failures = failures

    def write(self, batch: Batch) -> WriteOutcome:
        failure = self.failures.pop(0) if self.failures else ""
        for record in batch.records:
            self.sent[record.metric.identity].add(record.payload)
        if failure == "before":
            raise StoreError("not taken")
        outcome = super().write(batch)
        if failure == "after":
            raise StoreError("taken, and the answer was lost")
        return outcome


@given(
    failures=st.lists(st.sampled_from(["", "before", "after"]), max_size=12),
    lost_acks=st.sets(st.integers(0, 6)),
)
def test_invariant_02_what_is_sent_again_is_byte_for_byte_the_same(
    tmp_path_factory: pytest.TempPathFactory, failures: list[str], lost_acks: set[int]
) -> None:
    """However often the store fails or an ack is lost, a record counts once and never changes."""
    directory = tmp_path_factory.mktemp("two") / "spool"
    store = Remembering(failures)
    writer = SpoolWriter(directory, 1200)
    ids = [f"r{n}" for n in range(20)]
    for request_id in ids:
        writer.append(encode(make_metric(request_id=request_id, cost_usd="0.25")))
    writer.seal()
    ack, acks = SegmentReader.ack, [0]

    def sometimes(self: SegmentReader, offset: int) -> None:
        acks[0] += 1
        if acks[0] not in lost_acks:
            ack(self, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentReader, "ack", sometimes)
        patch.setattr(delivery_module, "BATCH_RECORDS", 3)
        for _ in range(len(failures) + 2):
            try:
                Delivery(directory, store, FakeClock()).run(float("inf"))  # type: ignore[arg-type]
            except StoreError:
                continue
    assert sorted(m.request_id for m in store.metrics.values()) == sorted(ids)
    assert all(len(payloads) == 1 for payloads in store.sent.values())
    assert list_segments(directory) == []


def test_invariant_02_a_record_put_twice_counts_once(client: UsageClient) -> None:
    """The same identity again replaces the earlier record, with its figures."""
    for tokens in (1, 2, 3):
        client.put_ai_usage_metric(make_metric(request_id="same", input_tokens=tokens))
    (metric,) = client.query()
    assert metric.input_tokens == 3
    assert client.summarize()[0].calls == 1


def test_invariant_02_no_two_processes_mint_one_id(tmp_path: Path) -> None:
    """Children, and children of children, that go on minting at once: a fork storm."""
    minted = os.open(tmp_path / "minted", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def mint(depth: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(20):
                os.write(minted, f"{mint_request_id()}\n".encode())
            if depth:
                assert [in_fork(mint(depth - 1)) for _ in range(3)] == [0, 0, 0]

        return work

    mint(3)()
    os.close(minted)
    ids = (tmp_path / "minted").read_text().split()
    assert len(ids) == 20 * (1 + 3 + 9 + 27)
    assert len(set(ids)) == len(ids)
