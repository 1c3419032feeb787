"""Invariant 11: the spool holds at most max_bytes and a segment for each process, and the gap
records add up to exactly what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_dynamo.spool.reader import spool_bytes
from receipt_dynamo.spool.ring import MemoryRing
from tests.support import make_metric

MAX_BYTES, SEGMENT_BYTES, WRITERS = 60_000, 8192, 3


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_invariant_11_the_bound_holds_and_drops_add_up(
    open_client: Callable[..., UsageClient], overflow: str
) -> None:
    """Three clients put three times as much as fits: whatever is not in the store at the end is in
    the gaps, to the token and the cent."""
    clients = [
        open_client(
            max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES, min_free_bytes=0, overflow=overflow
        )
        for _ in range(WRITERS)
    ]
    for client in clients:
        client._pipeline.spool.ring = MemoryRing(max_records=10)
    answers: Counter[PutResult] = Counter()
    directory = clients[0].settings.spool_dir
    for number in range(900):
        metric = make_metric(request_id=f"r{number}", output_tokens=5, cost_usd=Decimal("0.01"))
        client = clients[number % WRITERS]
        answers[client.put_ai_usage_metric(metric)] += 1
        if number % 30 == 29:
            if overflow == "drop_oldest":
                client._pipeline.make_room()
            client._pipeline.maintain()
        held = spool_bytes(directory)
        assert held <= MAX_BYTES + WRITERS * SEGMENT_BYTES
    for client in clients * 2:
        client.flush()
    in_store, dropped = clients[0].summarize()[0], clients[0].dropped()
    assert in_store.calls + dropped.count == 900
    assert in_store.output_tokens + dropped.output_tokens == 4500
    assert (in_store.cost_usd or 0) + (dropped.cost_usd or 0) == Decimal("9.00")
    assert dropped.count > 100
    if overflow == "drop_newest":
        assert dropped.count == answers[PutResult.DROPPED]
    else:
        assert dropped.by_reason.get("drop_oldest", 0) > 100
