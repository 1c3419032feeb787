"""The same promises on the oldest SDKs supported, in an environment of their own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITES = [
    f"tests/vendors/test_{name}.py"
    for name in ("same_as_bare", "streams", "streams_usage", "failures", "background_and_batches")
]
OLDEST = ROOT / ".venv" / "others" / "vendors"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wrapped_clients_hold_on_the_oldest_sdks() -> None:
    """Their HTTP library is another, their resources are made otherwise; nothing else differs."""
    if not (OLDEST / ".installed").exists():
        pytest.skip("the oldest SDKs are not installed: tools/oldest-vendors.sh")
    wanted = re.search(r"oldest=\((.+)\)", (ROOT / "tools/oldest-vendors.sh").read_text())
    assert wanted is not None
    assert (OLDEST / ".installed").read_text().strip() == wanted[1], "run tools/oldest-vendors.sh"
    ran = subprocess.run(
        [OLDEST / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert re.search(r"\d{3} passed", ran.stdout), ran.stdout[-500:]
