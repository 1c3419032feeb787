"""From ledgers, the proxy's log and the store to the figures of one contender in one profile.

``page_words.py`` says what each figure is called and means.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.log import Request
from benchmarks.stress.ledger import Entry
from benchmarks.stress.profiles import Profile
from benchmarks.stress.records import record_id
from benchmarks.stress.truth import Truth

__all__ = ["Evidence", "ages", "figures", "latency_shares", "timeline"]

_STEP_SECONDS, _MOST_STEPS = 0.5, 600
TRANSIENT = frozenset(
    "error_500 error_503 reset_before reset_after lost_reply black_hole truncated outage "
    "expired_credentials".split()
)
"""Faults of which a caller must think that the write failed."""

_LONG_US = 100_000.0
_LATENCIES = [mantissa * 10**power for power in range(7) for mantissa in (1, 2, 5)]  # us


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one contender's run.

    ``begin`` is time zero of proxy and schedule, and the pipeline worked from ``start`` to ``end``:
    monotonic seconds.
    """

    profile: Profile
    entries: Mapping[int, Sequence[Entry]]
    log: Sequence[Request]
    truth: Truth
    begin: float
    start: float
    end: float
    told: Sequence[Mapping[str, Any]]
    kills: int = 0

    @property
    def seconds(self) -> float:
        """When the pipeline ended, in seconds after the beginning."""
        return self.end - self.begin

    @property
    def worked(self) -> float:
        """For how many seconds the pipeline worked."""
        return self.end - self.start

    def calls(self) -> list[Entry]:
        """Return every call, by time."""
        every = [entry for entries in self.entries.values() for entry in entries]
        return sorted(every, key=lambda entry: entry.begun)

    def since_begin(self, entry: Entry) -> float:
        """Return when a call was recorded, in seconds after the beginning."""
        return entry.begun / 1e9 - self.begin


def figures(evidence: Evidence) -> dict[str, float | int | None]:
    """Return every figure; None where it has no meaning in this run."""
    calls = evidence.calls()
    accepted = [call for call in calls if call.answer.accepted]
    writes = [request for request in evidence.log if request.sent]
    arrivals = _arrivals(writes)
    stored = len(evidence.truth.stored)
    taken = sorted(call.taken / 1000 for call in calls)
    at_once = sum(1 for time in arrivals.values() if time <= evidence.seconds)
    told = evidence.told
    return {
        "offered": len(calls),
        "accepted": len(accepted),
        "refused": len(calls) - len(accepted),
        "stored_at_once": at_once,
        "stored": stored,
        "lost": len(evidence.truth.lost),
        "duplicated": evidence.truth.duplicated,
        "calls_per_metric": _ratio(len(writes), stored),
        "failed_calls_share": _ratio(sum(w.fault in TRANSIENT for w in writes), len(writes)),
        "throughput": len(calls) / evidence.worked,
        "retention": _retention(evidence, calls),
        "put_p50_us": _share(taken, 0.5),
        "put_p99_us": _share(taken, 0.99),
        "put_max_us": taken[-1] if taken else None,
        "put_over_100ms": sum(us > _LONG_US for us in taken),
        "kept_share": _ratio(sum(taken) / 1e6, len(evidence.entries) * evidence.worked),
        "steadiness": _steadiness(evidence, calls),
        **_judged(evidence, writes),
        "written_again_share": _ratio(
            sum(w.applied for w in writes if w.ids) - len(arrivals), stored
        ),
        "recovery_seconds": _recovery(evidence, arrivals),
        "retried_share": _retried(writes, evidence.truth),
        "outage_requests": _in_outage(evidence),
        "breaker_openings": _told(told, "breaker_openings", sum),
        "age_p99_seconds": _share(sorted(age for _, age in _ages(evidence, arrivals)), 0.99),
        "cpu_us_per_item": None if evidence.kills else _cpu(told, calls),
        "peak_mb": None if evidence.kills else _told(told, "peak_mb", max),
        "kills": evidence.kills or None,
        "dropped": _told(told, "dropped", max),
    }


def timeline(evidence: Evidence) -> dict[str, Any]:
    """Return what happened when: calls and arrivals a second, and the backlog, by step."""
    calls = evidence.calls()
    arrivals = sorted(_arrivals([r for r in evidence.log if r.sent]).values())
    last = max(evidence.seconds, arrivals[-1] if arrivals else 0.0)
    width = max(_STEP_SECONDS, last / _MOST_STEPS)
    steps = int(last / width) + 1
    made, kept, arrived = [0] * steps, [0] * steps, [0] * steps
    for call in calls:
        step = min(steps - 1, max(0, int(evidence.since_begin(call) / width)))
        made[step] += 1
        kept[step] += call.answer.accepted
    for time in arrivals:
        arrived[min(steps - 1, max(0, int(time / width)))] += 1
    backlog, waiting = [], 0
    for step in range(steps):
        waiting += kept[step] - arrived[step]
        backlog.append(max(0, waiting))
    return {
        "step": width,
        "calls": [count / width for count in made],
        "arrived": [count / width for count in arrived],
        "backlog": backlog,
    }


def latency_shares(evidence: Evidence) -> dict[str, Any]:
    """Return which share of the calls took at most so many microseconds."""
    taken = sorted(call.taken / 1000 for call in evidence.calls())
    shares = [bisect_right(taken, limit) / max(1, len(taken)) for limit in _LATENCIES]
    return {"us": _LATENCIES, "share": shares}


def _arrivals(writes: Iterable[Request]) -> dict[str, float]:
    """Return when the engine first took each record, in seconds after the beginning."""
    first: dict[str, float] = {}
    for write in writes:
        if write.applied:
            left = set(write.left)
            at = write.t + write.ms / 1000
            for request_id in write.ids:
                if request_id not in left:
                    first[request_id] = min(at, first.get(request_id, at))
    return first


def _retention(evidence: Evidence, calls: Sequence[Entry]) -> float | None:
    start = evidence.start - evidence.begin
    quarter = (evidence.profile.seconds - start) / 4
    times = [evidence.since_begin(call) for call in calls]
    first = sum(time < start + quarter for time in times)
    last = sum(start + 3 * quarter <= time < evidence.profile.seconds for time in times)
    return _ratio(last, first)


def _steadiness(evidence: Evidence, calls: Sequence[Entry]) -> float | None:
    """Return the calls of the slowest whole second over those of the median one."""
    seconds = int(evidence.profile.seconds - (evidence.start - evidence.begin))
    counts = [0] * seconds
    for call in calls:
        second = int(call.begun / 1e9 - evidence.start)
        if 0 <= second < seconds:
            counts[second] += 1
    return _ratio(min(counts), statistics.median(counts)) if counts else None


def _judged(evidence: Evidence, writes: Sequence[Request]) -> dict[str, float | None]:
    """Return goodput and what it took, within the spans in which they count.

    What the store takes once more is no goodput.
    """
    profile = evidence.profile
    spans = profile.judged or ((0.0, profile.seconds),)
    seen: set[str] = set()
    first = sent = 0
    for write in sorted(writes, key=lambda write: write.t):
        new = set(write.ids) - set(write.left) - seen if write.applied else set()
        seen |= new
        if any(start <= write.t < end for start, end in spans):
            first += len(new)
            sent += write.sent if write.ids else 0
    seconds = sum(end - start for start, end in spans)
    capacity = [profile.schedule.units(start, end) for start, end in spans]
    units = None if None in capacity else sum(each or 0.0 for each in capacity)
    return {
        "goodput": first / seconds,
        "goodput_share": None if units is None else _ratio(first, units),  # one unit a record
        "accepted_per_sent": _ratio(first, sent),
    }


def _recovery(evidence: Evidence, arrivals: Mapping[str, float]) -> float | None:
    """Return how long it took from the last fault's end until what had come in had gone out."""
    windows = [end for _, end, _ in evidence.profile.schedule.fault_windows()]
    ends = [end for end in windows if end <= evidence.seconds]
    if not ends or evidence.truth.lost:
        return None
    ended = max(ends)
    times = [
        arrivals.get(record_id(worker, entry.number))
        for worker, entries in evidence.entries.items()
        for entry in entries
        if entry.answer.accepted and evidence.since_begin(entry) <= ended
    ]
    if not times or None in times:
        return None
    return max(0.0, max(time for time in times if time is not None) - ended)


def _retried(writes: Sequence[Request], truth: Truth) -> float | None:
    failed = {id_ for write in writes if write.fault in TRANSIENT for id_ in write.left}
    return _ratio(len(failed & truth.stored), len(failed))


def _in_outage(evidence: Evidence) -> int | None:
    spans = [(p.start, p.until) for p in evidence.profile.schedule.phases if p.faults.outage]
    if not spans:
        return None
    return sum(any(start <= request.t < end for start, end in spans) for request in evidence.log)


def ages(evidence: Evidence) -> list[tuple[float, float]]:
    """Return when each record was recorded, and how old it was on arrival, in seconds, by time."""
    return _ages(evidence, _arrivals([request for request in evidence.log if request.sent]))


def _ages(evidence: Evidence, arrivals: Mapping[str, float]) -> list[tuple[float, float]]:
    return sorted(
        (at, arrivals[name] - at)
        for worker, entries in evidence.entries.items()
        for entry in entries
        if (name := record_id(worker, entry.number)) in arrivals
        for at in (evidence.since_begin(entry),)
    )


def _cpu(told: Sequence[Mapping[str, Any]], calls: Sequence[Entry]) -> float | None:
    return _ratio((_told(told, "cpu_seconds", sum) or 0) * 1e6, len(calls))


def _told(
    told: Sequence[Mapping[str, Any]], name: str, together: Callable[[list[Any]], Any]
) -> Any:
    found = [each[name] for each in told if name in each]
    return together(found) if found else None


def _share(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
