"""The examples run as their page says, and leave exactly the records that they promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from examples import stand_in
from examples.stand_in import EXAMPLES, StandIn, environment_of
from receipt_dynamo import AIUsageMetric, Settings, UsageClient, UsageQuery
from receipt_dynamo.dynamo_client import DynamoClient
from tests.support.dynamodb import drop_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "examples" / "README.md").read_text()
README = (ROOT / "README.md").read_text()
README_PROGRAM = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
COMMANDS = re.findall(r"^    \S+ -m examples\.stand_in (\S+)(.*)", PAGE, re.MULTILINE)
GPT_4O = ("gpt-4o-2024-08-06", 14, 8, Decimal("0.000115"))  # 2.50 and 10 USD per million
GPT_4O_MINI = ("gpt-4o-mini-2024-07-18", 78, 9, Decimal("0.0000171"))  # 0.15 and 0.60
SONNET = ("claude-sonnet-4-6", 1007, 59, Decimal("0.003906"))  # 3 and 15
SONNET_BEGUN = ("claude-sonnet-4-6", 1007, 1, Decimal("0.003036"))  # what message_start told

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the example as its page does; return what it printed."""
    demo = {"RECEIPT_DEMO_DIR": str(tmp_path / "usage")}

    def run_one(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "examples.stand_in", name, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "error", **demo},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    return run_one


def figures(metric: AIUsageMetric) -> tuple[Any, ...]:
    return metric.model, metric.input_tokens, metric.output_tokens, metric.cost_usd


def calls_of(client: UsageClient, service: str) -> list[AIUsageMetric]:
    return [metric for metric in client.query() if metric.service == service]


def labels_of(printed: str) -> dict[str, str]:
    labels, _, _ = printed.partition("\n\n")
    return dict(re.findall(r"^(r-\d+)  (\w+)", labels, re.MULTILINE))


LABELS = {
    "r-1001": "groceries",
    "r-1002": "travel",
    "r-1003": "fuel",
    "r-1004": "office",
    "r-1005": "meals",
    "r-1006": "other",
}


def test_the_page_names_every_example_and_how_to_run_it() -> None:
    """One command each, and one line that says what it shows."""
    assert sorted(name for name, _ in COMMANDS) == EXAMPLES
    assert all(f"[{name}.py]({name}.py) |" in PAGE for name in EXAMPLES)


def test_the_stand_in_says_which_examples_there_are(run: Run) -> None:
    """An unknown name is wrong usage."""
    said = run("labeling_gemini")
    assert (said.returncode, said.stdout) == (2, "")
    assert all(name in said.stderr for name in EXAMPLES)


def test_the_stand_in_hands_out_no_key_and_keeps_to_the_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the user's environment names: made-up calls end up in no table and in no store of
    the user's, no key leaves."""
    for name in ("DYNAMODB_TABLE_NAME", "DYNAMO_TABLE_NAME", "OPENAI_API_KEY", "RECEIPT_USAGE_DIR"):
        monkeypatch.setenv(name, "the-user-s-own")
    with StandIn() as server:
        environment = environment_of(server)
    assert "the-user-s-own" not in environment.values()
    assert Settings.from_env(environment).store_path == ROOT / ".demo" / "usage.db"


def test_the_stand_in_names_the_sdk_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it, before anything runs."""
    monkeypatch.setattr(stand_in, "find_spec", lambda name: None if name == "anthropic" else name)
    monkeypatch.setattr("sys.argv", ["stand_in", "labeling_asyncio"])
    assert stand_in.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{sys.executable} -m pip install anthropic")


@pytest.mark.slow
def test_the_stand_in_runs_a_program_of_the_user_s(
    run: Run, tmp_path: Path, client: UsageClient
) -> None:
    """The one of README.md, as it stands there: its call is in the report."""
    (tmp_path / "pipeline.py").write_text(README_PROGRAM)
    ran = run(str(tmp_path / "pipeline.py"))
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1), ran.stderr
    (call,) = client.query()
    assert (call.job_id, call.service) == ("labels-2026-11", "openai")
    assert call.cost_usd is not None


def test_the_demo_ignores_the_settings_of_the_shell(tmp_path: Path) -> None:
    """``tools/demo`` reports what ``make run`` and the examples record, whatever is exported; its
    hints are commands that work."""
    shell = {
        "DYNAMODB_TABLE_NAME": "t",
        "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9",
        "ENVIRONMENT": "production",
        "RECEIPT_USAGE_DIR": str(tmp_path / "own"),
        "RECEIPT_USAGE_PRICES": "/nowhere",
        "RECEIPT_DEMO_DIR": str(tmp_path / "demo"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def demo(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tools/demo", *words], cwd=ROOT, env={**os.environ, **shell},
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    sample = "examples/data/recorded_replies.jsonl"
    imported = demo("import", "--at", "2026-08-31", sample)
    assert imported.stderr.startswith("154 new calls from 153 replies")
    report = demo("report", "--by", "service")
    assert next(line for line in report.stdout.splitlines() if "openai" in line) in README
    assert report.stderr.endswith("See: tools/demo report --unpriced\n")
    assert "unknown_model" in demo("report", "--unpriced").stdout
    assert not (tmp_path / "own").exists()


@pytest.mark.slow
def test_one_job_with_openai_and_a_tool(run: Run, client: UsageClient) -> None:
    """Each call once, under the job, at its price; the report of the page is what it prints."""
    ran = run("labeling_openai")
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1), ran.stderr
    assert "6 requests" in ran.stderr
    assert all(line.strip() in PAGE for line in ran.stdout.splitlines())
    assert labels_of(ran.stdout) == LABELS
    calls, uses = calls_of(client, "openai"), calls_of(client, "tool")
    assert [figures(call) for call in calls] == [GPT_4O] * 6
    assert [figures(use) for use in uses] == [("vat_register", None, None, Decimal("0.01"))] * 6
    whole = [*calls, *uses]
    assert {(one.job_id, one.user_id, one.status) for one in whole} == {
        ("labels-openai", "bookkeeping", "complete")
    }
    (total,) = client.summarize()
    assert (total.calls, total.cost_usd) == (12, Decimal("0.06069"))


@pytest.mark.slow
def test_tasks_and_streams_of_two_vendors(run: Run, client: UsageClient) -> None:
    """A stream that is left is partial, one that is cancelled aborted, each with what was told."""
    arguments = dict(COMMANDS)["labeling_asyncio"].split()
    ran = run("labeling_asyncio", *arguments)
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1), ran.stderr
    assert "12 requests" in ran.stderr
    assert labels_of(ran.stdout) == LABELS
    assert "r-1001  groceries  It lists milk, so it is for groceries.\n" in ran.stdout
    assert "r-1004  office     It lists assorted goods, so it is for office.\n" in ran.stdout
    assert "r-1006  other      (no reason in time)\n" in ran.stdout
    assert re.search(r"r-1006  anthropic  aborted +0\.003036 USD", ran.stdout)
    labels = calls_of(client, "openai")
    assert [figures(call) for call in labels] == [GPT_4O_MINI] * 6
    assert {call.status for call in labels} == {"complete"}
    reasons = {call.metadata["receipt"]: call for call in calls_of(client, "anthropic")}
    assert {name: (call.status, figures(call)) for name, call in reasons.items()} == {
        **dict.fromkeys(["r-1001", "r-1002", "r-1003", "r-1005"], ("complete", SONNET)),
        "r-1004": ("partial", SONNET_BEGUN),
        "r-1006": ("aborted", SONNET_BEGUN),
    }
    assert sorted(call.metadata["receipt"] for call in labels) == sorted(reasons)
    metrics = list(client.query())
    assert Counter(metric.service for metric in metrics) == {
        "openai": 6, "anthropic": 6, "action": 6,
    }  # fmt: skip
    assert {metric.job_id for metric in metrics} == {"labels-asyncio"}
    runs = {one.request_id: one.metadata["receipt"] for one in calls_of(client, "action")}
    called = [*labels, *reasons.values()]
    assert all(runs[one.metadata["operation_id"]] == one.metadata["receipt"] for one in called)


@pytest.mark.slow
def test_a_pool_of_processes_keeps_each_call_with_its_job(run: Run, client: UsageClient) -> None:
    """What processes that are gone have recorded is in the parent's report."""
    ran = run("labeling_processes")
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1), ran.stderr
    assert "6 requests" in ran.stderr
    assert labels_of(ran.stdout) == LABELS
    metrics = list(client.query())
    assert [figures(metric) for metric in metrics] == [GPT_4O] * 6
    assert Counter(metric.job_id for metric in metrics) == {
        "archive-2026-10": 3, "archive-2026-11": 3,
    }  # fmt: skip
    for month in ("2026-10", "2026-11"):
        assert f"archive-{month}  3 calls  42 tokens in  0.000345 USD\n" in ran.stdout


@pytest.mark.slow
def test_one_invocation_of_the_handler_here(run: Run, client: UsageClient) -> None:
    """As its page says: one call, and nothing that the queue should bring again."""
    ran = run("lambda_handler")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"labels": {"m-1": "meals"}, "batchItemFailures": []}
    assert [figures(call) for call in calls_of(client, "openai")] == [GPT_4O]


# What Lambda does: import the module once, call the handler, freeze. It ends without exit hooks.
SANDBOX = """
import json, os, sys
from examples.lambda_handler import handler

class Context:
    def __init__(self, number):
        self.aws_request_id = f"invocation-{number}"

    def get_remaining_time_in_millis(self):
        return 30_000

for number, event in enumerate(json.loads(sys.argv[1])):
    print(json.dumps(handler(event, Context(number))), flush=True)
os._exit(0)
"""
EVENTS = [
    {
        "Records": [
            {"messageId": "a", "body": '{"month": "2026-10", "text": "41 l diesel"}'},
            {"messageId": "b", "body": "no receipt at all"},
        ]
    },
    {"Records": [{"messageId": "c", "body": '{"month": "2026-11", "text": "2 coffee"}'}]},
]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run the handler as in Lambda: a home that cannot be written, two invocations, no way out."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir(mode=0o555)
    # Root writes everywhere, but even root makes nothing within a device.
    home = tmp_path / "home" if os.geteuid() else Path("/dev/null/home")
    with StandIn() as server:

        def start(**variables: str) -> subprocess.CompletedProcess[str]:
            outside = re.compile("RECEIPT_USAGE_DIR|ENVIRONMENT|PYTEST_.*")
            own = {
                "HOME": str(home),
                "TMPDIR": str(tmp_path / "tmp"),
                # A thread that happens to be faster than the freeze delivers nothing here.
                "RECEIPT_USAGE_DRAIN": "manual",
                **variables,
            }
            inherited = environment_of(server).items()
            environment = {name: text for name, text in inherited if not outside.fullmatch(name)}
            return subprocess.run(
                [sys.executable, "-W", "error", "-c", SANDBOX, json.dumps(EVENTS)],
                cwd=ROOT,
                env={**environment, **own},
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )

        yield start


def check_invocations(ran: subprocess.CompletedProcess[str], metrics: list[AIUsageMetric]) -> None:
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        {"labels": {"a": "fuel"}, "batchItemFailures": [{"itemIdentifier": "b"}]},
        {"labels": {"c": "meals"}, "batchItemFailures": []},
    ]
    calls = [metric for metric in metrics if metric.service == "openai"]
    assert {
        call.session_id: (call.job_id, call.metadata["cold_start"], figures(call)) for call in calls
    } == {
        "invocation-0": ("inbox-2026-10", True, GPT_4O),
        "invocation-1": ("inbox-2026-11", False, GPT_4O),
    }
    summaries = [metric for metric in metrics if metric.service == "action"]
    assert {
        one.session_id: (one.metadata["success_count"], one.metadata["failure_count"])
        for one in summaries
    } == {"invocation-0": (1, 1), "invocation-1": (1, 0)}
    assert len(metrics) == len(calls) + len(summaries) == 4


@pytest.mark.slow
def test_a_handler_without_a_home_delivers_each_invocation_into_its_table(
    sandbox: Callable[..., subprocess.CompletedProcess[str]], dynamodb: str
) -> None:
    """Cold and warm, into DynamoDB's own engine, before the sandbox is gone."""
    with DynamoClient("lambda-example", endpoint_url=dynamodb) as table:
        table.create_table()
        try:
            ran = sandbox(
                AWS_LAMBDA_FUNCTION_NAME="labels",
                AWS_ENDPOINT_URL_DYNAMODB=dynamodb,
                DYNAMODB_TABLE_NAME="lambda-example",
            )
            check_invocations(ran, list(table.query(UsageQuery())))
        finally:
            drop_table(table)


@pytest.mark.slow
def test_a_handler_without_a_home_and_a_table_keeps_to_temporary_files(
    sandbox: Callable[..., subprocess.CompletedProcess[str]],
    open_client: Callable[..., UsageClient],
    tmp_path: Path,
) -> None:
    """The embedded store, where ENVIRONMENT says development; nothing waits for an exit hook."""
    ran = sandbox(ENVIRONMENT="development")
    (directory,) = (tmp_path / "tmp").glob("receipt-usage-*")
    client = open_client(usage_dir=directory)
    assert client.health().pending == 0
    check_invocations(ran, list(client.query()))


def test_a_function_without_a_table_fails_at_its_cold_start(
    sandbox: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """The error names the variable; no call is made that nobody would find."""
    ran = sandbox(AWS_LAMBDA_FUNCTION_NAME="labels")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "DYNAMODB_TABLE_NAME is not set" in ran.stderr
