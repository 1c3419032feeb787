"""receipt-usage report: what it says beside its figures, and where it points."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import Settings, UsageClient, way_to
from tests.support.reports import metric

Run = Callable[..., Any]


@pytest.mark.usefixtures("recorded")
def test_unpriced_lists_each_call_without_a_price_with_its_reason(run: Run) -> None:
    """Grouped by service, model, operation and reason, with calls and tokens."""
    ran = run("report", "--unpriced", "--json")

    assert ran.json["rows"] == [
        {
            "service": "openai",
            "model": "new",
            "operation": "chat",
            "unpriced_reason": "unknown_model",
            "calls": 1,
            "input_tokens": 1000,
            "cached_input_tokens": 0,
            "output_tokens": 10,
            "errors": 1,
        }
    ]
    assert ran.json["total"]["calls"] == 1
    assert "unknown_model" in run("report", "--unpriced").out
    assert run("report", "--unpriced", "--csv").out.splitlines()[1].startswith("openai,new,chat,")


@pytest.mark.usefixtures("recorded")
def test_unpriced_groups_by_other_words_too(run: Run) -> None:
    """--by says by what; the reason is always there."""
    rows = run("report", "--unpriced", "--by", "month", "--json").json["rows"]

    assert [(row["month"], row["unpriced_reason"]) for row in rows] == [
        ("2026-10", "unknown_model")
    ]


@pytest.mark.usefixtures("recorded")
def test_a_report_says_where_the_unpriced_calls_are_listed(run: Run) -> None:
    """A cost that leaves calls out is never shown without a word."""
    assert "receipt-usage report --unpriced" in run("report").err
    assert run("report", "--model", "gpt-4o").err == ""


def test_losses_are_shown_by_every_report(run: Run, client: UsageClient) -> None:
    """Dropped records stand below the table, beside the CSV and in the JSON."""
    client.count_dropped("disk", service="openai", input_tokens=1234, cost_usd=Decimal("0.50"))
    client.flush()

    for options in ([], ["--unpriced"], ["--by", "day"]):
        out = run("report", *options).out
        assert "1 dropped record (disk 1) with 1,234 input and 0 output tokens, 0.5 USD" in out
        assert "counted over all jobs: only filters by time, service and model apply" in out
    csv_run = run("report", "--csv")
    assert "1 dropped record" in csv_run.err
    assert "dropped" not in csv_run.out
    assert run("report", "--json").json["dropped"] == {
        "count": 1,
        "input_tokens": 1234,
        "output_tokens": 0,
        "cost_usd": "0.5",
        "by_reason": {"disk": 1},
    }


def test_records_of_another_destination_are_named(
    run: Run, client: UsageClient, usage_dir: Path
) -> None:
    """Records that this environment does not deliver never wait unseen."""
    client.put_ai_usage_metric(metric())
    (usage_dir / "spool" / "local").rename(usage_dir / "spool" / "usage-prod@eu-west-1")

    ran = run("report", "--json")

    assert ran.json["total"]["calls"] == 0
    assert "1 record waiting for the table usage-prod in eu-west-1" in ran.err
    assert "DYNAMODB_TABLE_NAME=usage-prod AWS_REGION=eu-west-1 receipt-usage ship" in ran.err


@pytest.mark.parametrize(
    ("endpoint", "place", "way"),
    [
        (None, "in us-gov-east-1", "AWS_REGION=us-gov-east-1 receipt-usage ship"),
        (
            "http://127.0.0.1:9",
            "at http://127.0.0.1:9",
            "AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:9 receipt-usage ship",
        ),
        (
            "https://dynamodb.example.com:443/",
            "at https://dynamodb.example.com:443",
            "AWS_ENDPOINT_URL_DYNAMODB=https://dynamodb.example.com:443 receipt-usage ship",
        ),
        (
            "https://example.com/db",
            "at example.com_db",
            "its endpoint (example.com_db) delivers them",
        ),
    ],
)
def test_the_way_to_another_destination_is_one_that_can_be_typed(
    endpoint: str | None, place: str, way: str
) -> None:
    """An address is told as an address, not as the name of a directory."""
    settings = Settings(
        usage_dir=Path("usage"), table_name="t", region="us-gov-east-1", endpoint_url=endpoint
    )

    assert "DYNAMODB_TABLE_NAME=t " in way_to(settings.destination)
    assert way in way_to(settings.destination)


@pytest.mark.parametrize(
    ("set_here", "unset"),
    [
        ((), ""),
        (("AWS_ENDPOINT_URL",), "env -u AWS_ENDPOINT_URL "),
        (
            ("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"),
            "env -u AWS_ENDPOINT_URL_DYNAMODB -u AWS_ENDPOINT_URL ",
        ),
    ],
)
def test_the_way_to_a_table_of_aws_leads_past_the_endpoint_of_this_shell(
    set_here: tuple[str, ...], unset: str
) -> None:
    """An endpoint that the shell names would be another destination."""
    way = way_to("t@eu-west-1", dict.fromkeys(set_here, "http://127.0.0.1:8000"))

    there, here = way.split(". ")
    assert there == f"{unset}DYNAMODB_TABLE_NAME=t AWS_REGION=eu-west-1 receipt-usage ship"
    assert here == "To here instead: receipt-usage ship --from t@eu-west-1"


@pytest.mark.parametrize(
    ("environ", "more"),
    [
        ({}, ""),
        ({"ENVIRONMENT": "production"}, ""),
        (
            {"DYNAMODB_TABLE_NAME": "usage"},
            ". Into the table: receipt-usage ship --to-table usage",
        ),
        ({"DYNAMODB_TABLE_NAME": " "}, ""),
        ({"DYNAMO_TABLE_NAME": "old"}, ". Into the table: receipt-usage ship --to-table old"),
    ],
)
def test_the_way_to_the_embedded_store_is_one_line(environ: dict[str, str], more: str) -> None:
    """It works in production and beside either name of a table; into a table there is another."""
    line = (
        "env -u DYNAMODB_TABLE_NAME -u DYNAMO_TABLE_NAME ENVIRONMENT=development "
        "receipt-usage report"
    )

    assert way_to("local", environ) == line + more


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("unknown_model", True),
        ("unknown_unit", True),
        ("price_error", True),
        ("no_usage", False),
        ("failed_call", False),
        ("inconsistent_usage", False),
    ],
)
def test_a_price_file_is_named_only_where_it_helps(
    run: Run, client: UsageClient, reason: str, said: bool
) -> None:
    """A call without usage is not mended by a price; one without a price has to come again."""
    client.put_ai_usage_metrics(
        [
            metric(cost_usd=None, unpriced_reason=reason),
            metric(cost_usd=None, unpriced_reason="no_usage"),
        ]
    )

    ran = run("report", "--unpriced")

    assert ("a price file (RECEIPT_USAGE_PRICES) can price 1 call" in ran.err) is said
    assert ("recorded or imported again" in ran.err) is said
    assert run("report", "--unpriced", "--json").err == ""


def test_hints_are_commands_that_work_as_printed(
    run: Run, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls this program not by its name alone says how."""
    client.put_ai_usage_metrics([metric(cost_usd=None, unpriced_reason="no_usage")])
    assert "See: receipt-usage report --unpriced" in run("report").err
    monkeypatch.setenv("RECEIPT_USAGE_COMMAND", "tools/demo")
    assert "See: tools/demo report --unpriced" in run("report").err


def test_calls_without_usage_are_told_what_brings_it(run: Run, client: UsageClient) -> None:
    """One line, and none where every call has its tokens."""
    client.put_ai_usage_metrics([metric(cost_usd=None, unpriced_reason="unknown_model")])
    assert "include_usage" not in run("report", "--unpriced").err
    client.put_ai_usage_metrics([metric(cost_usd=None, unpriced_reason="no_usage")])
    assert "1 call (no_usage)" in run("report", "--unpriced").err
    assert "tracker.wrap(client, include_usage=True)" in run("report", "--unpriced").err


def test_an_empty_store_is_named(run: Run, client: UsageClient, usage_dir: Path) -> None:
    """Whoever looks in the wrong directory sees which one it is; a filter is another matter."""
    said = f"No calls are recorded in {usage_dir} (RECEIPT_USAGE_DIR names another)."
    assert run("report").one_error == said
    assert run("report", "--unpriced").one_error == said

    client.put_ai_usage_metric(metric())
    assert run("report", "--job", "x").one_error == "No calls are recorded for this selection."
    assert run("report", "--unpriced").one_error == "Every call has a price."
