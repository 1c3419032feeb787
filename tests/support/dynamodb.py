"""DynamoDB Local for tests: one engine a test run, a database of its own for each worker.

It is started when a test first asks for it, and ends with the run. ``make test`` fetches it. Where
it cannot be had those tests are skipped, with one line; in CI (``CI=true``, or
``RECEIPT_TEST_DYNAMODB=required``) that is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_registry import Nothing
from receipt_dynamo.files import FileLock

TOOL = Path(__file__).parents[2] / "tools" / "dynamodb_local.py"
PATIENCE_SECONDS = 90.0
REQUIRED = os.environ.get("RECEIPT_TEST_DYNAMODB") == "required" or os.environ.get("CI") == "true"


def start_engine(shared: Path, controller: int) -> str:
    """Return the endpoint of the engine of this run, and start it if no other worker has.

    ``shared`` is a directory of all workers; the engine lives as long as the process
    ``controller``. Skips the test, or fails it, where the engine cannot be had.
    """
    ready, log = shared / "dynamodb.ready", shared / "dynamodb.log"
    lock = FileLock(shared / "dynamodb.lock")
    lock.acquire(PATIENCE_SECONDS)
    try:
        if not ready.exists():
            _start(ready, log, controller)
        return ready.read_text()
    finally:
        lock.release()


def _start(ready: Path, log: Path, controller: int) -> None:
    command = [sys.executable, str(TOOL), "serve", "--for", str(controller), "--ready", str(ready)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    end = time.monotonic() + PATIENCE_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()
            process.wait()
            (pytest.fail if REQUIRED else pytest.skip)(log.read_text().strip())
        time.sleep(0.02)
    process.returncode = 0  # it ends with the run by itself: Python must not warn of it


def access_key(worker: str) -> dict[str, str]:
    """Return the environment of a worker: the engine has a database for each access key."""
    return {
        "AWS_ACCESS_KEY_ID": f"receiptusage{worker}",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def drop_table(client: DynamoClient) -> None:
    """Delete the table of a client."""
    client._call("DeleteTable", {"TableName": client.table_name}, Nothing)
