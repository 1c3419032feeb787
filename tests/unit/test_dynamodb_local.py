"""tools/dynamodb_local.py: what its options are for is said where one looks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "dynamodb_local.py"


def test_help_says_what_a_process_and_a_file_are_for() -> None:
    """How long it runs, and where its address is to be read."""
    ran = subprocess.run(
        [sys.executable, str(TOOL), "serve", "--help"], capture_output=True, text=True, check=True
    )
    words = " ".join(ran.stdout.split())
    assert "end when this process has ended" in words
    assert "write the address into this file" in words
