"""The stress harness's temporary directories: none outlives the next run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks.stress.places import remove_abandoned, temporary_place


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_run_left_is_removed_by_the_next(temporary: Path) -> None:
    """Its lock is free; one in use stays, and so does whatever is of somebody else."""
    abandoned = temporary / "receipt-usage-stress-abandoned"
    others = [temporary / "receipt-usage-stress-being-made", temporary / "elsewhere"]
    for directory in (abandoned, *others):
        directory.mkdir()
        (directory / "ledger").write_text("1")
    (abandoned / "lock").touch()
    (temporary / "elsewhere" / "lock").touch()
    with temporary_place() as used:
        remove_abandoned()
        assert sorted(temporary.iterdir()) == sorted([*others, used])
    assert sorted(temporary.iterdir()) == sorted(others)
