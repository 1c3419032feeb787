"""From what workers, proxy and engine say to the figures of a run."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.chaos.log import Request
from benchmarks.chaos.schedule import Faults, Phase, Schedule
from benchmarks.stress.ledger import Answer, Entry
from benchmarks.stress.measures import Evidence, ages, figures, latency_shares, timeline
from benchmarks.stress.profiles import Profile
from benchmarks.stress.records import record_id
from benchmarks.stress.truth import Truth

BEGIN = 1000.0
PROFILE = Profile(
    name="throttle",
    text="",
    schedule=Schedule(
        "throttle",
        (
            Phase(0.0, 4.0, Faults(table_units=10.0), "10 units/s"),
            Phase(4.0, 6.0, Faults(outage=True), "outage"),
        ),
        "",
    ),
    seconds=8.0,
    judged=((0.0, 4.0),),
)


def call(number: int, at: float, answer: Answer = Answer.ACCEPTED, us: int = 10) -> Entry:
    return Entry(number, int((BEGIN + at) * 1e9), us * 1000, answer)


def write(at: float, numbers: list[int], left: tuple[int, ...] = (), **more: Any) -> Request:
    """A batch that reached the engine and was answered a tenth of a second later."""
    fields: dict[str, Any] = {
        "t": at,
        "wall": 0.0,
        "op": "BatchWriteItem",
        "table": "usage",
        "sent": len(numbers),
        "applied": len(numbers) - len(left),
        "ids": [record_id(0, number) for number in numbers],
        "left": [record_id(0, number) for number in left],
        "units": len(numbers) - len(left),
        "fault": "none",
        "status": 200,
        "ms": 100.0,
        "connection": 1,
    }
    return Request(**{**fields, **more})


def failed(at: float, numbers: list[int], fault: str) -> Request:
    return write(at, numbers, tuple(numbers), fault=fault, status=None, units=0)


def evidence(calls: list[Entry], log: list[Request], **changes: Any) -> Evidence:
    stored = {name for one in log if one.applied for name in set(one.ids) - set(one.left)}
    accepted = {record_id(0, entry.number) for entry in calls if entry.answer.accepted}
    truth = Truth(stored=frozenset(stored), lost=sorted(accepted - stored), duplicated=0)
    fields: dict[str, Any] = {
        "profile": PROFILE,
        "entries": {0: calls},
        "log": log,
        "truth": truth,
        "begin": BEGIN,
        "start": BEGIN,
        "end": BEGIN + 8.0,
        "told": [],
    }
    return Evidence(**{**fields, **changes})


STEADY = [call(number, number / 10) for number in range(80)]


def test_retention_is_the_last_quarter_over_the_first() -> None:
    """Of the time in which the pipeline worked: what it waited before the start is no pace."""
    assert figures(evidence(STEADY, []))["retention"] == 1.0
    slower = [one for one in STEADY if one.number < 60 or one.number % 2]
    assert figures(evidence(slower, []))["retention"] == 0.5
    late = [call(number, 0.45 + number / 10) for number in range(76)]
    assert figures(evidence(late, [], start=BEGIN + 0.4))["retention"] == 1.0


def test_a_stall_in_the_middle_is_seen() -> None:
    """Whatever the first and last quarters are: by the slowest second, and by the time kept."""
    assert figures(evidence(STEADY, []))["steadiness"] == 1.0
    stalled = [one for one in STEADY if not 30 <= one.number < 45]
    assert figures(evidence(stalled, []))["steadiness"] == 0.0
    kept = [*STEADY[:30], call(30, 3.0, us=1_600_000), *STEADY[46:]]
    found = figures(evidence(kept, []))
    assert found["put_over_100ms"] == 1
    assert found["kept_share"] == pytest.approx(0.2, rel=0.01)


def test_recording_is_what_the_pipeline_waited_for() -> None:
    """Median, 99th percentile and longest, in microseconds; what raised is refused."""
    calls = [*STEADY[:78], call(78, 7.8, Answer.RAISED, 500), call(79, 7.9, Answer.DROPPED, 900)]
    found = figures(evidence(calls, []))
    assert (found["offered"], found["accepted"], found["refused"]) == (80, 78, 2)
    assert (found["put_p50_us"], found["put_p99_us"], found["put_max_us"]) == (10, 900, 900)
    shares = dict(zip(*latency_shares(evidence(calls, [])).values(), strict=True))
    assert (shares[5], shares[10], shares[1000]) == (0.0, 78 / 80, 1.0)


def test_goodput_counts_while_the_table_is_limited() -> None:
    """As a share of what its bucket gained; what was sent in vain lowers taken per sent."""
    log = [
        write(1.0, list(range(20)), left=(15, 16, 17, 18, 19)),
        failed(2.0, [15, 16, 17, 18, 19], "throttled"),
        write(3.0, [15, 16, 17, 18, 19]),
        write(7.0, list(range(20, 80))),  # after the limit: not judged
    ]
    found = figures(evidence(STEADY, [*log, write(3.5, [0, 1, 2])]))
    assert found["written_again_share"] == 3 / 80, "and no goodput"
    assert found["accepted_per_sent"] == 20 / 33
    found = figures(evidence(STEADY, log))
    assert (found["written_again_share"], found["goodput"]) == (0, 20 / 4)
    assert found["goodput_share"] == 20 / 40
    assert found["accepted_per_sent"] == 20 / 30
    assert found["calls_per_metric"] == 4 / 80
    assert found["failed_calls_share"] == 0, "a throttle is no failure"


def test_failures_and_what_retry_made_of_them() -> None:
    """Of the records in failed writes, the share that arrived in the end."""
    log = [
        failed(1.0, [0, 1, 2, 3], "error_500"),
        write(1.5, [0, 1, 2], fault="lost_reply", status=None),
        write(2.0, [0, 1, 2]),
    ]
    found = figures(evidence(STEADY[:4], log))
    assert found["failed_calls_share"] == 2 / 3
    assert found["retried_share"] == 3 / 4, "what was applied before its reply was lost is no merit"
    assert found["lost"] == 1
    assert found["recovery_seconds"] is None, "what is lost never comes back"


def test_an_outage_is_told_by_its_requests_and_its_end() -> None:
    """Requests within it; from its end until what was accepted by then has arrived."""
    log = [
        write(1.0, list(range(10))),
        failed(4.5, list(range(10, 35)), "outage"),
        failed(5.5, list(range(10, 35)), "outage"),
        write(6.5, list(range(10, 35))),
        write(6.9, list(range(35, 60))),
        write(7.8, list(range(60, 80))),
    ]
    found = figures(evidence(STEADY, log))
    assert found["outage_requests"] == 2
    assert found["recovery_seconds"] == pytest.approx(7.9 - 6.0), "61 were accepted by then"
    newest_first = [write(6.1, list(range(30, 80))), write(7.5, list(range(30)))]
    found = figures(evidence(STEADY, newest_first))
    assert found["recovery_seconds"] == pytest.approx(7.6 - 6.0)


def test_ages_are_from_the_recording_to_the_first_arrival() -> None:
    """A record that comes twice is as old as when it first came."""
    log = [write(2.0, [0, 1]), write(5.0, [1])]
    found = ages(evidence(STEADY[:2], log))
    assert found == [pytest.approx((0.0, 2.1)), pytest.approx((0.1, 2.0))]
    assert figures(evidence(STEADY[:2], log))["age_p99_seconds"] == pytest.approx(2.1)


def test_the_backlog_is_what_was_accepted_and_has_not_arrived() -> None:
    """Step by step, to the last arrival."""
    found = timeline(
        evidence(STEADY, [write(3.9, list(range(40))), write(9.9, list(range(40, 80)))])
    )
    assert found["step"] == 0.5
    assert len(found["calls"]) == len(found["backlog"]) == 21
    assert found["calls"][0] == 10.0
    assert (found["backlog"][7], found["backlog"][8], found["backlog"][15]) == (40, 5, 40)
    assert found["backlog"][-1] == 0


def test_a_long_run_has_no_more_points() -> None:
    """At most 600, however long it took."""
    log = [write(3600.0, list(range(80)))]
    found = timeline(evidence(STEADY, log, end=BEGIN + 3600.0))
    assert len(found["calls"]) <= 601


def test_what_contenders_tell_of_themselves_is_taken_together() -> None:
    """CPU and openings of all processes; the memory of the largest; what is shared, once."""
    told = [
        {"cpu_seconds": 0.4, "peak_mb": 50.0, "breaker_openings": 1, "dropped": 3},
        {"cpu_seconds": 0.4, "peak_mb": 60.0, "breaker_openings": 1, "dropped": 3},
    ]
    found = figures(evidence(STEADY, [], told=told))
    assert (found["cpu_us_per_item"], found["peak_mb"]) == (pytest.approx(10_000.0), 60.0)
    assert (found["breaker_openings"], found["dropped"]) == (2, 3)
    found = figures(evidence(STEADY, [], told=told, kills=1))
    assert (found["cpu_us_per_item"], found["peak_mb"]) == (None, None), "killed ones are missing"
