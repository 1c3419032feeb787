"""Lost events: dropped by a batch, a limit, a deadlock or a clean-up of somebody else's."""

from __future__ import annotations

import errno
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import Mock

import pytest

from receipt_dynamo import HealthLevel, PutResult, UsageClient
from receipt_dynamo.dynamo_wire import Put
from receipt_label import AIUsageTracker, flush_after_invocation
from receipt_label.instrumentation import calls
from tests.support import make_metric, stored_ids
from tests.support.fake_table import FakeTable, error
from tests.support.table_bench import TableBench, names
from tests.support.vendor_calls import SAY
from tests.vendors.conftest import Make, Records

Open = Callable[..., UsageClient]
PROJECTS = Path(__file__).parents[1] / "data" / "claude_code" / "projects"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that nobody listens at, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_one_flush_writes_every_row_not_the_first_hundred(client: UsageClient) -> None:
    """What one flush delivers is all there was, and it says how much (trouble 5)."""
    ids = names(1234)
    client.put_ai_usage_metrics([make_metric(request_id=name) for name in ids])
    assert client.flush().delivered == 1234
    assert sorted(stored_ids(client)) == ids


def test_a_table_that_nobody_answers_for_is_no_place_where_records_vanish(
    open_client: Open, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records stay spooled, a flush says how many, health says why (trouble 6)."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "dummy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "dummy")
    client = open_client(
        table_name="usage",
        region="us-east-1",
        endpoint_url=f"http://127.0.0.1:{closed_port}",
        exit_flush_seconds=0,
    )
    metrics = [make_metric() for _ in range(7)]
    assert client.put_ai_usage_metrics(metrics) == [PutResult.STORED] * 7
    end = monotonic() + 30
    while client.health().last_error is None:  # boto3 loads, and a request is refused
        report = client.flush(0.5)
        assert monotonic() < end
    assert (report.delivered, report.pending, report.dead) == (0, 7, 0)
    assert str(closed_port) in (client.health().last_error or "")
    asked = client.health(probe=True)
    assert (asked.level, asked.store_reachable) == (HealthLevel.CRITICAL, False)


def test_a_database_that_is_locked_costs_a_wait_and_no_record(client: UsageClient) -> None:
    """A deadlock, or another program's transaction: the batch is there still (trouble 7)."""
    client.put_ai_usage_metric(make_metric(request_id="before"))
    client.flush()
    client.put_ai_usage_metrics([make_metric(request_id=name) for name in names(60)])
    with closing(sqlite3.connect(client.settings.store_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        report = client.flush(0.05)
        assert (report.delivered, report.pending, report.dead) == (0, 60, 0)
        other.execute("ROLLBACK")
    assert client.flush().pending == 0
    assert sorted(stored_ids(client)) == [*names(60), "before"]


def test_a_batch_that_a_proxy_finds_too_large_arrives_in_parts(tmp_path: Path) -> None:
    """HTTP 413 is answered by halves, not by the same batch three times and never (trouble 10)."""

    def at_most_seven(table: FakeTable, puts: Sequence[Put]) -> Sequence[Put]:
        if len(puts) > 7:
            raise error("413", "Too Large", ResponseMetadata={"HTTPStatusCode": 413})
        table.take(puts)
        return []

    bench = TableBench(tmp_path)
    bench.spool(100)
    bench.table.always = at_most_seven
    bench.run_out()
    assert bench.table.ids == names(100)
    assert bench.table.calls.count(25) == 4, "no batch is sent whole a second time"
    assert not (bench.directory / "dead").exists()


def test_history_outlives_the_transcripts_it_was_read_from(run: Any, tmp_path: Path) -> None:
    """The agent deletes its files after 30 days: what was imported stays (trouble 14)."""
    projects = tmp_path / "projects"
    shutil.copytree(PROJECTS, projects)
    assert run("import", "--format", "claude-code", projects).code == 0
    words = ("report", "--by", "day,model,session", "--json")
    before = run(*words).json
    assert before["total"]["calls"] > 0
    for path in projects.rglob("*.jsonl"):
        path.unlink()
    assert run("import", "--format", "claude-code", projects).code == 0
    assert run(*words).json == before


def test_one_flush_of_an_invocation_brings_every_part(
    client: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spool, memory and losses: what one flush forgets lies in another component (trouble 22)."""
    tracker = AIUsageTracker(client)
    used = {"service": "openai", "model": "gpt-4o", "operation": "chat"}
    refused = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))

    @flush_after_invocation(tracker)
    def handler(_event: object, _context: object) -> None:
        assert tracker.record(**used, request_id="on disk") is PutResult.STORED
        with monkeypatch.context() as full:
            full.setattr(client._pipeline.spool.writer, "append", refused)
            assert tracker.record(**used, request_id="in memory") is PutResult.MEMORY
        assert tracker.record(**used, input_tokens=-1) is PutResult.DROPPED

    handler({}, None)
    with closing(sqlite3.connect(client.settings.store_path)) as store:
        ids = store.execute("SELECT request_id FROM metric ORDER BY 1").fetchall()
        gaps = store.execute("SELECT count(*) FROM gap").fetchall()
    assert (ids, gaps) == ([("in memory",), ("on disk",)], [(1,)])


def test_a_reply_that_our_own_reader_fails_on_is_a_row_without_figures(
    make: Make, tracker: AIUsageTracker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial row is better than none: the call, its job and model are there (trouble 8)."""
    read = calls.read_reply

    def breaks(response: Any, **known: Any) -> Any:
        if hasattr(response, "usage") or "choices" in str(response):
            raise AttributeError("a fault of ours in the rich part")
        return read(response, **known)

    monkeypatch.setattr(calls, "read_reply", breaks)
    with tracker.wrap(make("OpenAI")) as client, tracker.context(job_id="labels"):
        answer = client.chat.completions.create(model="gpt-4o", messages=SAY)
        assert answer.usage.total_tokens == 22
    (record,) = records()
    assert (record.service, record.model, record.operation) == (
        "openai",
        "gpt-4o",
        "chat",
    )
    assert (record.job_id, record.unpriced_reason) == ("labels", "no_usage")
    assert record.latency_ms is not None
