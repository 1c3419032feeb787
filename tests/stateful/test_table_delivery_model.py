"""The whole of delivery against a table with the real semantics: any order of what may happen.

Records, rounds, waits, throttling, outages of every kind, and the death of the process. The senders
run in the calling thread, so that a failure can be repeated.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from receipt_dynamo import StoreError
from receipt_dynamo.dynamo_wire import Put
from receipt_dynamo.spool.reader import SegmentReader, list_segments
from receipt_dynamo.spool.writer import SpoolWriter
from receipt_dynamo.utils.circuit_breaker import CircuitState
from tests.support import NOON, encode, make_metric
from tests.support.fake_dynamodb import FakeDynamoDB, Fault, key_of, put_requests
from tests.support.fake_table import FakeTable
from tests.support.table_bench import TableBench

FAULTS = ["refused", "lost", "applied", "reset", "empty", "InternalServerError"]
FAULTS += ["ThrottlingException", "AccessDeniedException", "ResourceNotFoundException"]


class DeliveryMachine(RuleBasedStateMachine):
    """What was recorded, and where it lies."""

    @initialize(capacity=st.sampled_from([float("inf"), 200.0, 20.0]), seed=st.integers(0, 99))
    def begin(self, capacity: float, seed: int) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.bench = TableBench(self.directory)
        self.fake = FakeDynamoDB(self.bench.clock, capacity=capacity, seed=seed)
        self.bench.table.always = self.answer
        self.writer = SpoolWriter(self.bench.directory, 1 << 14)
        self.recorded: list[tuple[str, int]] = []  # identity and version, in order

    def answer(self, _table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
        """Let the fake with the real semantics take a batch."""
        request = put_requests([json.loads(put.body) for put in puts])
        left = self.fake.batch_write_item(**request).get("UnprocessedItems")
        if left is None:
            raise OSError("a reply that says nothing")
        keys = {key_of(entry["PutRequest"]["Item"]) for some in left.values() for entry in some}
        return [put for put in puts if put.key in keys]

    @rule(count=st.integers(1, 60))
    def record(self, count: int) -> None:
        for _ in range(count):
            self.put(f"{len(self.recorded):05d}")

    @rule(back=st.integers(1, 100))
    def record_again(self, back: int) -> None:
        if self.recorded:
            self.put(self.recorded[-min(back, len(self.recorded))][0])

    def put(self, name: str) -> None:
        version = len(self.recorded)
        metric = make_metric(request_id=name, timestamp=NOON, input_tokens=version)
        self.writer.append(encode(metric))
        self.recorded.append((name, version))

    @rule()
    def seal(self) -> None:
        self.writer.seal()

    @rule(seconds=st.sampled_from([0.0, 0.1, 2.0, 30.0]), linger=st.booleans())
    def deliver(self, seconds: float, linger: bool) -> None:
        try:
            self.bench.run(seconds, linger=linger)
        except StoreError:
            assert self.bench.delivery.dispatcher.snapshot().answers

    @rule(seconds=st.sampled_from([0.3, 5.0, 31.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @rule(kind=st.sampled_from(FAULTS), share=st.sampled_from([0.3, 1.0]))
    def break_down(self, kind: str, share: float) -> None:
        self.fake.faults = (Fault(kind, share=share),)

    @rule()
    def come_back(self) -> None:
        self.fake.faults = ()

    @rule()
    def outage(self) -> None:
        """Until the breaker is open, and just over the end of its break."""
        self.break_down("refused", 1.0)
        for _ in range(3):
            self.deliver(30.0, linger=False)
        self.come_back()
        due = self.bench.delivery.dispatcher.breaker.next_probe_at
        if due is not None:
            assert self.bench.delivery.dispatcher.breaker.state is not CircuitState.CLOSED
            self.bench.clock.advance(max(0.0, due - self.bench.clock.monotonic()) + 0.01)

    @rule()
    def die(self) -> None:
        self.bench.delivery = self.bench.new_delivery()

    @invariant()
    def nothing_is_acked_that_is_nowhere(self) -> None:
        """What no segment holds behind its ack is in the table, in that version or a later one."""
        waiting: set[tuple[str, int]] = set()
        for path in list_segments(self.bench.directory):
            with SegmentReader(path) as segment:
                waiting.update(map(_identity, segment.read(segment.acked(), 100_000).payloads))
        stored = self.stored()
        for name, version in self.recorded:
            assert (name, version) in waiting or stored.get(name, -1) >= version, name

    def stored(self) -> dict[str, int]:
        return {
            str(item["requestId"]["S"]): int(item["inputTokens"]["N"])
            for item in self.fake.items.values()
        }

    def teardown(self) -> None:
        self.come_back()
        self.writer.seal()
        self.bench.clock.advance(61.0)
        self.bench.run_out()
        assert self.stored() == dict(self.recorded)
        assert not (self.bench.directory / "dead").exists()
        assert list_segments(self.bench.directory) == []
        rmtree(self.directory)


def _identity(payload: bytes) -> tuple[str, int]:
    fields = json.loads(payload)
    return fields["request_id"], fields["input_tokens"]


TestDeliveryModel = DeliveryMachine.TestCase
TestDeliveryModel.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
