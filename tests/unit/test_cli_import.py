"""receipt-usage import: what goes in, under which identity, and what is said about the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receipt_label.importers import importer
from receipt_label.importers import replies as importing
from tests.unit.conftest import exported

Reply = Callable[..., dict[str, Any]]
Lines = Callable[..., Path]
Run = Callable[..., Any]

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"


def test_a_reply_is_recorded_with_its_tokens_cost_and_time(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """The way of a record, from a line of a file to the store."""
    ran = run("import", lines(reply()))

    assert ran.code == 0
    (record,) = exported(run)
    assert record["service"] == "openai"
    assert record["request_id"] == "chatcmpl-0123456789abcdefghij"
    assert record["timestamp"] == "2026-05-28T20:26:40.000000Z"
    assert (record["input_tokens"], record["output_tokens"]) == (10, 5)
    assert record["cost_usd"] == "0.000075"


def test_importing_twice_changes_nothing(run: Run, lines: Lines, reply: Reply) -> None:
    """With and without an id, with and without a time: the second import finds them all there."""
    replies = lines(reply(), reply(id=None), reply(id="stub", created=None), reply(id=None))
    run("import", replies)
    before = exported(run)

    assert run("import", replies).code == 0
    assert exported(run) == before
    assert len(before) == 4


def test_the_sample_imports_without_a_fault_and_twice_changes_nothing(run: Run) -> None:
    """Replies of real services: every line goes in or is skipped, and every call is priced or
    listed as unpriced."""
    first = run("import", SAMPLE, "--json")
    before = run("report", "--json").json
    second = run("import", SAMPLE, "--json")

    assert (first.code, second.code) == (0, 0)
    assert first.json["new_calls_in_store"] == 154
    assert second.json["new_calls_in_store"] == 0
    assert second.json["recorded"] == first.json["recorded"]
    assert second.json["skipped"] == first.json["skipped"]
    assert first.json["bad"] == first.json["dropped"] == 0
    lines_of_file = len(SAMPLE.read_bytes().splitlines())
    assert first.json["recorded"] + sum(first.json["skipped"].values()) == lines_of_file
    assert run("report", "--json").json == before
    unpriced = run("report", "--unpriced", "--json").json
    assert unpriced["total"]["calls"] == before["total"]["unpriced_calls"]
    assert all(row["unpriced_reason"] for row in unpriced["rows"])


@pytest.mark.parametrize("from_pipe", [False, True])
def test_a_transcript_is_no_file_of_replies(
    run: Run, lines: Lines, reply: Reply, tmp_path: Path, from_pipe: bool
) -> None:
    """Its lines would pass for calls that failed: one error names the option, nothing goes in, and
    the next file does."""
    data = Path(__file__).parents[1] / "data" / "claude_code" / "projects"
    transcript = max(data.rglob("*.jsonl"), key=lambda path: path.stat().st_size)
    ahead = '{"type": "summary", "summary": "A title", "leafUuid": "1"}\n'  # has no session
    text = ahead + transcript.read_text(encoding="utf-8")
    copied = tmp_path / "session.jsonl"
    copied.write_text(text, encoding="utf-8")

    ran = run("import", "-" if from_pipe else copied, lines(reply()), stdin=text.encode())

    assert ran.code == 1
    first, *rest = ran.err.splitlines()
    name = "standard input" if from_pipe else str(copied)
    assert first == (
        f"{name}: is a transcript of Claude Code, not replies: add --format claude-code"
    )
    assert not any("session.jsonl:" in line for line in rest)
    assert [record["service"] for record in exported(run)] == ["openai"]


def test_a_directory_without_a_format_names_the_one_that_takes_it(run: Run, tmp_path: Path) -> None:
    """Whoever names ~/.claude/projects has forgotten the option."""
    ran = run("import", tmp_path)

    assert ran.code == 1
    assert "is a directory: name the files in it" in ran.err
    assert "add --format claude-code" in ran.err


def test_what_is_unknown_is_told_in_words_of_the_command_line(run: Run, lines: Lines) -> None:
    """The remedy names the option beside the arguments of Python."""
    assert "--service on the command line" in run("import", lines({"hello": 1})).err


def test_attributes_go_to_every_record(run: Run, lines: Lines, reply: Reply) -> None:
    """Job, batch, pull request, user, conversation, environment, service and operation."""
    attributes = {
        "--job": "j",
        "--batch": "b",
        "--pr": "12",
        "--user": "u",
        "--conversation": "c",
        "--environment": "staging",
        "--service": "azure",
        "--operation": "labels",
    }
    run("import", lines(reply()), *(word for pair in attributes.items() for word in pair))

    (record,) = exported(run)
    assert (record["job_id"], record["batch_id"], record["github_pr"]) == ("j", "b", 12)
    assert (record["user_id"], record["conversation_id"]) == ("u", "c")
    assert (record["environment"], record["service"]) == ("staging", "azure")
    assert record["operation"] == "labels"


def test_a_wrong_attribute_is_one_error_and_nothing_goes_in(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """An id that is too long is said once, not for every line."""
    ran = run("import", lines(reply(), reply(id=None)), "--job", "x" * 300)

    assert ran.code == 1
    assert "job_id" in ran.one_error
    assert exported(run) == []


def test_lines_of_batch_outputs_are_replies(run: Run, lines: Lines, reply: Reply) -> None:
    """OpenAI's and Anthropic's batch results, at the price of a batch."""
    message = {
        "id": "msg_018FL8HcL7Drnk15RmEe3dsK",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    run(
        "import",
        lines(
            {"custom_id": "1", "response": {"status_code": 200, "body": reply()}, "error": None},
            {"custom_id": "2", "result": {"type": "succeeded", "message": message}},
        ),
        "--at",
        "2026-11-01",
    )

    records = {record["service"]: record for record in exported(run)}
    assert records["openai"]["input_tokens"] == 10
    assert records["anthropic"]["output_tokens"] == 3


def test_standard_input(run: Run, reply: Reply) -> None:
    """A dash reads from a pipe."""
    ran = run("import", "-", stdin=json.dumps(reply(created=None)).encode())

    assert ran.code == 0
    assert "standard input: 1 reply has no time of its own and is dated now: " in ran.err
    assert len(exported(run)) == 1


def test_no_file_is_wrong_usage(run: Run) -> None:
    """Without a file there is nothing to do: exit code 2."""
    ran = run("import")

    assert ran.code == 2
    assert "FILE" in ran.one_error


def test_the_summary_as_json(run: Run, lines: Lines, reply: Reply) -> None:
    """The shape that other programs read."""
    queued = {"id": "resp_0123456789abcdefghij", "object": "response", "status": "queued"}
    file = lines(reply(), queued, "nonsense", reply(model="no-such-model", id=None, created=None))

    ran = run("import", file, "--json")

    assert ran.code == 1
    assert ran.json == {
        "recorded": 2,
        "inside": 0,
        "new_calls_in_store": 2,
        "skipped": {"not_finished": 1},
        "bad": 1,
        "dropped": 0,
        "dated_by_file": 1,
        "unpriced_calls_in_store": 1,
        "files": [
            {
                "file": str(file),
                "recorded": 2,
                "skipped": {"not_finished": 1},
                "bad": 1,
                "dropped": 0,
                "dated_by_file": 1,
                "fault": None,
            }
        ],
        "bad_lines": [
            {"place": f"{file}:3", "reason": "not JSON: Expecting value (column 1)"},
        ],
    }


def test_a_long_file_is_taken_in_as_it_is_read(
    run: Run, lines: Lines, reply: Reply, monkeypatch: pytest.MonkeyPatch, usage_dir: Path
) -> None:
    """The spool does not grow with the file: its bound must never make an import lose records."""
    monkeypatch.setattr(importer, "_TAKE_IN_EVERY", 10)
    waiting: list[int] = []
    monkeypatch.setattr(importing, "LINES_AT_ONCE", 4)
    original = importing.ReplyImporter._record_all

    def watch(self: Any, *args: Any) -> None:
        original(self, *args)
        waiting.append(self._tracker.client.pending())

    monkeypatch.setattr(importing.ReplyImporter, "_record_all", watch)
    run("import", lines(*(reply(id=f"chatcmpl-0123456789-{n:05}") for n in range(45))))

    assert max(waiting) < 10
    assert len(exported(run)) == 45
