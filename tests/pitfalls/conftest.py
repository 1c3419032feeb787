"""What users of other trackers suffered, tried on this one: docs/pitfalls.md has the list."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker
from tests.unit.conftest import reply, run, usage_dir
from tests.vendors.conftest import make, records, server, vendor_server

__all__ = ["make", "records", "reply", "run", "server", "usage_dir", "vendor_server"]

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    """A tracker whose records are delivered when the test asks for them."""
    return AIUsageTracker(client)


@pytest.fixture
def run_program(tmp_path: Path) -> RunProgram:
    """Run a program in a process of its own, with this test's usage directory."""

    def start(program: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).parents[2]
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *map(str, args)],
            cwd=root,
            env={
                **os.environ,
                "PYTHONPATH": str(root),
                "RECEIPT_USAGE_DIR": str(tmp_path / "usage"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return start
