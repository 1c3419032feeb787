"""Dead letters beside kills, full disks, drainers and files of others: none is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from receipt_dynamo import DeadLetterError, DirectoryRefusedError
from receipt_dynamo.spool.aside import Aside, aside_lock, letter_id
from receipt_dynamo.spool.segment import HEADER_BYTES
from receipt_dynamo.spool.writer import SpoolWriter
from tests.support import in_fork, quiet_fork
from tests.support.letters_bench import COST, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


CALLS = ("open", "write", "pwrite", "fdatasync", "rename", "unlink", "close", "ftruncate")


def die_at(number: int) -> None:
    """Let this process die at its ``number``-th call that touches a file: before it is made."""
    made = [0]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            made[0] += 1
            if made[0] == number:
                os._exit(9)
            return real(*args, **more)

        return call

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))


@pytest.mark.parametrize("action", ["retry", "drop"])
def test_a_command_killed_at_any_step_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, action: str
) -> None:
    """Done again after a kill at every single call of the system, each letter counts once."""
    for number in range(1, 200):
        bench = Bench(tmp_path / str(number))
        chosen = bench.bury(*(bench.metric(name) for name in "abc"))[1:]
        bench.bury(bench.metric("b"), segment="2-1-aa.seg")

        def killed(bench: Bench = bench, number: int = number, chosen: list[str] = chosen) -> None:
            die_at(number)
            getattr(bench.letters, action)(chosen)

        code = in_fork(killed)
        left = set(bench.ids)
        assert left - set(chosen)
        if action == "retry":
            assert left | {letter_id(p.decode()) for p in bench.spooled()} >= set(chosen)
        bench.deliver()
        getattr(bench.letters, action)(sorted(left & set(chosen)))
        if action == "retry":
            assert bench.deliver() == ["b", "c"]
            assert bench.lost().count == 0
        else:
            assert bench.deliver() == []
            lost = bench.lost()
            assert (lost.count, lost.input_tokens, lost.cost_usd) == (2, 20, 2 * COST)
        assert len(bench.ids) == 1
        for path in bench.dead_dir.iterdir():
            for line in path.read_bytes().splitlines():
                assert not line.strip() or msgspec.json.decode(line)
        if code == 0:
            assert number > 10
            return
        assert code == 9
    pytest.fail("the command never came to its end")


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_spool_that_refuses_leaves_the_letters_where_they_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The error says how many are done; nothing is lost, and the rest can be done again."""
    names = bench.bury(*(bench.metric(name) for name in "abc"))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DeadLetterError, match=r"No space left on device\. 0 of 3 letters"):
            bench.letters.retry(names)
    assert bench.ids == names
    real = SpoolWriter.append
    taken: list[bytes] = []

    def nearly_full(writer: SpoolWriter, payload: bytes, count: int = 1) -> None:
        if len(taken) == 2:
            full()
        taken.append(payload)
        real(writer, payload, count)

    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "append", nearly_full)
        with pytest.raises(DeadLetterError, match="2 of 3 letters are done"):
            bench.letters.drop(names)
    assert bench.ids == names[2:]
    assert bench.lost().count == 2


def test_removing_needs_no_room_on_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are there are overwritten: no file is made, none grows, and none is cut."""
    names = bench.bury(bench.metric("a"), bench.metric("b"))
    bench.letters._move = lambda letters, _: bench.letters._remove({x.id for x in letters})
    with monkeypatch.context() as patch:
        for name in ("write", "ftruncate", "rename", "replace"):
            patch.delattr(os, name)
        bench.letters.drop(names[:1])
        assert bench.ids == names[1:]
        bench.letters.drop(names[1:])
        assert bench.ids == []


def test_a_line_that_is_half_overwritten_is_no_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may keep any part of the blanks: the first byte was on the disk before them."""
    names = bench.bury(*(bench.metric(name) for name in "abc"))
    real = os.pwrite

    def torn(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) == 1:
            return real(descriptor, data, offset)
        half = len(data) // 2
        real(descriptor, data[half:], offset + half)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", torn)
        with pytest.raises(KeyboardInterrupt):
            bench.letters.drop(names[1:2])
    assert bench.ids == [names[0], names[2]]
    bench.letters.drop(names[:1])
    assert bench.ids == names[2:]
    lines = (bench.dead_dir / "1-1-aa.seg.jsonl").read_bytes().splitlines()
    assert [bool(line.strip()) for line in lines] == [False, False, True]


def test_letters_that_cannot_be_removed_are_said_to_be_in_both_places(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is read-only by now: doing the same again does no harm, and it says so."""
    names = bench.bury(bench.metric("a"))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        with pytest.raises(DeadLetterError, match=r"Read-only.*does no harm"):
            bench.letters.retry(names)
    assert bench.ids == names
    bench.letters.retry(names)
    assert bench.deliver() == ["a"]


def test_nobody_removes_while_a_drainer_buries(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who changes dead/ holds its lock; a command that does not get it changes nothing."""
    names = bench.bury(bench.metric("a"))
    monkeypatch.setattr("receipt_dynamo.dead_letters._LOCK_SECONDS", 0.0)
    with aside_lock(bench.spool_dir) as lock:
        lock.acquire(0)
        for action in (bench.letters.retry, bench.letters.drop):
            with pytest.raises(Exception, match=r"aside.lock was held .* Try again"):
                action(names)
        assert bench.ids == names
    assert bench.spooled() == []


def test_drainers_and_commands_at_once_lose_no_letter(bench: Bench) -> None:
    """While two processes bury and two give up, each letter is counted as lost, and once."""
    count = 60

    def bury(start: int) -> None:
        for number in range(start, count, 2):
            bench.bury(bench.metric(f"r{number}"), segment=f"{number % 3}-1-aa.seg")

    def give_up(_: int) -> None:
        while not (bench.spool_dir / "done").exists():
            with suppress(DeadLetterError):  # the other was quicker
                bench.letters.drop([letter.id for letter in bench.letters.letters()][:3])

    children = []
    for work, argument in ((give_up, 0), (give_up, 1), (bury, 0), (bury, 1)):
        pid = quiet_fork()
        if pid == 0:
            code = 1
            try:
                work(argument)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children[2:]]
    (bench.spool_dir / "done").touch()
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children[:2]]
    assert codes == [0, 0, 0, 0]
    bench.letters.drop()
    assert bench.lost().count == count
    assert list(bench.dead_dir.iterdir()) == []


def test_a_line_that_is_just_being_written_is_no_letter_yet(bench: Bench) -> None:
    """To look never waits for a drainer, and half a line is not damage."""
    names = bench.bury(bench.metric("a"))
    path = bench.dead_dir / "1-1-aa.seg.jsonl"
    with path.open("ab") as file:
        file.write(b'{"reason":"half')
    assert bench.ids == names
    with path.open("ab") as file:
        file.write(b"\n")
    damaged = bench.letters.letters()[1]
    assert "damaged" in damaged.reason
    assert damaged.record == '{"reason":"half'


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_is_no_file_of_ours_is_left_alone(
    bench: Bench, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A link is never followed; the other letters can be worked with."""
    names = bench.bury(bench.metric("a"))
    (tmp_path / "precious").write_bytes(b'{"reason":"r","record":"{}"}\n')
    strange = bench.dead_dir / "0-1-aa.seg.jsonl"
    if kind == "link":
        strange.symlink_to(tmp_path / "precious")
    elif kind == "directory":
        strange.mkdir()
    else:
        os.mkfifo(strange)
    assert bench.ids == names
    bench.letters.drop()
    assert os.path.lexists(strange)
    assert (tmp_path / "precious").read_bytes().startswith(b"{")
    assert ("left alone" in caplog.text) is (kind != "pipe")


def test_a_directory_that_others_can_write_is_refused(bench: Bench) -> None:
    """Letters that anybody may have put there are neither shown nor sent."""
    names = bench.bury(bench.metric("a"))
    bench.dead_dir.chmod(0o777)
    for action in (bench.letters.letters, bench.letters.retry, bench.letters.drop):
        with pytest.raises(DirectoryRefusedError, match="chmod go-w"):
            action()
    bench.dead_dir.chmod(0o700)
    assert bench.ids == names


def test_damaged_lines_are_counted_file_by_file(bench: Bench) -> None:
    """They cannot be retried; where they lie can be told."""
    Aside(bench.spool_dir, bench.clock).quarantine("1-1-aa.seg", HEADER_BYTES, [b"x", b"y"])
    assert bench.letters.quarantined() == {bench.spool_dir / "quarantine" / "1-1-aa.seg.bad": 2}
