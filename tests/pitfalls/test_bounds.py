"""Memory: bounded just when the table is down."""

from __future__ import annotations

import socket

from tests.pitfalls.conftest import RunProgram

DOWN = """
from pathlib import Path
from receipt_dynamo import open_usage_client
from tests.support import make_metric

def peak_kib():  # of this program: getrusage has that of the process that started it as well
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

client = open_usage_client()
metrics = [make_metric(request_id=f"warm-{n}", metadata={"text": "x" * 800}) for n in range(500)]
client.put_ai_usage_metrics(metrics)
client.flush(3.0)  # everything is loaded, and the table was found down
before = peak_kib()
for n in range(30_000):
    client.put_ai_usage_metric(make_metric(request_id=f"r-{n}", metadata={"text": "x" * 800}))
client.flush(1.0)
health = client.health()
print(health.recorded - sum(health.dropped.values()), health.spool_bytes, peak_kib() - before)
client.close(1.0)
"""


def test_a_table_that_is_down_fills_the_spool_and_no_memory(run_program: RunProgram) -> None:
    """30 MB of records beside a drainer that tries: the process grows by less than 8 MB
    (trouble 51).
    """
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens: every request is refused
        ran = run_program(
            DOWN,
            DYNAMODB_TABLE_NAME="usage",
            AWS_REGION="us-east-1",
            AWS_ENDPOINT_URL_DYNAMODB=f"http://127.0.0.1:{bound.getsockname()[1]}",
            AWS_ACCESS_KEY_ID="dummy",
            AWS_SECRET_ACCESS_KEY="dummy",  # noqa: S106
            RECEIPT_USAGE_EXIT_FLUSH_SECONDS="0",
        )
    assert ran.returncode == 0, ran.stderr
    kept, spool_bytes, grown_kib = map(int, ran.stdout.split())
    assert kept == 30_500
    assert spool_bytes > 30_500 * 800
    assert grown_kib < 8 << 10
