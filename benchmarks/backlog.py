"""A backlog of a million records: how a process starts above it, and how it is taken in."""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import Part, Row
from benchmarks.samples import client_of, in_fresh_process, peak_megabytes, private_directory
from benchmarks.spooled import spool_directory, write_backlog
from receipt_dynamo import AIUsageMetric

__all__ = ["run"]

_RECORDS = 1_000_000
_STARTS = 5
_COMMIT_RECORDS = 500
_FILE_HEADER_LINES = 1
_CRC_BYTES = 9  # of a line: eight digits and a space
_ROOT = Path(__file__).parent.parent

_FIRST_PUT = """
import os, sys
from datetime import datetime, timezone
from pathlib import Path
from receipt_dynamo import AIUsageMetric, Settings, open_usage_client
client = open_usage_client(Settings.from_env({}, usage_dir=Path(sys.argv[1])))
now = datetime.now(timezone.utc)
metric = AIUsageMetric(service="openai", model="gpt-4o", operation="chat", timestamp=now)
print(client.put_ai_usage_metric(metric).name, flush=True)
with open("/proc/self/status" if os.path.exists("/proc/self/status") else os.devnull) as status:
    print(next((line.split()[1] for line in status if line.startswith("VmHWM")), 0), flush=True)
os._exit(0)
"""
_PLAIN = "print('STORED', flush=True); print(0)"


def _first_put(program: str, directory: Path) -> dict[str, float]:
    """Return how long a new process takes to its first STORED, and what memory it has held."""
    milliseconds, kilobytes = [], []
    for _ in range(_STARTS):
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        ) as process:
            assert process.stdout is not None
            answer = process.stdout.readline().strip()
            milliseconds.append((time.perf_counter() - start) * 1000)
            kilobytes.append(int(process.stdout.readline()))
        if answer != "STORED":
            raise RuntimeError(f"the first put answered {answer!r}, not STORED")
    figures = {"ms": statistics.median(milliseconds), "slowest ms": max(milliseconds)}
    return figures | ({"peak MB": max(kilobytes) / 1024} if any(kilobytes) else {})


def _drain(directory: Path) -> dict[str, float]:
    client = client_of(directory)
    start = time.perf_counter()
    report = client.take_in()
    return _rate(report.delivered, time.perf_counter() - start)


def _rate(records: int, seconds: float) -> dict[str, float]:
    return {
        "records": records,
        "seconds": seconds,
        "records/s": records / seconds,
        "us/record": seconds / records * 1e6,
        "peak MB": peak_megabytes(),
    }


def _payloads(directory: Path) -> Iterator[bytes]:
    for path in sorted(spool_directory(directory).glob("*.seg")):
        with path.open("rb") as file:
            for line in islice(file, _FILE_HEADER_LINES, None):
                yield line[_CRC_BYTES:]


def _read_json(directory: Path, records: int) -> dict[str, float]:
    start = time.perf_counter()
    read = sum(1 for payload in islice(_payloads(directory), records) if json.loads(payload))
    return _rate(read, time.perf_counter() - start)


def _insert_many(directory: Path, records: int, indexed: bool) -> dict[str, float]:
    """Time ``executemany`` of ready rows; what it takes to make them is not counted.

    Plain: a table without an index, synchronous NORMAL. Indexed: the store's own tables, FULL.
    """
    from receipt_dynamo.sqlite_rows import INSERT_METRIC, metric_row
    from receipt_dynamo.sqlite_schema import prepare

    path = directory / "yardstick.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if indexed else 'NORMAL'}")
    if indexed:
        prepare(connection, path)
    else:
        columns = INSERT_METRIC.partition("(")[2].partition(")")[0]
        connection.execute(f"CREATE TABLE metric ({columns})")
    decode = msgspec.json.Decoder(AIUsageMetric).decode
    payloads = islice(_payloads(directory), records)
    seconds, done = 0.0, 0
    while rows := [metric_row(decode(p), p) for p in islice(payloads, _COMMIT_RECORDS)]:
        start = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT_METRIC, rows)
        connection.execute("COMMIT")
        seconds += time.perf_counter() - start
        done += len(rows)
    return _rate(done, seconds)


def run(scale: float, say: Callable[[str], None]) -> list[Part]:
    """Write a backlog, start processes above it, take it in."""
    records = max(1000, int(_RECORDS * scale))
    sample = max(500, records // 10)
    starts: list[Row] = []
    drains: list[Row] = []
    with private_directory() as directory:
        full, empty = directory / "full", directory / "empty"
        say(f"backlog: writing {records} records")
        size = write_backlog(full, records)
        spool_directory(empty)
        goal = {"ms": 2000.0, "peak MB": 150.0}
        for name, program, where, wanted in (
            ("python -c print", _PLAIN, empty, {}),
            ("first put, empty spool", _FIRST_PUT, empty, {}),
            ("first put, above the backlog", _FIRST_PUT, full, goal),
        ):
            say(f"backlog: {name}")
            starts.append(Row(name, _first_put(program, where), program is _PLAIN, wanted))
        steps: list[tuple[str, Callable[..., dict[str, float]], tuple[Any, ...]]] = [
            ("json.loads of each line", _read_json, (full, sample)),
            ("executemany, table without index", _insert_many, (full, sample, False)),
            ("executemany, the store's tables", _insert_many, (full, sample, True)),
            ("take_in of the backlog", _drain, (full,)),
        ]
        for name, function, arguments in steps:
            say(f"backlog: {name}")
            figures = in_fresh_process(function, *arguments)
            (full / "yardstick.db").unlink(missing_ok=True)
            ours = function is _drain
            drains.append(Row(name, figures, not ours, {"peak MB": 150.0} if ours else {}))
    about = f"a backlog of {records:,} records, {size >> 20} MB"
    return [
        Part(
            "start-up",
            f"A new process to its first STORED, above {about} ({_STARTS} starts)",
            starts,
        ),
        Part("drain", f"Taking in {about}", drains),
    ]
