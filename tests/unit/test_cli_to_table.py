"""``receipt-usage ship --to-table``: what was recorded without a table comes into one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from receipt_dynamo import AIUsageMetric, DynamoClient, Settings, UsageQuery, open_usage_client
from tests.support import make_metric
from tests.support.dynamodb import access_key
from tests.unit.conftest import RunCommand


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch, usage_dir: Path) -> Iterator[None]:
    """An AWS account with an empty table, as moto pretends one."""
    from moto import mock_aws

    assert usage_dir
    for name, value in access_key("cli").items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        with DynamoClient("usage", region="us-east-1") as client:
            client.create_table()
        yield


def record(usage_dir: Path, *metrics: AIUsageMetric) -> None:
    """Record without a table: it waits in the local spool."""
    client = open_usage_client(Settings(usage_dir=usage_dir, drain="external"))
    client.put_ai_usage_metrics(metrics)


def stored() -> list[str]:
    with DynamoClient("usage", region="us-east-1") as client:
        return [metric.request_id for metric in client.query(UsageQuery())]


@pytest.mark.parametrize(
    "environ", [{}, {"DYNAMODB_TABLE_NAME": "other", "ENVIRONMENT": "production"}]
)
def test_spool_and_embedded_store_come_into_the_table(
    run: RunCommand, usage_dir: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """Also on the machine that records into a table by now; a second time changes nothing."""
    record(usage_dir, make_metric(request_id="a"))
    assert run("report").code == 0  # takes it into the store
    record(usage_dir, make_metric(request_id="b"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ran = run("ship", "--to-table", "usage")
    assert (ran.code, ran.out) == (0, "")
    assert ran.one_error == "2 records shipped to the table usage"
    assert stored() == ["a", "b"]
    again = run("ship", "--to-table", "usage")
    assert again.one_error == "0 records shipped to the table usage; 2 were there before"
    for name in environ:
        monkeypatch.setenv(name, "development" if name == "ENVIRONMENT" else "")
    assert "2" in run("report", "--by", "service").out  # the embedded store keeps its own


def test_figures_for_scripts_and_what_is_refused(
    run: RunCommand, usage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 while the table refuses a record, which is named."""
    from receipt_dynamo import migration
    from receipt_dynamo.store import Rejection, WriteOutcome

    real = migration.DynamoClient.write

    def refusing(self: DynamoClient, batch: migration.Batch) -> WriteOutcome:
        bad = [record for record in batch.records if record.metric.request_id == "bad"]
        good = [record for record in batch.records if record not in bad]
        outcome = real(self, migration.Batch(records=good, segment="", position=0))
        rejected = [Rejection(record, "DynamoDB refuses it: too\x1b large") for record in bad]
        return WriteOutcome(acknowledged=outcome.acknowledged, rejected=rejected)

    record(usage_dir, make_metric(request_id="bad"), make_metric(request_id="good"))
    monkeypatch.setattr(migration.DynamoClient, "write", refusing)
    ran = run("ship", "--to-table", "usage", "--json")
    assert ran.code == 1
    assert ran.json == {
        "table": "usage",
        "shipped": 1,
        "shipped_before": 0,
        "gaps": 0,
        "refused": [
            {
                "service": "openai",
                "timestamp": "2026-11-21T12:00:00+00:00",
                "request_id": "bad",
                "reason": "DynamoDB refuses it: too\x1b large",
            }
        ],
    }
    shipped, refused = ran.err.splitlines()
    assert shipped == "1 record shipped to the table usage"
    assert refused == (
        "refused: openai bad of 2026-11-21T12:00:00+00:00: DynamoDB refuses it: too\\x1b large"
    )
    monkeypatch.setattr(migration.DynamoClient, "write", real)
    assert run("ship", "--to-table", "usage").code == 0
    assert stored() == ["bad", "good"]


def test_a_table_that_is_not_there_is_said_and_nothing_is_done(
    run: RunCommand, usage_dir: Path
) -> None:
    """Not even the spool is touched."""
    record(usage_dir, make_metric())
    ran = run("ship", "--to-table", "elsewhere")
    assert ran.code == 1
    assert "elsewhere (us-east-1) does not exist. Create it" in ran.one_error
    assert not (usage_dir / "usage.db").exists()


def test_it_does_not_follow(run: RunCommand) -> None:
    """A pipeline that goes on is given the table instead."""
    ran = run("ship", "--to-table", "usage", "--follow")
    assert ran.code == 2
    assert "--to-table and --follow exclude each other" in ran.err
