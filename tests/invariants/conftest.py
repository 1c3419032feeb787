"""What the invariants share: the spool on a file system in memory, and a store beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.spool_bench import ROOMY, SpoolBench

OpenBench = Callable[..., SpoolBench]


@pytest.fixture
def open_bench() -> Iterator[OpenBench]:
    """Open benches of one program each; the last one opened is the one that is used."""
    opened: list[SpoolBench] = []

    def open_one(*, fsync: bool = False, positions: bool = True, bound: int = ROOMY) -> SpoolBench:
        while opened:
            opened.pop().close_bench()
        bench = SpoolBench()
        bench.open_bench(fsync=fsync, positions=positions, bound=bound)
        opened.append(bench)
        return bench

    yield open_one
    for bench in opened:
        bench.close_bench()


@pytest.fixture(params=[True, False], ids=["positions in the store", "acks in the segments"])
def bench(request: pytest.FixtureRequest, open_bench: OpenBench) -> SpoolBench:
    """A bench of each kind: a store that keeps positions, and one that does not."""
    return open_bench(positions=request.param)
