"""What is in the store, held against what the workers say they recorded: key by key, figure by
figure. A run that cannot prove its own count has failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.stress.ledger import Entry
from benchmarks.stress.records import belongs_to_the_table, expected_item, parse_id, record_id

__all__ = ["Truth", "compare"]

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a comparison found.

    ``lost`` were accepted and are not in the store; ``duplicated`` counts the items beyond the
    first of a record. ``problems`` are why the count cannot be believed: figures that differ, items
    that nobody recorded, a log of the proxy's that tells of others than the engine holds.
    """

    stored: frozenset[str]
    lost: Sequence[str]
    duplicated: int
    problems: Sequence[str] = field(default_factory=list)


def compare(
    items: Iterable[Mapping[str, Any]],
    entries: Mapping[int, Sequence[Entry]],
    applied: Collection[str],
    unknown: Collection[str] = (),
) -> Truth:
    """Hold what the engine gave back against the workers' ledgers and the proxy's log.

    ``entries`` are the calls by worker; ``applied`` the ids of which the proxy saw the engine
    acknowledge the write, ``unknown`` those of writes that the engine had and nobody saw answered.
    """
    found: Counter[str] = Counter()
    different: list[str] = []
    strange: list[str] = []
    for item in items:
        request_id = item.get("requestId")
        if not isinstance(request_id, str):
            if not belongs_to_the_table(item):
                strange.append(f"{item.get('PK')} {item.get('SK')}")
            continue
        found[request_id] += 1
        expected = expected_item(request_id)
        if expected is not None and item != expected:
            different.append(request_id)
    stored = frozenset(found)
    accepted = {
        record_id(worker, entry.number)
        for worker, calls in entries.items()
        for entry in calls
        if entry.answer.accepted
    }
    problems = [
        *_problem("records have other figures or keys than they should", different),
        *_problem("items are no records at all", strange),
        *_problem("items are of no record that was made", _foreign(stored, entries)),
        *_problem(
            "records are in the store, and the proxy never passed them",
            stored - set(applied) - set(unknown),
        ),
        *_problem("records were acknowledged by the engine and are gone", set(applied) - stored),
    ]
    return Truth(
        stored=stored,
        lost=sorted(accepted - stored),
        duplicated=sum(count - 1 for count in found.values()),
        problems=problems,
    )


def _foreign(stored: Collection[str], entries: Mapping[int, Sequence[Entry]]) -> list[str]:
    """Return the ids that no worker can have recorded.

    One call more than is noted may be: its worker was killed between recording and noting it.
    """
    last = {worker: calls[-1].number if calls else -1 for worker, calls in entries.items()}
    foreign = []
    for request_id in stored:
        place = parse_id(request_id)
        if place is None or place[1] > last.get(place[0], -2) + 1:
            foreign.append(request_id)
    return foreign


def _problem(what: str, ids: Collection[str]) -> list[str]:
    if not ids:
        return []
    some = ", ".join(sorted(ids)[:_SHOWN])
    return [f"{len(ids):,} {what}: {some}{', ...' if len(ids) > _SHOWN else ''}"]
