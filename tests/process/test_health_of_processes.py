"""The figures of real processes: running, ended, killed, and forked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from receipt_dynamo import Health, Settings, open_usage_client, read_health

PIPELINE = """
import os, sys
from pathlib import Path
from receipt_dynamo import Settings, open_usage_client
from tests.support import make_metric
client = open_usage_client(Settings(usage_dir=Path(sys.argv[1]), drain="external"))
for _ in range(50):
    client.put_ai_usage_metric(make_metric())
client.count_dropped("invalid")
if sys.argv[2] == "fork" and os.fork() == 0:
    for _ in range(50):
        client.put_ai_usage_metric(make_metric())
    client.count_dropped("invalid")
    client.flush()
    os._exit(0)
sys.stdin.read()
"""


def until(settings: Settings, condition: Callable[[Health], bool]) -> Health:
    """Look until something is so; a deadline ends what never is."""
    deadline = time.monotonic() + 60
    while not condition(health := read_health(settings)):
        assert time.monotonic() < deadline, health
        time.sleep(0.02)
    return health


def test_what_processes_counted_outlives_them_however_they_end(tmp_path: Path) -> None:
    """One is killed, one ends, one forks: together they recorded 200 and lost 4, for ever."""
    settings = Settings(usage_dir=tmp_path / "usage", drain="manual")
    python = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PIPELINE]
    pipelines = [
        subprocess.Popen([*python, str(settings.usage_dir), kind], stdin=subprocess.PIPE)
        for kind in ("killed", "ended", "fork")
    ]
    running = until(settings, lambda health: health.recorded >= 204)
    assert (running.stored, dict(running.dropped)) == (200, {"invalid": 4})
    pipelines[0].kill()
    for pipeline in pipelines[1:]:
        assert pipeline.stdin is not None
        pipeline.stdin.close()
    for pipeline in pipelines:
        with pipeline:
            pipeline.wait(60)
    for _ in range(2):
        with open_usage_client(settings) as client:
            client.take_in()
        after = read_health(settings)
        assert (after.recorded, after.stored, after.delivered) == (204, 200, 200)
        assert (dict(after.dropped), after.pending) == ({"invalid": 4}, 0)
    assert [path.name for path in (settings.spool_dir / "stats").glob("*.json")] == ["total.json"]
