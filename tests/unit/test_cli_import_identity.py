"""receipt-usage import: which lines are one call, when it was, and what can count twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from receipt_dynamo import Settings, open_usage_client
from receipt_label import AIUsageTracker
from tests.unit.conftest import exported

Reply = Callable[..., dict[str, Any]]
Lines = Callable[..., Path]
Run = Callable[..., Any]


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


def test_what_a_pipeline_knew_of_a_call_stays_where_its_line_does_not_say_it(
    run: Run, lines: Lines, reply: Reply
) -> None:
    """For whom it was, how long it took, what the caller paid; a word on the command line wins."""
    dated, undated = reply(id="chatcmpl-" + "d" * 30), reply(created=None, id="msg_" + "u" * 30)
    metadata = {"receipt": "r-1", "attempts": 2}
    with open_usage_client(Settings.from_env(drain="manual", deployment_version="v7")) as client:
        tracker = AIUsageTracker(client, strict=True)
        with tracker.context(job_id="labels", user_id="u", github_pr=7, metadata=metadata):
            tracker.record_response(dated, latency_ms=812.5, cost_usd=Decimal("0.75"))
            tracker.record_response(undated, latency_ms=100.0)
    before = exported(run)

    run("import", lines(dated, undated))
    again = exported(run)
    told = {"request_id", "cost_usd", "price_source", "job_id", "user_id", "github_pr", "metadata"}
    told |= {"latency_ms", "timestamp", "deployment_version"}
    for old, new in zip(before, again, strict=True):
        assert {name: old.get(name) for name in told} == {name: new.get(name) for name in told}
    assert [record["cost_usd"] for record in again if "d" * 30 in record["request_id"]] == ["0.75"]

    run("import", lines(dated, undated), "--job", "other")
    assert [record["job_id"] for record in exported(run)] == ["other"] * 2
    assert [record["user_id"] for record in exported(run)] == ["u"] * 2
