"""The context that travels with the caller: nested, in threads, tasks, generators, and back."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, ContextThreadPoolExecutor, wrap_context
from receipt_label.context import current


@pytest.fixture
def tracker(client: UsageClient) -> AIUsageTracker:
    return AIUsageTracker(client, strict=True)


def jobs_of(client: UsageClient) -> dict[str, str | None]:
    return {metric.request_id: metric.job_id for metric in client.query()}


def record(tracker: AIUsageTracker, request_id: str) -> None:
    tracker.record(service="openai", model="gpt-4o", operation="chat", request_id=request_id)


def test_fields_nest_and_metadata_merges_key_by_key(tracker: AIUsageTracker) -> None:
    """The innermost value wins, None changes nothing, and every exit restores what was before."""
    with tracker.context(job_id="a", user_id="u", metadata={"x": 1, "y": 1}):
        with tracker.context(job_id="b", user_id=None, metadata={"y": 2}):
            assert dict(current()) == {
                "job_id": "b", "user_id": "u", "metadata": {"x": 1, "y": 2},
            }  # fmt: skip
        assert dict(current()) == {"job_id": "a", "user_id": "u", "metadata": {"x": 1, "y": 1}}
    assert dict(current()) == {}


def test_an_argument_beats_the_context(tracker: AIUsageTracker, client: UsageClient) -> None:
    """What is said at the call is meant for it."""
    with tracker.context(job_id="outer", metadata={"a": 1, "b": 1}):
        tracker.record(
            service="openai", model="m", operation="chat", job_id="own", metadata={"b": 2}
        )
    (metric,) = client.query()
    assert (metric.job_id, metric.metadata) == ("own", {"a": 1, "b": 2})


def test_the_callers_dicts_are_never_changed_nor_followed(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Neither by entering, nor by recording, nor by what the caller does to them later."""
    metadata: dict[str, Any] = {"deep": {"list": [1]}}
    details = {"pages": 3}
    with tracker.context(metadata=metadata):
        metadata["deep"]["list"].append(2)
        tracker.record(
            service="x", model="m", operation="o", metadata={"own": 1}, usage_details=details
        )
    assert (metadata, details) == ({"deep": {"list": [1, 2]}}, {"pages": 3})
    (metric,) = client.query()
    assert metric.metadata == {"deep": {"list": [1]}, "own": 1}
    with pytest.raises(TypeError):
        current()["job_id"] = "x"  # type: ignore[index]


def test_an_exception_restores_the_context_and_goes_on(tracker: AIUsageTracker) -> None:
    """A scope swallows nothing."""
    with pytest.raises(KeyError), tracker.context(job_id="a"):
        raise KeyError("the pipeline's own")
    assert dict(current()) == {}

    async def fails() -> None:
        async with tracker.context(job_id="a"):
            raise KeyError("the pipeline's own")

    with pytest.raises(KeyError):
        asyncio.run(fails())


def test_a_scope_may_be_entered_again_and_within_itself(tracker: AIUsageTracker) -> None:
    """One scope object serves a whole program."""
    scope = tracker.context(job_id="a")
    for _ in range(2):
        with scope, tracker.context(job_id="b"), scope:
            assert current()["job_id"] == "a"
        assert dict(current()) == {}


def test_threads_that_share_a_scope_do_not_disturb_each_other(tracker: AIUsageTracker) -> None:
    """Eight threads enter and leave one scope thousands of times: none sees another's fields."""
    shared = tracker.context(job_id="shared")
    faults: list[object] = []

    def work(name: str) -> None:
        try:
            with tracker.context(user_id=name):
                for _ in range(2000):
                    with shared, tracker.context(tool=name):
                        if dict(current()) != {"user_id": name, "job_id": "shared", "tool": name}:
                            faults.append(dict(current()))
                    if dict(current()) != {"user_id": name}:
                        faults.append(dict(current()))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_eight_threads_with_different_contexts_each_keep_their_own(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """One tracker, one record each thousandth of a second from everywhere: no job is mixed up."""

    def work(job: str) -> None:
        with tracker.context(job_id=job):
            for n in range(100):
                record(tracker, f"{job}-{n}")

    threads = [threading.Thread(target=work, args=(f"job{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = jobs_of(client)
    assert len(jobs) == 800
    assert all(request_id.split("-")[0] == job for request_id, job in jobs.items())


def test_a_hundred_tasks_with_different_contexts_each_keep_their_own(
    tracker: AIUsageTracker, client: UsageClient
) -> None:
    """Tasks that interleave at every record, with scopes within scopes and tasks of their own."""

    async def work(job: str) -> None:
        async with tracker.context(job_id=job):
            for n in range(5):
                await asyncio.sleep(0)
                record(tracker, f"{job}-{n}")
                async with tracker.context(job_id=f"{job}/inner"):
                    await asyncio.sleep(0)
                    record(tracker, f"{job}/inner-{n}")
                    await asyncio.create_task(asyncio.sleep(0))
            await asyncio.gather(*(asyncio.to_thread(record, tracker, f"{job}-thread"),))

    async def all_of_them() -> None:
        await asyncio.gather(*(work(f"job{n}") for n in range(100)))

    asyncio.run(all_of_them())
    jobs = jobs_of(client)
    assert len(jobs) == 1100
    assert all(request_id.split("-")[0] == job for request_id, job in jobs.items())
    assert dict(current()) == {}


@pytest.mark.parametrize("kind", ["wrap_context", "executor", "executor.map"])
def test_work_handed_to_a_pool_takes_the_context_along(
    tracker: AIUsageTracker, client: UsageClient, kind: str
) -> None:
    """Each task carries the context of its submit, on workers that are used again and again."""
    names = [f"job{n}" for n in range(20)]
    if kind == "wrap_context":
        with ThreadPoolExecutor(3) as pool:
            for name in names:
                with tracker.context(job_id=name):
                    pool.submit(wrap_context(record), tracker, f"{name}-1")
    else:
        with ContextThreadPoolExecutor(3) as pool:
            for name in names:
                with tracker.context(job_id=name):
                    if kind == "executor":
                        pool.submit(record, tracker, f"{name}-1")
                    else:
                        list(pool.map(lambda one: record(tracker, f"{one}-1"), [name]))
    assert jobs_of(client) == {f"{name}-1": name for name in names}
    with ThreadPoolExecutor(1) as pool:
        assert dict(pool.submit(current).result()) == {}


def test_a_wrapped_function_may_be_called_often_and_at_once(tracker: AIUsageTracker) -> None:
    """After its scope is left, by several threads, also within itself; its name is kept."""
    with tracker.context(job_id="a"):

        @wrap_context
        def read(again: Callable[[], str] | None = None) -> str:
            return again() if again else current()["job_id"]

    assert read.__name__ == "read"
    with ThreadPoolExecutor(4) as pool:
        assert {pool.submit(read, read).result() for _ in range(50)} == {"a"}
    with tracker.context(job_id="b"):
        assert (read(), current()["job_id"]) == ("a", "b")


def test_a_wrapped_method_is_bound_as_ever(tracker: AIUsageTracker) -> None:
    """To its instance, in the context of where it was wrapped."""
    with tracker.context(job_id="a"):

        class Reader:
            name = "reader"

            @wrap_context
            def read(self) -> str:
                return f"{self.name} {current()['job_id']}"

    assert Reader().read() == "reader a"
    assert Reader.read(Reader()) == "reader a"


def test_a_generator_that_ends_within_a_later_block_leaves_nothing_behind(
    tracker: AIUsageTracker,
) -> None:
    """Scopes that end in another order than they began never bring old fields back."""

    def batches() -> Iterator[int]:
        with tracker.context(batch_id="of the generator"):
            yield 1

    generator = batches()
    next(generator)
    with tracker.context(job_id="later"):
        list(generator)
        assert "batch_id" not in current()
    assert dict(current()) == {}

    for _ in zip(batches(), batches(), strict=True):
        pass
    gc.collect()
    assert dict(current()) == {}


def test_an_abandoned_generator_costs_nothing_but_its_own_block(tracker: AIUsageTracker) -> None:
    """Whoever stops reading a stream in the middle gets the surrounding context back."""

    def stream() -> Iterator[int]:
        with tracker.context(job_id="stream"):
            yield 1
            yield 2

    with tracker.context(user_id="u"):
        for _ in stream():
            break
        assert dict(current()) == {"user_id": "u"}

    async def abandons() -> None:
        async def stream() -> AsyncIterator[int]:
            async with tracker.context(job_id="stream"):
                yield 1
                yield 2

        async with tracker.context(user_id="u"):
            async for _ in stream():
                break
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert dict(current()) == {}

    asyncio.run(abandons())


def test_a_generator_finished_by_another_task_raises_nothing_there(
    tracker: AIUsageTracker,
) -> None:
    """Its exit finds no entry of its own in that task's context, and leaves it alone."""

    async def handed_over() -> None:
        async def stream() -> AsyncIterator[int]:
            async with tracker.context(job_id="stream"):
                yield 1
                yield 2

        generator = stream()

        async def first() -> None:
            assert await anext(generator) == 1

        async def rest() -> None:
            async with tracker.context(user_id="reader"):
                assert [n async for n in generator] == [2]
                assert dict(current()) == {"user_id": "reader"}

        await asyncio.create_task(first())
        await asyncio.create_task(rest())

    asyncio.run(handed_over())


def test_a_task_started_within_a_scope_keeps_it_after_the_scope_is_left(
    tracker: AIUsageTracker,
) -> None:
    """A context is copied, as everywhere in asyncio."""

    async def main() -> None:
        gate = asyncio.Event()

        async def late() -> str:
            await gate.wait()
            return str(current()["job_id"])

        async with tracker.context(job_id="a"):
            task = asyncio.create_task(late())
        gate.set()
        assert await task == "a"

    asyncio.run(main())


def test_a_wrong_field_name_is_a_typeerror_and_a_wrong_value_is_left_out(
    client: UsageClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A typo in the program shows at once; a bad value costs the field, never the record."""
    tracker = AIUsageTracker(client)
    with pytest.raises(TypeError, match="no field 'jobid': one of batch_id"):
        tracker.context(jobid="x")
    for _ in range(3):
        with tracker.context(job_id=b"x", user_id=5, github_pr="12"):
            assert dict(current()) == {"user_id": "5"}
    assert len(caplog.records) == 2
    assert "job_id=b'x' is no text" in caplog.text
    with pytest.raises(ValueError, match="job_id"):
        AIUsageTracker(client, strict=True).context(job_id=b"x")
