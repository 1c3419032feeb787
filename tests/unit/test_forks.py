"""What a child does first is done once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from receipt_dynamo import forks
from receipt_dynamo.forks import notice_fork
from receipt_dynamo.spool import writer


@pytest.fixture
def be_a_child(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this process a child that no hook has seen, with these hooks alone."""

    def become(*hooks: Callable[[], None]) -> None:
        monkeypatch.setattr(forks, "_hooks", list(hooks))
        monkeypatch.setattr(forks, "_last", [])
        monkeypatch.setattr(forks, "_pid", -1)
        monkeypatch.setattr(forks, "_ran", (-1, []))

    return become


def test_what_a_handler_records_within_a_hook_is_not_forgotten(
    be_a_child: Callable[..., None],
) -> None:
    """All hooks have run when the handler records, and none is run again behind it."""
    memory = ["of the parent"]
    signals = ["SIGTERM"]

    def interrupted() -> None:
        if signals:
            signals.pop()
            notice_fork()
            memory.append("of the handler")

    be_a_child(interrupted, memory.clear)
    notice_fork()
    notice_fork()
    assert memory == ["of the handler"]


def test_a_hook_that_raises_keeps_no_other_from_running(be_a_child: Callable[..., None]) -> None:
    """It is tried again by the next call, the others are not."""
    ran: list[str] = []
    faults = [OSError("no descriptor")]

    def raises() -> None:
        ran.append("raises")
        if faults:
            raise faults.pop()

    be_a_child(raises, lambda: ran.append("another"))
    with pytest.raises(OSError, match="no descriptor"):
        notice_fork()
    notice_fork()
    notice_fork()
    assert ran == ["raises", "another", "raises"]


def test_the_writer_is_the_last_to_be_told() -> None:
    """From then on a child records: what a record could go into is no longer its parent's."""
    assert [hook.__module__ for hook in forks._last] == [writer.__name__]
