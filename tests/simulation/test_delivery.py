"""Simulated delivery: faults of every kind, kills and freezes; the table's history is the judge.

Every run is given by its seed, which is the test's name. ``--simulation-seeds N`` runs N of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from receipt_dynamo.utils.circuit_breaker import CircuitState
from tests.support.fake_dynamodb import Call, FakeDynamoDB, Fault
from tests.support.simulated_delivery import Delivery, Record, Spool
from tests.support.simulation import Actor, Simulation, seeded

NOISE = ("applied", "reset", "refused", "lost", "InternalServerError", "empty", "503")
OUTAGES = (
    "refused", "lost", "applied", "InternalServerError", "ServiceUnavailable", "empty",
    "AccessDeniedException", "ExpiredTokenException", "ResourceNotFoundException",
    "ThrottlingException", "ReplicatedWriteConflictException", "407",
)  # fmt: skip
FAULTS_END = 300.0
PATIENCE = 3600.0  # seconds of health in which all has to be delivered, with bad records among it


def check_history(spool: Spool, history: Iterable[Call], kills: list[float]) -> None:
    """Compare what was promised with what the table saw; knows nothing of how it came about."""
    taken: dict[int, float] = {}  # when the table first took each record, or a newer one of its key
    newest: dict[object, int] = {}
    ends = [*kills, float("inf")]
    for call in history:
        assert len(call.sent) <= 25
        assert len({key for key, _ in call.sent}) == len(call.sent), "a key twice in one batch"
        while call.at >= ends[0]:  # a new process reads on from the mark: it may repeat itself
            del ends[0]
            newest.clear()
        for key, version in call.taken:
            assert version >= newest.get(key, 0), "a key went back to an older version"
            newest[key] = version
            taken.setdefault(version, call.at)
    arrived: dict[object, list[tuple[int, float]]] = {}
    for record in spool.records:
        if record.number in taken:
            arrived.setdefault(record.key, []).append((record.number, taken[record.number]))
    for number, (how, at) in spool.left.items():
        record = spool.records[number - 1]
        came = [when for n, when in arrived.get(record.key, ()) if n >= number]
        if how == "acked":
            assert came, "acked, and never in the table"
            assert min(came) <= at, "acked before it was in the table"
        elif how == "dead":
            assert _is_marked(spool, record, "poison"), "buried alive"


def _is_marked(spool: Spool, record: Record, mark: str) -> bool:
    """Return whether this record is marked, or one that came after it and took it along."""
    return any(mark in r.item for r in spool.by_key[record.key] if r.number >= record.number)


def check_end(spool: Spool, table: FakeDynamoDB) -> None:
    """All has left but what the server fails on, and the table has the newest good of each key."""
    assert not (stuck := waiting_innocents(spool)), f"{len(stuck)} records are stuck"
    for key, records in spool.by_key.items():
        good = [r.number for r in records if spool.left.get(r.number, ("", 0))[0] == "acked"]
        if good:  # a newer one may be there whose reply was lost, and that a bad one then replaced
            assert (table.version(key) or 0) >= max(good)


def waiting_innocents(spool: Spool) -> list[Record]:
    """Return the records that should have left, or should not be parked for ever.

    A cursed one that is the very last cannot be told from an outage: it waits.
    """
    waiting = []
    for record in spool.records:
        how = spool.left.get(record.number, ("pending", 0.0))[0]
        parked = how == "parked" and not spool.is_replaced(record)
        if (parked or how == "pending") and not _is_marked(spool, record, "cursed"):
            waiting.append(record)
    return waiting


def record_all(
    spool: Spool, simulation: Simulation, chance: random.Random, marks: dict[str, float], count: int
) -> Actor:
    """A pipeline: records come in bursts, a tenth of them for a key that was there before."""
    keys = 0
    for _ in range(count):
        if keys and chance.random() < 0.1:
            number = chance.randrange(max(0, keys - 20), keys)
        else:
            number, keys = keys, keys + 1
        drawn = {name: "m" for name, share in marks.items() if chance.random() < share}
        spool.append(("U#openai#h", f"r{number}"), simulation.monotonic(), **drawn)
        yield chance.choice([0.0, 0.0, 0.0, 0.0, 0.05, 2 * FAULTS_END / count])


def draw_faults(chance: random.Random) -> tuple[Fault, ...]:
    faults = [
        Fault(kind, end=FAULTS_END, share=chance.uniform(0, 0.15))
        for kind in NOISE
        if chance.random() < 0.5
    ]
    for _ in range(chance.randrange(3)):
        start = chance.uniform(0, FAULTS_END - 10)
        end = min(FAULTS_END, start + chance.choice([2.0, 20.0, 120.0]))
        faults.insert(0, Fault(chance.choice(OUTAGES), start, end))
    return tuple(faults)


def test_nothing_is_lost_whatever_happens(simulation_seed: int) -> None:
    """Faults, throttles, poison, drips, kills, freezes: every record leaves, where it belongs."""
    chance = seeded(simulation_seed)
    simulation, spool = Simulation(), Spool()
    capacity = chance.choice([float("inf"), 200.0, 20.0])
    table = FakeDynamoDB(
        simulation, capacity=capacity, faults=draw_faults(chance), seed=simulation_seed
    )
    marks = {"poison": chance.choice([0, 0.02]), "cursed": chance.choice([0, 0, 0.005])}
    simulation.start(record_all(spool, simulation, chance, marks, 400))
    drips = chance.choice([0.0, 0.0, 0.05])
    delivery = Delivery(simulation, table, spool, simulation_seed, drips=drips)
    kills = sorted(chance.uniform(1, FAULTS_END) for _ in range(chance.randrange(4)))
    for at in kills:
        simulation.run(at)
        delivery.kill()
        delivery = Delivery(simulation, table, spool, simulation_seed + int(at), drips=drips)
    if chance.random() < 0.3:
        simulation.run(FAULTS_END - 50)
        delivery.freeze(chance.uniform(1, 49))
    for step in range(1, int(PATIENCE / 30) + 1):
        simulation.run(FAULTS_END + 30 * step)
        if not waiting_innocents(spool):
            break
    check_history(spool, table.history, kills)
    check_end(spool, table)


def test_throttling_alone_never_opens_the_breaker() -> None:
    """A table at a hundredth of the load, and two minutes that take nothing: slow, never 'down'."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation, capacity=((0.0, 5.0), (200.0, 0.001), (320.0, 5.0)))
    chance = seeded(1)
    simulation.start(record_all(spool, simulation, chance, {}, 3000))
    delivery = Delivery(simulation, table, spool, 1)
    simulation.run(520.0)
    assert delivery.transitions == []
    assert table.taken >= 0.98 * 5.0 * 400.0
    check_history(spool, table.history, [])


def test_a_hot_partition_is_throttling_too() -> None:
    """Its neighbours do not wait for it, and the breaker stays closed."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation, partition_capacity=20.0)
    for number in range(1000):
        spool.append((f"P{number % 10 // 9}", f"r{number}"), 0.0)
    delivery = Delivery(simulation, table, spool, 1)
    simulation.run(60.0)
    assert delivery.transitions == []
    check_end(spool, table)


@pytest.mark.parametrize("kind", ["refused", "applied", "InternalServerError", "AccessDenied"])
def test_an_outage_costs_probes_only(kind: str) -> None:
    """Ten minutes down: a few calls until it is noticed, then one for each break."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation, faults=(Fault(kind, 30.0, 630.0),))
    simulation.start(record_all(spool, simulation, seeded(2), {}, 2000))
    delivery = Delivery(simulation, table, spool, 2)
    simulation.run(630.0)
    during = [call for call in table.history if call.at >= 30.0]
    breaks = [t for t in delivery.transitions if t.after is CircuitState.OPEN]
    assert len(breaks) >= 9, "breaks of at most a minute"
    assert len(during) <= len(breaks) + 4 + 3, (
        "one probe a break; before that 5 of 4 senders' calls"
    )
    simulation.run(630.0 + 60.0 + 20.0)
    assert delivery.dispatcher.snapshot().breaker.state is CircuitState.CLOSED
    assert spool.pending < 25
    check_history(spool, table.history, [])


def test_no_retry_hammers_a_service_that_was_found_down() -> None:
    """Four senders fail at once: five failures in all, and what was on its way by then."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation, faults=(Fault("refused"),))
    for number in range(1000):
        spool.append(("P", f"r{number}"), 0.0)
    Delivery(simulation, table, spool, 3)
    simulation.run(2.4)
    assert 5 <= len(table.history) <= 8


def test_after_an_outage_the_load_returns_by_steps() -> None:
    """After the probes there is one call at a time, not four."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation, faults=(Fault("refused", 0.0, 100.0),))
    for number in range(300):
        spool.append(("P", f"r{number}"), 0.0)
    delivery = Delivery(simulation, table, spool, 3, round_trip=2.0)
    simulation.run(300.0)
    closed = next(t.at for t in delivery.transitions if t.after is CircuitState.CLOSED)
    after = [call.at for call in table.history if call.at >= closed]
    assert after[1] - after[0] >= 1.0, "the second call waits for the first one's answer"
    check_end(spool, table)


def test_a_table_with_another_schema_buries_no_more_than_three_batches() -> None:
    """Everything is refused: the guard sees that the table is wrong, and the rest is kept."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation)
    for number in range(1000):
        spool.append(("P", f"r{number}"), 0.0, poison="another schema")
    Delivery(simulation, table, spool, 4)
    simulation.run(1200.0)
    assert 50 <= len(spool.left) <= 75 + 3 * 25
    assert len(table.history) < 600


def test_bad_batches_in_a_row_do_not_keep_a_storm_up() -> None:
    """A hundred poisoned records before good ones: all of the good ones arrive, none else."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation)
    for number in range(500):
        marks = {"poison": "bad release"} if number < 150 else {}
        spool.append(("P", f"r{number}"), 0.0, **marks)
    Delivery(simulation, table, spool, 5)
    simulation.run(3600.0)
    check_history(spool, table.history, [])
    check_end(spool, table)
    assert sum(how == "dead" for how, _ in spool.left.values()) == 150


def test_a_record_that_the_server_fails_on_each_time_blocks_nobody() -> None:
    """It is found and parked; the batches behind it arrive within minutes."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(simulation)
    for number in range(300):
        marks = {"cursed": "always"} if number == 7 else {}
        spool.append(("P", f"r{number}"), 0.0, **marks)
    simulation.start(record_all(spool, simulation, seeded(6), {}, 600))
    Delivery(simulation, table, spool, 6)
    simulation.run(600.0)
    check_end(spool, table)
    assert [n for n, (how, _) in spool.left.items() if how == "parked"] == [8]


def test_a_flaky_service_convicts_no_record() -> None:
    """Half of all calls fails for most of an hour: no record is to blame for that."""
    simulation, spool = Simulation(), Spool()
    faults = (Fault("applied", share=0.25), Fault("reset", share=0.25))
    table = FakeDynamoDB(simulation, faults=faults, seed=8)
    simulation.start(record_all(spool, simulation, seeded(8), {}, 6000))
    Delivery(simulation, table, spool, 8)
    simulation.run(3000.0)
    assert {how for how, _ in spool.left.values()} == {"acked"}
    check_history(spool, table.history, [])


def test_what_a_flush_reported_as_settled_is_in_the_table() -> None:
    """Its mark counts down to nothing only when all that was there is in the table."""
    simulation, spool = Simulation(), Spool()
    table = FakeDynamoDB(
        simulation, capacity=50.0, faults=(Fault("applied", share=0.2), Fault("reset", share=0.1))
    )
    for number in range(150):
        spool.append(("P", f"r{number}"), 0.0)
    delivery = Delivery(simulation, table, spool, 7)
    simulation.run(0.001)
    mark = delivery.dispatcher.flush()
    assert delivery.dispatcher.unsettled(mark) == 150
    for step in range(1, 2000):
        simulation.run(step * 0.1)
        if delivery.dispatcher.unsettled(mark) == 0:
            break
    assert delivery.dispatcher.unsettled(mark) == 0
    assert all(table.version(record.key) == record.number for record in spool.records)


def test_the_same_seed_is_the_same_run() -> None:
    """Else a failure could not be looked at twice."""

    def run() -> list[Call]:
        simulation, spool = Simulation(), Spool()
        faults = draw_faults(seeded(9))
        table = FakeDynamoDB(simulation, capacity=100.0, faults=faults, seed=9)
        simulation.start(record_all(spool, simulation, seeded(9), {"poison": 0.02}, 200))
        Delivery(simulation, table, spool, 9)
        simulation.run(200.0)
        return table.history

    assert run() == run()


# Tests of the test: a checker that believes everything would be green as well.


def _call(at: float, version: int) -> Call:
    sent = ((("P", "a"), version),)
    return Call(at, sent, sent, "ok")


def test_the_checker_sees_a_lost_record() -> None:
    """Acked, and never in the table; or acked before it was there."""
    spool = Spool()
    record = spool.append(("P", "a"), 0.0)
    spool.leave(record, "acked", 1.0)
    with pytest.raises(AssertionError, match="never in the table"):
        check_history(spool, [], [])
    with pytest.raises(AssertionError, match="acked before"):
        check_history(spool, [_call(2.0, 1)], [])
    check_history(spool, [_call(0.5, 1)], [])


def test_the_checker_sees_an_older_version_after_a_newer() -> None:
    """Within one process; a new one may repeat what the old one had not marked."""
    spool = Spool()
    for _ in range(2):
        spool.append(("P", "a"), 0.0)
    history = [_call(1.0, 2), _call(3.0, 1)]
    with pytest.raises(AssertionError, match="went back"):
        check_history(spool, history, [])
    check_history(spool, history, [2.0])


def test_the_checker_sees_who_is_buried_alive_and_who_is_stuck() -> None:
    """Only poison may be dead, and nothing may be left."""
    spool = Spool()
    record = spool.append(("P", "a"), 0.0)
    with pytest.raises(AssertionError, match="stuck"):
        check_end(spool, FakeDynamoDB(Simulation()))
    spool.leave(record, "dead", 1.0)
    with pytest.raises(AssertionError):
        check_history(spool, [], [])
