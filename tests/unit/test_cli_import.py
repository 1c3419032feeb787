"""receipt-usage import: what goes in, under which identity, and what is said about the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import Settings, open_usage_client
from receipt_label import AIUsageTracker
from receipt_label.importers import importer
from receipt_label.importers import replies as importing

Reply = Callable[..., dict[str, Any]]
Lines = Callable[..., Path]
Run = Callable[..., Any]

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"


def exported(run: Run) -> list[dict[str, Any]]:
    """Every record of the store."""
    return [json.loads(line) for line in run("export").out.splitlines()]


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


def test_identical_lines_without_an_id_are_different_calls(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """The second gets -2, the third -3; spelling and order of keys make no difference."""
    anonymous = reply(id=None)
    turned = dict(reversed(anonymous.items()))

    run("import", lines(anonymous, json.dumps(anonymous, indent=None), turned))

    ids = sorted(record["request_id"] for record in exported(run))
    base = ids[0]
    assert base.startswith("sha256-")
    assert len(base) == len("sha256-") + 32
    assert ids == [base, f"{base}-2", f"{base}-3"]


def test_a_short_id_is_kept_and_identifies_nothing(run: Run, lines: Lines, reply: Reply) -> None:
    """Ids below 20 characters repeat between calls: two calls of one such id stay two."""
    run("import", lines(reply(id="chatcmpl-887"), reply(id="chatcmpl-887", system_fingerprint="b")))

    records = exported(run)
    assert [record["response_id"] for record in records] == ["chatcmpl-887"] * 2
    assert all(record["request_id"].startswith("sha256-") for record in records)
    assert len({record["request_id"] for record in records}) == 2


def test_the_time_is_the_replys_then_the_lines_then_at_then_the_files(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """The order of the sources of a time, and how many lines had to take the last of them."""
    url = "https://api.openai.com/v1/chat/completions"
    undated = reply(created=None, id="chatcmpl-without-a-time-1")
    file = lines(
        {"url": url, "status": 200, "body": reply(), "timestamp": "2026-02-02T00:00:00Z"},
        {"url": url, "status": 200, "body": undated, "timestamp": "2026-03-03T00:00:00Z"},
        reply(created=None, id="chatcmpl-without-a-time-2"),
    )
    os.utime(file, ns=(0, 1_763_755_200_000_001_000))

    ran = run("import", file)

    times = {record["request_id"]: record["timestamp"] for record in exported(run)}
    assert times == {
        "chatcmpl-0123456789abcdefghij": "2026-05-28T20:26:40.000000Z",
        "chatcmpl-without-a-time-1": "2026-03-03T00:00:00.000000Z",
        "chatcmpl-without-a-time-2": "2025-11-21T20:00:00.000001Z",
    }
    said = "1 reply has no time of its own and is dated by the file: 2025-11-21T20:00:00.000001Z."
    assert ran.err.splitlines()[1] == f"{file}: {said}"


def test_what_can_count_twice_is_said_with_the_option_that_keeps_it(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """Only a reply without a time and without an id of the vendor's hangs on the file's time."""
    known = reply(created=None, id="chatcmpl-without-a-time-1")
    file = lines(known, reply(created=None, id="short"))
    os.utime(file, ns=(0, 1_763_755_200_000_001_000))

    ran = run("import", file)

    assert "2 replies have no time of their own and are dated by the file: 2025-11" in ran.err
    assert "1 without an id counts again when that changes" in ran.err
    assert ran.err.rstrip().endswith("--at 2025-11-21T20:00:00.000001Z")


def test_an_import_of_nothing_says_no_more_than_that(run: Run, lines: Lines) -> None:
    """Where no reply was recorded nothing is said of new calls."""
    queued = {"id": "resp_0123456789abcdefghij", "object": "response", "status": "queued"}

    assert run("import", lines(queued)).one_error == (
        "nothing to record; 1 skipped (1 not finished yet)"
    )


def test_the_summary_says_what_is_new_and_what_was_seen_before(
    run: Run, lines: Lines, reply: Callable[..., dict[str, Any]]
) -> None:
    """The calls that the store has grown by come first; the same file again adds none."""
    one, two = reply(), reply(id="chatcmpl-0123456789abcdefghik", model="unheard-of")
    said = "; in the whole store 1 call has no price"

    assert run("import", lines(one)).one_error == "1 new call from 1 reply"
    assert run("import", lines(one)).one_error == "no new calls from 1 reply, seen before"
    again = run("import", lines(one, two, two)).one_error
    assert again == f"1 new call from 3 replies, of which 2 were seen before{said}"
    again = run("import", lines(one, two)).one_error
    assert again == f"no new calls from 2 replies, all seen before{said}"


def test_what_is_unknown_is_told_in_words_of_the_command_line(run: Run, lines: Lines) -> None:
    """The remedy names the option beside the arguments of Python."""
    assert "--service on the command line" in run("import", lines({"hello": 1})).err


def test_at_stands_behind_the_time_of_the_reply_and_of_the_line(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """--at dates only what says no time itself."""
    url = "https://api.openai.com/v1/chat/completions"
    undated = reply(created=None, id=None)
    file = lines(
        reply(),
        {"url": url, "status": 200, "body": undated, "timestamp": "2026-03-03T00:00:00Z"},
        undated,
    )

    ran = run("import", file, "--at", "2026-07-07T09:00:00+02:00")

    assert "dated" not in ran.err
    assert sorted(record["timestamp"] for record in exported(run)) == [
        "2026-03-03T00:00:00.000000Z",
        "2026-05-28T20:26:40.000000Z",
        "2026-07-07T07:00:00.000000Z",
    ]


def test_at_dates_what_has_no_time_and_keeps_a_copied_file_from_counting_twice(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """The line on standard error names the very option that makes a touched file the same again."""
    file = lines(reply(created=None), reply(created=None, id=None))
    first = run("import", file)
    at = first.err.split("--at ")[1].split()[0]
    os.utime(file, (1, 1))

    second = run("import", file, "--at", at)

    assert second.code == 0
    assert "dated" not in second.err
    assert len(exported(run)) == 2


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


def test_a_reply_without_a_time_keeps_the_one_it_has(
    run: Run, tmp_path: Path, reply: Reply
) -> None:
    """A log that has grown, or was touched, counts no call again that has a vendor's id."""
    log = tmp_path / "log.jsonl"
    first, second = (
        json.dumps(reply(id=f"msg_0123456789abcdefgh{n}", created=None)) for n in (1, 2)
    )
    log.write_text(f"{first}\n")
    os.utime(log, (1_700_000_000, 1_700_000_000))
    run("import", log)
    log.write_text(f"{first}\n{second}\n")
    os.utime(log, (1_700_100_000, 1_700_100_000))
    again = run("import", log, "--json")
    copy = tmp_path / "copy.jsonl"
    copy.write_text(f"{second}\n{first}\n")
    third = run("import", copy, log, "--json")

    assert again.json["new_calls_in_store"] == again.json["dated_by_file"] == 1
    assert third.json["new_calls_in_store"] == third.json["dated_by_file"] == 0
    assert len(exported(run)) == 2


def test_what_a_pipeline_recorded_is_not_counted_again(
    run: Run, usage_dir: Path, lines: Lines, reply: Reply
) -> None:
    """A reply that a tracker recorded under its own time is found by its id in a log."""
    body = reply(id="msg_0123456789abcdefghij", created=None)
    client = open_usage_client(Settings(usage_dir=usage_dir))
    with AIUsageTracker(client, strict=True) as tracker:
        tracker.record_response(body)
    client.close()

    assert run("import", lines(body), "--json").json["new_calls_in_store"] == 0
