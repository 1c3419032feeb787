"""What a run does to the store and to the pipeline, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.chaos.schedule import Faults, Latency, Phase, Schedule, load

__all__ = [
    "ALL",
    "CI",
    "OTHERS",
    "OURS",
    "PROFILES",
    "SOAK",
    "Profile",
    "ci_profiles",
    "scaled",
    "with_contenders",
]

OURS = "receipt-usage"
SOAK, CI = "soak", "ci"
OTHERS = ("put_item", "put_item-adaptive", "batch_writer", "queue-thread", "pynamodb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to try a contender. Times are seconds after the beginning.

    The pipeline works for ``seconds``, with ``workers`` workers of ``kind`` that record at most
    ``rate`` calls a second each. Contenders of one of ``groups`` run at the same time, each with a
    table and a proxy of its own. ``kill_every``: a process is killed so often. ``disk_bytes`` and
    ``disk_full``: see ``Work``. ``judged`` are the spans in which goodput counts.
    """

    name: str
    text: str
    schedule: Schedule
    seconds: float
    groups: tuple[tuple[str, ...], ...] = ((OURS,),)
    workers: int = 2
    kind: str = "threads"
    rate: float | None = None
    kill_every: float | None = None
    disk_bytes: int | None = None
    disk_full: tuple[tuple[float, float], ...] = ()
    judged: tuple[tuple[float, float], ...] = ()
    finish_seconds: float = 90.0

    @property
    def contenders(self) -> Sequence[str]:
        """All contenders, in the order in which they are shown."""
        return [name for group in self.groups for name in group]


def _phase(start: float, end: float | None, label: str = "", **faults: object) -> Phase:
    return Phase(start, end, Faults(**faults), label)  # type: ignore[arg-type]


_BESIDE = ((OURS,), ("put_item", "put_item-adaptive"), ("batch_writer", "pynamodb", "queue-thread"))
"""Ours alone, the others beside each other: a run of all is short of time, not of cores."""

_LEAST_KILL_SECONDS = 1.0  # a process needs half of it to start
_HEALTHY_LATENCY = Latency(seconds=0.005)
_THROTTLED_SECONDS, _SMALL, _SQUARE = 16.0, 20.0, (800.0, 100.0)


def _throttle(name: str, steps: Sequence[tuple[float, float]]) -> Schedule:
    """Return a table that takes ``units`` a second from each ``start`` on, then everything."""
    ends = [start for start, _ in steps[1:]]
    phases = [
        _phase(
            start,
            end,
            f"{units:g} write units/s",
            latency=_HEALTHY_LATENCY,
            table_units=units,
            bucket_starts_empty=True,
        )
        for (start, units), end in zip(steps, [*ends, _THROTTLED_SECONDS], strict=True)
    ]
    last = _phase(_THROTTLED_SECONDS, None, latency=_HEALTHY_LATENCY)
    return Schedule(name, (*phases, last), "")


def _flaky(seconds: float) -> Schedule:
    """Return the named schedule while the pipeline works, then a store that is well."""
    (phase,) = load("flaky").phases
    phases = (replace(phase, end=seconds), _phase(seconds, None, latency=_HEALTHY_LATENCY))
    return Schedule("flaky", phases, "")


_FLAKY_SECONDS = 20.0
_JUDGED = ((0.0, _THROTTLED_SECONDS),)
_WITH_BASELINE = ((OURS,), ("full-jitter",))


def _outage(start: float, end: float) -> Schedule:
    """Return a store that is gone from ``start`` to ``end``."""
    phases = (
        _phase(0.0, start, latency=_HEALTHY_LATENCY),
        _phase(start, end, "outage", outage=True),
        _phase(end, None, latency=_HEALTHY_LATENCY),
    )
    return Schedule("outage", phases, "")


_ALL = (
    Profile(
        name="healthy",
        text="The store answers after 5 ms and refuses nothing.",
        schedule=Schedule("healthy", (_phase(0.0, None, latency=_HEALTHY_LATENCY),), ""),
        seconds=15.0,
        groups=(("nothing",), (OURS,), ("put_item",), ("batch_writer", "pynamodb")),
    ),
    Profile(
        name="seed",
        text="A store that becomes worse: 1 ms, then 10 ms and 10 % failing, then 50 ms and 25 %.",
        schedule=load("seed"),
        seconds=60.0,
        groups=_BESIDE,
    ),
    Profile(
        name="throttle",
        text="The table takes 1,000 write units a second, and refuses the rest, item by item.",
        schedule=_throttle("throttle", [(0.0, 1000.0)]),
        seconds=_THROTTLED_SECONDS,
        groups=(
            *_WITH_BASELINE,
            ("put_item", "queue-thread"),
            ("put_item-adaptive", "batch_writer", "pynamodb"),
        ),
        judged=_JUDGED,
    ),
    Profile(
        name="throttle-small",
        text="The table takes 20 write units a second, and twice as many are recorded.",
        schedule=_throttle("throttle-small", [(0.0, _SMALL)]),
        seconds=_THROTTLED_SECONDS,
        groups=((OURS, "full-jitter"),),
        rate=20.0,
        judged=_JUDGED,
    ),
    Profile(
        name="throttle-square",
        text="The table takes 800 and 100 write units a second by turns.",
        schedule=_throttle("throttle-square", [(4.0 * n, _SQUARE[n % 2]) for n in range(4)]),
        seconds=_THROTTLED_SECONDS,
        groups=_WITH_BASELINE,
        judged=_JUDGED,
    ),
    Profile(
        name="throttle-starved",
        text="Somebody else takes what the table has: 200 write units a second, then 1, then 200.",
        schedule=_throttle("throttle-starved", [(0.0, 200.0), (4.0, 1.0), (12.0, 200.0)]),
        seconds=_THROTTLED_SECONDS,
        groups=((OURS, "full-jitter"),),
        rate=75.0,
    ),
    Profile(
        name="outage",
        text="The store is gone: every connection is reset.",
        schedule=_outage(3.0, 48.0),
        seconds=54.0,
        groups=((OURS, "no-breaker", *OTHERS),),
        rate=25.0,
    ),
    Profile(
        name="flaky",
        text="Lost replies, resets, errors, partial batches, drip, cut replies, black holes.",
        schedule=_flaky(_FLAKY_SECONDS),
        seconds=_FLAKY_SECONDS,
        groups=((OURS,), ("put_item", "queue-thread"), ("batch_writer", "pynamodb")),
        rate=100.0,
    ),
    Profile(
        name="kill",
        text="Workers and drainers are killed with SIGKILL while they record, under flaky faults.",
        schedule=_flaky(_FLAKY_SECONDS),
        seconds=_FLAKY_SECONDS,
        workers=3,
        kind="processes",
        rate=200.0,
        kill_every=1.0,
    ),
    Profile(
        name="disk-full",
        text="The disk of the spool is full, and for half of that time the store is gone as well.",
        schedule=_outage(6.0, 9.0),
        seconds=15.0,
        rate=150.0,
        disk_bytes=24 << 20,
        disk_full=((3.0, 9.0),),
    ),
)
PROFILES = {profile.name: profile for profile in _ALL}
_SHORT_TABLE = 150.0
_SHORT_THROTTLE = replace(
    PROFILES["throttle"],
    text="The table takes 150 write units a second, and refuses the rest, item by item.",
    schedule=_throttle("throttle", [(0.0, _SHORT_TABLE)]),
    groups=((OURS, "full-jitter"),),
    rate=_SHORT_TABLE,  # of each of two workers: twice what the table takes
)
ALL = (
    "seed",
    "throttle",
    "throttle-small",
    "throttle-square",
    "throttle-starved",
    "outage",
    "kill",
    "disk-full",
)
"""What a run without ``--profile`` does."""


def with_contenders(profile: Profile, contenders: Sequence[str]) -> Profile:
    """Return the profile for these contenders alone, one after the other."""
    return replace(profile, groups=tuple((name,) for name in contenders))


def scaled(profile: Profile, share: float) -> Profile:
    """Return the profile with all its times multiplied by ``share``."""

    def spans(of: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        return tuple((start * share, end * share) for start, end in of)

    phases = tuple(
        replace(
            phase,
            start=phase.start * share,
            end=None if phase.end is None else phase.end * share,
        )
        for phase in profile.schedule.phases
    )
    return replace(
        profile,
        schedule=replace(profile.schedule, phases=phases),
        seconds=profile.seconds * share,
        kill_every=profile.kill_every and max(_LEAST_KILL_SECONDS, profile.kill_every * share),
        disk_full=spans(profile.disk_full),
        judged=spans(profile.judged),
    )


def ci_profiles() -> list[Profile]:
    """Return the short run of ``make test``: a minute, on a machine that others use as well.

    Its table is a small one, for the share of its capacity is looked at, not the machine's.
    """
    return [
        with_contenders(scaled(PROFILES["seed"], 0.15), [OURS]),
        scaled(_SHORT_THROTTLE, 0.5),
        replace(
            PROFILES["outage"],
            groups=((OURS, "no-breaker"),),
            schedule=_outage(3.0, 8.0),
            seconds=11.0,
        ),
        scaled(PROFILES["kill"], 0.5),
        scaled(PROFILES["disk-full"], 0.6),
    ]
