"""Streams that are open when a process ends are on record when it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from receipt_dynamo import UsageClient
from tests.support.vendor_server import VendorServer

PROGRAM = """
import sys
import openai
from receipt_label import AIUsageTracker

tracker = AIUsageTracker()
client = tracker.wrap(openai.OpenAI(api_key="stand-in", base_url=sys.argv[1]))
stream = client.chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}], stream=True
)
next(stream)
"""
ENDS = {"by an error": "raise SystemExit(1)", "in a cycle": "stream.me = stream"}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_a_stream_that_is_open_at_exit_is_on_record(
    end: str, server: VendorServer, client: UsageClient, tmp_path: Path
) -> None:
    """Partial, of unknown usage; nothing is printed."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + ENDS[end], f"{server.url}/v1"],
        env={
            **os.environ,
            "RECEIPT_USAGE_DIR": str(tmp_path / "usage"),
            "PYTHONPATH": str(Path.cwd()),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == (1 if "SystemExit" in ENDS[end] else 0), ran.stderr
    assert "Traceback" not in ran.stderr
    client.flush()
    (record,) = client.query()
    assert (record.status, record.unpriced_reason) == ("partial", "no_usage")
