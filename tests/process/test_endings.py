"""However a process ends: what was answered STORED is in the next report, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from receipt_dynamo import Settings, open_usage_client
from tests.support import stored_ids
from tests.support.zygote import ROOT

pytestmark = pytest.mark.slow

HEAD = """
import os, sys
from pathlib import Path
from receipt_dynamo import PutResult, Settings, open_usage_client
from tests.support import make_metric
client = open_usage_client(Settings(usage_dir=Path(sys.argv[1])))
def record(n):
    metric = make_metric(request_id=f"x-{n}", input_tokens=1, cost_usd="0.01")
    if client.put_ai_usage_metric(metric) is PutResult.STORED:
        os.write(1, b"x-%d\\n" % n)
"""
ENDINGS = {
    "os._exit": ("record(1); os._exit(3)", 3),
    "unhandled exception": ("record(1); raise RuntimeError('the pipeline broke')", 1),
    "sys.exit": ("record(1); sys.exit(4)", 4),
    "end": ("record(1)", 0),
    "SIGTERM": ("import signal; record(1); signal.raise_signal(signal.SIGTERM)", -15),
    "abort": ("record(1); os.abort()", -6),
    "in a thread": (
        "import threading; t = threading.Thread(target=record, args=(1,)); t.start(); t.join()",
        0,
    ),
    "exit hook": ("import atexit; atexit.register(record, 1)", 0),
    "finaliser": (
        "class Late:\n    def __del__(self): record(1)\nlate = Late()\nlate.me = late",
        0,
    ),
    "forked child": ("pid = os.fork()\nif not pid: record(1); os._exit(0)\nos.waitpid(pid, 0)", 0),
    "child that ends as usual": (
        "record(0); client.flush(); pid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: record(1)",
        0,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_record_survives_however_its_process_ends(tmp_path: Path, ending: str) -> None:
    """No flush, no close: STORED is enough, and the ending itself is not disturbed."""
    script, code = ENDINGS[ending]
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + script, str(tmp_path / "usage")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    stored = ended.stdout.split()
    assert ended.returncode == code, ended.stderr
    assert "x-1" in stored
    if code == 0:
        assert ended.stderr == ""
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual")) as client:
        assert sorted(stored_ids(client)) == sorted(stored)
        assert client.dropped().count == 0
        assert client.pending() == 0
