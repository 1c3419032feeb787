"""MetricSeries: a record of it is that of the whole metric, and so is what becomes of it."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import (
    AIUsageMetric,
    CallFigures,
    DroppedSummary,
    MetricSeries,
    PutResult,
    UsageClient,
)
from receipt_dynamo.dynamo_wire import put_of
from receipt_dynamo.table import Shards
from tests.support import NOON, drainers, encode, make_metric
from tests.support.strategies import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

LIKE = make_metric(
    request_id="first",
    input_tokens=1,
    output_tokens=1,
    cost_usd=Decimal(1),
    job_id="job",
    latency_ms=1.0,
)
CALL = CallFigures(
    timestamp=NOON + timedelta(seconds=1),
    request_id="chatcmpl-1",
    response_id="chatcmpl-1",
    input_tokens=7,
    cached_input_tokens=3,
    output_tokens=5,
    total_tokens=12,
    cost_usd=Decimal("0.50"),
    latency_ms=812.25,
)


def figures_of(metric: AIUsageMetric) -> CallFigures:
    return CallFigures(**{name: getattr(metric, name) for name in CallFigures.__struct_fields__})


def exact(metric: AIUsageMetric) -> list[tuple[type, str]]:
    """Return each field with its type, and its digits as they are kept."""
    values = [getattr(metric, name) for name in AIUsageMetric.__struct_fields__]
    return [(type(value), repr(value)) for value in values]


@given(metrics(), st.booleans())
def test_a_record_of_a_series_is_read_as_the_record_of_the_metric(
    metric: AIUsageMetric, is_of_its_own: bool
) -> None:
    """Whatever the others' figures are: none of them stays behind."""
    own = {"timestamp": NOON, "request_id": "other", "response_id": "other", "latency_ms": 2.0}
    series = MetricSeries(metric if is_of_its_own else msgspec.structs.replace(metric, **own))
    call = figures_of(metric)
    record = series.head + msgspec.json.encode(call)[1:]
    whole = msgspec.json.decode(msgspec.json.encode(metric), type=AIUsageMetric)
    assert exact(msgspec.json.decode(record, type=AIUsageMetric)) == exact(whole)
    assert exact(series.metric(call)) == exact(metric)
    if metric.timestamp.year > 1970:  # later than any that a table can sort
        of_series, of_whole = (put_of(line, Shards()) for line in (record, encode(metric)))
        assert of_series.key == of_whole.key
        assert msgspec.json.decode(of_series.body) == msgspec.json.decode(of_whole.body)


def test_a_call_of_a_series_is_stored_as_its_metric(client: UsageClient) -> None:
    """With what its series says, and its own figures."""
    series = MetricSeries(LIKE)
    assert client.put_call(series, CALL) is PutResult.STORED
    assert client.put_call(series, CALL) is PutResult.STORED  # again: it counts once
    (stored,) = client.query()
    assert exact(stored) == exact(series.metric(CALL))
    assert (stored.job_id, stored.total_tokens, stored.cost_usd) == ("job", 12, Decimal("0.50"))
    assert client._pipeline.spool.last_record == CALL.timestamp


def test_metadata_of_megabytes_is_left_out_of_each_call(client: UsageClient) -> None:
    """As of a metric that is put whole."""
    series = MetricSeries(msgspec.structs.replace(LIKE, metadata={"x": "y" * 400_000}))
    assert client.put_call(series, CALL) is PutResult.STORED
    (kept,) = client.query()
    assert (kept.request_id, kept.input_tokens) == ("chatcmpl-1", 7)
    assert kept.metadata["metadata_left_out_bytes"] > 400_000


def lost(client: UsageClient) -> tuple[int, int, int, Decimal | None]:
    found: DroppedSummary = client.dropped()
    return found.count, found.input_tokens, found.output_tokens, found.cost_usd


def test_a_call_after_close_is_dropped_and_counted_with_its_figures(client: UsageClient) -> None:
    """As any record."""
    client.close()
    assert client.put_call(MetricSeries(LIKE), CALL) is PutResult.DROPPED
    assert lost(client) == (1, 7, 5, Decimal("0.50"))
    assert client.dropped().by_reason == {"closed": 1}


def refusing(code: int) -> Callable[..., NoReturn]:
    """Return a write that a disk refuses."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_call_that_a_full_disk_refuses_is_kept_in_memory_then_written(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not lost though the disk refuses for a while."""
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", refusing(errno.ENOSPC))
        assert client.put_call(MetricSeries(LIKE), CALL) is PutResult.MEMORY
    assert client.flush().delivered == 1
    assert [metric.request_id for metric in client.query()] == ["chatcmpl-1"]


def test_a_call_that_memory_has_no_room_for_either_is_counted_with_its_figures(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost in silence."""
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", refusing(errno.EIO))
        disk.setattr(client._pipeline.spool.ring, "offer", lambda _payload: False)
        assert client.put_call(MetricSeries(LIKE), CALL) is PutResult.DROPPED
    assert lost(client) == (1, 7, 5, Decimal("0.50"))
    assert client.dropped().by_reason == {"disk": 1}


def test_a_figure_that_cannot_be_kept_is_counted_and_raises_nothing(client: UsageClient) -> None:
    """Nothing of a call is checked, and nothing of it breaks a pipeline."""
    broken: Any = object()
    call = msgspec.structs.replace(CALL, latency_ms=broken)
    assert client.put_call(MetricSeries(LIKE), call) is PutResult.DROPPED
    assert client.dropped().by_reason == {"invalid": 1}
    assert lost(client) == (1, 7, 5, Decimal("0.50"))
    assert list(client.query()) == []


def test_a_call_starts_the_thread_that_delivers(open_client: Callable[..., UsageClient]) -> None:
    """Also where none but calls of series come, as in a child of a fork."""
    client = open_client(drain="thread")
    drainers(0)
    client.put_call(MetricSeries(LIKE), CALL)
    drainers(1)
    client.close()


def test_a_call_wakes_a_thread_that_has_nothing_to_do(client: UsageClient) -> None:
    """Else it would wait for a second."""
    client._drainer.idle = True
    client.put_call(MetricSeries(LIKE), CALL)
    assert not client._drainer.idle


def test_a_call_that_a_close_overtakes_leaves_nothing_open(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its segment is sealed: whoever comes next may take it."""
    put = client._pipeline.spool.put_call

    def overtaken(series: MetricSeries, call: CallFigures) -> PutResult:
        client.close()
        return put(series, call)

    monkeypatch.setattr(client._pipeline.spool, "put_call", overtaken)
    assert client.put_call(MetricSeries(LIKE), CALL) is PutResult.STORED
    assert client._pipeline.spool.writer.active_segment is None
    assert [metric.request_id for metric in client.query()] == ["chatcmpl-1"]
