"""Invariant 10: on a full disk what was stored is kept, drops are counted, draining goes on and
frees room, and recording resumes without a restart. (tests/process has a disk that is really full.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest  # noqa: TC002

from receipt_dynamo import PutResult, UsageClient
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.spool.ring import MemoryRing
from tests.support import make_metric, stored_ids
from tests.support.fake_os import Fault
from tests.support.spool_bench import SpoolBench


def test_invariant_10_a_full_disk_costs_only_what_is_counted(
    open_client: Callable[..., UsageClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte can be appended; what lies there can be read, acked and removed."""
    client = open_client(segment_bytes=4096)
    client._pipeline.spool.ring = MemoryRing(max_records=5)
    answers: list[PutResult] = []
    write = os.write

    def put(count: int) -> list[PutResult]:
        new = []
        for _ in range(count):
            name = f"r{len(answers):03}"
            metric = make_metric(request_id=name, input_tokens=3, cost_usd=Decimal("0.1"))
            new.append(client.put_ai_usage_metric(metric))
            answers.append(new[-1])
        return new

    def full(descriptor: int, data: bytes) -> int:
        if "spool" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    assert set(put(40)) == {PutResult.STORED}
    segments = len(list_segments(client.settings.spool_dir))
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        assert put(12) == [PutResult.MEMORY] * 5 + [PutResult.DROPPED] * 7
        client.flush()
        assert len(list_segments(client.settings.spool_dir)) < segments, "draining frees room"
        assert put(2) == [PutResult.MEMORY] * 2
    client.flush()
    assert set(put(3)) == {PutResult.STORED}
    kept = [f"r{n:03}" for n, answer in enumerate(answers) if answer is not PutResult.DROPPED]
    assert stored_ids(client) == kept
    dropped = client.dropped()
    assert (dropped.count, dropped.input_tokens, dropped.cost_usd) == (7, 21, Decimal("0.7"))


def test_invariant_10_a_torn_line_does_not_keep_a_disk_full(bench: SpoolBench) -> None:
    """It was answered to nobody, and needs no room in quarantine/ before its segment may go."""
    (program,) = bench.programs
    with bench.acting(program, Fault(("write",), passing=2, keep=60)):
        bench.put_some(program, 2)
    bench.system.disk.capacity = bench.system.disk.used()
    with bench.acting(program):
        program.spool.writer.seal()
    bench.run_drainer(program)
    assert set(bench.store.records) == bench.stored | program.remembered
    assert not bench.segments()
