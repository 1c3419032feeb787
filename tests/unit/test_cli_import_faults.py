"""receipt-usage import: what is damaged, missing or refused is named, and the rest goes in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import Settings, open_usage_client
from tests.unit.conftest import exported

Reply = Callable[..., dict[str, Any]]
Lines = Callable[..., Path]
Run = Callable[..., Any]


def test_bad_lines_are_named_and_the_rest_goes_in(run: Run, lines: Lines, reply: Reply) -> None:
    """File, line and reason of each; exit code 1."""
    file = lines(
        reply(),
        b'{"id": "\xff"}',
        '{"id": "cut',
        "17",
        "",
        "[" * 50_000,
        '{"n": ' + "9" * 5000 + "}",
        {"hello": "world"},
        reply(id="chatcmpl-9999999999abcdefghij"),
    )

    ran = run("import", file)

    assert ran.code == 1
    assert len(exported(run)) == 2
    bad = [line for line in ran.err.splitlines() if line.startswith(f"{file}:")]
    assert [line.split(":")[1] for line in bad] == ["2", "3", "4", "6", "7", "8"]
    for line, reason in zip(
        bad,
        ["UTF-8", "truncated", "a number", "deeply", "digits", "not a reply"],
        strict=True,
    ):
        assert reason in line
    assert "Traceback" not in ran.err
    assert "6 bad lines" in ran.err


@pytest.mark.parametrize("depth", [300, 900, 960, 990, 2000])
def test_no_depth_of_nesting_stops_an_import(
    run: Run, lines: Lines, reply: Reply, depth: int
) -> None:
    """Whatever depth a line has, it is recorded or reported, and the next one goes in."""
    deep = "[" * depth + "]" * depth
    ran = run("import", lines(json.dumps(reply(id=None, extra=0))[:-2] + f"{deep}}}", reply()))

    assert "Traceback" not in ran.err
    assert ran.code == (0 if len(exported(run)) == 2 else 1)
    assert len(exported(run)) in (1, 2)


def test_only_the_first_bad_lines_are_shown(run: Run, lines: Lines) -> None:
    """A file of another kind does not flood the terminal."""
    ran = run("import", lines(*["name,tokens"] * 1000))

    assert ran.code == 1
    assert len(ran.err.splitlines()) < 30
    assert "980 more bad lines" in ran.err


def test_files_that_cannot_be_read_are_one_line_each_and_the_others_go_in(
    run: Run, lines: Lines, reply: Reply, tmp_path: Path
) -> None:
    """Missing, a directory, binary, empty: each is said once; exit code 1."""
    binary, empty = tmp_path / "picture.png", tmp_path / "empty.jsonl"
    binary.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00" + bytes(5000))
    empty.touch()

    ran = run("import", tmp_path / "none", tmp_path, binary, empty, lines(reply()))

    assert ran.code == 1
    assert len(exported(run)) == 1
    complaints = ran.err.splitlines()[:4]
    for line, reason in zip(complaints, ["no such", "directory", "binary", "empty"], strict=True):
        assert reason in line
    assert "4 unread files" in ran.err


def test_a_file_without_permission_is_one_line(
    run: Run, lines: Lines, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission denied is said in words."""

    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("receipt_label.importers.source.open", refuse, raising=False)
    file = lines(reply())

    assert run("import", file).err.splitlines()[0] == f"{file}: permission denied"


def test_a_dropped_record_is_said_and_is_a_fault(
    run: Run, lines: Lines, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, the exit code says so and the report shows the loss."""
    from receipt_dynamo.spool.ring import MemoryRing
    from receipt_dynamo.spool.writer import SpoolWriter

    append = SpoolWriter.append

    def refuse(self: SpoolWriter, payload: bytes, count: int = 1) -> None:
        if count:
            raise OSError(28, "No space left on device")
        append(self, payload, count=count)

    monkeypatch.setattr(SpoolWriter, "append", refuse)
    monkeypatch.setattr(MemoryRing, "offer", lambda *_: False)
    ran = run("import", lines(reply()))
    monkeypatch.undo()

    assert ran.code == 1
    assert "1 dropped record" in ran.err


def test_who_stops_reading_the_messages_does_not_stop_the_import(
    tmp_path: Path, usage_dir: Path, lines: Lines, reply: Reply
) -> None:
    """`import ... 2>&1 | head -1` records everything, and its exit code tells the fault."""
    bad = "".join("nonsense\n" for _ in range(200))
    file = tmp_path / "replies.jsonl"
    file.write_text(bad + json.dumps(reply()) + "\n")
    code = "import sys; from receipt_label.cli.main import main; sys.exit(main())"
    importing = subprocess.Popen(  # the reader of both streams goes away at once
        [sys.executable, "-c", code, "import", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert importing.stdout is not None
    importing.stdout.close()
    assert importing.wait(60) == 1
    with open_usage_client(Settings(usage_dir=usage_dir, drain="manual")) as client:
        assert client.summarize()[0].calls == 1
