"""receipt-usage report: true figures for people and spreadsheets, whatever the names are."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from tests.support.reports import metric

Run = Callable[..., Any]
SAMPLE = Path(__file__).parents[2] / "examples" / "data" / "recorded_replies.jsonl"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = "\x1b[31m[red]evil[/red]\u202e\n=1"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let standard output be a terminal of so many columns, without colours."""

    def of_width(width: int) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr("rich.console.Console.is_terminal", True)

    return of_width


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


def test_what_has_no_such_name_is_told_in_words(run: Run, client: UsageClient) -> None:
    """A call of no tool and no session is not the tool "-": the table says so, JSON has null."""
    tool = {"service": "tool", "model": "Bash", "tool": "Bash", "cost_usd": Decimal(0)}
    client.put_ai_usage_metrics(
        [metric(), metric(session_id="s1"), metric(session_id="s1", **tool)]
    )

    lines = run("report", "--by", "tool,session").out.splitlines()

    assert [re.split(r"  +", line)[:3] for line in lines[2:5]] == [
        ["Bash", "s1", "1"], ["(no tool)", "s1", "1"], ["(no tool)", "(no session)", "1"],
    ]  # fmt: skip
    assert "(no PR)" in run("report", "--by", "pr").out
    rows = run("report", "--by", "tool,session", "--json").json["rows"]
    assert (rows[2]["tool"], rows[2]["session"]) == (None, None)


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
