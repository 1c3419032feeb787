"""Transcripts as files: cut short, damaged, compressed, piped, with lines that are no entries."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.transcripts import IMPORT, message, stored

Run = Callable[..., Any]
Lines = Callable[..., Path]


def test_a_line_that_is_being_written_is_no_fault(run: Run, lines: Lines) -> None:
    """The last one without its end; anywhere else it is damage, and the rest goes in."""
    entry = json.dumps(message())
    path = lines(entry, json.dumps(message("msg_011CdV3RCmcjkmfJNRP4vp99"))[:80])
    whole = path.read_bytes().rstrip(b"\n")
    path.write_bytes(whole)
    ran = run(*IMPORT, path, "--json")
    assert (ran.code, ran.json["skipped"]) == (0, {"unfinished_line": 1})
    path.write_bytes(whole + b"\n" + entry.encode() + b"\n")
    ran = run(*IMPORT, path, "--json")
    assert (ran.code, ran.json["bad"]) == (1, 1)
    assert ran.json["bad_lines"][0]["place"].endswith(":2")
    assert len(stored()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"isApiErrorMessage": True},
        {"message": {"model": "<synthetic>"}},
        {"isApiErrorMessage": True, "message": {"model": "<synthetic>"}, "error": "rate_limit"},
    ],
)
def test_what_the_agent_says_itself_is_not_billed(
    run: Run, lines: Lines, changes: dict[str, Any]
) -> None:
    """Synthetic messages and errors of the API are skipped, and counted as such."""
    ran = run(*IMPORT, lines(message(**changes), message("msg_011CdV3RCmcjkmfJNRP4vp99")), "--json")
    assert (ran.code, ran.json["recorded"], ran.json["skipped"]) == (0, 1, {"not_billed": 1})


def test_lines_that_are_no_entry_are_named_and_the_rest_goes_in(run: Run, lines: Lines) -> None:
    """Entries of kinds that say nothing of calls are passed over, known or not."""
    path = lines(
        "not json", "[1]", {"type": "assistant"}, {"type": "assistant", "message": "text"},
        {"type": "summary", "summary": "x"}, {"type": "of-the-future", "message": 5}, {},
        {"type": "progress", "data": None}, {"type": "user"}, message(message={"usage": "odd"}),
        message("msg_011CdV3RCmcjkmfJNRP4vp99", message={"content": ["x", {"type": "tool_use"}]}),
    )  # fmt: skip
    ran = run(*IMPORT, path, "--json")
    assert (ran.code, ran.json["bad"], ran.json["recorded"]) == (1, 4, 2)
    assert {metric.unpriced_reason for metric in stored()} == {"inconsistent_usage", None}


def test_half_an_emoji_is_no_fault(run: Run, lines: Lines) -> None:
    """Outputs are cut anywhere; JavaScript writes the lone surrogate as an escape."""
    entry = json.dumps(message(cwd="/x")).replace('"said"', '"\\ud83d"').replace("/x", "\\ud83d/x")
    assert run(*IMPORT, lines(entry)).code == 0
    (call,) = stored()
    assert call.metadata["cwd"] == "?/x"


def test_compressed_files_and_directories_without_transcripts(
    run: Run, projects: Path, tmp_path: Path
) -> None:
    """.jsonl.gz is found too; other files are none; a directory of nothing is no fault."""
    for path in projects.rglob("*.jsonl"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (projects / "settings.json").write_text("{")
    (projects / "empty.jsonl").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = run(*IMPORT, projects, empty, "--json")
    assert (ran.code, ran.json["recorded"]) == (0, 9)


def test_a_file_that_breaks_off_gives_what_it_has(run: Run, tmp_path: Path) -> None:
    """Damaged gzip is a fault of the file; the entries before it go in."""
    entries = [message(f"msg_011CdV3RCmcjkmfJNRP{n:04}") for n in range(400)]
    packed = gzip.compress("".join(f"{json.dumps(entry)}\n" for entry in entries).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    ran = run(*IMPORT, path, "--json")
    assert ran.code == 1
    assert "gzip" in ran.json["files"][0]["fault"]
    assert 100 < ran.json["recorded"] == len(stored()) < 400


def test_what_cannot_be_read_is_named_and_the_rest_goes_in(
    run: Run, projects: Path, lines: Lines
) -> None:
    """A file that is missing; and a directory is still none for replies."""
    ran = run(*IMPORT, projects, projects / "missing.jsonl", "--json")
    assert (ran.code, ran.json["recorded"]) == (1, 9)
    assert ran.json["files"][-1]["fault"] == "no such file"
    refused = run("import", projects)
    assert refused.code == 1
    assert "is a directory" in refused.err


def test_a_terminal_sees_one_bar_over_all_files(
    run: Run, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the size of all of them together."""
    told: list[int] = []

    @contextmanager
    def bar(name: str, size: int | None) -> Iterator[Callable[[int], None]]:
        assert name == "5 transcripts"
        assert size == sum(path.stat().st_size for path in projects.rglob("*.jsonl"))
        yield told.append
        assert told[-1] == size

    monkeypatch.setattr("receipt_label.cli.import_files.bytes_bar", bar)
    assert run(*IMPORT, projects).code == 0
    assert told == sorted(told)


def test_standard_input_is_a_transcript_too(run: Run) -> None:
    """For one that is piped."""
    ran = run(*IMPORT, "-", "--json", stdin=json.dumps(message()).encode() + b"\n")
    assert (ran.code, ran.json["files"][0]["file"]) == (0, "standard input")
    assert len(stored()) == 1


def test_entries_without_a_time_have_the_one_before_them(run: Run, lines: Lines) -> None:
    """Else that of the file, or of --at; the store keeps the one it has."""
    path = lines(
        message(timestamp=None),
        message("msg_011CdV3RCmcjkmfJNRP4vp98"),
        message("msg_011CdV3RCmcjkmfJNRP4vp99", timestamp="soon"),
    )
    run(*IMPORT, path, "--at", "2026-11-19T00:00:00Z")
    os.utime(path, (5, 5))
    run(*IMPORT, path)
    assert [call.timestamp.isoformat() for call in stored()] == [
        "2026-11-19T00:00:00+00:00",
        "2026-11-20T09:00:00+00:00",
        "2026-11-20T09:00:00+00:00",
    ]
