"""Ctrl-C while receipt-usage runs, at whatever moment: one word, exit code 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from receipt_dynamo import Settings, open_usage_client
from receipt_label.cli import script
from tests.support import make_metric
from tests.support.zygote import PATIENCE_SECONDS, ROOT, Tell, Zygote

MOMENTS = 40
INTERRUPTED_IN_AN_IMPORT = """
import os, signal, sys
from receipt_label.cli.script import main
signal.signal(signal.SIGINT, signal.default_int_handler)
left = int(sys.argv.pop(1))
def count(event, _):
    global left
    if event == "import":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(count)
sys.exit(main())
"""
INTERRUPTED_AS_PYTHON_STARTS = """
import os, signal, sys
if "benchmarks.stress" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def usage_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a record that waits, known to whatever is started from here."""
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(tmp_path / "usage"))
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="external")) as client:
        client.put_ai_usage_metric(make_metric())
    return tmp_path / "usage"


def ended(program: str, *args: str) -> tuple[int, str, str]:
    """Run a program given as text; return its exit code and what it printed."""
    told = subprocess.run(
        [sys.executable, "-c", program, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return told.returncode, told.stdout, told.stderr


@pytest.mark.usefixtures("usage_dir")
@pytest.mark.parametrize("imports", [1, 30, 60, 90, 120])
def test_ctrl_c_while_modules_load_is_one_word(imports: int) -> None:
    """From the first line of ours on, which comes before click and the rest are loaded."""
    assert ended(INTERRUPTED_IN_AN_IMPORT, str(imports), "ship") == (130, "", "interrupted\n")


@pytest.mark.parametrize("imports", [1, 60, 300])
def test_ctrl_c_while_the_stress_harness_loads_is_one_word(imports: int) -> None:
    """It takes a third of a second, in which nothing is started that would have to be ended."""
    program = INTERRUPTED_IN_AN_IMPORT.replace(
        "receipt_label.cli.script", "benchmarks.stress.__main__"
    )
    assert ended(program, str(imports), "--help") == (130, "", "interrupted\n")


def test_ctrl_c_as_the_stress_harness_takes_over_is_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python, which starts anew then, answers no interrupt with a traceback of its own."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_AS_PYTHON_STARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it\n"
        "from receipt_label.cli.script import main\n"
        "sys.exit(main())"
    )
    assert ended(program, "stress", "--help") == (130, "", "interrupted\n")


def interrupted(tell: Tell, at: int, *args: str) -> None:
    """Run a command line, be interrupted at the call of that number, and tell the exit code."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        if event == "call":
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv[1:] = args
    sys.setprofile(count)
    code = script.main()
    sys.setprofile(None)
    tell(f"{code} {calls}")


@pytest.mark.slow
@pytest.mark.usefixtures("usage_dir")
def test_ctrl_c_at_any_moment_of_a_command_is_one_word(zygote: Zygote) -> None:
    """At 40 calls, from the first in ``main`` to its last; the next report is whole."""
    zygote.run(interrupted, 0, "report", "--json")  # which delivers the record
    code, calls = map(int, zygote.run(interrupted, 0, "report", "--json").told[0].split())
    assert code == 0
    assert calls > 10 * MOMENTS
    for moment in range(MOMENTS):
        at = 2 + moment * (calls - 20) // MOMENTS
        worker = zygote.start(interrupted, at, "report", "--json")
        ended = worker.wait()
        assert worker.errors.splitlines()[-1:] == ["interrupted"], (at, worker.errors)
        assert "Traceback" not in worker.errors, at
        assert ended == 130 or worker.told[0].split()[0] == "130", at
    last = zygote.run(interrupted, 0, "report", "--json")
    assert last.told[0].startswith("0 ")
    assert "1 call" in last.errors
