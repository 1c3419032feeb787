"""What is set aside is kept whole, privately and once, whatever the disk does."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from receipt_dynamo.files import FileLock
from receipt_dynamo.spool.aside import Aside, Letter, aside_lock, letter_id
from tests.support import NOON, FakeClock

SEGMENT = "0000000000000000001-1-aa.seg"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def aside(directory: Path) -> Aside:
    return Aside(directory, FakeClock())


def test_damaged_lines_are_kept_byte_for_byte_where_only_we_can_read_them(
    aside: Aside, directory: Path
) -> None:
    """Lines of later batches are appended to those of earlier ones."""
    aside.quarantine(SEGMENT, 29, [b"one \xff"])
    aside.quarantine(SEGMENT, 50, [b"two"])
    path = directory / "quarantine" / f"{SEGMENT}.bad"
    assert path.read_bytes() == b"one \xff\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_letter_says_why_what_and_when(aside: Aside, directory: Path) -> None:
    """Any tool that reads JSON lines can tell what died."""
    aside.bury(SEGMENT, [(b'{"a":1}', "too long"), (b"\xff", "no JSON")])
    path = directory / "dead" / f"{SEGMENT}.jsonl"
    lines = [msgspec.json.decode(line, type=Letter) for line in path.read_bytes().splitlines()]
    assert lines == [
        Letter("too long", '{"a":1}', NOON),
        Letter("no JSON", "\N{REPLACEMENT CHARACTER}", NOON),
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_record_has_one_name_wherever_it_died() -> None:
    """Twelve hex digits of its content: two files that hold it hold one letter."""
    assert letter_id('{"a":1}') == letter_id('{"a":1}') != letter_id('{"a":2}')
    assert len(letter_id("")) == 12
    assert letter_id('{"a":1,"b":{"c":2}}') == letter_id('{"b":{"c":2},"a":1}')
    assert letter_id('{"a":1,"b":18446744073709551617}') != letter_id(
        '{"a":1,"b":18446744073709551618}'
    )


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_disk_that_refuses_keeps_nothing_of_what_it_took(
    aside: Aside, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """All lines or none: what was written short or not synced is taken back, and comes again."""
    aside.bury(SEGMENT, [(b"{}", "first")])
    path = directory / "dead" / f"{SEGMENT}.jsonl"
    before = path.read_bytes()
    write = os.write

    def refuse(descriptor: int, *data: bytes) -> int:
        if data:
            return write(descriptor, data[0][:20])
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            aside.bury_once(SEGMENT, 29, [(b"[]", "second")])
    assert path.read_bytes() == before
    aside.bury_once(SEGMENT, 29, [(b"[]", "second")])
    assert len(path.read_bytes().splitlines()) == 2


def test_what_a_killed_drainer_left_half_written_spoils_no_letter(
    aside: Aside, directory: Path
) -> None:
    """The half line goes: it was never acked, so its record is set aside again."""
    aside.bury(SEGMENT, [(b"{}", "first")])
    path = directory / "dead" / f"{SEGMENT}.jsonl"
    with path.open("ab") as file:
        file.write(b'{"reason":"sec')
    aside.bury(SEGMENT, [(b"[]", "second")])
    reasons = [msgspec.json.decode(line)["reason"] for line in path.read_bytes().splitlines()]
    assert reasons == ["first", "second"]


def test_a_letter_that_an_editor_left_without_a_newline_is_kept(
    aside: Aside, directory: Path
) -> None:
    """Only half lines go; the next letter begins on a line of its own."""
    aside.bury(SEGMENT, [(b"{}", "first")])
    path = directory / "dead" / f"{SEGMENT}.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    aside.bury(SEGMENT, [(b"[]", "second")])
    reasons = [msgspec.json.decode(line)["reason"] for line in path.read_bytes().splitlines()]
    assert reasons == ["first", "second"]


def test_a_command_that_holds_the_lock_for_too_long_makes_the_segment_wait(
    aside: Aside, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drainer never hangs on a command: it comes back later."""
    monkeypatch.setattr("receipt_dynamo.spool.aside._LOCK_SECONDS", 0.0)
    with aside_lock(directory) as lock:
        lock.acquire(0)
        with pytest.raises(BlockingIOError, match=r"aside.lock was held"):
            aside.bury(SEGMENT, [(b"{}", "first")])
    aside.bury(SEGMENT, [(b"{}", "first")])


def test_a_command_that_was_stopped_keeps_a_drainer_waiting_once(
    directory: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many segments it has to do with, and each of them later: ten seconds long it only
    looks whether the lock is free, and goes on as soon as it is."""
    waits = []
    acquire = FileLock.acquire

    def acquire_soon(lock: FileLock, timeout: float) -> None:
        waits.append(timeout)
        acquire(lock, 0.0)

    aside = Aside(directory, clock)
    with aside_lock(directory) as lock:
        lock.acquire(0)
        monkeypatch.setattr(FileLock, "acquire", acquire_soon)
        for number in range(3):
            with pytest.raises(BlockingIOError):
                aside.bury(f"{number}-{SEGMENT}", [(b"{}", "first")])
        clock.advance(10.0)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                aside.quarantine(SEGMENT, 29, [b"bad"])
    assert waits == [1.0, 0.0, 0.0, 1.0, 0.0]
    aside.bury(SEGMENT, [(b"{}", "first")])
    aside.quarantine(SEGMENT, 29, [b"bad"])


def test_letters_of_an_earlier_version_have_no_time() -> None:
    """A line that does not say when its record died is a letter all the same."""
    letter = msgspec.json.decode(b'{"reason":"r","record":"x"}', type=Letter)
    assert letter.died is None
    later = msgspec.json.decode(b'{"reason":"r","record":"x","died":"2026-11-21T12:00:00Z"}')
    assert datetime.fromisoformat(later["died"]) == NOON
