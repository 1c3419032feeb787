"""Whether a run was one: its own faults struck, and what the client says agrees with the ledgers.

A run in which nothing happened proves nothing, whatever its figures are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from benchmarks.stress.ledger import Answer
from benchmarks.stress.measures import Evidence

__all__ = ["doubts"]

_MANY_WRITES = 60
"""Of so many, one in twenty failing meets a fault for all but certain."""

_FAILING = 0.05


def doubts(evidence: Evidence) -> list[str]:
    """Return why a run of this library proves nothing."""
    return [*_idle(evidence), *_faults(evidence), *_contradictions(evidence)]


def _idle(evidence: Evidence) -> Iterator[str]:
    if not evidence.truth.stored:
        yield "no record reached the store"
    if evidence.profile.kill_every is not None and not evidence.kills:
        yield "nothing was killed"


def _faults(evidence: Evidence) -> Iterator[str]:
    """Yield the faults that the profile has and the run had not."""
    profile = evidence.profile
    met = Counter(request.fault for request in evidence.log)
    phases = [phase for phase in profile.schedule.phases if phase.start < profile.seconds]
    if any(phase.faults.outage for phase in phases) and not met["outage"]:
        yield "nothing was sent during the outage"
    limited = any(phase.faults.table_units is not None for phase in phases)
    if limited and not any(one.left and one.fault in _AT_THE_LIMIT for one in evidence.log):
        yield "the table was never at its limit"
    for phase in phases:
        within = [one for one in evidence.log if one.sent and phase.start <= one.t < phase.until]
        many = phase.faults.failing >= _FAILING and len(within) >= _MANY_WRITES
        if many and all(one.fault == "none" for one in within):
            yield f"no write failed in the phase {phase.label!r}"
    if profile.disk_full and not _memory_within(evidence):
        yield "the disk was never full"


_AT_THE_LIMIT = frozenset({"none", "throttled"})


def _memory_within(evidence: Evidence) -> bool:
    """Return whether recording kept anything in memory while the disk was full."""
    return any(
        start <= evidence.since_begin(call) < end
        for call in evidence.calls()
        if call.answer is not Answer.ACCEPTED
        for start, end in evidence.profile.disk_full
    )


def _contradictions(evidence: Evidence) -> Iterator[str]:
    """Hold what the client says of itself against ledgers and store."""
    told = [each for each in evidence.told if "dropped" in each]
    if not told:
        return
    refused = sum(not call.answer.accepted for call in evidence.calls())
    dropped = max(each["dropped"] for each in told)
    if abs(refused - dropped) > evidence.kills:  # of a killed worker the last call is not noted
        yield f"{refused:,} calls were dropped, and {dropped:,} counted"
    left = max(each["pending"] + each["dead"] for each in told)
    if left:
        yield f"{left:,} records wait or are dead after all"
