"""UsageLogger: what an agent does is recorded once, free unless said, and breaks nothing."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import AIUsageMetric, ConfigurationError, PutResult, UsageClient
from receipt_label import AIUsageTracker, UsageLogger
from tests.support import NOON, FakeClock, in_fork

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, now=lambda: NOON)


@pytest.fixture
def logger(tracker: AIUsageTracker) -> UsageLogger:
    return UsageLogger(tracker, session_id="s1")


def only(client: UsageClient) -> AIUsageMetric:
    (metric,) = client.query()
    return metric


def names(client: UsageClient) -> list[str]:
    return [metric.model for metric in client.query()]


@pytest.mark.parametrize(
    ("log", "service", "operation"),
    [
        (UsageLogger.log_tool_usage, "tool", "execute_tool"),
        (UsageLogger.log_skill, "skill", "use_skill"),
        (UsageLogger.log_subagent, "subagent", "invoke_agent"),
        (UsageLogger.log_action, "action", "act"),
    ],
)
def test_each_kind_is_a_service_of_its_own(
    logger: UsageLogger,
    client: UsageClient,
    log: Callable[..., PutResult],
    service: str,
    operation: str,
) -> None:
    """The name is the model; it costs 0, not billable; session, duration and job are there."""
    assert log(logger, "it", duration_ms=812, job_id=7) is PutResult.STORED
    metric = only(client)
    assert (metric.service, metric.model, metric.operation) == (service, "it", operation)
    assert (metric.cost_usd, metric.price_source) == (Decimal(0), "not_billable")
    assert (metric.session_id, metric.latency_ms, metric.job_id) == ("s1", 812.0, "7")
    assert (metric.status, metric.error, metric.metadata) == (
        "complete",
        None,
        {"outcome": "success"},
    )
    for kind in ("tool", "skill", "subagent"):
        assert getattr(metric, kind) == ("it" if kind == service else None)


def test_a_cost_that_is_given_counts(logger: UsageLogger, client: UsageClient) -> None:
    """A paid search costs what it costs, exactly."""
    logger.log_tool_usage("web_search", cost_usd=Decimal("0.0100"))
    metric = only(client)
    assert (metric.cost_usd, metric.price_source) == (Decimal("0.01"), "caller")


@pytest.mark.parametrize(
    ("given", "outcome", "error"),
    [
        ({"error": "TimeoutError"}, "failure", "TimeoutError"),
        ({"outcome": "failure"}, "failure", "failure"),
        ({"outcome": "denied"}, "denied", "denied"),
        ({"outcome": "cancelled", "error": "ctrl-c"}, "cancelled", "ctrl-c"),
    ],
)
def test_what_is_no_success_counts_as_an_error(
    logger: UsageLogger, client: UsageClient, given: dict[str, Any], outcome: str, error: str
) -> None:
    """With the outcome's own name where no other is given."""
    logger.log_action("deploy", details={"version": "1.4"}, **given)
    metric = only(client)
    assert (metric.error, metric.status) == (error, "aborted")
    assert metric.metadata == {"outcome": outcome, "details": {"version": "1.4"}}
    assert client.summarize()[0].errors == 1


def test_what_a_subagent_used_is_not_counted_again(
    tracker: AIUsageTracker, logger: UsageLogger, client: UsageClient
) -> None:
    """Trouble 30: its calls carry tokens and cost; what it says of itself is kept beside them."""
    with tracker.context(session_id="s1", subagent="Explore"):
        for _ in range(2):
            tracker.record(
                service="openai", model="gpt-4o", operation="chat", input_tokens=100,
                output_tokens=10, cost_usd=Decimal("0.5"),
            )  # fmt: skip
    logger.log_subagent("Explore", usage={"input_tokens": 200, "output_tokens": 20})
    (row,) = client.summarize(by=("subagent",))
    assert (row.calls, row.input_tokens, row.output_tokens) == (3, 200, 20)
    assert row.cost_usd == Decimal("1.0")
    run = next(metric for metric in client.query() if metric.service == "subagent")
    assert run.input_tokens is None
    assert run.metadata["reported_usage"] == {"input_tokens": 200, "output_tokens": 20}


def test_a_leaf_carries_its_tokens_and_is_not_free(
    logger: UsageLogger, client: UsageClient
) -> None:
    """Where no call of a subagent is recorded, its own figures are all there is."""
    usage = {"input_tokens": 200, "output_tokens": 20}
    logger.log_subagent("remote", usage=usage, is_leaf=True)
    logger.log_subagent("remote", usage=usage, is_leaf=True, cost_usd=Decimal("0.1"))
    (total,) = client.summarize()
    assert (total.input_tokens, total.output_tokens) == (400, 40)
    assert (total.cost_usd, total.unpriced_calls) == (Decimal("0.1"), 1)
    assert {metric.unpriced_reason for metric in client.query()} == {None, "not_priced"}


def test_a_session_is_logged_from_start_to_end(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """With its duration; what lies between carries the same session and the logger's metadata."""
    clock = FakeClock()
    with UsageLogger(tracker, metadata={"agent": "a"}, monotonic=clock.monotonic) as logger:
        logger.log_tool_usage("Bash", metadata={"n": 1})
        clock.advance(1.5)
    start, end, use = client.query()  # of one moment: by service
    assert [start.model, use.model, end.model] == ["session_start", "Bash", "session_end"]
    assert len({metric.session_id for metric in (start, use, end)}) == 1
    assert (end.latency_ms, end.metadata) == (1500.0, {"agent": "a", "outcome": "success"})
    assert use.metadata == {"agent": "a", "n": 1, "outcome": "success"}


def test_a_session_that_breaks_ends_as_a_failure(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """By the type of the exception, which goes on."""
    with pytest.raises(KeyError), UsageLogger(tracker):
        raise KeyError("secret")
    end = list(client.query())[-1]
    assert (end.model, end.error, end.metadata["outcome"]) == ("session_end", "KeyError", "failure")


def test_the_session_is_the_contexts_where_there_is_one(tracker: AIUsageTracker) -> None:
    """Else it is minted, and no two loggers share one."""
    with tracker.context(session_id="outer"):
        assert UsageLogger(tracker).session_id == "outer"
        assert UsageLogger(tracker, session_id="own").session_id == "own"
    assert UsageLogger(tracker).session_id != UsageLogger(tracker).session_id


def test_closing_twice_is_fine_and_logging_then_raises(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """The end is logged once, by whichever thread comes first; the tracker stays open."""
    with UsageLogger(tracker) as logger:
        threads = [threading.Thread(target=logger.close) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    logger.close()
    assert logger.closed
    assert names(client) == ["session_start", "session_end"]
    for log in (logger.log_tool_usage, logger.log_skill, logger.log_subagent, logger.log_action):
        with pytest.raises(RuntimeError, match="closed"):
            log("late")
    with pytest.raises(RuntimeError, match="closed"), logger:
        pass
    assert tracker.record(service="a", model="b", operation="c") is PutResult.STORED


def test_threads_log_at_once(logger: UsageLogger, client: UsageClient) -> None:
    """8 threads, 50 uses each: 400 records of one session."""

    def work(number: int) -> None:
        for _ in range(50):
            logger.log_tool_usage(f"tool-{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = client.summarize(by=("session", "tool"))
    assert [(row.group["session"], row.calls) for row in rows] == [("s1", 50)] * 8


def test_the_callers_dicts_stay_theirs(logger: UsageLogger, client: UsageClient) -> None:
    """To any depth, before and after: they are neither changed nor kept."""
    given: dict[str, Any] = {"a": {"b": [1, {"c": 2}]}}
    usage = {"input_tokens": 1}
    before = copy.deepcopy((given, usage))
    logger.log_tool_usage("t", metadata=given)
    logger.log_action("x", details=given, metadata=given)
    logger.log_subagent("s", usage=usage, metadata=given)
    logger.log_subagent("s", usage=usage, is_leaf=True)
    assert (given, usage) == before
    given["a"]["b"][1]["c"] = 3
    usage["input_tokens"] = 9
    for metric in client.query():
        assert "3" not in repr(metric.metadata)
        assert "9" not in repr(metric.metadata.get("reported_usage"))


@pytest.mark.parametrize(
    "bad",
    [
        {"cost_usd": 0.1},
        {"cost_usd": Decimal("-1")},
        {"duration_ms": "long"},
        {"outcome": 5},
        {"metadata": [1]},
        {"metadata": {1: object()}},
        {"session_id": b"x"},
        {"no_such_field": 1},
        {"timestamp": "now"},
    ],
)
def test_a_bad_value_is_counted_and_raises_nothing(
    logger: UsageLogger, client: UsageClient, bad: dict[str, Any]
) -> None:
    """In whichever method; what can be kept is kept, the rest is a loss that a report shows."""
    answers = [
        log("x", **bad)
        for log in (
            logger.log_tool_usage, logger.log_skill, logger.log_subagent, logger.log_action,
        )
    ]  # fmt: skip
    answers.append(logger.log_tool_usage(None))  # type: ignore[arg-type]
    answers.append(logger.log_subagent("x", usage=7, is_leaf=True))  # type: ignore[arg-type]
    answers.append(logger.log_action("x", details=object(), **bad))  # type: ignore[arg-type]
    kept = answers.count(PutResult.STORED)
    assert client.dropped().count == len(answers) - kept
    assert client.summarize()[0].calls == kept
    assert answers[-3] is PutResult.DROPPED


def test_an_abandoned_logger_logs_its_end(tracker: AIUsageTracker, client: UsageClient) -> None:
    """When it is garbage, without waiting for anything; one that was never begun says nothing."""
    UsageLogger(tracker).log_action("alone")
    logger = UsageLogger(tracker)
    logger.__enter__()
    del logger
    gc.collect()
    assert names(client) == ["alone", "session_start", "session_end"]
    assert list(client.query())[-1].error == "abandoned"


def test_a_forked_child_does_not_end_its_parents_session(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """It may log; the end is the maker's, once."""
    with UsageLogger(tracker) as logger:

        def child() -> None:
            logger.log_tool_usage("in child")
            logger.close()

        assert in_fork(child) == 0
    assert sorted(names(client)) == ["in child", "session_end", "session_start"]


def test_without_a_tracker_it_opens_and_closes_one(
    usage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For this environment, without loading prices; they are there when somebody asks."""
    monkeypatch.setenv("RECEIPT_USAGE_DRAIN", "manual")
    with UsageLogger() as logger:
        logger.log_tool_usage("Bash")
        client = logger.tracker.client
        assert "_catalog" not in vars(logger.tracker.prices)
        logger.tracker.record(
            service="openai", model="gpt-4o", operation="chat", input_tokens=10, output_tokens=1
        )
    assert client.closed
    assert client.settings.usage_dir == usage_dir
    costs = {metric.model: metric.cost_usd for metric in client.query()}
    assert costs["gpt-4o"] == Decimal("0.000035")
    assert costs.keys() == {"session_start", "Bash", "gpt-4o", "session_end"}


def test_a_logger_that_could_not_be_made_leaves_nothing_behind(
    usage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finaliser finds half an object, and says nothing (a warning here is an error)."""
    assert usage_dir
    monkeypatch.setenv("ENVIRONMENT", "production")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="DYNAMODB_TABLE_NAME"):
            UsageLogger()
    gc.collect()


def test_an_open_logger_does_not_disturb_the_interpreters_end(usage_dir: Path) -> None:
    """A logger in a cycle, in a global and in a module: nothing on standard error, code 0."""
    code = (
        "from receipt_label import UsageLogger\n"
        "logger = UsageLogger(); logger.__enter__(); logger.me = logger\n"
        "import sys; sys.kept = UsageLogger(logger.tracker); sys.kept.__enter__()\n"
        "logger.log_tool_usage('Bash')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RECEIPT_USAGE_DIR": str(usage_dir)},
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
