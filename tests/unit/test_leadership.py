"""Leadership: one drainer per spool directory, and none that is wedged keeps the others waiting."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from receipt_dynamo.spool.leadership import STALE_SECONDS, Leadership, read_heartbeat
from tests.support import FakeClock, in_fork


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


def locks(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("drain.lock*"))


def test_one_leads_and_the_next_follows_when_it_lets_go(directory: Path, clock: FakeClock) -> None:
    """The lock is exclusive, and free again when its holder gives it up."""
    first, second = Leadership(directory, clock), Leadership(directory, clock)
    assert first.try_lead()
    assert first.try_lead()
    assert not second.try_lead()
    first.release()
    assert second.try_lead()
    assert not first.still_leads()
    assert locks(directory) == ["drain.lock"]


def test_the_heartbeat_says_who_leads_and_since_when_it_was_silent(
    directory: Path, clock: FakeClock
) -> None:
    """Anyone can read it; every round of the leader renews it."""
    assert read_heartbeat(directory) is None
    leader = Leadership(directory, clock)
    leader.try_lead()
    clock.advance(40.0)
    leader.try_lead()
    clock.advance(7.0)
    heartbeat = read_heartbeat(directory)
    assert heartbeat is not None
    assert (heartbeat.pid, heartbeat.generation) == (os.getpid(), 0)
    assert heartbeat.age(clock.now()) == 7.0


def test_a_silent_leader_is_passed_over_and_steps_down(directory: Path, clock: FakeClock) -> None:
    """Its lock is left alone; the lock of the next generation counts from then on."""
    stopped, other, third = (Leadership(directory, clock) for _ in range(3))
    assert stopped.try_lead()
    clock.advance(STALE_SECONDS)
    assert not other.try_lead()
    clock.advance(1.0)
    assert not other.try_lead(), "the first look could meet one that is just taking the lead"
    assert other.try_lead()
    assert not third.try_lead()
    assert not stopped.still_leads()
    assert not stopped.try_lead()
    assert locks(directory) == ["drain.lock.1"]
    heartbeat = read_heartbeat(directory)
    assert heartbeat is not None
    assert heartbeat.generation == 1


def test_a_leader_that_slept_through_two_generations_steps_down(
    directory: Path, clock: FakeClock
) -> None:
    """The files of the generation after its own may be gone by then."""
    first, second, third = (Leadership(directory, clock) for _ in range(3))
    assert first.try_lead()
    for successor in (second, third):
        clock.advance(STALE_SECONDS + 1)
        assert not successor.try_lead()
        assert successor.try_lead()
    assert locks(directory) == ["drain.lock.2"]
    assert not first.still_leads()
    assert not second.still_leads()
    assert third.still_leads()


def test_a_long_delivery_gives_signs_of_life(directory: Path, clock: FakeClock) -> None:
    """Asked before each ack, it renews the heartbeat every ten seconds, and not more often."""
    leader, other = Leadership(directory, clock), Leadership(directory, clock)
    leader.try_lead()
    for _ in range(200):
        clock.advance(4.0)
        assert leader.still_leads()
        assert not other.try_lead()
    heartbeat = read_heartbeat(directory)
    assert heartbeat is not None
    assert heartbeat.age(clock.now()) <= 10.0


def test_a_clock_that_was_set_back_does_not_make_a_leader_immortal(
    directory: Path, clock: FakeClock
) -> None:
    """A heartbeat from the future that nobody renews is as old as one from the past."""
    stopped, other = Leadership(directory, clock), Leadership(directory, clock)
    stopped.try_lead()
    clock.advance(-3600.0)
    assert not other.try_lead()
    assert other.try_lead()


def test_removed_files_are_made_again(directory: Path, clock: FakeClock) -> None:
    """Who deletes the lock or the heartbeat ends nobody's delivery for good."""
    leader = Leadership(directory, clock)
    leader.try_lead()
    (directory / "leader").unlink()
    assert leader.try_lead()
    assert read_heartbeat(directory) is not None
    (directory / "drain.lock").unlink()
    assert not leader.still_leads()
    assert leader.try_lead()
    assert locks(directory) == ["drain.lock"]


def test_a_leader_that_never_gave_a_sign_is_passed_over_as_well(
    directory: Path, clock: FakeClock
) -> None:
    """It was stopped just after it took the lock, or somebody removed its sign since."""
    stopped, other = Leadership(directory, clock), Leadership(directory, clock)
    assert stopped.try_lead()
    (directory / "leader").unlink()
    assert not other.try_lead()
    clock.advance(STALE_SECONDS + 1)
    assert not other.try_lead()
    assert other.try_lead()
    assert not stopped.still_leads()


def test_a_leader_whose_sign_was_removed_says_again_who_it_is(
    directory: Path, clock: FakeClock
) -> None:
    """Also where a follower has missed the sign before."""
    leader, other = Leadership(directory, clock), Leadership(directory, clock)
    assert leader.try_lead()
    (directory / "leader").unlink()
    assert not other.try_lead()
    assert leader.try_lead()
    heartbeat = read_heartbeat(directory)
    assert heartbeat is not None
    assert heartbeat.pid == os.getpid()


def test_a_heartbeat_without_words_still_counts(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes the name of a file and its time, not what is written into it."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    leader = Leadership(directory, clock)
    leader.try_lead()
    clock.advance(60.0)
    leader.still_leads(every=0.0)
    heartbeat = read_heartbeat(directory)
    assert heartbeat is not None
    assert (heartbeat.pid, heartbeat.age(clock.now())) == (0, 0.0)


def test_a_symbolic_link_is_no_heartbeat_and_no_lock(
    directory: Path, clock: FakeClock, tmp_path: Path
) -> None:
    """What a link points to is neither read nor written."""
    target = tmp_path / "elsewhere"
    target.write_text("precious")
    (directory / "leader").symlink_to(target)
    assert Leadership(directory, clock).try_lead()
    assert target.read_text() == "precious"
    assert read_heartbeat(directory) is None
    (directory / "drain.lock").unlink()
    (directory / "drain.lock").symlink_to(target)
    with pytest.raises(OSError, match=r"drain\.lock"):
        Leadership(directory, clock).try_lead()


def test_the_child_of_a_fork_does_not_lead_and_frees_nothing(
    directory: Path, clock: FakeClock
) -> None:
    """The lock stays its parent's, whatever the child does with its copy."""
    leader = Leadership(directory, clock)
    leader.try_lead()

    def child() -> None:
        assert not leader.leads
        assert not leader.still_leads()
        assert not leader.try_lead()
        leader.release()

    assert in_fork(child) == 0
    assert leader.still_leads()
    assert not Leadership(directory, clock).try_lead()


def test_a_fork_that_no_hook_saw_does_not_lead_either(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uWSGI forks in C: another process id is all that the child can see."""
    leader = Leadership(directory, clock)
    leader.try_lead()
    descriptor = leader._lock._descriptor  # type: ignore[union-attr]
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        assert not leader.still_leads()
        kept = os.dup(descriptor)  # type: ignore[arg-type] # the parent's own copy
        assert not leader.try_lead()
    assert not Leadership(directory, clock).try_lead(), "the parent's lock was freed"
    os.close(kept)
