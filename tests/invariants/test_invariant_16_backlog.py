"""Invariant 16: a backlog costs neither the start of a process nor its memory. (How long it takes
is for `make bench` to say.)"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, UsageClient
from receipt_dynamo.spool.reader import list_segments
from receipt_dynamo.spool.segment import HEADER_BYTES, encode_line, format_header
from tests.support import encode, make_metric

RECORDS, SEGMENTS = 60_000, 3

DRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support import mutants
mutants.apply()
from receipt_dynamo import Settings, open_usage_client
client = open_usage_client(Settings(usage_dir=Path(sys.argv[1]), drain="manual"))
def peak():  # getrusage would tell the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
delivered = client.take_in().delivered
print(delivered, peak() - before)
"""


@pytest.fixture
def backlog(client: UsageClient) -> Path:
    """Sealed segments of another process, 60,000 records of 600 bytes."""
    directory = client.settings.spool_dir
    line = encode(make_metric(request_id="@", metadata={"text": "x" * 400}))
    for segment in range(SEGMENTS):
        count = RECORDS // SEGMENTS
        lines = (
            encode_line(line.replace(b'"@"', b'"s%d-%d"' % (segment, n))) for n in range(count)
        )
        path = directory / f"{segment + 1:019}-1-00000000.seg"
        path.write_bytes(format_header(HEADER_BYTES) + b"".join(lines))
        path.chmod(0o600)
    return client.settings.usage_dir


def test_invariant_16_a_start_reads_nothing_of_the_backlog(
    backlog: Path, open_client: Callable[..., UsageClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a client and the first puts look at names and sizes, never into a segment."""
    read: list[str] = []
    assert len(list_segments(backlog / "spool" / "local")) == SEGMENTS
    for name in ("read", "pread", "readv", "preadv"):
        monkeypatch.setattr(os, name, lambda *_, name=name: read.append(name) or b"")
    client = open_client(usage_dir=backlog)
    assert client.put_ai_usage_metric(make_metric()) is PutResult.STORED
    assert read == []
    monkeypatch.undo()


@pytest.mark.slow
def test_invariant_16_draining_takes_a_bounded_memory(backlog: Path) -> None:
    """36 MB of records pass through a process that grows by less than 24 MB."""
    ran = subprocess.run(
        [sys.executable, "-c", DRAIN, str(backlog), str(Path.cwd())],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    delivered, grown_kib = map(int, ran.stdout.split())
    assert delivered == RECORDS
    assert grown_kib < 24 << 10
