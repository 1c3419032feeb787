"""A report answers completely on a disk that is full or read-only, and beside a stopped process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receipt_dynamo import Settings, UsageClient, open_usage_client
from receipt_dynamo.sqlite_pages import log_of
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import encode, in_fork, make_metric
from tests.support.disks import fill_up, free_up, make_read_only, small_disk
from tests.support.sqlite_files import many_metrics

DELIVERED, WAITING = 150, 40


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, request.param, 8) as place:
        yield place


def settings_of(directory: Path) -> Settings:
    return Settings(usage_dir=directory / "usage", drain="manual", min_free_bytes=0)


def record(settings: Settings) -> UsageClient:
    """Deliver some metrics and leave others in the spool; a tenth of these replaces."""
    client = open_usage_client(settings)
    client.put_ai_usage_metrics(many_metrics(DELIVERED))
    client.flush()
    assert client.pending() == 0
    replaced = [replace_tokens(metric) for metric in many_metrics(WAITING // 10)]
    new = [make_metric(request_id=f"new-{n}") for n in range(WAITING - len(replaced))]
    client.put_ai_usage_metrics([*replaced, *new])
    client._pipeline.spool.writer.sync()
    return client


def replace_tokens(metric: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(metric, input_tokens=1_000_000, total_tokens=None)


def leave_a_log(settings: Settings, *, shared_memory: bool) -> None:
    """Leave the store as a writer does that was killed: with a log beside it."""
    pid = os.fork()
    if pid == 0:
        store = SqliteStore(settings.store_path)
        with store.exclusive(5):
            metric = make_metric(request_id="in the log")
            record = StoredRecord(metric, encode(metric))
            store.write(Batch(records=[record], segment="log.seg", position=1))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert log_of(settings.store_path).stat().st_size > 0
    if not shared_memory:
        settings.store_path.with_name("usage.db-shm").unlink()


def report(settings: Settings, *args: str) -> tuple[Mapping[str, Any], list[str]]:
    """Run ``receipt-usage report --json`` in a process of its own; return what it says."""
    environ = {
        **os.environ,
        "RECEIPT_USAGE_DIR": str(settings.usage_dir),
        "ENVIRONMENT": "development",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [sys.executable, "-m", "receipt_label.cli.main", "report", "--json", *args],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout), [
        line for line in done.stderr.splitlines() if "want of a price" not in line
    ]


def check(answer: Mapping[str, Any], more: int = 0) -> None:
    """Every metric is there, delivered or not, and each once."""
    total = answer["total"]
    assert total["calls"] == DELIVERED + WAITING - WAITING // 10 + more
    assert total["input_tokens"] > WAITING // 10 * 1_000_000
    assert answer["dropped"]["count"] == 0


def files_of(settings: Settings) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in settings.usage_dir.glob("usage.db*") if p.exists()}


def test_a_report_works_on_a_full_disk(disk: Path) -> None:
    """What the store cannot take in comes from the spool, in one warning; with room it goes in."""
    settings = settings_of(disk)
    client = record(settings)
    fill_up(disk)

    answer, said = report(settings)

    check(answer)
    (warning,) = said
    assert "cannot be written: its disk is full" in warning
    assert f"{WAITING} were read from the spool" in warning
    assert client.summarize()[0].calls == answer["total"]["calls"]
    assert client.pending() == WAITING
    free_up(disk)
    answer, said = report(settings)
    check(answer)
    assert (said, client.pending()) == ([], 0)


@pytest.mark.parametrize("shared_memory", [True, False], ids=["with shm", "without shm"])
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_log_left_beside_the_store_is_read_where_nobody_may_recover_it(
    disk: Path, state: str, shared_memory: bool
) -> None:
    """SQLite would need memory that it shares in a file, and touching that file can kill."""
    settings = settings_of(disk)
    assert in_fork(lambda: record(settings)) == 0  # leaves no file open for writing
    leave_a_log(settings, shared_memory=shared_memory)
    before = files_of(settings)
    (fill_up if state == "full" else make_read_only)(disk)

    answer, said = report(settings)

    check(answer, more=1)
    assert len(said) == 1, said
    assert files_of(settings) == before
    if state == "full":
        free_up(disk)
        check(report(settings)[0], more=1)
        left = log_of(settings.store_path)
        assert not left.exists() or left.stat().st_size == 0


def test_a_report_works_on_a_read_only_disk(disk: Path) -> None:
    """Nothing is written, not even a lock."""
    settings = settings_of(disk)
    assert in_fork(lambda: record(settings)) == 0  # leaves no file open for writing
    make_read_only(disk)

    answer, said = report(settings)

    check(answer)
    (warning,) = said
    assert "is read-only" in warning
    check(report(settings, "--by", "day,service,model")[0])


def test_a_store_with_nothing_to_take_in_is_read_on_a_full_disk(disk: Path) -> None:
    """Without a warning: the store can be read as it is, and all is in it."""
    settings = settings_of(disk)
    client = record(settings)
    client.flush()
    client.close()
    fill_up(disk)

    answer, said = report(settings)

    check(answer)
    assert said == []


def test_a_full_disk_kills_nobody_who_writes(disk: Path) -> None:
    """A pipeline that delivers on a full disk goes on, and delivers when there is room."""
    settings = settings_of(disk)
    client = record(settings)
    leave_a_log(settings, shared_memory=True)
    fill_up(disk)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            flushed = open_usage_client(settings).flush(5)
            code = 0 if (flushed.delivered, flushed.pending) == (0, WAITING) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    free_up(disk)
    assert client.flush().pending == 0
    assert client.summarize()[0].calls == DELIVERED + WAITING - WAITING // 10 + 1


HOLD = """
import sys, time
from pathlib import Path
from receipt_dynamo.sqlite_store import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
with store.exclusive(5):
    store._connection().execute("BEGIN IMMEDIATE")
    store._connection().execute("INSERT INTO ingest VALUES ('x.seg', 1)")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_report_answers_beside_a_stopped_process_that_keeps_the_store(tmp_path: Path) -> None:
    """SIGSTOP in the middle of a write: after a few seconds the spool is read itself."""
    settings = settings_of(tmp_path)
    record(settings)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(settings.store_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        try:
            answer, said = report(settings)
        finally:
            holder.kill()
    check(answer)
    (warning,) = said
    assert "store.lock was held by another process for 5 s" in warning
    answer, said = report(replace(settings))
    check(answer)
    assert said == []
