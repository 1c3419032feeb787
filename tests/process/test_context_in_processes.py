"""The context of whoever hands out work is that of whoever does it, in other processes too."""

from __future__ import annotations

import asyncio
import inspect
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import (
    AIUsageTracker,
    ContextProcessPoolExecutor,
    ai_usage_context,
    context_environment,
    wrap_context,
)
from receipt_label.context import current
from tests.support import in_fork
from tests.support.pool_work import record, record_within

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


def jobs_of(client: UsageClient) -> dict[str, str | None]:
    return {metric.request_id: metric.job_id for metric in client.query()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_every_task_of_a_process_pool_carries_the_context_of_its_submit(
    tracker: AIUsageTracker, client: UsageClient, method: str
) -> None:
    """Forty tasks on two workers, used again and again; a scope left open in a worker ends there
    (troubles 15, 18 and 19: trackers that are silent in such children).

    The earlier system got 157 of 160 records wrong with threads alone.
    """
    names = [f"job{n}" for n in range(20)]
    with ContextProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        futures = []
        for name in names:
            with tracker.context(job_id=name, metadata={"deep": {"list": [1]}}):
                futures.append(pool.submit(record_within, name))
        with ai_usage_context("mapped", job_id="mapped"):
            mapped = list(pool.map(record, [f"mapped-{n}" for n in range(20)], chunksize=5))
        workers = {future.result()[0] for future in futures} | {pid for pid, _ in mapped}
    assert os.getpid() not in workers
    assert {job for _, job in mapped} == {"mapped"}
    jobs = jobs_of(client)
    assert len(jobs) == 60
    assert all(request_id.split("-")[0] == job for request_id, job in jobs.items())
    metadata = {metric.request_id: metric.metadata for metric in client.query()}
    assert metadata["mapped-0"] == {"operation_type": "mapped"}
    assert metadata["job0-outer"] == {"deep": {"list": [1]}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_worker_does_not_keep_the_context_in_which_it_was_started(
    tracker: AIUsageTracker, method: str
) -> None:
    """A plain pool is used by many: its tasks have no context, not that of the first of all."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        with tracker.context(job_id="a"):
            assert executor.submit(_fields).result() == {}
        with tracker.track("b", job_id="b"):
            assert executor.submit(_fields).result() == {}
        assert executor.submit(_fields).result() == {}
    with tracker.context(job_id="a"):
        pool = context.Pool(1)
    with pool:
        assert pool.apply(_fields) == {}
        pool.close()
        pool.join()


def test_a_child_of_a_plain_fork_goes_on_in_its_parents_context(tracker: AIUsageTracker) -> None:
    """It is the same program at the same place, also where multiprocessing is loaded."""
    with tracker.context(job_id="a"):
        assert in_fork(lambda: _assert_job("a")) == 0


def _assert_job(job: str) -> None:
    assert current().get("job_id") == job


def test_contexts_do_not_load_multiprocessing() -> None:
    """A program that forks without it has nothing of it afterwards."""
    program = (
        "import os, sys; from receipt_label.context import current\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(0)\n"
        "os.waitpid(pid, 0); sys.exit('multiprocessing' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_wrapped_function_takes_its_context_into_any_pool(
    tracker: AIUsageTracker, client: UsageClient, method: str
) -> None:
    """``wrap_context`` can be pickled: multiprocessing's own pool and a plain executor."""
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        with tracker.context(job_id="pool"):
            task = wrap_context(record)
        assert pool.apply(task, ("pool-1",))[1] == "pool"
        pool.close()
        pool.join()
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(task, "pool-2").result()[1] == "pool"
        assert executor.submit(record, "bare-1").result()[1] is None
    assert jobs_of(client) == {"pool-1": "pool", "pool-2": "pool", "bare-1": None}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_that_live_for_one_task_lose_nothing(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Ten tasks, ten processes, ten records: no exit hook runs in them (troubles 12 and 19)."""
    with (
        multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool,
        tracker.context(job_id="short"),
    ):
        task = wrap_context(record)
        seen = pool.map(task, [f"short-{n}" for n in range(10)], chunksize=1)
        pool.close()
        pool.join()
    assert len({pid for pid, _ in seen}) == 10
    assert jobs_of(client) == {f"short-{n}": "short" for n in range(10)}


def test_what_is_pickled_keeps_the_fields_and_the_name(tracker: AIUsageTracker) -> None:
    """A round trip in one process, with a live tracker of its own anywhere else."""
    with tracker.context(job_id="j", metadata={"a": {"b": [1]}}), tracker.track("label") as label:
        bound = pickle.loads(pickle.dumps(wrap_context(_fields)))  # noqa: S301 - our own
    fields = bound()
    assert bound.__name__ == "_fields"
    assert fields["metadata"] == {
        "a": {"b": [1]}, "operation_type": "label", "operation_id": label.operation_id,
    }  # fmt: skip
    assert (fields["job_id"], dict(current())) == ("j", {})


def _fields() -> dict[str, Any]:
    return dict(current())


PROGRAM = """
import sys, threading
from receipt_label import AIUsageTracker
from receipt_label.context import current

with AIUsageTracker() as tracker:
    def record(request_id):
        tracker.record(service="x", model="m", operation="o", request_id=request_id)
    record("main")
    thread = threading.Thread(target=record, args=("thread",))
    thread.start()
    thread.join()
    with tracker.context(job_id="own", metadata={"b": 2}):
        record("scope")
    record("after")
"""


def started(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_program_that_is_started_takes_the_context_from_its_environment(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Also in its threads, beneath its own scopes, and with batch prices."""
    with tracker.context(
        job_id="job", github_pr=7, metadata={"a": 1}, price_context={"processing": "batch"}
    ):
        environment = context_environment()
    assert list(environment) == ["RECEIPT_USAGE_CONTEXT"]
    started(environment)
    metrics = {metric.request_id: metric for metric in client.query()}
    assert {name: metric.job_id for name, metric in metrics.items()} == {
        "main": "job", "thread": "job", "scope": "own", "after": "job",
    }  # fmt: skip
    assert {metric.github_pr for metric in metrics.values()} == {7}
    assert metrics["scope"].metadata == {"a": 1, "b": 2}


def test_metadata_in_the_environment_is_masked(tracker: AIUsageTracker) -> None:
    """Other programs, and whoever lists processes, read the environment."""
    with tracker.context(job_id="j", metadata={"api_key": "hunter2", "mail": "a@b.com"}):
        (text,) = context_environment().values()
    assert json.loads(text)["metadata"] == {"api_key": "[secret]", "mail": "[email]"}


@pytest.mark.parametrize("name", ["metadata", "price_context"])
def test_an_environment_too_large_to_start_a_program_with_is_made_smaller(
    name: str, tracker: AIUsageTracker, caplog: pytest.LogCaptureFixture
) -> None:
    """The ids stay, and what is left out is logged."""
    with tracker.context(job_id="j", **{name: {f"k{n}": "y" * 50 for n in range(2000)}}):
        (text,) = context_environment().values()
    assert json.loads(text) == {"job_id": "j"}
    assert f"goes without {name}: it would have" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read and is ignored"),
        ("[1]", "cannot be read and is ignored"),
        ('{"job_id": 5.5}', "job_id=5.5 is no text"),
        ('{"later": 1, "job_id": "j"}', "fields unknown here, which are ignored: later"),
    ],
)
def test_a_context_in_the_environment_that_makes_no_sense_costs_itself_alone(
    client: UsageClient, text: str, said: str
) -> None:
    """It is said once, and everything is recorded."""
    done = started({"RECEIPT_USAGE_CONTEXT": text})
    assert done.stderr.count(said) == 1
    assert len(jobs_of(client)) == 4
    assert jobs_of(client)["main"] == ("j" if "later" in text else None)


def test_a_coroutine_function_bound_to_a_context_stays_one_and_runs_within(
    tracker: AIUsageTracker,
) -> None:
    """Its task's own context is put back, whatever it raises."""

    async def job() -> str:
        await asyncio.sleep(0)
        return str(current()["job_id"])

    async def fails() -> None:
        raise KeyError

    with tracker.context(job_id="bound"):
        bound: Callable[[], Any] = wrap_context(job)
        failing: Callable[[], Any] = wrap_context(fails)

    async def main() -> None:
        async with tracker.context(job_id="caller"):
            assert await bound() == "bound"
            with pytest.raises(KeyError):
                await failing()
            assert current()["job_id"] == "caller"

    assert inspect.iscoroutinefunction(bound)
    asyncio.run(main())
