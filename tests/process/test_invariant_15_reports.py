"""Invariant 15: a report shows every record that was STORED, and harms nobody, at any moment."""

from __future__ import annotations

import itertools
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from receipt_dynamo import PutResult, Settings, UsageQuery, open_usage_client
from tests.support import make_metric, stored_ids
from tests.support.zygote import Tell, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECORDS = 4000


def record(tell: Tell, directory: Path, name: str, count: int | None = None) -> None:
    """A writer: tell of every record that was answered STORED. It ends with the last, or never."""
    client = open_usage_client(Settings(usage_dir=directory, segment_bytes=1 << 16))
    for n in itertools.count() if count is None else range(count):
        metric = make_metric(request_id=f"{name}-{n}", input_tokens=1, cost_usd="0.01")
        assert client.put_ai_usage_metric(metric) is PutResult.STORED
        tell(f"{name}-{n}")


def report_for_ever(tell: Tell, directory: Path) -> None:
    """A reader that takes in what others write: nothing twice, no question answered with less."""
    client = open_usage_client(Settings(usage_dir=directory, drain="manual"))
    while True:
        calls = client.summarize()[0].calls
        ids = [metric.request_id for metric in client.query()]
        assert len(ids) == len(set(ids)) >= calls, (len(ids), calls)
        client.summarize(UsageQuery(model="gpt-4o"), by=["day", "model"])
        tell(str(calls))


def report(directory: Path) -> list[str]:
    """Return the ids that a report in a new client shows; the store is sound, the spool empty."""
    with open_usage_client(Settings(usage_dir=directory, drain="manual")) as client:
        ids = stored_ids(client)
        assert client.summarize()[0].calls == len(ids)
        assert client.dropped().count == 0
        assert client.pending() == 0
    with closing(sqlite3.connect(directory / "usage.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return ids


def assert_nothing_lost(stored: list[str], reported: list[str]) -> None:
    assert len(reported) == len(set(reported)), "a record was counted twice"
    assert set(stored) <= set(reported), "a record that was STORED is missing"


def test_invariant_15_a_report_after_a_kill_shows_every_stored_record(
    zygote: Zygote, tmp_path: Path
) -> None:
    """A writer killed at random moments, several times: every STORED id is in the next report."""
    directory = tmp_path / "usage"
    chance = random.Random(20261121)  # noqa: S311 - moments, no secrets
    stored: list[str] = []
    for run in range(6):
        writer = zygote.start(record, directory, f"w{run}")
        writer.wait_for(chance.randrange(1, 3000))
        writer.kill()
        assert writer.count > 0
        stored += writer.told
        assert_nothing_lost(stored, report(directory))
    reported = report(directory)
    assert len(reported) - len(stored) <= 6  # killed between the write and its answer
    assert list((directory / "spool" / "local").glob("*.seg")) == []


def test_invariant_15_reports_beside_writers_all_of_them_killed(
    zygote: Zygote, tmp_path: Path
) -> None:
    """Writers, and reports that take in what they write, die at any moment; nothing else does."""
    directory = tmp_path / "usage"
    chance = random.Random(7)  # noqa: S311
    counts = [RECORDS, None, None, RECORDS]  # who is killed must not end before
    writers = [zygote.start(record, directory, f"w{n}", count) for n, count in enumerate(counts)]
    victims = [(writers[1], chance.randrange(1, 1000)), (writers[2], chance.randrange(1000, 3000))]
    for _ in range(3):
        reporters = [zygote.start(report_for_ever, directory) for _ in range(2)]
        while victims:
            victim, count = victims.pop(0)
            victim.wait_for(count)
            victim.kill()
        for reporter in reporters:
            reporter.wait_for(chance.randrange(1, 4))
            time.sleep(chance.random() * 0.05)  # anywhere within a report
        for reporter in reporters:
            seen = [int(line) for line in reporter.told]
            assert seen == sorted(seen), "a report went back"
            reporter.kill()
    for writer in (writers[0], writers[3]):
        assert writer.wait() == 0, writer.errors
        assert writer.count == RECORDS
    assert_nothing_lost([line for writer in writers for line in writer.told], report(directory))
