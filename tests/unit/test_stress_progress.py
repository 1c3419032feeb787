"""How far a run of the stress harness is, where no terminal looks on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.stress.profiles import PROFILES
from benchmarks.stress.progress import showing_progress

if TYPE_CHECKING:
    import pytest


def test_a_log_gets_a_line_for_each_group_that_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which one, and how much of the run is done: a run takes minutes."""
    seed = PROFILES["seed"]
    with showing_progress(2 * seed.seconds) as progress:
        with progress.doing(seed, ["put_item"]):
            assert capsys.readouterr().err == ""
        assert capsys.readouterr().err == "seed: put_item done; 50% of the whole run\n"
        with progress.doing(seed, ["ours", "batch_writer"]):
            pass
    assert capsys.readouterr().err == "seed: ours, batch_writer done; 100% of the whole run\n"
