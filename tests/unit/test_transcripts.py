"""Transcripts of Claude Code: exact counts, whatever is written twice, cut short or left out."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receipt_dynamo import AIUsageMetric, Settings, UsageClient, open_usage_client
from receipt_label import AIUsageTracker
from receipt_label.importers import transcript_importer as module
from receipt_label.importers.importer import FileTally
from receipt_label.importers.source import open_source
from tests.support import NOON

Run = Callable[..., Any]
Lines = Callable[..., Path]

PROJECTS = Path(__file__).parents[1] / "data" / "claude_code" / "projects"
FIRST, RESUMED = "8c35adc1-5d0e-4f0a-9c6b-0123456789ab", "d25fe96c-c67b-4ec1-a52f-fdc08e8c063e"
IMPORT = ("import", "--format", "claude-code")
SONNET = "claude-sonnet-4-5-20250929"
numbers = itertools.count(1)


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """A directory as Claude Code leaves it: a session, one that resumed it, their subagents."""
    copy = tmp_path / "projects"
    shutil.copytree(PROJECTS, copy)
    for path in copy.rglob("*.jsonl"):  # what git does not keep
        os.utime(path, (2, 2) if RESUMED in str(path) else (1, 1))
    return copy


def stored(**conditions: Any) -> list[AIUsageMetric]:
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        return [
            metric
            for metric in client.query()
            if all(getattr(metric, name) == value for name, value in conditions.items())
        ]


def totals(run: Run, *by: str) -> dict[Any, tuple[Any, ...]]:
    rows = run("report", "--by", ",".join(by), "--json").json["rows"]
    return {
        tuple(row[word] for word in by) if len(by) > 1 else row[by[0]]: (
            row["calls"],
            row["input_tokens"],
            row["output_tokens"],
            row["cost_usd"],
        )
        for row in rows
    }


def message(
    message_id: str | None = "msg_011CdV3RCmcjkmfJNRP4vpiU", output: int = 10, **changes: Any
) -> dict[str, Any]:
    """Return an assistant entry: 100 tokens in, one text block; ``None`` takes a key out."""
    entry: dict[str, Any] = {
        "type": "assistant",
        "sessionId": "s1",
        "uuid": f"uuid-{next(numbers)}",
        "requestId": "req_011CdV3RAbeLdrLddF6wZpC1",
        "timestamp": "2026-11-20T09:00:00.000Z",
        "isSidechain": False,
        "message": {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": SONNET,
            "content": [{"type": "text", "text": "said"}],
            "stop_reason": changes.pop("stop", None),
            "usage": {"input_tokens": changes.pop("sent", 100), "output_tokens": output},
        },
    }
    entry["message"].update(changes.pop("message", {}))
    entry.update(changes)
    for holder in (entry, entry["message"]):
        for key in [key for key, value in holder.items() if value is None and key != "stop_reason"]:
            del holder[key]
    return entry


def tool_use(use_id: str, name: str = "Bash", **given: Any) -> dict[str, Any]:
    return {"content": [{"type": "tool_use", "id": use_id, "name": name, "input": given}]}


def result(use_id: str, told: Any = None, **block: Any) -> dict[str, Any]:
    content = [{"type": "tool_result", "tool_use_id": use_id, "content": "said", **block}]
    return {
        "type": "user",
        "sessionId": "s1",
        "timestamp": "2026-11-20T09:00:01.000Z",
        "message": {"role": "user", "content": content},
        "toolUseResult": told,
    }


def test_a_directory_is_counted_exactly(run: Run, projects: Path) -> None:
    """Trouble 46: subagents are in, one-hour cache writes at their own rate. 9 calls: 4 and 2 of
    subagents in the first session, 1 and 1 in the resumed one, 1 of the older layout."""
    ran = run(*IMPORT, projects, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["recorded"] == 9
    assert ran.json["uses"] == {"skill": 1, "subagent": 3, "tool": 4}
    assert ran.json["new_calls_in_store"] == 9 + 8
    assert totals(run, "service", "session") == {
        ("anthropic", FIRST): (7, 148_183, 872, "0.19210755"),
        ("anthropic", RESUMED): (2, 34_879, 45, "0.0110453"),
        ("skill", FIRST): (1, 0, 0, "0"),
        ("subagent", FIRST): (2, 0, 0, "0"),
        ("subagent", RESUMED): (1, 0, 0, "0"),
        ("tool", FIRST): (3, 0, 0, "0"),
        ("tool", RESUMED): (1, 0, 0, "0"),
    }
    (first,) = stored(request_id="msg_011CdV3RCmcjkmfJNRP4vp01")
    assert (first.input_tokens, first.cached_input_tokens) == (3 + 15_185 + 18_476, 15_185)
    assert first.usage_details == {"cache_write_1h_tokens": 18_476}
    # 3 and 15 USD a million in and out, a tenth for cached reads, twice for one-hour writes
    rates = (3 * 3, 15_185 * Decimal("0.3"), 18_476 * 6, 220 * 15)
    assert first.cost_usd == sum(map(Decimal, rates)) / 1_000_000


def test_subagents_tools_and_skills_carry_their_names(run: Run, projects: Path) -> None:
    """From the call that started the subagent, its own entries, or the file beside its own."""
    run(*IMPORT, projects)
    calls = {
        name: [
            value[0] for key, value in totals(run, "service", "subagent").items() if key[1] == name
        ]
        for name in ("Explore", "Plan", "unknown")
    }
    assert calls == {"Explore": [2, 1, 1], "Plan": [1, 1], "unknown": [1, 1]}
    by_tool = totals(run, "tool", "skill")
    assert {key: value[0] for key, value in by_tool.items() if key != (None, None)} == {
        ("Bash", None): 2, ("Read", None): 1, ("Task", None): 1, ("Skill", "pdf"): 1,
        (None, "pdf"): 1,  # the call of the model that the skill asked for
    }  # fmt: skip
    (read,) = stored(tool="Read")
    assert (read.subagent, read.error, read.status) == ("Explore", "tool_error", "aborted")
    (task,) = stored(tool="Task")
    assert (task.latency_ms, task.metadata["outcome"]) == (5900.0, "success")
    (explored,) = stored(service="subagent", model="Explore")
    assert (explored.session_id, explored.latency_ms) == (FIRST, 4900.0)


def test_where_a_call_was_made_is_metadata(run: Run, projects: Path) -> None:
    """Directory, branch, version and the vendor's request."""
    run(*IMPORT, projects)
    (call,) = stored(request_id="msg_011CdV3RCmcjkmfJNRP4vp04")
    assert call.metadata == {
        "agent": "claude-code",
        "cwd": "/home/u/receipts",
        "git_branch": "main",
        "agent_version": "2.1.226",
        "vendor_request_id": "req_011CdV3RCmcjkmfJNRP4vp04",
        "finish_reason": "end_turn",
    }
    assert (call.skill, call.session_id) == ("pdf", FIRST)
    assert call.timestamp == datetime(2026, 11, 20, 9, 0, 25, tzinfo=UTC)


def test_nothing_that_was_said_is_recorded(run: Run, projects: Path) -> None:
    """Prompts, answers, thoughts, inputs and outputs of tools: the sample marks each of them."""
    run(*IMPORT, projects)
    assert "PRIVATE" in "".join(path.read_text() for path in projects.rglob("*.jsonl"))
    assert "PRIVATE" not in run("export").out
    assert not [
        path for path in Settings.from_env().usage_dir.rglob("*")
        if path.is_file() and b"PRIVATE" in path.read_bytes()
    ]  # fmt: skip


def test_a_second_import_changes_nothing(run: Run, projects: Path) -> None:
    """Nor does one of the same files in another order, by name, or from a copy."""
    run(*IMPORT, projects)
    before = run("export").out
    files = sorted(projects.rglob("*.jsonl"), reverse=True)
    for again in ([projects], files, files[::-1]):
        ran = run(*IMPORT, *again, "--json")
        assert ran.code == 0
        assert ran.json["new_calls_in_store"] == 0
        assert run("export").out == before


def test_each_file_alone_adds_up_to_all_of_them(run: Run, projects: Path) -> None:
    """Whichever comes first: a message counts once over all files of all imports."""
    for path in sorted(projects.rglob("*.jsonl"), reverse=True):
        run(*IMPORT, path)
    assert run("report", "--json").json["total"] == {
        "calls": 17,
        "input_tokens": 183_062,
        "cached_input_tokens": 155_732,
        "output_tokens": 917,
        "cost_usd": "0.20315285",
        "unpriced_calls": 0,
        "errors": 1,
    }


def test_a_subagents_file_read_alone_keeps_the_name_it_had(run: Run, projects: Path) -> None:
    """Its parent's file said it in an earlier import."""
    run(*IMPORT, projects)
    before = run("export").out
    (explore,) = projects.rglob("agent-a1e9158618036abe6.jsonl")
    run(*IMPORT, explore)
    assert run("export").out == before


def test_what_a_parents_file_repeats_of_a_subagent_counts(run: Run, projects: Path) -> None:
    """Where the subagent's own file is gone; beside it, once."""
    (explore,) = projects.rglob("agent-a1e9158618036abe6.jsonl")
    text = explore.read_bytes()
    explore.unlink()
    run(*IMPORT, projects)
    (call,) = stored(subagent="Explore")
    assert (call.request_id, call.output_tokens) == ("msg_01AgentCmcjkmfJNRP4vpi01", 3)
    explore.write_bytes(text)
    run(*IMPORT, projects)
    assert sorted(m.output_tokens or 0 for m in stored(subagent="Explore")) == [0, 0, 90, 310]


def test_the_most_complete_snapshot_of_a_message_counts(run: Run, lines: Lines) -> None:
    """Trouble 33: not the first one, and not the last one where that says less."""
    for snapshots in ([1, 1, 220], [220, 1], [3, 220, 220, 2]):
        shutil.rmtree(Settings.from_env().usage_dir, ignore_errors=True)
        run(*IMPORT, lines(*[message(output=made) for made in snapshots]))
        (call,) = stored()
        assert (call.output_tokens, call.api_calls) == (220, 1)


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_file_that_has_grown_replaces_what_was_partial(run: Run, lines: Lines, cut: int) -> None:
    """And an older copy of it, read later, takes nothing back."""
    parts = [
        message(output=1, timestamp="2026-11-20T09:00:00.000Z"),
        message(output=1, timestamp="2026-11-20T09:00:01.000Z"),
        message(output=220, stop="end_turn", timestamp="2026-11-20T09:00:02.000Z"),
        message("msg_011CdV3RCmcjkmfJNRP4vp99", 7, timestamp="2026-11-20T09:00:03.000Z"),
    ]
    part, whole = lines(*parts[:cut], name="part.jsonl"), lines(*parts, name="whole.jsonl")
    for path in (part, whole, part):
        assert run(*IMPORT, path).code == 0
    assert [(call.output_tokens, call.timestamp.second) for call in stored()] == [(220, 0), (7, 3)]


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


def test_a_missing_request_id_doubles_nothing(run: Run, lines: Lines) -> None:
    """Trouble 32: the message's id alone tells its snapshots from other calls."""
    run(*IMPORT, lines(message(requestId=None), message(requestId=None, output=20)))
    assert [call.output_tokens for call in stored()] == [20]


def test_a_missing_message_id_doubles_nothing(run: Run, lines: Lines) -> None:
    """The request's id stands in; without either each line is a call of its own."""
    path = lines(
        message(None, 1),
        message(None, 30),
        message(None, 5, requestId="req_011CdV3RAbeLdrLddF6wZZZZ"),
    )
    run(*IMPORT, path)
    run(*IMPORT, path)
    assert sorted(call.output_tokens or 0 for call in stored()) == [5, 30]
    bare = lines(message(None, 1, requestId=None), message(None, 2, requestId=None), name="b.jsonl")
    for _ in range(2):
        run(*IMPORT, bare)
    assert len(stored()) == 4


def test_short_ids_are_told_apart_by_what_was_sent(run: Run, lines: Lines) -> None:
    """Trouble 28: a proxy's ids repeat (``stub``); snapshots of one call send the same."""
    path = lines(
        message("stub", 1, requestId=None), message("stub", 9, requestId=None),
        message("stub", 4, requestId=None, sent=250),
        message("stub", 5, requestId=None, sessionId="s2"),
    )  # fmt: skip
    for _ in range(2):
        run(*IMPORT, path)
    assert sorted(call.output_tokens or 0 for call in stored()) == [4, 5, 9]


def test_a_use_without_an_end_is_unfinished_until_it_has_one(run: Run, lines: Lines) -> None:
    """Neither a success nor an error; a later import knows better, an older copy does not."""
    use = "toolu_01NzjV452AGVQR51StZta01"
    begun = lines(message(message=tool_use(use)), name="begun.jsonl")
    ended = lines(
        message(message=tool_use(use)), result(use, {"durationMs": 40}), name="ended.jsonl"
    )
    run(*IMPORT, begun)
    (tool,) = stored(service="tool")
    assert (tool.status, tool.error, tool.metadata["outcome"]) == ("partial", None, "unfinished")
    for path in (ended, begun):
        run(*IMPORT, path)
        (tool,) = stored(service="tool")
        assert (tool.status, tool.latency_ms, tool.metadata["outcome"]) == (
            "complete",
            40.0,
            "success",
        )


@pytest.mark.parametrize(
    ("told", "block", "error"),
    [
        (None, {"is_error": True}, "tool_error"),
        ({"interrupted": True}, {}, "interrupted"),
        ("Error: said", {"is_error": False}, None),
    ],
)
def test_how_a_tool_ended_is_told_in_a_word(
    run: Run, lines: Lines, told: Any, block: dict[str, Any], error: str | None
) -> None:
    """Not in the words of its result."""
    use = "toolu_01NzjV452AGVQR51StZta01"
    run(*IMPORT, lines(message(message=tool_use(use)), result(use, told, **block)))
    (tool,) = stored(service="tool")
    assert tool.error == error


@pytest.mark.parametrize("use_id", ["toolu_01NzjV452AGVQR51StZta01", "call_1", None])
def test_tool_uses_count_once_whatever_their_ids(
    run: Run, lines: Lines, use_id: str | None
) -> None:
    """Also short ones, as proxies give them, and none."""
    blocks = tool_use(use_id)["content"] if use_id else [{"type": "tool_use", "name": "Bash"}]
    entry = message(message={"content": blocks})
    other = message(
        "msg_011CdV3RCmcjkmfJNRP4vp99", message={"content": tool_use("call_2")["content"]}
    )
    path = lines(entry, result(use_id or "x"), other)
    for _ in range(2):
        run(*IMPORT, path)
    outcomes = sorted(tool.metadata["outcome"] for tool in stored(service="tool"))
    assert outcomes == ["success" if use_id else "unfinished", "unfinished"]


def test_a_hook_and_a_transcript_count_a_use_once(run: Run, projects: Path) -> None:
    """Tools, skills and subagents; what only the hook knew is kept."""

    bash_id, skill_id = "toolu_01NzjV452AGVQR51StZta01", "toolu_01NzjV452AGVQR51StZta04"

    def hook(event: str, **fields: Any) -> None:
        data = {"session_id": FIRST, "hook_event_name": event, **fields}
        assert run("log", "--hook", "claude-code", stdin=json.dumps(data).encode()).code == 0

    hook("PostToolUse", tool_name="Bash", tool_use_id=bash_id, duration_ms=777)
    hook("PostToolUse", tool_name="Skill", tool_use_id=skill_id, tool_input={"skill": "pdf"})
    hook("SubagentStop", agent_id="a1e9158618036abe6", agent_type="Explore")
    run(*IMPORT, projects)
    counts = {key: value[0] for key, value in totals(run, "service").items()}
    assert counts == {"anthropic": 9, "tool": 4, "skill": 1, "subagent": 3}
    (bash,) = stored(request_id=bash_id)
    assert bash.latency_ms == 777.0


def test_a_call_that_a_pipeline_recorded_counts_once(
    run: Run, lines: Lines, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapped client takes the message's id too."""
    monkeypatch.setenv("RECEIPT_USAGE_DIR", str(client.settings.usage_dir))
    body = message()["message"] | {"stop_reason": "end_turn"}
    AIUsageTracker(client).record_response(body)
    run(*IMPORT, lines(message(stop="end_turn")))
    assert [call.output_tokens for call in client.query()] == [10]


def test_a_crashed_import_is_resumed_by_the_next(
    run: Run, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stopped: what is there already is there once."""
    whole = module.TranscriptImporter._record
    left = iter(range(7))

    def fatal(self: Any, *args: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module.TranscriptImporter, "_record", fatal)
        assert run(*IMPORT, projects).code == 130
    assert 0 < len(stored()) < 17
    assert run(*IMPORT, projects).code == 0
    assert len(stored()) == 17


def test_a_long_file_is_recorded_in_parts(
    run: Run, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with it; a snapshot that comes late still replaces."""
    monkeypatch.setattr(module, "_HELD", 20)
    monkeypatch.setattr(module, "_KEPT", 5)
    monkeypatch.setattr(module, "LINES_AT_ONCE", 10)
    entries = [message(f"msg_011CdV3RCmcjkmfJNRP{n:04}", 1) for n in range(100)]
    entries.append(message("msg_011CdV3RCmcjkmfJNRP0000", 50))
    ran = run(*IMPORT, lines(*entries), "--json")
    assert (ran.json["recorded"], ran.json["new_calls_in_store"]) == (100, 100)
    assert sum(call.output_tokens or 0 for call in stored()) == 149


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


def test_attributes_are_recorded_with_every_call(run: Run, projects: Path) -> None:
    """As of an import of replies; --service and --operation win over what the lines say."""
    run(*IMPORT, projects, "--job", "j", "--pr", "7", "--user", "u", "--service", "my_proxy")
    assert len(stored(job_id="j", github_pr=7, user_id="u")) == 17
    assert len(stored(service="my_proxy")) == 9


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


def test_the_agents_own_helpers_are_told_by_their_ids(run: Run, lines: Lines) -> None:
    """Compaction and the like run as subagents without a name."""
    entry = message(isSidechain=True, agentId="acompact-0123456789abcdef")
    run(*IMPORT, lines(entry, name="agent-acompact-0123456789abcdef.jsonl"))
    assert {metric.subagent for metric in stored()} == {"compact"}


def test_one_line_says_what_went_in(run: Run, projects: Path) -> None:
    """On standard error, with what was passed over and why."""
    ran = run(*IMPORT, projects)
    assert ran.one_error == (
        "17 new records from 9 calls, 1 skill use, 3 subagent uses, 4 tool uses; "
        "9 skipped (2 not billed, 7 seen before)"
    )


SNAPSHOTS = st.lists(  # (message, output tokens): lines of one file, in the order of writing
    st.tuples(st.sampled_from("abc"), st.integers(1, 99)), min_size=1, max_size=8
)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    first=SNAPSHOTS,
    resumed=SNAPSHOTS,
    imports=st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=4),
)
def test_any_imports_of_growing_files_end_at_the_most_complete(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[str, int]],
    resumed: list[tuple[str, int]],
    imports: list[tuple[bool, int]],
) -> None:
    """Files are read at any length, in any order, any number of times: each message counts once,
    with the most output that any line gives it, and reading on changes nothing."""
    directory = tmp_path_factory.mktemp("growing")
    files = {}
    for name, snapshots in (("first", first), ("resumed", resumed)):
        files[name] = [
            message(
                f"msg_011CdV3RCmcjkmfJNRP4v{which * 3}", made, sessionId=name,
                timestamp=f"2026-11-20T09:00:{second:02}.000Z",
            )
            for second, (which, made) in enumerate(snapshots)
        ]  # fmt: skip
    with open_usage_client(Settings(usage_dir=directory / "usage", drain="manual")) as client:

        def read(name: str, length: int) -> None:
            path = directory / f"{name}.jsonl"
            path.write_text("".join(f"{json.dumps(entry)}\n" for entry in files[name][:length]))
            importer = module.TranscriptImporter(AIUsageTracker(client, strict=True))
            with open_source(str(path), NOON) as source:
                importer.run(source, FileTally(path.name))
            importer.finish()

        for is_first, length in imports:
            read("first" if is_first else "resumed", length)
        read("first", 8)
        read("resumed", 8)
        before = list(client.query())
        read("resumed", 8)
        read("first", 8)
        assert list(client.query()) == before
    most: dict[str, int] = {}
    for which, made in first + resumed:
        most[which] = max(made, most.get(which, 0))
    assert {metric.request_id[-1]: metric.output_tokens for metric in before} == most
    assert len(before) == len(most)
