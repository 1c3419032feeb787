"""What is lost is counted at once, written as soon as may be, and never twice."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from receipt_dynamo.drops import DropTally
from receipt_dynamo.entities.gap import GAP_PREFIX, Gap
from tests.support import NOON


def test_losses_add_up_by_reason_service_and_model() -> None:
    """One gap for each, with every figure that was known; counts go on after it is written."""
    tally = DropTally()
    assert (
        tally.add("disk", service="openai", model="m", input_tokens=5, cost_usd=Decimal("0.1")) == 1
    )
    assert tally.add("disk", service="openai", model="m", output_tokens=7) == 2
    assert tally.add("invalid") == 1
    gaps = {gap.reason: gap for gap in tally.take(NOON)}
    assert gaps["disk"].count == 2
    assert (gaps["disk"].input_tokens, gaps["disk"].output_tokens) == (5, 7)
    assert (gaps["disk"].cost_usd, gaps["invalid"].cost_usd) == (Decimal("0.1"), None)
    assert len({gap.gap for gap in gaps.values()}) == 2
    assert tally.take(NOON) == []
    assert tally.add("disk") == 3
    assert tally.by_reason() == {"disk": 3, "invalid": 1}


def test_a_gap_that_could_not_be_written_is_taken_back_whole() -> None:
    """A full disk delays the gap record, it never shrinks it."""
    tally = DropTally()
    tally.add("disk", service="s", model="m", input_tokens=5, cost_usd=Decimal("1e-30"))
    (gap,) = tally.take(NOON)
    tally.add("disk", service="s", model="m", input_tokens=1, cost_usd=Decimal("1e30"))
    tally.restore(gap)
    (whole,) = tally.take(NOON)
    assert (whole.count, whole.input_tokens) == (2, 6)
    assert whole.cost_usd == Decimal("1" + "0" * 30 + "." + "0" * 29 + "1")
    assert tally.by_reason() == {"disk": 2}


def test_counts_are_exact_over_threads() -> None:
    """Eight threads that lose records lose no count."""
    tally = DropTally()
    gaps: list[Gap] = []

    def lose() -> None:
        for _ in range(500):
            tally.add("disk", input_tokens=1)
            gaps.extend(tally.take(NOON))

    threads = [threading.Thread(target=lose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(gap.count for gap in gaps) == sum(gap.input_tokens for gap in gaps) == 4000
    assert tally.by_reason() == {"disk": 4000}


def test_a_loss_counted_while_its_own_thread_counts_one_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler or finaliser may record at any moment, also in the middle of a count."""
    import receipt_dynamo.drops as module

    tally, add = DropTally(), module.add_exactly

    def interrupted(left: Decimal | None, right: Decimal | None) -> Decimal | None:
        monkeypatch.setattr(module, "add_exactly", add)
        tally.add("disk", input_tokens=1)
        return add(left, right)

    monkeypatch.setattr(module, "add_exactly", interrupted)
    done = threading.Thread(target=lambda: tally.add("disk", input_tokens=1), daemon=True)
    done.start()
    done.join(30)
    assert not done.is_alive()
    assert sum(gap.count for gap in tally.take(NOON)) == 2


def test_a_gap_always_fits_into_the_spool() -> None:
    """A name of megabytes is left out: the loss itself must not be lost."""
    tally = DropTally()
    tally.add("invalid", service="x" * 2_000_000, model="m" * 257)
    (gap,) = tally.take(NOON)
    assert (gap.count, gap.service, gap.model) == (1, None, None)


@pytest.mark.parametrize("odd", ["5", -5, 1.5, None, 2**70, object()])
@pytest.mark.parametrize("name", ["\ud800", b"x", 5, "r" * 2_000_000, None])
def test_nothing_that_a_caller_passes_loses_a_loss(odd: Any, name: Any) -> None:
    """What cannot be kept of it is left out; the gap can be written, read and summed."""
    tally = DropTally()
    tally.add("disk", input_tokens=3)
    tally.add(name, service=name, model=name, input_tokens=odd, output_tokens=odd, cost_usd=odd)
    gaps = [msgspec.json.decode(msgspec.json.encode(gap), type=Gap) for gap in tally.take(NOON)]
    assert sum(gap.count for gap in gaps) == 2
    assert sum(gap.input_tokens for gap in gaps) == 3


def test_a_gap_is_told_from_a_metric_by_its_first_bytes() -> None:
    """The drainer needs no second look."""
    gap = Gap(gap="id", timestamp=NOON, reason="disk", count=1)
    assert msgspec.json.encode(gap).startswith(GAP_PREFIX)
    assert msgspec.json.decode(msgspec.json.encode(gap), type=Gap) == gap
