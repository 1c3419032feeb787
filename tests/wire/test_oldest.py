"""The same table of failures on the oldest botocore supported, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / ".venv" / "others" / "botocore"
SUITES = (
    "tests/wire/test_replies.py",
    "tests/wire/test_sockets.py",
    "tests/unit/test_failures.py",
    "tests/unit/test_failures_table.py",
    # The table names exceptions that came later.
    "--deselect=tests/unit/test_failures_table.py::test_every_exception_in_the_table_exists",
)


@pytest.mark.slow
def test_the_table_of_failures_holds_on_the_oldest_botocore() -> None:
    """Every reply and every socket fault means the same there, though classes differ."""
    if not (OLDEST / ".installed").exists():
        pytest.skip("the oldest botocore is not installed: tools/oldest-botocore.sh")
    least = re.search(r'"boto3>=([0-9.]+)"', (ROOT / "pyproject.toml").read_text())
    assert least is not None
    assert (OLDEST / ".installed").read_text().strip() == least[1], "run tools/oldest-botocore.sh"
    ran = subprocess.run(
        [OLDEST / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert re.search(r"\d{3} passed", ran.stdout), ran.stdout[-500:]
