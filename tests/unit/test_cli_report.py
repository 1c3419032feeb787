"""receipt-usage report: true figures, in every form, whatever the names in them are."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, Settings, UsageClient, open_usage_client

Run = Callable[..., Any]

SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")

HOSTILE = "\x1b[31m[red]evil[/red]\u202e\n=1"


def metric(**changes: Any) -> AIUsageMetric:
    fields: dict[str, Any] = {
        "service": "openai",
        "model": "gpt-4o",
        "operation": "chat",
        "timestamp": datetime(2026, 11, 21, 23, 30, tzinfo=UTC),
        "input_tokens": 1000,
        "output_tokens": 10,
        "cost_usd": Decimal("0.10"),
    }
    fields.update(changes)
    return AIUsageMetric(**fields)


@pytest.fixture
def client(usage_dir: Path) -> Iterator[UsageClient]:
    """A client that records into the store of this test."""
    assert usage_dir
    with open_usage_client(Settings.from_env(drain="manual")) as client:
        yield client


@pytest.fixture
def recorded(client: UsageClient) -> UsageClient:
    """Three calls: two priced, on different days of Berlin, one without a price that failed."""
    client.put_ai_usage_metrics(
        [
            metric(job_id="labels", cached_input_tokens=400, api_calls=2),
            metric(timestamp=datetime(2026, 11, 21, 20, tzinfo=UTC), github_pr=7),
            metric(
                model="new",
                timestamp=datetime(2026, 10, 1, tzinfo=UTC),
                cost_usd=None,
                unpriced_reason="unknown_model",
                error="rate_limit",
            ),
        ]
    )
    return client


@pytest.mark.usefixtures("recorded")
def test_the_json_report_has_the_promised_shape(run: Run) -> None:
    """Rows, total and dropped, with money as decimal strings; null where no call is priced."""
    ran = run("report", "--by", "day,model", "--json")

    assert ran.code == 0
    assert ran.json == {
        "rows": [
            {
                "day": "2026-10-01",
                "model": "new",
                "calls": 1,
                "input_tokens": 1000,
                "cached_input_tokens": 0,
                "output_tokens": 10,
                "cost_usd": None,
                "unpriced_calls": 1,
                "errors": 1,
            },
            {
                "day": "2026-11-21",
                "model": "gpt-4o",
                "calls": 3,
                "input_tokens": 2000,
                "cached_input_tokens": 400,
                "output_tokens": 20,
                "cost_usd": "0.2",
                "unpriced_calls": 0,
                "errors": 0,
            },
        ],
        "total": {
            "calls": 4,
            "input_tokens": 3000,
            "cached_input_tokens": 400,
            "output_tokens": 30,
            "cost_usd": "0.2",
            "unpriced_calls": 1,
            "errors": 1,
        },
        "dropped": {
            "count": 0,
            "input_tokens": 0,
            "output_tokens": 0,
            "cost_usd": None,
            "by_reason": {},
        },
    }


def test_an_empty_store_is_a_report_of_nothing(run: Run) -> None:
    """No rows, a total of zeros without a cost, exit code 0."""
    ran = run("report", "--json")

    assert ran.code == 0
    assert ran.json["rows"] == []
    assert ran.json["total"]["calls"] == 0
    assert ran.json["total"]["cost_usd"] is None
    assert "No calls" in run("report").one_error


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ("month", [{"month": "2026-10"}, {"month": "2026-11"}]),
        ("job", [{"job": "labels"}, {"job": None}]),
        (
            "pr,job",
            [{"pr": 7, "job": None}, {"pr": None, "job": "labels"}, {"pr": None, "job": None}],
        ),
        ("operation", [{"operation": "chat"}]),
        ("SERVICE, operation", [{"service": "openai", "operation": "chat"}]),
        (
            "user,conversation,batch,environment",
            [dict.fromkeys(("user", "conversation", "batch", "environment"))],
        ),
    ],
)
def test_every_word_groups_alone_and_with_others(
    run: Run, words: str, groups: list[dict[str, Any]]
) -> None:
    """The rows come in the order of the groups, the nameless ones last."""
    rows = run("report", "--by", words, "--json").json["rows"]

    assert [
        {word: row[word] for word in group} for row, group in zip(rows, groups, strict=True)
    ] == (groups)


@pytest.mark.usefixtures("recorded")
def test_days_are_those_of_the_timezone(run: Run) -> None:
    """Half past eleven in the evening in UTC is the next day in Berlin."""
    ran = run("report", "--by", "day", "--timezone", "Europe/Berlin", "--json")

    assert [row["day"] for row in ran.json["rows"]] == ["2026-10-01", "2026-11-21", "2026-11-22"]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (["--since", "2026-11-21"], 3),
        (["--since", "20261121"], 3),
        (["--since", "2026-11-22"], 0),
        (["--until", "2026-11-21"], 4),
        (["--until", "2026-11-20"], 1),
        (["--until", "2026-11-21T23:30:00Z"], 2),
        (["--until", "2026-11-21T23:30:00.000001Z"], 4),
        (["--since", "2026-11-21T21:00:00+01:00", "--until", "2026-11-21T20:00:01"], 1),
        (["--since", "2026-11-22", "--timezone", "Europe/Berlin"], 2),
        (["--until", "2026-11-21", "--timezone", "Europe/Berlin"], 2),
        (["--since", "2026-11-22T00:30", "--timezone", "Europe/Berlin"], 2),
        (["--since", "2026-11-22T00:30:01", "--timezone", "Europe/Berlin"], 0),
        (["--since", "520w"], 4),
        (["--job", "labels"], 2),
        (["--pr", "7"], 1),
        (["--model", "new"], 1),
        (["--service", "OpenAI"], 4),
        (["--operation", "chat", "--job", "other"], 0),
    ],
)
def test_time_and_filters_choose_the_calls(run: Run, options: list[str], calls: int) -> None:
    """A day of --until is included as a whole; a time is not included."""
    ran = run("report", *options, "--json")

    assert ran.code == 0, ran.err
    assert ran.json["total"]["calls"] == calls


@pytest.fixture
def of_agents(client: UsageClient) -> UsageClient:
    """What two sessions of an agent did, beside a call of no session."""
    at_work = {"service": "tool", "operation": "execute_tool", "cost_usd": Decimal(0)}
    client.put_ai_usage_metrics(
        [
            metric(session_id="s1", subagent="Explore"),
            metric(session_id="s1", model="Bash", tool="Bash", subagent="Explore", **at_work),
            metric(session_id="s1", model="Bash", tool="Bash", **at_work),
            metric(session_id="s2", model="Skill", tool="Skill", skill="pdf", **at_work),
            metric(),
        ]
    )
    return client


@pytest.mark.usefixtures("of_agents")
def test_sessions_tools_skills_and_subagents_are_words_of_a_report(run: Run) -> None:
    """Alone and together; what belongs to none of them is the nameless row."""
    for word, calls in (
        ("session", {"s1": 3, "s2": 1, None: 1}),
        ("tool", {"Bash": 2, "Skill": 1, None: 2}),
        ("skill", {"pdf": 1, None: 4}),
        ("subagent", {"Explore": 2, None: 3}),
    ):
        rows = run("report", "--by", word, "--json").json["rows"]
        assert {row[word]: row["calls"] for row in rows} == calls
    rows = run("report", "--by", "session,tool", "--json").json["rows"]
    assert [(row["session"], row["tool"], row["cost_usd"]) for row in rows] == [
        ("s1", "Bash", "0"), ("s1", None, "0.1"), ("s2", "Skill", "0"), (None, None, "0.1"),
    ]  # fmt: skip


@pytest.mark.usefixtures("of_agents")
def test_filters_choose_what_agents_did(run: Run) -> None:
    """In a report and in an export alike."""
    for options, calls in (
        (["--session", "s1"], 3),
        (["--tool", "Bash"], 2),
        (["--tool", "bash"], 0),
        (["--skill", "pdf"], 1),
        (["--subagent", "Explore", "--tool", "Bash"], 1),
    ):
        assert run("report", *options, "--json").json["total"]["calls"] == calls
        assert len(run("export", *options).out.splitlines()) == calls


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "days"], "day, month, service, model, operation, job, batch, pr, user, "),
        (["--by", "day,day"], "named twice"),
        (["--by", ""], "at least one word"),
        (["--by", "unpriced_reason"], "unknown word"),
        (["--since", "soon"], "2026-11-21"),
        (["--since", "2026-13-01"], "is no time"),
        (["--since", "999999w"], "is no time"),
        (["--until", "9999-12-31"], "is no time"),
        (["--since", "2026-02-02", "--until", "2026-02-01"], "nothing lies between"),
        (["--timezone", "Mars/Base"], "unknown timezone 'Mars/Base'"),
        (["--timezone", "../../etc/passwd"], "unknown timezone"),
        (["--pr", "0"], "--pr"),
        (["--json", "--csv"], "exclude each other"),
        (["--bye", "day"], "--by"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_is_allowed(
    run: Run, options: list[str], said: str
) -> None:
    """Exit code 2, no traceback, and the way to the help."""
    ran = run("report", *options)

    assert ran.code == 2
    assert said in ran.one_error
    assert ran.out == ""


@pytest.mark.usefixtures("recorded")
def test_the_table_shows_totals_with_separators_and_aligned_points(run: Run) -> None:
    """Thousands are separated, decimal points stand below each other, nothing is cut off."""
    lines = run("report").out.splitlines()

    assert lines[0].split() == [
        *("service", "model", "calls", "input", "cached", "output"),
        *("cost", "USD", "unpriced", "errors"),
    ]
    assert lines[-1].split() == ["total", "4", "3,000", "400", "30", "0.2", "1", "1"]
    assert any(line.split()[-3:] == ["-", "1", "1"] for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_figures_of_any_size_are_exact_in_json_and_rounded_in_the_table(
    run: Run, client: UsageClient
) -> None:
    """Very small and very large money keep all digits in JSON and CSV; the table says it rounds."""
    client.put_ai_usage_metrics(
        [
            metric(cost_usd=Decimal("1E-20")),
            metric(cost_usd=Decimal("12345678901234567.5")),
            metric(input_tokens=10**12, output_tokens=0),
        ]
    )

    assert run("report", "--json").json["total"]["cost_usd"] == (
        "12345678901234567.60000000000000000001"
    )
    *_, total, remark = run("report").out.splitlines()
    assert total.split()[1:] == ["3", "1,000,000,002,000", "20", "12,345,678,901,234,567.6"]
    assert remark == "costs are rounded to 8 decimals; exact in --json"
    exact = run("report", "--csv").out
    assert "12345678901234567.60000000000000000001" in exact
    assert "rounded" not in exact


@pytest.mark.parametrize(
    ("cost", "shown", "is_rounded"),
    [
        ("0.000000125", "0.00000012", True),  # half to even
        ("0.000000135", "0.00000014", True),
        ("0.00000012", "0.00000012", False),
        ("1E-20", "0.00000000", True),  # not a known zero
        ("0.00", "0", False),
        ("0.1000000000", "0.1", False),
    ],
)
def test_a_cost_in_the_table_has_at_most_8_decimals(
    run: Run, client: UsageClient, cost: str, shown: str, is_rounded: bool
) -> None:
    """Rounded half-even, and the line that says so stands there only when something was."""
    client.put_ai_usage_metric(metric(cost_usd=Decimal(cost)))

    out = run("report", "--by", "service").out

    assert out.splitlines()[-1 - is_rounded].split()[-1] == shown
    assert ("costs are rounded" in out) is is_rounded


def test_columns_of_nothing_but_zeros_are_left_out_of_the_table_only(
    run: Run, client: UsageClient
) -> None:
    """Cached, unpriced and errors stand there when any row has one; CSV always has them."""
    client.put_ai_usage_metric(metric())
    plain = run("report").out.splitlines()[0]
    header = run("report", "--csv").out.splitlines()[0]
    client.put_ai_usage_metric(metric(model="other", error="timeout", cached_input_tokens=1))
    fuller = run("report").out.splitlines()[0]

    assert plain.split() == ["service", "model", "calls", "input", "output", "cost", "USD"]
    assert {"cached_input_tokens", "unpriced_calls", "errors"} <= set(header.split(","))
    assert fuller.split()[-1] == "errors"
    assert "cached" in fuller
    assert "unpriced" not in fuller


def test_long_names_are_whole_when_piped(run: Run, client: UsageClient) -> None:
    """What is no terminal gets the width that it needs: no ellipsis, no fold."""
    name = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/" + "x" * 150
    client.put_ai_usage_metric(metric(model=name))

    assert name in run("report").out


def test_names_cannot_steer_the_terminal(run: Run, client: UsageClient) -> None:
    """Escape sequences, line breaks and direction marks are shown as escapes; markup is text."""
    client.put_ai_usage_metric(metric(model=HOSTILE, job_id="[bold]x[/bold]"))

    for options in (["--by", "model,job"], ["--unpriced"], ["--csv", "--by", "model"], ["--json"]):
        out = run("report", *options).out
        assert "\x1b" not in out
        assert "\u202e" not in out
    table = run("report", "--by", "model,job").out
    assert "\\x1b[31m[red]evil[/red]\\u202e\\n=1" in table
    assert "[bold]x[/bold]" in table


def test_csv_is_plain_and_safe_for_spreadsheets(run: Run, client: UsageClient) -> None:
    """A name that a spreadsheet would run as a formula gets an apostrophe; figures are bare."""
    for model in ("=1+1", "+1", "-1", "@cf/meta/llama", 'a,"b"', "plain"):
        client.put_ai_usage_metric(metric(model=model))

    rows = list(csv.reader(io.StringIO(run("report", "--csv", "--by", "model").out)))

    assert rows[0] == [
        *("model", "calls", "input_tokens", "cached_input_tokens", "output_tokens"),
        *("cost_usd", "unpriced_calls", "errors"),
    ]
    assert {row[0] for row in rows[1:]} == {
        *("'=1+1", "'+1", "'-1", "'@cf/meta/llama", 'a,"b"', "plain")
    }
    assert rows[1][1:] == ["1", "1000", "0", "10", "0.1", "0", "0"]


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
    assert "1 record waiting for usage-prod@eu-west-1" in ran.err
    assert "DYNAMODB_TABLE_NAME=usage-prod" in ran.err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let standard output be a terminal of so many columns, without colours."""

    def of_width(width: int) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr("rich.console.Console.is_terminal", True)

    return of_width


@pytest.mark.parametrize("width", [20, 45, 50, 70, 100, 400])
def test_a_terminal_of_any_width_shows_everything(
    run: Run, client: UsageClient, terminal: Callable[[int], None], width: int
) -> None:
    """Names stand above their figures where the table is too wide, then blocks. None is broken."""
    client.put_ai_usage_metric(
        metric(model="arn:aws:bedrock:" + "y" * 60, input_tokens=1_234_567_890)
    )
    terminal(width)

    out = run("report").out

    assert "1,234,567,890" in out
    assert "…" not in out
    assert "y" * 60 in out
    is_block = any(line.startswith("input  ") for line in out.splitlines())
    assert is_block is (width < 50)


@pytest.mark.parametrize(("width", "lines_of_a_row"), [(120, 1), (80, 1), (60, 2), (50, 2)])
def test_the_sample_by_service_fits_a_common_terminal(
    run: Run, terminal: Callable[[int], None], width: int, lines_of_a_row: int
) -> None:
    """80 columns hold its table, 50 two lines a row; no line is wider than the terminal."""
    run("import", SAMPLE)
    services = len(run("report", "--by", "service", "--json").json["rows"])
    terminal(width)

    ran = run("report", "--by", "service")

    lines = [ESCAPE.sub("", line) for line in ran.out.splitlines()]
    assert max(map(len, lines)) <= width
    assert len(lines) == (services + 2) * lines_of_a_row + 3
    assert sum(line.startswith("huggingface_together") for line in lines) == 1


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


def test_the_hint_for_unpriced_calls_is_a_command_that_works_as_printed(
    run: Run, client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``make run`` says how it calls this program: not by its name alone."""
    client.put_ai_usage_metrics([metric(cost_usd=None, unpriced_reason="no_usage")])
    monkeypatch.setenv("RECEIPT_USAGE_COMMAND", "RECEIPT_USAGE_DIR=.demo .venv/bin/receipt-usage")
    said = "See: RECEIPT_USAGE_DIR=.demo .venv/bin/receipt-usage report --unpriced"
    assert said in run("report").err


def test_calls_without_usage_are_told_what_brings_it(run: Run, client: UsageClient) -> None:
    """One line, and none where every call has its tokens."""
    client.put_ai_usage_metrics([metric(cost_usd=None, unpriced_reason="unknown_model")])
    assert "include_usage" not in run("report", "--unpriced").err
    client.put_ai_usage_metrics([metric(cost_usd=None, unpriced_reason="no_usage")])
    assert "1 call (no_usage)" in run("report", "--unpriced").err
    assert "tracker.wrap(client, include_usage=True)" in run("report", "--unpriced").err


def test_an_empty_store_is_named(run: Run, client: UsageClient, usage_dir: Path) -> None:
    """Whoever looks in the wrong directory sees which one it is; a filter is another matter."""
    said = f"No calls are recorded in {usage_dir} (RECEIPT_USAGE_DIR)."
    assert run("report").one_error == said
    assert run("report", "--unpriced").one_error == said

    client.put_ai_usage_metric(metric())
    assert run("report", "--job", "x").one_error == "No calls are recorded for this selection."
    assert run("report", "--unpriced").one_error == "Every call has a price."
