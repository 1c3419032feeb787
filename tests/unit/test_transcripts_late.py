"""Results of tools that come late in a transcript: any number of entries after the use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receipt_label.importers import transcript_importer, transcripts
from tests.support.transcripts import IMPORT, message, result, stored, tool_use

Run = Callable[..., Any]
Lines = Callable[..., Path]


def use_id(number: int) -> str:
    return f"toolu_01NzjV452AGVQR51S{number:05}"


def use(number: int) -> dict[str, Any]:
    return message(f"msg_011CdV3RCmcjkmfJ{number:06}", message=tool_use(use_id(number)))


def outcomes() -> dict[str, str]:
    return {tool.request_id: tool.metadata["outcome"] for tool in stored(service="tool")}


def test_a_result_more_than_four_thousand_uses_later_is_matched(run: Run, lines: Lines) -> None:
    """A subagent may work for hours on what one use asked for."""
    entries = [use(0)]
    for number in range(1, 5000):
        entries += [use(number), result(use_id(number), {"durationMs": 1})]
    entries.append(result(use_id(0), {"durationMs": 40}, is_error=True))
    run(*IMPORT, lines(*entries))
    (late,) = (tool for tool in stored(service="tool") if tool.request_id == use_id(0))
    assert (late.error, late.latency_ms, late.status) == ("tool_error", 40.0, "aborted")
    found = outcomes()
    assert len(found) == 5000
    assert [name for name, outcome in found.items() if outcome != "success"] == [use_id(0)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a short file reaches."""
    monkeypatch.setattr(transcript_importer, "_HELD", 20)
    monkeypatch.setattr(transcript_importer, "_KEPT", 5)
    monkeypatch.setattr(transcript_importer, "LINES_AT_ONCE", 10)
    monkeypatch.setattr(transcripts, "MAX_OPEN", 50)


@pytest.mark.usefixtures("small")
def test_what_waits_for_its_result_is_bounded(run: Run, lines: Lines) -> None:
    """The last ones wait; earlier ones are recorded unfinished, and all of them once."""
    uses = [use(number) for number in range(300)]
    results = [result(use_id(number), {"durationMs": 1}) for number in range(300)]
    run(*IMPORT, lines(*uses, *results))
    found = outcomes()
    assert len(found) == 300
    over = [number for number in range(300) if found[use_id(number)] == "success"]
    assert over == list(range(over[0], 300))
    assert 50 <= len(over) <= 50 + 20 + 10 + 5


@pytest.mark.usefixtures("small")
def test_a_use_that_is_told_again_is_of_its_first_time(run: Run, lines: Lines) -> None:
    """A later snapshot of its message begins nothing anew."""
    entries = [use(0)]
    for number in range(1, 100):
        entries += [use(number), result(use_id(number), {"durationMs": 1})]
    entries += [{**use(0), "timestamp": "2026-11-20T10:00:00.000Z"}]
    entries += [use(number) for number in range(100, 110)]
    run(*IMPORT, lines(*entries, *(use(number) for number in range(110, 150))))
    (again,) = (tool for tool in stored(service="tool") if tool.request_id == use_id(0))
    assert again.timestamp.hour == 9


@pytest.mark.usefixtures("small")
def test_a_transcript_holds_no_more_than_its_bounds() -> None:
    """However many uses of a file never end."""
    transcript = transcripts.Transcript(
        transcripts.AgentNames(), transcript_importer.datetime.fromisoformat("2026-11-28T00:00Z")
    )
    handed = 0
    for number in range(1000):
        transcript.take(use(number), f":{number}")
        if len(transcript) > 20:
            handed += sum(1 for _ in transcript.drain(5))
        assert len(transcript) <= 21 + 1
        assert len(transcript._open) <= 50
    handed += sum(1 for _ in transcript.drain())
    assert handed == 2000
    assert list(transcript.drain()) == []


@pytest.mark.usefixtures("small")
def test_a_use_whose_result_never_comes_is_unfinished(run: Run, lines: Lines) -> None:
    """And again when the file is read again: nothing doubles."""
    entries = [use(0)]
    for number in range(1, 100):
        entries += [use(number), result(use_id(number), {"durationMs": 1})]
    for _ in range(2):
        run(*IMPORT, lines(*entries))
        found = outcomes()
        assert len(found) == 100
        assert [name for name, outcome in found.items() if outcome != "success"] == [use_id(0)]
