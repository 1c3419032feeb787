"""What the tests of real processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.zygote import Zygote


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    """Start processes; whatever still runs at the end of the test is killed."""
    with Zygote(tmp_path) as forks:
        yield forks
