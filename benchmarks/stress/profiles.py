"""What a run does to the store and to the pipeline, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.chaos.schedule import Faults, Latency, Phase, Schedule, load

__all__ = ["ALL", "OTHERS", "OURS", "PROFILES", "SOAK", "Profile", "scaled", "with_contenders"]

OURS = "receipt-usage"
SOAK = "soak"
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
    finish_seconds: float = 60.0

    @property
    def contenders(self) -> Sequence[str]:
        """All contenders, in the order in which they are shown."""
        return [name for group in self.groups for name in group]


def _phase(start: float, end: float | None, label: str = "", **faults: object) -> Phase:
    return Phase(start, end, Faults(**faults), label)  # type: ignore[arg-type]


def _pairs() -> tuple[tuple[str, ...], ...]:
    """Ours alone, the others two at a time: a run of all is short of time, not of cores."""
    return (
        (OURS,),
        ("put_item", "put_item-adaptive"),
        ("batch_writer", "pynamodb"),
        ("queue-thread",),
    )


_HEALTHY_LATENCY = Latency(seconds=0.005)
_THROTTLED_SECONDS, _SMALL, _SQUARE = 20.0, 20.0, (800.0, 100.0)


def _throttle(name: str, text: str, steps: Sequence[tuple[float, float]]) -> Schedule:
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
    return Schedule(name, (*phases, last), text)


_JUDGED = ((0.0, _THROTTLED_SECONDS),)
_WITH_BASELINE = ((OURS,), ("full-jitter",))
_OUTAGE = (3.0, 15.0)

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
        text="1 ms and no faults for 15 s, 10 ms and 10 % for 15 s, 50 ms and 25 % for 30 s.",
        schedule=load("seed"),
        seconds=60.0,
        groups=_pairs(),
    ),
    Profile(
        name="throttle",
        text="The table takes 1,000 write units a second, and refuses the rest, item by item.",
        schedule=_throttle("throttle", "steady", [(0.0, 1000.0)]),
        seconds=_THROTTLED_SECONDS,
        groups=(*_WITH_BASELINE, ("put_item", "queue-thread"), ("batch_writer", "pynamodb")),
        judged=_JUDGED,
    ),
    Profile(
        name="throttle-small",
        text="The table takes 20 write units a second, and twice as many are recorded.",
        schedule=_throttle("throttle-small", "steady", [(0.0, _SMALL)]),
        seconds=_THROTTLED_SECONDS,
        groups=((OURS, "full-jitter"),),
        rate=20.0,
        judged=_JUDGED,
    ),
    Profile(
        name="throttle-square",
        text="The table takes 800 and 100 write units a second by turns, 5 s each.",
        schedule=_throttle(
            "throttle-square", "square", [(5.0 * n, _SQUARE[n % 2]) for n in range(4)]
        ),
        seconds=_THROTTLED_SECONDS,
        groups=_WITH_BASELINE,
        judged=_JUDGED,
    ),
    Profile(
        name="outage",
        text="The store is gone for 12 s: every connection is reset.",
        schedule=Schedule(
            "outage",
            (
                _phase(0.0, _OUTAGE[0], latency=_HEALTHY_LATENCY),
                _phase(*_OUTAGE, "outage", outage=True),
                _phase(_OUTAGE[1], None, latency=_HEALTHY_LATENCY),
            ),
            "",
        ),
        seconds=18.0,
        groups=((OURS, "no-breaker"), OTHERS),
        rate=50.0,
    ),
    Profile(
        name="flaky",
        text="Lost replies, resets, errors, partial batches, drip, cut replies, black holes.",
        schedule=load("flaky"),
        seconds=20.0,
        groups=((OURS,), ("put_item", "queue-thread"), ("batch_writer", "pynamodb")),
        rate=100.0,
    ),
    Profile(
        name="kill",
        text="Workers and drainers are killed with SIGKILL while they record, under flaky faults.",
        schedule=load("flaky"),
        seconds=20.0,
        workers=3,
        kind="processes",
        rate=200.0,
        kill_every=1.0,
    ),
    Profile(
        name="disk-full",
        text="The disk of the spool is full for 6 s, and for 3 s of these the store is gone.",
        schedule=Schedule(
            "disk-full",
            (
                _phase(0.0, 6.0, latency=_HEALTHY_LATENCY),
                _phase(6.0, 9.0, "outage", outage=True),
                _phase(9.0, None, latency=_HEALTHY_LATENCY),
            ),
            "",
        ),
        seconds=15.0,
        disk_bytes=24 << 20,
        disk_full=((3.0, 9.0),),
    ),
)
PROFILES = {profile.name: profile for profile in _ALL}
ALL = ("seed", "throttle", "throttle-small", "throttle-square", "outage", "kill", "disk-full")
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
        disk_full=spans(profile.disk_full),
        judged=spans(profile.judged),
    )
