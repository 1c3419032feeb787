"""``receipt-usage table``: made, described, checked, each with its exit code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from receipt_dynamo import DynamoClient
from receipt_dynamo.dynamo_registry import Nothing
from receipt_dynamo.table import definition
from tests.support import make_metric, write
from tests.support.dynamodb import access_key
from tests.unit.conftest import RunCommand

INDEXES = ["GSI_BATCH", "GSI_CONV", "GSI_JOB", "GSI_PR", "GSI_USER"]


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch, usage_dir: object) -> Iterator[None]:
    """An AWS account without tables, as moto pretends one."""
    from moto import mock_aws

    assert usage_dir
    for name, value in access_key("cli").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DYNAMODB_TABLE_NAME", "usage")
    with mock_aws():
        yield


def test_a_table_is_created_once_described_and_checked(run: RunCommand) -> None:
    """Data on standard output, words on standard error; a second time changes nothing."""
    missing = run("table", "check")
    assert (missing.code, missing.out) == (1, "")
    assert "does not exist. Create it: receipt-usage table create" in missing.one_error
    for _ in range(2):
        made = run("table", "create", "--shards", "4")
        assert (made.code, made.out) == (0, "")
        assert made.one_error == "the table usage is ready, with 4 shards"
    with DynamoClient("usage", region="us-east-1") as client:
        write(client, [make_metric()])
    shown = run("table", "describe")
    assert (shown.code, shown.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert rows["table"].startswith("arn:aws:dynamodb:us-east-1:")
    assert (rows["status"], rows["billing"], rows["TTL"]) == ("ACTIVE", "PAY_PER_REQUEST", "ttl")
    assert (rows["shards"], rows["services"]) == ("4", "openai")
    assert rows["indexes"] == ", ".join(f"{name} ACTIVE" for name in INDEXES)
    checked = run("table", "check")
    assert (checked.code, checked.out) == (0, "")
    assert checked.one_error == "the table usage is as it should be"


def test_json_says_all_of_it(run: RunCommand) -> None:
    """For programs: the same, whole."""
    assert run("table", "create").code == 0
    made = run("table", "create", "--json")
    assert made.json == run("table", "describe", "--json").json
    assert made.json["name"] == "usage"
    assert (made.json["shards"], made.json["services"], made.json["differences"]) == (1, [], [])
    assert sorted(made.json["indexes"]) == INDEXES
    assert run("table", "check", "--json").json == {"table": "usage", "problems": []}


def test_a_table_of_another_kind_is_a_fault(run: RunCommand) -> None:
    """It says what differs, and leaves it alone."""
    wanted = definition("other")
    wanted["GlobalSecondaryIndexes"] = wanted["GlobalSecondaryIndexes"][:2]
    wanted["AttributeDefinitions"] = [
        entry
        for entry in wanted["AttributeDefinitions"]
        if entry["AttributeName"] not in ("jobId", "githubPr", "userId")
    ]
    with DynamoClient("other", region="us-east-1") as client:
        client._call("CreateTable", wanted, Nothing)
    named = ("--table", "other")
    checked = run("table", "check", *named)
    assert checked.code == 1
    assert checked.out.splitlines() == [
        "the index GSI_JOB is missing",
        "the index GSI_PR is missing",
        "the index GSI_USER is missing",
        "TTL is off, not on for 'ttl'",
    ]
    assert checked.one_error == "the table other is not as it should be: 4 problems"
    assert len(run("table", "check", *named, "--json").json["problems"]) == 4
    made = run("table", "create", *named)
    assert made.code == 1
    assert "has another schema: the index GSI_JOB is missing" in made.one_error
    shown = run("table", "describe", *named)
    assert shown.code == 0
    assert "warning: the index GSI_JOB is missing" in shown.err
    assert "1, until somebody writes" in shown.out


def test_a_table_must_be_named(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an option or by the environment: else it is wrong usage."""
    monkeypatch.delenv("DYNAMODB_TABLE_NAME")
    for word in ("create", "describe", "check"):
        done = run("table", word)
        assert (done.code, done.out) == (2, "")
        assert "no table is named: pass --table, or set DYNAMODB_TABLE_NAME" in done.one_error


def test_region_and_endpoint_may_be_named(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over what the environment says."""
    assert run("table", "create", "--region", "eu-west-1").code == 0
    assert run("table", "check").code == 1
    assert run("table", "check", "--region", "eu-west-1").code == 0
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert run("table", "check").code == 0
    nowhere = run("table", "check", "--endpoint-url", "http://nowhere.invalid:1")
    assert nowhere.code == 1
    assert "usage (http://nowhere.invalid:1)" in nowhere.err.splitlines()[-1]


def test_what_is_waited_for_is_said_after_each_try(run: RunCommand) -> None:
    """An endpoint that is away: no silence until the last try."""
    away = run(
        "table", "create", "--endpoint-url", "http://127.0.0.1:9", "--tries", "3", "--wait", "0"
    )

    first, second, last = away.err.splitlines()
    told = "the table usage (http://127.0.0.1:9) cannot be reached"
    assert away.code == 1
    assert first.startswith(f"warning: try 1 of 3: {told}")
    assert first.endswith("; the next one in 0 s")
    assert second.startswith(f"warning: try 2 of 3: {told}")
    assert last.startswith(f"error: {told}")


@pytest.mark.parametrize("wrong", [("--shards", "0"), ("--tries", "0"), ("--wait", "-1")])
def test_wishes_that_make_no_sense_are_wrong_usage(run: RunCommand, wrong: tuple[str, str]) -> None:
    """Before anything is made."""
    assert run("table", "create", *wrong).code == 2
    assert run("table", "check").code == 1
