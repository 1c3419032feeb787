"""UsageClient beside forks, signals and a close that overtakes: nothing is lost or repeated."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from receipt_dynamo import AIUsageMetric, PutResult, UsageClient
from receipt_dynamo.spool.spool import Spool
from tests.support import drainers, in_fork, make_metric, stored_ids

Open = Callable[..., UsageClient]


@pytest.mark.parametrize(
    ("max_bytes", "answer"), [(1, PutResult.DROPPED), (1 << 30, PutResult.STORED)]
)
def test_a_put_that_a_close_overtakes_is_kept_or_counted(
    open_client: Open, monkeypatch: pytest.MonkeyPatch, max_bytes: int, answer: PutResult
) -> None:
    """Between the look whether it is open and the record another thread may close the client."""
    client = open_client(max_bytes=max_bytes)
    spool, put = client._pipeline.spool, Spool.put

    def overtaken(self: Spool, metric: AIUsageMetric) -> PutResult:
        client.close()
        return put(self, metric)

    with monkeypatch.context() as race:
        race.setattr(Spool, "put", overtaken)
        assert client.put_ai_usage_metric(make_metric(request_id="a")) is answer
    assert len(spool.ring) == 0
    assert spool.writer.active_segment is None
    assert spool.drops.by_reason() == ({} if answer is PutResult.STORED else {"memory": 1})


def test_a_forked_child_records_as_itself(open_client: Open) -> None:
    """Own segment, own counts, own thread; neither process waits for or repeats the other."""
    client = open_client(drain="thread")
    client.put_ai_usage_metric(make_metric(request_id="parent"))
    client.count_dropped("disk")
    client.count_dropped("disk")

    def child() -> None:
        assert client.health().recorded == 0
        drainers(0)
        assert client.put_ai_usage_metric(make_metric(request_id="child")) is PutResult.STORED
        drainers(1)

    assert [in_fork(child) for _ in range(3)] == [0] * 3
    ids = stored_ids(client)
    assert sorted(ids) == ["child", "parent"]
    assert client.dropped().count == 2


def test_forks_beside_recording_threads_lose_nothing_and_never_hang(open_client: Open) -> None:
    """Children forked at any moment of another thread's put and delivery go on."""
    client = open_client(drain="thread")
    stop, stored = threading.Event(), []

    def hammer(thread: int) -> None:
        n = 0
        while not stop.is_set():
            metric = make_metric(request_id=f"t{thread}-{n}")
            assert client.put_ai_usage_metric(metric) is PutResult.STORED
            stored.append(metric.request_id)
            n += 1
            if n % 50 == 0:
                client.flush(5)

    def child() -> None:
        metric = make_metric(request_id=f"c{os.getpid()}")
        assert client.put_ai_usage_metric(metric) is PutResult.STORED
        assert client.flush(20).pending >= 0

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_fork(child) for _ in range(12)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 12
    ids = stored_ids(client)
    assert len(ids) == len(set(ids)) == len(stored) + 12
    assert set(stored) <= set(ids)


def test_a_signal_handler_may_record_while_the_client_records_or_drops(client: UsageClient) -> None:
    """Every path of a put is reentrant: nothing waits for the lock its own thread holds."""
    inside = count = 0

    def handler(*_: object) -> None:
        nonlocal inside
        inside += 1
        client.put_ai_usage_metric(make_metric(request_id=f"signal{inside}"))
        client.count_dropped("disk")

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    try:
        while inside < 10:
            client.put_ai_usage_metric(make_metric(request_id=f"main{(count := count + 1)}"))
            client.count_dropped("invalid")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    ids = stored_ids(client)
    assert len(ids) == len(set(ids)) == count + inside
    assert client.dropped().by_reason == {"disk": inside, "invalid": count}
