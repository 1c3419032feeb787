"""The goodput limiter: no limit, the pace after a refusal, probes, and pauses."""

from __future__ import annotations

import threading

import pytest

from receipt_dynamo.errors import ConfigurationError
from receipt_dynamo.utils.goodput_limiter import (
    GoodputLimiter,
    GoodputLimiterSettings,
    Slot,
    Wait,
)
from tests.support import FakeClock


class Rig:
    """A limiter without jitter that believes the first refusal, and its clock."""

    def __init__(self, **settings: object) -> None:
        self.clock = FakeClock()
        settings.setdefault("refusals_least", 1)
        self.limiter = GoodputLimiter(
            GoodputLimiterSettings(**settings), clock=self.clock, chance=lambda: 0.5
        )

    def slot(self) -> Slot:
        answer = self.limiter.acquire()
        assert isinstance(answer, Slot), answer
        return answer

    def wait(self) -> float:
        answer = self.limiter.acquire()
        assert isinstance(answer, Wait), answer
        return answer.seconds

    def call(self, accepted: int | None = None) -> float:
        """Send a slot, after waiting for it; all of it is accepted, or some."""
        while isinstance(answer := self.limiter.acquire(), Wait):
            self.clock.advance(answer.seconds)
        taken = answer.size if accepted is None else accepted
        return self.limiter.record(answer, sent=answer.size, accepted=taken)

    def throttle(self, rate: float = 100.0) -> None:
        """Let a second pass in which ``rate`` items are accepted, and then one refused."""
        slot = self.slot()
        self.clock.advance(1.0)
        self.limiter.record(slot, sent=int(rate) + 1, accepted=int(rate))


@pytest.fixture
def rig() -> Rig:
    """A limiter with its defaults."""
    return Rig()


def test_there_is_no_limit_before_the_first_refusal(rig: Rig) -> None:
    """A healthy table is never slowed down."""
    for _ in range(1000):
        assert rig.slot().size == 25
        assert rig.call() == 0.0
    assert rig.limiter.rate is None


def test_the_first_refusal_sets_the_pace_to_what_was_accepted(rig: Rig) -> None:
    """100 items in the last second: 100 a second, in batches of half a second's share."""
    rig.throttle(100)
    assert rig.limiter.rate == pytest.approx(100)
    assert rig.wait() == pytest.approx(0.13)
    rig.clock.advance(0.13)
    assert rig.slot().size == 13
    assert rig.wait() == pytest.approx(0.13)


def test_what_was_accepted_between_two_refusals_is_the_capacity(rig: Rig) -> None:
    """Whatever the rate was before, up or down."""
    rig.throttle(100)
    rig.clock.advance(0.2)
    slot = rig.slot()
    rig.clock.advance(0.8)
    rig.limiter.record(slot, sent=400, accepted=399)
    assert rig.limiter.rate == pytest.approx(399)
    rig.clock.advance(1.0)
    rig.limiter.record(rig.slot(), sent=25, accepted=10)
    assert rig.limiter.rate == pytest.approx(10)


def test_a_measure_needs_time_and_items(rig: Rig) -> None:
    """Two refusals a millisecond apart tell nothing new, nor do three items in half a second."""
    rig.throttle(100)
    rig.clock.advance(0.2)
    rig.limiter.record(rig.slot(), sent=13, accepted=12)
    assert rig.limiter.rate == pytest.approx(100)
    rig.clock.advance(0.04)
    rig.limiter.record(Slot(0, 1), sent=1, accepted=0)
    assert rig.limiter.rate == pytest.approx(100)


def test_the_pace_has_a_floor(rig: Rig) -> None:
    """A table that takes nothing is still asked now and then."""
    rig.throttle(0)
    for _ in range(5):
        rig.clock.advance(4)
        rig.limiter.record(rig.slot(), sent=1, accepted=0)
    assert rig.limiter.rate == 0.5


def test_after_quiet_it_probes_without_a_pause_and_doubles(rig: Rig) -> None:
    """From 2 % of a second's items to full batches: four of each size, one at a time."""
    rig.throttle(100)
    rig.clock.advance(1.2)
    sizes = []
    for _ in range(18):
        slot = rig.slot()
        assert slot.probe
        sizes.append(slot.size)
        rig.limiter.record(slot, sent=slot.size, accepted=slot.size)
    assert sizes == [2] * 4 + [4] * 4 + [8] * 4 + [16] * 4 + [25] * 2


def test_one_probe_flies_at_a_time(rig: Rig) -> None:
    """Else one probe would waste a batch for each sender; the others keep their pace."""
    rig.throttle(100)
    rig.clock.advance(1.2)
    assert rig.slot().probe
    assert not rig.slot().probe
    assert rig.wait() > 0


def test_when_full_batches_keep_passing_more_probes_fly(rig: Rig) -> None:
    """A table that has grown tenfold is filled within a second, by all senders."""
    rig.throttle(100)
    rig.clock.advance(1.2)
    for _ in range(16 + 6):
        slot = rig.slot()
        rig.limiter.record(slot, sent=slot.size, accepted=slot.size)
    assert [rig.slot().probe for _ in range(4)] == [True] * 4
    assert not rig.slot().probe


def test_a_refused_probe_ends_the_probing(rig: Rig) -> None:
    """It measured the capacity: all that was accepted since the refusal before."""
    rig.throttle(100)
    rig.clock.advance(1.5)
    for accepted in (2, 2, 2, 2, 4, 4, 4, 4, 3):
        slot = rig.slot()
        rig.limiter.record(slot, sent=slot.size, accepted=accepted)
    assert rig.limiter.rate == pytest.approx((4 * 2 + 4 * 4 + 3) / 1.5)
    assert rig.wait() > 0


def test_a_probe_that_is_never_recorded_blocks_the_others_for_its_lease_only(rig: Rig) -> None:
    """A sender that died in the middle of a probe does not end probing for good."""
    rig.throttle(100)
    rig.clock.advance(1.2)
    assert rig.slot().probe
    rig.clock.advance(29)
    assert not rig.slot().probe
    rig.clock.advance(1)
    assert rig.slot().probe


def test_an_answer_that_tells_nothing_only_frees_its_slot(rig: Rig) -> None:
    """A timeout is neither accepted nor refused: pace, measure and probe size stay."""
    rig.throttle(100)
    rig.clock.advance(1.2)
    probe = rig.slot()
    assert rig.limiter.record(probe, sent=probe.size, accepted=None) == 0.0
    assert rig.slot() == Slot(probe.number + 1, probe.size, probe=True)
    assert rig.limiter.rate == pytest.approx(100)


def test_what_a_slot_did_not_use_is_given_back(rig: Rig) -> None:
    """A sender that found three items pays for three."""
    rig.throttle(100)
    rig.clock.advance(0.13)
    slot = rig.slot()
    rig.limiter.record(slot, sent=3, accepted=3)
    assert rig.wait() == pytest.approx(0.03)


def test_a_batch_that_is_refused_whole_pauses_its_sender(rig: Rig) -> None:
    """With full jitter that doubles, and is forgotten with the first item accepted."""
    rig.throttle(100)
    assert [rig.call(0) for _ in range(4)] == pytest.approx([0.025, 0.05, 0.1, 0.2])
    assert rig.call(1) == 0.0
    assert rig.call(0) == pytest.approx(0.025)


def test_a_servers_hint_is_honoured_up_to_five_seconds_more(rig: Rig) -> None:
    """botocore's rule: the server may ask for more than our pause, not for an hour."""
    rig.throttle(100)
    for hint, pause in ((1.0, 1.0), (3600.0, 5.05)):
        slot = Slot(0, 1)
        assert rig.limiter.record(slot, sent=1, accepted=0, hint=hint) == pytest.approx(pause)


def test_after_a_quiet_minute_the_limit_is_gone(rig: Rig) -> None:
    """Until the next refusal, whose pace is that of the last seconds, not of the last hour."""
    rig.throttle(100)
    rig.clock.advance(60)
    assert rig.slot().size == 25
    assert rig.limiter.rate is None
    for _ in range(3600):
        rig.clock.advance(1)
        rig.limiter.record(Slot(0, 25), sent=10, accepted=10)
    for _ in range(20):
        rig.clock.advance(1)
        rig.limiter.record(Slot(0, 25), sent=500, accepted=500)
    rig.limiter.record(Slot(0, 25), sent=25, accepted=0)
    assert rig.limiter.rate == pytest.approx(500, rel=0.1)


def test_probes_are_spread_so_that_processes_take_turns() -> None:
    """The quiet before a probe is drawn anew after each refusal, 30 % around 1.2 s."""
    for chance, quiet in ((0.0, 0.84), (0.999999, 1.56)):
        rig = Rig()
        rig.limiter._chance = lambda chance=chance: chance
        rig.throttle(1)
        rig.clock.advance(quiet - 0.01)
        answer = rig.limiter.acquire()
        assert not (isinstance(answer, Slot) and answer.probe)
        rig.clock.advance(0.02)
        assert rig.slot().probe


def test_a_forked_child_begins_without_a_limit(rig: Rig) -> None:
    """With a lock of its own."""
    rig.throttle(100)
    holder = threading.Thread(target=rig.limiter._lock.acquire)
    holder.start()
    holder.join()
    rig.limiter.after_fork()
    assert rig.slot().size == 25


def test_repr_and_snapshot_show_the_live_state(rig: Rig) -> None:
    """The pace and what came of it."""
    assert repr(rig.limiter) == "<GoodputLimiter no limit, accepted 0 of 0 sent>"
    rig.throttle(100)
    assert repr(rig.limiter) == "<GoodputLimiter 100.0 items/s, accepted 100 of 101 sent>"
    seen = rig.limiter.snapshot()
    assert (seen.rate, seen.refusals, seen.probing) == (pytest.approx(100), 1, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_items", 0),
        ("workers", 1.5),
        ("floor", 0),
        ("measure_most", 0.1),
        ("probe_jitter", 1.1),
        ("refusal_cap", 0.01),
    ],
)
def test_settings_are_checked_at_once(field: str, value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(ConfigurationError, match=f"LimiterSettings.{field}={value!r} is not"):
        GoodputLimiterSettings(**{field: value})


def test_a_refusal_now_and_then_slows_nothing() -> None:
    """A service that refuses some at any pace is not helped by a slower one: no limit is set."""
    rig = Rig(refusals_least=2)
    for number in range(1000):
        rig.call(accepted=0 if number % 5 == 0 else None)
        rig.clock.advance(0.01)
    assert rig.limiter.rate is None
    rig.call(accepted=10)
    rig.call(accepted=0)
    assert rig.limiter.rate is not None
