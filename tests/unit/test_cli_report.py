"""receipt-usage report: which calls, grouped how, with true sums."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from tests.support.reports import metric

Run = Callable[..., Any]


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
