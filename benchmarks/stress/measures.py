"""From ledgers, the proxy's log and the store to the figures of one contender in one profile."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.log import Request
from benchmarks.stress.ledger import Entry
from benchmarks.stress.profiles import Profile
from benchmarks.stress.records import record_id
from benchmarks.stress.truth import Truth

__all__ = ["GLOSSARY", "Evidence", "ages", "figures", "latency_shares", "timeline"]

_STEP_SECONDS, _MOST_STEPS = 0.5, 600
TRANSIENT = frozenset(
    "error_500 error_503 reset_before reset_after lost_reply black_hole drip truncated outage "
    "expired_credentials".split()
)
"""Faults of which a caller must think that the write failed."""

_LATENCIES = [mantissa * 10**power for power in range(7) for mantissa in (1, 2, 5)]  # us

GLOSSARY = {
    "offered": "calls that the pipeline made and wanted recorded",
    "accepted": "calls that recording took: it raised nothing and dropped nothing",
    "refused": "calls that recording dropped, or for which it raised into the pipeline",
    "stored_at_once": "records in the store when the pipeline ended",
    "stored": "records in the store when the contender had delivered what it could",
    "lost": "accepted calls that are not in the store",
    "duplicated": "items in the store beyond the first of a call",
    "calls_per_metric": "write requests to the store per record in it",
    "throughput": "calls a second that the pipeline made",
    "retention": "calls a second in the last quarter of the time over those in the first",
    "put_p50_us": "how long recording kept the pipeline, median, microseconds",
    "put_p99_us": "the same, 99th percentile",
    "put_max_us": "the same, longest",
    "goodput": "records a second that the store took while it was judged",
    "goodput_share": "the same as a share of what the table would have taken",
    "accepted_per_sent": "records that the store took per record sent to it while it was judged",
    "recovery_seconds": "from the end of the last fault until all that was accepted had arrived",
    "retried_share": "of records in a write that failed for a moment, those that arrived",
    "outage_requests": "requests sent during the outage",
    "outage_requests_share": "the same over those of the same client without its breaker",
    "breaker_openings": "how often delivery was interrupted by the breaker",
    "failed_calls_share": "write requests that failed, of all",
    "age_p99_seconds": "age of a record on arrival, 99th percentile",
    "cpu_us_per_item": "CPU of the pipeline's process per call, microseconds, the calls included",
    "peak_mb": "the most memory that a process of the pipeline held",
    "kills": "processes killed with SIGKILL",
    "dropped": "calls of which the contender itself says that they are lost",
}
"""What each figure means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one contender's run. ``begin`` and ``end`` are monotonic seconds."""

    profile: Profile
    entries: Mapping[int, Sequence[Entry]]
    log: Sequence[Request]
    truth: Truth
    begin: float
    end: float
    told: Sequence[Mapping[str, Any]]
    kills: int = 0

    @property
    def seconds(self) -> float:
        """How long the pipeline worked."""
        return self.end - self.begin

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
        "throughput": len(calls) / evidence.seconds,
        "retention": _retention(evidence, calls),
        "put_p50_us": _share(taken, 0.5),
        "put_p99_us": _share(taken, 0.99),
        "put_max_us": taken[-1] if taken else None,
        **_judged(evidence, writes),
        "recovery_seconds": _recovery(evidence, accepted, arrivals),
        "retried_share": _retried(writes, evidence.truth),
        "outage_requests": _in_outage(evidence),
        "breaker_openings": _told(told, "breaker_openings", sum),
        "age_p99_seconds": _share(sorted(age for _, age in _ages(evidence, arrivals)), 0.99),
        "cpu_us_per_item": _ratio((_told(told, "cpu_seconds", sum) or 0) * 1e6, len(calls)),
        "peak_mb": _told(told, "peak_mb", max),
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
    quarter = evidence.profile.seconds / 4
    first = sum(evidence.since_begin(call) < quarter for call in calls)
    last = sum(
        3 * quarter <= evidence.since_begin(call) < evidence.profile.seconds for call in calls
    )
    return _ratio(last, first)


def _judged(evidence: Evidence, writes: Sequence[Request]) -> dict[str, float | None]:
    """Return goodput and what it took, within the spans in which they count."""
    profile = evidence.profile
    spans = profile.judged or ((0.0, profile.seconds),)
    within = [w for w in writes if any(start <= w.t < end for start, end in spans)]
    applied, sent = sum(w.applied for w in within), sum(w.sent for w in within)
    seconds = sum(end - start for start, end in spans)
    capacity = [profile.schedule.units(start, end) for start, end in spans]
    units = None if None in capacity else sum(each or 0.0 for each in capacity)
    return {
        "goodput": applied / seconds,
        "goodput_share": None if units is None else _ratio(sum(w.units for w in within), units),
        "accepted_per_sent": _ratio(applied, sent),
    }


def _recovery(
    evidence: Evidence, accepted: Sequence[Entry], arrivals: Mapping[str, float]
) -> float | None:
    """Return how long it took from the last fault's end until what had come in had gone out."""
    windows = [end for _, end, _ in evidence.profile.schedule.fault_windows()]
    ends = [end for end in windows if end <= evidence.seconds]
    if not ends or evidence.truth.lost:
        return None
    ended = max(ends)
    before = sum(evidence.since_begin(call) <= ended for call in accepted)
    times = sorted(arrivals.values())
    if len(times) < before or not before:
        return None
    return max(0.0, times[before - 1] - ended)


def _retried(writes: Sequence[Request], truth: Truth) -> float | None:
    failed = {id_ for write in writes if write.fault in TRANSIENT for id_ in write.ids}
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


def _told(
    told: Sequence[Mapping[str, Any]], name: str, together: Callable[[list[Any]], Any]
) -> Any:
    found = [each[name] for each in told if name in each]
    return together(found) if found else None


def _share(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
