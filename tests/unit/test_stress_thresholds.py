"""What a run must reach, and what is looked at."""

from __future__ import annotations

import pytest

from benchmarks.stress.profiles import ALL, OTHERS, OURS, PROFILES, scaled, with_contenders
from benchmarks.stress.running import Plan
from benchmarks.stress.thresholds import checks_of

GOOD = {
    "lost": 0,
    "duplicated": 0,
    "refused": 0,
    "retention": 0.99,
    "retried_share": 1.0,
    "goodput_share": 0.99,
    "accepted_per_sent": 0.95,
    "calls_per_metric": 0.041,
    "failed_calls_share": 0.0,
    "breaker_openings": 0,
    "outage_requests_share": 0.05,
    "age_p99_seconds": 1.0,
    "put_over_100ms": 0,
    "kept_share": 0.02,
    "steadiness": 0.9,
    "written_again_share": 0.01,
}
OUTAGE = {**GOOD, "breaker_openings": 1}
BESIDE: dict[str, dict[str, float]] = {"no-breaker": {}}


def good(profile: str) -> dict[str, float]:
    """Return figures that nobody would complain of."""
    return OUTAGE if profile in ("outage", "disk-full") else GOOD


@pytest.mark.parametrize("profile", PROFILES)
def test_good_figures_pass_and_a_lost_record_fails(profile: str) -> None:
    """In every profile, short or not: losses have no looser limit."""
    for short in (False, True):
        figures = good(profile)
        assert all(check.passed for check in checks_of(profile, figures, short=short))
        refused = checks_of(profile, {**figures, "refused": 1}, short=short)
        assert [check.name for check in refused if not check.passed] == ["refused"]
        lost = checks_of(profile, {**figures, "lost": 1}, short=short)
        assert [check.name for check in lost if not check.passed] == ["lost"]
        twice = checks_of(profile, {**figures, "duplicated": 1}, short=short)
        assert [check.name for check in twice if not check.passed] == ["duplicated"]


@pytest.mark.parametrize(
    ("profile", "name", "value"),
    [
        ("seed", "retention", 0.94),
        ("seed", "retried_share", 0.94),
        ("seed", "calls_per_metric", 0.045),
        ("throttle", "goodput_share", 0.94),
        ("throttle", "accepted_per_sent", 0.89),
        ("throttle", "breaker_openings", 1),
        ("throttle", "written_again_share", 0.04),
        ("outage", "outage_requests_share", 0.11),
        ("outage", "breaker_openings", 0),
        ("outage", "steadiness", 0.1),
        ("flaky", "put_over_100ms", 3),
        ("seed", "kept_share", 0.06),
        ("healthy", "calls_per_metric", 0.043),
    ],
)
def test_each_mark_is_the_one_that_the_design_names(profile: str, name: str, value: float) -> None:
    """Just beyond it, the run fails, and says by which figure."""
    checks = checks_of(profile, {**good(profile), name: value}, beside=BESIDE)
    assert [check.name for check in checks if not check.passed] == [name]


def test_failing_calls_allow_for_more_of_them() -> None:
    """The bound is 1.1 x 0.04 / (1 - share of failed calls)."""
    figures = {**GOOD, "calls_per_metric": 0.058, "failed_calls_share": 0.25}
    assert all(check.passed for check in checks_of("seed", figures))
    assert not all(
        check.passed for check in checks_of("seed", {**figures, "calls_per_metric": 0.06})
    )


def test_a_figure_that_is_missing_passes_no_check() -> None:
    """A run that measured nothing has proven nothing."""
    figures = {name: value for name, value in GOOD.items() if name != "retention"}
    assert [c.name for c in checks_of("seed", figures) if not c.passed] == ["retention"]


def test_full_jitter_is_the_least() -> None:
    """Behind the baseline of the same run, whatever the table is, is a failure."""
    beside = {"full-jitter": {"goodput_share": 0.9, "accepted_per_sent": 0.7}}
    assert all(c.passed for c in checks_of("throttle-square", GOOD, beside=beside))
    behind = checks_of("throttle-square", {**GOOD, "goodput_share": 0.8}, beside=beside)
    assert [c.name for c in behind if not c.passed] == ["goodput_share beside full jitter"]
    unmeasured = checks_of("throttle-square", GOOD, beside={"full-jitter": {}})
    assert len([c for c in unmeasured if not c.passed]) == 2


def test_a_run_of_everything_has_all_contenders_where_they_are_compared() -> None:
    """Seed, throttle and outage: ours and five others; kills and full disks: ours."""
    for name in ("seed", "throttle", "outage"):
        assert {OURS, *OTHERS} <= {*PROFILES[name].contenders}
    assert {"seed", "throttle", "outage", "kill", "disk-full"} <= {*ALL}


@pytest.mark.parametrize(
    ("plan", "short"),
    [
        (Plan(profiles=("outage",)), False),
        (Plan(profiles=("outage",), scale=0.99), True),
        (Plan(profiles=("outage",), short=True), True),
        (Plan(profiles=("ci",)), True),
    ],
)
def test_a_run_of_less_than_full_length_is_judged_by_the_limits_of_short_ones(
    plan: Plan, short: bool
) -> None:
    """What a flush finds on its way is a larger share of less."""
    assert plan.is_short is short
    found = checks_of("outage", {**OUTAGE, "written_again_share": 0.038}, short=plan.is_short)
    assert all(check.passed for check in found) is short


def test_a_profile_can_be_had_shorter_and_with_others() -> None:
    """All its times shrink together; contenders then run one after the other."""
    short = scaled(PROFILES["outage"], 0.5)
    assert (short.seconds, short.schedule.phases[1].start) == (27.0, 1.5)
    one = with_contenders(short, ("put_item", "pynamodb"))
    assert one.groups == (("put_item",), ("pynamodb",))
    plan = Plan(profiles=("seed", "soak"), kind="tasks", minutes=12.0, scale=0.1)
    seed, soak = plan.chosen()
    assert (seed.kind, seed.seconds, soak.seconds) == ("tasks", 6.0, 720.0)
    assert len(soak.schedule.phases) > 3
