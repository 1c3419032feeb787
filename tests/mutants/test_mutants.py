"""Tests of the tests: for each invariant a variant of the code that breaks it, which its own test
must catch. (``tests/support/mutants.py`` has the variants.)"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.mutants import MUTANTS, VARIABLE

_PATIENCE_SECONDS = 300
pytestmark = [pytest.mark.slow, pytest.mark.timeout(_PATIENCE_SECONDS + 20)]

CAUGHT_BY: dict[str, tuple[int, str]] = {
    "unlink_before_write": (1, "process/test_invariant_01_ledger.py"),
    "payload_changes_when_sent_again": (2, "invariants/test_invariant_02_identity.py -k byte"),
    "ids_survive_a_fork": (2, "invariants/test_invariant_02_identity.py -k mint"),
    "put_raises_what_the_disk_says": (3, "invariants/test_invariant_03_never_raises.py -k short"),
    "put_syncs": (4, "invariants/test_invariant_04_hot_path.py -k one_write"),
    "put_lists_the_directory": (4, "invariants/test_invariant_04_hot_path.py -k one_write"),
    "write_after_ack": (
        5,
        "process/test_invariant_05_every_call.py -k of_python and drainer-acks_in_headers",
    ),
    "no_checksum": (6, "invariants/test_invariant_06_damage.py -k flipped"),
    "torn_lines_are_not_ended": (7, "invariants/test_invariant_07_short_write.py"),
    "ack_before_write": (8, "invariants/test_invariant_08_acks.py"),
    "a_stopped_leader_leads_for_ever": (9, "process/test_invariant_09_leadership.py -k fenced"),
    "memory_is_forgotten": (10, "invariants/test_invariant_10_full_disk.py"),
    "drops_are_not_counted": (11, "invariants/test_invariant_11_bounds.py"),
    "bounds_are_ignored": (11, "invariants/test_invariant_11_bounds.py"),
    "a_failing_store_kills_records": (12, "invariants/test_invariant_12_outage.py"),
    "a_child_keeps_the_locks": (13, "process/test_invariant_13_fork.py -k dead_parent"),
    "the_umask_decides": (14, "invariants/test_invariant_14_private.py"),
    "a_report_does_not_take_in": (15, "process/test_invariant_15_reports.py -k after_a_kill"),
    "a_backlog_is_read_at_once": (16, "invariants/test_invariant_16_backlog.py -k memory"),
}


def test_every_invariant_has_a_mutant() -> None:
    """Sixteen invariants, each broken at least once, and no variant that nobody uses."""
    assert {number for number, _ in CAUGHT_BY.values()} == set(range(1, 17))
    assert CAUGHT_BY.keys() == MUTANTS.keys()


@pytest.mark.parametrize("name", CAUGHT_BY)
def test_the_mutant_is_caught(name: str) -> None:
    """The invariant's own test fails on it: it fails, and is not merely unable to run."""
    _, where = CAUGHT_BY[name]
    path, *selection = where.split(" ", 2)
    pytest_quick = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-cov",
    ]
    ran = subprocess.run(
        [*pytest_quick, f"tests/{path}", *selection],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
        env={**os.environ, VARIABLE: name},
    )
    assert ran.returncode == 1, f"{name} was not caught:\n{ran.stdout[-3000:]}{ran.stderr[-1000:]}"
    assert "1 failed" in ran.stdout, ran.stdout[-3000:]
