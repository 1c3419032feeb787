"""Schedules of the chaos proxy: what holds when, what a bucket grants, who meets which fault."""

from __future__ import annotations

import json
import re
from math import inf
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.buckets import KEY_LIMIT, TABLE_LIMIT, Capacity
from benchmarks.chaos.fates import Fate, Fates
from benchmarks.chaos.log import Request, RequestLog, read_log
from benchmarks.chaos.schedule import NAMED, SHARES, Faults, Latency, Phase, Schedule, load
from benchmarks.chaos.writes import Item, item_bytes, read_write


def steady(faults: Faults) -> Schedule:
    return Schedule("steady", [Phase(0, None, faults)])


def an_item(units: int = 1, key: bytes = b'"a"') -> Item:
    return Item("T", b"", key, None, units)


def refusal(capacity: Capacity, item: Item, now: float) -> str | None:
    return capacity.refusal(item, now, capacity.schedule.at(now))


def put(number: int, key: str = "U#openai#2026-11-21T12#0", pad: int = 0) -> dict[str, object]:
    sort = f"2026-11-21T12:00:00.000000Z#id-{number}"
    return {"PK": {"S": key}, "SK": {"S": sort}, "pad": {"S": "x" * pad}}


def batch(*items: dict[str, object]) -> bytes:
    puts = [{"PutRequest": {"Item": item}} for item in items]
    return json.dumps({"RequestItems": {"T": puts}}).encode()


def fates_of(fates: Fates, count: int = 400, operation: str = "BatchWriteItem") -> list[Fate]:
    body = batch(*(put(number) for number in range(5)))
    return [fates.decide(operation, body, number / 100) for number in range(count)]


def test_each_moment_has_the_faults_of_its_phase() -> None:
    """A phase holds from its start until before its end; where there is none all is healthy."""
    bad, worse = Faults(error_500=0.5), Faults(outage=True)
    schedule = Schedule("s", [Phase(1, 2, bad, "bad"), Phase(3, None, worse, "worse")])
    assert [schedule.at(t) for t in (-1, 0.99, 1, 1.99, 2, 3, 1e9)] == [
        Faults(), Faults(), bad, bad, Faults(), worse, worse,
    ]  # fmt: skip
    assert schedule.fault_windows() == [(1, 2, "bad"), (3, inf, "worse")]


def test_a_low_latency_alone_is_healthy() -> None:
    """Ten milliseconds are what DynamoDB itself may take; more is a fault."""
    assert Faults(latency=Latency(seconds=0.01)).is_healthy
    assert not Faults(latency=Latency(low=0.01, high=0.02)).is_healthy
    assert not Faults(key_units=1000).is_healthy


def test_units_are_the_rate_by_the_time() -> None:
    """What the table gains is summed over phases; a span with no limit has no figure."""
    square = NAMED["throttle-square"]
    assert square.units(0, 10) == pytest.approx(4500)
    assert square.units(4, 12) == pytest.approx(800 + 500 + 1600)
    assert NAMED["outage"].units(0, 1) is None
    assert Schedule("s", [Phase(1, 2, Faults(table_units=5))]).units(0.5, 1.5) is None


def test_the_seed_schedule_is_the_designs() -> None:
    """15 s at 1 ms and no failures, 15 s at 10 ms and 10 %, 30 s at 50 ms and 25 %."""
    seed = NAMED["seed"]
    told = [(seed.at(t).latency.seconds, seed.at(t).failing) for t in (0, 14.9, 15, 30, 59.9, 60)]
    assert told == [(0.001, 0), (0.001, 0), (0.01, 0.1), (0.05, 0.25), (0.05, 0.25), (None, 0)]
    assert [start for start, _, _ in seed.fault_windows()] == [15, 30]


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_schedule_survives_its_json(name: str) -> None:
    """What ``to_json`` gives is read back as the same schedule."""
    schedule = load(name)
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    assert schedule.text.endswith(".")


def test_a_schedule_is_read_from_a_file(tmp_path: Path) -> None:
    """``load`` takes a path; a phase without an end never ends."""
    path = tmp_path / "mine.json"
    phase = {"start": 2, "end": None, "faults": {"latency": {"p50": 0.01, "p99": 0.1}}}
    path.write_text(json.dumps({"name": "mine", "phases": [phase]}))
    assert load(path).at(5).latency == Latency(p50=0.01, p99=0.1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"faults": {"error_500": 1.5}}, "phases[0].faults: Faults.error_500 is 1.5. Give"),
        ({"faults": {"error_500": 0.6, "drip": 0.6}}, "are 1.2 together. Give at most 1."),
        ({"faults": {"error_404": 0.1}}, "phases[0].faults has 'error_404'. It may have latency,"),
        ({"faults": {"latency": {"p50": 0.1}}}, "phases[0].faults.latency: Latency has p50. Give"),
        ({"faults": {"latency": {"low": 2, "high": 1}}}, "Latency.high is 1. Give at least 2"),
        ({"faults": {"latency": 5}}, "phases[0].faults.latency is 5. Give an object"),
        ({"faults": {"table_units": -1}}, "Faults.table_units is -1. Give a number of at least 0."),
        ({"faults": {"outage": "yes"}}, "Faults.outage is 'yes'. Give true or false."),
        ({"start": -1}, "Phase.start is -1. Give seconds of at least 0."),
        ({"start": 9, "end": 9}, "Phase.end is 9. Give more than 9, or null."),
        ({"stop": 9}, "phases[0] has 'stop'. It may have start, end, faults, label."),
    ],
)
def test_a_bad_schedule_says_where_and_what_instead(given: dict[str, object], told: str) -> None:
    """An error names the thing, its value and the remedy, when the schedule is read."""
    phase = {"start": 0, "end": 5, **given}
    with pytest.raises(ValueError, match=re.escape(told)):
        Schedule.from_json({"name": "s", "phases": [phase]})


def test_phases_do_not_lie_over_each_other() -> None:
    """A phase that starts before the one before it has ended is refused."""
    with pytest.raises(ValueError, match=r"starts at 3\. Start it .* at 5 or later"):
        Schedule("s", [Phase(0, 5, Faults()), Phase(3, 6, Faults())])


def test_a_schedule_that_is_not_there_names_those_that_are() -> None:
    """A name that is none is answered with the names there are."""
    with pytest.raises(ValueError, match=r"no schedule 'stormy'.* healthy, seed, throttle"):
        load("stormy")


def test_latencies_have_the_distribution_that_was_asked_for() -> None:
    """Half of a lognormal lie below p50 and 1 % above p99; a uniform one stays in its bounds."""
    random = Random(1)  # noqa: S311
    drawn = sorted(Latency(p50=0.01, p99=0.1).draw(random) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(0.01, rel=0.05)
    assert drawn[19_800] == pytest.approx(0.1, rel=0.15)
    uniform = [Latency(low=1, high=3).draw(random) for _ in range(1000)]
    assert 1 <= min(uniform) < 1.1
    assert 2.9 < max(uniform) <= 3
    assert Latency(seconds=0.5).draw(random) == 0.5


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 40)), min_size=1, max_size=200),
    st.booleans(),
)
def test_a_bucket_never_grants_more_than_burst_and_rate(
    asked: list[tuple[float, int]], empty: bool
) -> None:
    """Whenever and however much is asked for, all spans together get what has come by then."""
    limit = Faults(table_units=100, burst_seconds=0.5, bucket_starts_empty=empty)
    capacity = Capacity(steady(limit))
    now = taken = 0.0
    for pause, units in asked:
        now += pause
        taken += units if refusal(capacity, an_item(units), now) is None else 0
        assert taken <= (0 if empty else 50) + 100 * now + 1e-6


@pytest.mark.parametrize("name", ["throttle", "throttle-small", "throttle-square"])
def test_endless_demand_gets_what_there_is(name: str) -> None:
    """Demand that never ends takes at least 97 % of what comes, at most that and a burst."""
    schedule = load(name)
    capacity = Capacity(schedule)
    taken = 0
    for tick in range(3000):
        while refusal(capacity, an_item(), tick / 100) is None:
            taken += 1
    burst = schedule.at(0).table_units or 0
    come = schedule.units(0, 30) or 0
    assert 0.97 * come <= taken - burst
    assert taken <= come + burst


@pytest.mark.parametrize("turn", [5.0, 10.0])
def test_a_bucket_keeps_only_what_fits_the_next_phase(turn: float) -> None:
    """What a generous phase left is cut to a meagre one's burst, and does not come back."""
    capacity = Capacity(NAMED["throttle-square"])
    assert sum(refusal(capacity, an_item(), turn) is None for _ in range(900)) == 100


def test_each_partition_key_has_its_own_limit() -> None:
    """A hot key is refused as such while another key and the table still have units."""
    capacity = Capacity(steady(Faults(table_units=100, key_units=10)))
    hot = [refusal(capacity, an_item(), 0) for _ in range(11)]
    assert hot == [None] * 10 + [KEY_LIMIT]
    cold = [refusal(capacity, an_item(key=str(n).encode()), 0) for n in range(91)]
    assert cold == [None] * 90 + [TABLE_LIMIT]


def test_a_batch_is_throttled_item_by_item() -> None:
    """The items that find units are sent on; without any, the whole request is refused."""
    fates = Fates(steady(Faults(table_units=3)), 0)
    body = batch(*(put(number) for number in range(5)))
    first, second = (fates.decide("BatchWriteItem", body, 0.0) for _ in range(2))
    assert (first.fault, first.held_back, first.units, first.refused) == (
        "throttled", [3, 4], 3, None,
    )  # fmt: skip
    assert (second.fault, second.units, second.refused) == ("throttled", 0, (TABLE_LIMIT, "T"))
    assert not second.reaches_engine


def test_a_transaction_is_taken_whole_or_not_at_all() -> None:
    """It costs twice; where one item finds no units, the others give theirs back."""
    fates = Fates(steady(Faults(table_units=5)), 0)
    body = json.dumps(
        {"TransactItems": [{"Put": {"TableName": "T", "Item": put(n)}} for n in range(3)]}
    ).encode()
    assert fates.decide("TransactWriteItems", body, 0.0).refused == (TABLE_LIMIT, "T")
    single = json.dumps({"TableName": "T", "Item": put(1)}).encode()
    assert [fates.decide("PutItem", single, 0.0).units for _ in range(6)] == [1] * 5 + [0]


def test_what_a_fault_keeps_from_the_engine_costs_no_units() -> None:
    """Units are taken for what is let through only."""
    fates = Fates(steady(Faults(error_500=1.0, table_units=5)), 0)
    assert {fate.units for fate in fates_of(fates, 10)} == {0}


def test_the_same_seed_gives_the_same_fates() -> None:
    """The same seed and requests meet the same; another seed does not."""
    shares = dict.fromkeys(SHARES, 0.08)
    schedule = steady(Faults(latency=Latency(p50=0.01, p99=0.1), **shares))  # type: ignore[arg-type]
    first, again, other = (fates_of(Fates(schedule, seed)) for seed in (1, 1, 2))
    assert first == again
    assert [fate.fault for fate in first] != [fate.fault for fate in other]
    assert {fate.fault for fate in first} == {"none", *SHARES}


def test_reads_do_not_shift_the_fates_of_writes() -> None:
    """Writes draw from a generator of their own."""
    schedule = steady(Faults(error_500=0.5))
    plain, mixed = Fates(schedule, 1), Fates(schedule, 1)
    expected = [fate.fault for fate in fates_of(plain)]
    found = []
    for number in range(400):
        assert mixed.decide("GetItem", b"{}", number / 100).fault == "none"
        found += [mixed.decide("BatchWriteItem", batch(put(1)), number / 100).fault]
    assert found == expected


def test_shares_come_out_as_given() -> None:
    """Of 4,000 writes, each fault strikes its share."""
    faults = Faults(error_500=0.1, lost_reply=0.3)
    drawn = [fate.fault for fate in fates_of(Fates(steady(faults), 5), 4000)]
    assert drawn.count("error_500") == pytest.approx(400, abs=60)
    assert drawn.count("lost_reply") == pytest.approx(1200, abs=100)


def test_a_partial_batch_keeps_some_back_and_not_all() -> None:
    """At least one item is kept back, at least one is sent on; a single item is not halved."""
    fates = Fates(steady(Faults(partial=1.0)), 0)
    sizes = {len(fate.held_back) for fate in fates_of(fates)}
    assert sizes == {1, 2, 3, 4}
    alone = fates.decide("BatchWriteItem", batch(put(1)), 0.0)
    single = fates.decide("PutItem", json.dumps({"TableName": "T", "Item": put(1)}).encode(), 0)
    assert (alone.fault, single.fault) == ("none", "none")


def test_a_write_is_read_as_it_was_sent() -> None:
    """Ids stand behind the time in a metric's sort key, else in requestId; others have none."""
    named = {"PK": {"S": "other"}, "SK": {"S": "x"}, "requestId": {"S": 'a "b" ü'}}
    hours = {"PK": {"S": "H#openai"}, "SK": {"S": "2026-11"}}
    text = {**put(2), "metadata": {"S": '{"PK":{"S":"U#x"},"SK":{"S":"1Z#fake"}}'}}
    write = read_write("BatchWriteItem", batch(put(1), named, hours, text))
    assert write.table == "T"
    assert len(write.items) == 4
    assert write.ids() == ["id-1", 'a "b" ü', "id-2"]


@pytest.mark.parametrize(
    "body",
    [b"no JSON", b"[]", b'{"RequestItems":5}', batch({"x": {}, "pad": {"S": "x" * 2000}})],
)
def test_a_write_that_cannot_be_read_is_the_engines_to_refuse(body: bytes) -> None:
    """It has no items, costs nothing, and is passed on."""
    fate = Fates(NAMED["throttle"], 0).decide("BatchWriteItem", body, 0.0)
    assert fate.reaches_engine
    assert fate.units == 0


def test_the_parts_of_a_batch_are_the_batch() -> None:
    """A body with some of the items holds those as they came, and the other fields."""
    sent = json.loads(batch(put(1), put(2), put(3)))
    sent["ReturnConsumedCapacity"] = "TOTAL"
    write = read_write("BatchWriteItem", json.dumps(sent).encode())
    part = json.loads(write.body([0, 2]))
    assert part["ReturnConsumedCapacity"] == "TOTAL"
    assert part["RequestItems"]["T"] == [sent["RequestItems"]["T"][n] for n in (0, 2)]


@pytest.mark.parametrize(("pad", "units"), [(0, 1), (900, 1), (1000, 2), (2000, 3)])
def test_an_item_costs_a_unit_for_each_kilobyte(pad: int, units: int) -> None:
    """Sizes are those of names and values, not of their JSON."""
    write = read_write("BatchWriteItem", batch(put(1, pad=pad)))
    assert [item.units for item in write.items] == [units]


def test_sizes_follow_dynamodbs_rules() -> None:
    """Names and text in UTF-8, two digits a byte and one more, 3 and 1 for each element."""
    assert item_bytes({"ü": {"S": "aé"}}) == 2 + 3
    assert item_bytes({"n": {"N": "-1234.5"}}) == 1 + 4
    assert item_bytes({"b": {"BOOL": True}, "x": {"NULL": True}}) == 4
    assert item_bytes({"l": {"L": [{"S": "ab"}, {"N": "1"}]}}) == 1 + 3 + 2 + 2 + 2
    assert item_bytes({"m": {"M": {"k": {"S": "v"}}}}) == 1 + 3 + 1 + 2
    assert item_bytes({"s": {"SS": ["a", "bc"]}}) == 4


def a_request(number: int, **changes: object) -> Request:
    fields: dict[str, object] = {
        "t": 0.5, "wall": 1.0, "op": "PutItem", "table": "T", "sent": 1, "applied": 1,
        "ids": [f"id-{number}"], "units": 1, "fault": "none", "status": 200, "ms": 2.0,
        "connection": 1,
    }  # fmt: skip
    return Request(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every request comes back; ``left`` stands only in lines that have some."""
    path = tmp_path / "log.jsonl"
    written = [a_request(1), a_request(2, left=["id-2"], status=None, fault="lost_reply")]
    log = RequestLog(path)
    for request in written:
        log.add(request)
    log.close()
    log.close()
    assert list(read_log(path)) == written
    assert ["left" in json.loads(line) for line in path.read_text().splitlines()] == [False, True]


def test_a_log_that_is_cut_is_read_up_to_there(tmp_path: Path) -> None:
    """A last line without its end is left out; any other damage is an error that names the line."""
    path = tmp_path / "log.jsonl"
    log = RequestLog(path)
    for number in range(1000):
        log.add(a_request(number))
    log.close()
    path.write_bytes(path.read_bytes()[:-5])
    assert len(list(read_log(path))) == 999
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ValueError, match="line 1, is no request"):
        list(read_log(path))
