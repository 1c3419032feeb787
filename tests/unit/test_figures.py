"""Figures: sums that lose nothing, and differences that never go below zero."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo.figures import Figures
from tests.support import NOON

COUNTS = ("stored", "memory", "delivered", "dead", "corrupt_lines", "fsync_errors")
counts = st.integers(0, 2**40)
times = st.none() | st.integers(0, 10**6).map(lambda seconds: NOON + timedelta(seconds=seconds))


@st.composite
def figures(draw: st.DrawFn) -> Figures:
    """Any figures that a process could have."""
    fields: dict[str, Any] = {name: draw(counts) for name in COUNTS}
    dropped = st.dictionaries(st.sampled_from("disk closed drop_oldest".split()), counts)
    return Figures(
        **fields, dropped=draw(dropped), last_record=draw(times), last_delivery=draw(times)
    )


@given(one=figures(), other=figures())
def test_a_sum_has_all_of_both(one: Figures, other: Figures) -> None:
    """Counts are added, reason by reason, and of two times the later one stays."""
    both = one.plus(other)
    for name in COUNTS:
        assert getattr(both, name) == getattr(one, name) + getattr(other, name)
    assert both.lost() == one.lost() + other.lost()
    assert both.recorded() == one.recorded() + other.recorded()
    assert both == other.plus(one)
    known = [time for time in (one.last_record, other.last_record) if time is not None]
    assert both.last_record == max(known, default=None)


@given(before=figures(), since=figures())
def test_what_was_counted_since_is_the_difference(before: Figures, since: Figures) -> None:
    """What another file has already is taken away; what lies in memory now is no count."""
    difference = before.plus(since).minus(before)
    for name in COUNTS:
        if name != "memory":
            assert getattr(difference, name) == getattr(since, name)
    assert difference.dropped == {reason: n for reason, n in since.dropped.items() if n}
    assert Figures().minus(before) == Figures()


@given(alive=figures())
def test_who_dies_loses_what_it_had_in_memory(alive: Figures) -> None:
    """Every record that was put stays recorded: those in memory are lost, and count as such."""
    dead = alive.of_the_dead(NOON)
    assert dead.memory == 0
    assert dead.recorded() == alive.recorded()
    assert dead.lost() == alive.lost() + alive.memory
    assert dead.last_drop == (NOON if alive.memory else None)


def test_the_later_error_is_the_one_that_is_shown() -> None:
    """An error belongs to its time, whichever process it is of."""
    early = Figures(last_error="early", last_error_at=NOON)
    late = Figures(last_error="late", last_error_at=NOON + timedelta(seconds=1))
    for both in (early.plus(late), late.plus(early), late.plus(Figures())):
        assert (both.last_error, both.last_error_at) == ("late", late.last_error_at)


def test_what_was_removed_to_make_room_had_been_recorded_before() -> None:
    """A record that was stored and then dropped was put once."""
    assert Figures(stored=10, dropped={"drop_oldest": 4, "disk": 1}).recorded() == 11
