"""``receipt-usage ship``: what waits is delivered, once or for as long as it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest

from receipt_dynamo import Settings, StoreError, UsageClient, open_usage_client
from receipt_dynamo.sqlite_store import SqliteStore
from receipt_label.cli import ship as ship_module
from tests.support import make_metric, stored_ids
from tests.unit.conftest import RunCommand


@pytest.fixture
def pipeline(usage_dir: Path) -> UsageClient:
    """A pipeline that only records; others deliver."""
    return open_usage_client(Settings(usage_dir=usage_dir, drain="external"))


def record(client: UsageClient, count: int) -> None:
    client.put_ai_usage_metrics(make_metric(request_id=f"r{n}") for n in range(count))


def test_what_waits_is_delivered(run: RunCommand, pipeline: UsageClient) -> None:
    """One command takes a backlog to the store and says how much it was."""
    record(pipeline, 3)
    ran = run("ship")
    assert (ran.code, ran.out, ran.one_error) == (0, "", "3 records delivered; none waits")
    assert pipeline.pending() == 0
    assert len(stored_ids(pipeline)) == 3


def test_nothing_to_do_is_no_fault(run: RunCommand) -> None:
    """In cron it runs on an empty spool as well."""
    assert run("ship").one_error == "0 records delivered; none waits"
    assert run("ship").code == 0


def test_figures_for_scripts(run: RunCommand, pipeline: UsageClient) -> None:
    """--json says where to, how many, and what is left."""
    record(pipeline, 2)
    assert run("ship", "--json").json == {
        "destination": "local",
        "delivered": 2,
        "dead": 0,
        "pending": 0,
    }


def test_a_store_that_fails_is_said_and_nothing_is_lost(
    run: RunCommand, pipeline: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the timeout: exit code 1, the cause, and the number of records that wait."""
    record(pipeline, 2)

    def away(*_: object) -> None:
        raise StoreError("the store is away")

    with monkeypatch.context() as failing:
        failing.setattr(SqliteStore, "write", away)
        ran = run("ship", "--timeout", "0.3")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "warning: delivery waits: the store is away. Nothing is lost; it is tried again.",
        "0 records delivered; 2 records still wait",
    ]
    assert run("ship").code == 0
    assert len(stored_ids(pipeline)) == 2


def test_another_leader_is_watched_not_doubled(
    run: RunCommand, usage_dir: Path, pipeline: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process delivers, this one says so and leaves it to it."""
    leader = open_usage_client(Settings(usage_dir=usage_dir, drain="manual"))
    leader.ship()
    record(pipeline, 2)
    sign = leader.leader()
    assert sign is not None
    later = Mock(now=lambda _zone: sign.at + timedelta(seconds=7))
    with monkeypatch.context() as seven_seconds_later:
        seven_seconds_later.setattr(ship_module, "datetime", later)
        ran = run("ship", "--timeout", "0.3")
    assert ran.code == 1
    first, last = ran.err.splitlines()
    assert first.startswith("process ")
    assert first.endswith("delivers this spool (last sign 7 s ago); watching")
    assert last == "0 records delivered; 2 records still wait"
    waiting, done = threading.Event(), threading.Event()

    def deliver() -> None:
        waiting.wait(30)
        leader.ship()
        done.set()

    thread = threading.Thread(target=deliver)
    thread.start()
    waiting.set()
    assert run("ship").code == 0
    thread.join()
    assert done.is_set()
    leader.close()


def test_follow_delivers_what_arrives_until_it_is_stopped(
    run: RunCommand, pipeline: UsageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT and SIGTERM end it after the round that runs, with exit code 0."""
    record(pipeline, 2)
    rounds: list[int] = []
    real = ship_module._Shipper._round

    def counted(self: ship_module._Shipper, tell: Callable[[int], None]) -> int:
        if len(rounds) == 2:
            import signal

            signal.raise_signal(signal.SIGTERM)
        rounds.append(real(self, tell))
        record(pipeline, len(rounds))
        return rounds[-1]

    monkeypatch.setattr(ship_module._Shipper, "_round", counted)
    monkeypatch.setattr(ship_module, "_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(ship_module, "_IDLE_SECONDS", 0.0)
    ran = run("ship", "--follow")
    assert (ran.code, rounds) == (0, [2, 1, 2])
    assert ran.err.splitlines() == [
        "shipping for local until interrupted",
        "5 records delivered; 3 newer records wait",
    ]


@pytest.mark.parametrize("timeout", ["-1", "soon"])
def test_a_bad_timeout_is_wrong_usage(run: RunCommand, timeout: str) -> None:
    """One line, exit code 2."""
    ran = run("ship", "--timeout", timeout)
    assert ran.code == 2
    assert "--timeout" in ran.one_error


def test_what_was_spooled_under_a_wrong_name_is_delivered_to_the_right_place(
    run: RunCommand, usage_dir: Path, pipeline: UsageClient
) -> None:
    """A table that was mistyped: its records wait, are named, and reach another destination."""
    wrong = Settings(usage_dir=usage_dir, drain="external", table_name="usgae", region="eu-west-1")
    with open_usage_client(wrong) as mistyped:
        record(mistyped, 3)
    named = run("ship")
    assert named.code == 0
    assert "3 records waiting for the table usgae in eu-west-1" in named.err
    other = run("ship", "--from", "usage@eu-west-1")
    assert other.code == 2
    assert "nothing waits for it. What waits: usgae@eu-west-1" in other.err
    ran = run("ship", "--from", "usgae@eu-west-1")
    assert (ran.code, ran.one_error) == (0, "3 records delivered; none waits")
    assert len(stored_ids(pipeline)) == 3
    assert run("ship").one_error == "0 records delivered; none waits"
    assert "nothing, for no other" in run("ship", "--from", "usgae@eu-west-1").err


def test_what_another_process_sends_elsewhere_is_left_to_it(
    run: RunCommand, usage_dir: Path, pipeline: UsageClient
) -> None:
    """A pipeline that lives delivers under the wrong name still: here it would be twice."""
    wrong = Settings(usage_dir=usage_dir, table_name="usgae", region="eu-west-1", drain="manual")
    with open_usage_client(wrong) as mistyped:
        record(mistyped, 3)
        assert mistyped._pipeline.leader.try_lead()
        ran = run("ship", "--from", "usgae@eu-west-1", "--timeout", "0.2")
        assert ran.code == 1
        assert "delivers this spool" in ran.err
        assert mistyped.pending() == 3
        assert not stored_ids(pipeline)
        mistyped._pipeline.leader.release()
        assert run("ship", "--from", "usgae@eu-west-1").code == 0
        assert len(stored_ids(pipeline)) == 3


def test_a_backlog_of_the_embedded_store_is_not_asked_for_twice(run: RunCommand) -> None:
    """--to-table takes it along."""
    ran = run("ship", "--to-table", "usage", "--from", "local")
    assert ran.code == 2
    assert "--to-table and --from exclude each other" in ran.err
