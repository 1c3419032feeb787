"""DynamoClient where DynamoDB is difficult: what is sent, sent again, refused, and said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from receipt_dynamo import ConfigurationError, StoreError, UsageQuery
from receipt_dynamo.dynamo_client import DynamoClient
from receipt_dynamo.dynamo_faults import code_of
from receipt_dynamo.entities.gap import Gap
from receipt_dynamo.errors import CorruptReplyError
from receipt_dynamo.store import Batch, StoredRecord
from tests.support import NOON, FakeClock, encode, make_metric, write
from tests.support.wire import Reply, Request, Wire, fault
from tests.support.writing_table import (
    DONE,
    NAMES,
    REGISTRY,
    Table,
    named,
    not_taken,
    puts_of,
    refuse,
    sent,
)

ALL = UsageQuery()


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def wire(table: Table, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    wire = Wire(table)
    with wire.between():
        yield wire


@pytest.fixture
def client(wire: Wire, clock: FakeClock) -> DynamoClient:
    assert wire
    return DynamoClient("t", region="us-east-1", clock=clock, rng=Random(1))  # noqa: S311


# -- the registry ------------------------------------------------------------------------------


def test_services_and_hours_are_registered_before_their_first_metric_once(
    client: DynamoClient, wire: Wire
) -> None:
    """A reader asks the registry first: what it does not name is in no report."""
    client.send(puts_of(client, named("ab")))
    client.send(puts_of(client, named("cd")))
    assert wire.operations() == [
        "GetItem", "UpdateItem", "UpdateItem", "BatchWriteItem", "BatchWriteItem",
    ]  # fmt: skip
    services, hours = (request.json for request in wire.requests[1:3])
    assert services["Key"] == {"PK": {"S": "REGISTRY"}, "SK": {"S": "services"}}
    assert services["ExpressionAttributeValues"][":services"] == {"SS": ["openai"]}
    assert hours["Key"] == {"PK": {"S": "H#openai"}, "SK": {"S": "2026-11"}}
    assert hours["ExpressionAttributeValues"] == {":hours": {"NS": [str(20 * 24 + 12)]}}

    wire.requests.clear()
    later = [make_metric(timestamp=NOON + timedelta(hours=n)) for n in (0, 1, 2, 400)]
    client.send(puts_of(client, [*later, make_metric(service="groq")]))
    assert wire.operations() == ["UpdateItem"] * 4 + ["BatchWriteItem"]
    assert [r.json["Key"]["PK"]["S"] for r in wire.requests[:4]] == [
        "REGISTRY", "H#groq", "H#openai", "H#openai",
    ]  # fmt: skip
    # With a new hour a known service as well: the table may be another one by now.
    again = wire.requests[0].json["ExpressionAttributeValues"][":services"]
    assert again == {"SS": ["groq", "openai"]}


def test_a_month_of_gaps_is_registered_before_its_first_gap(
    client: DynamoClient, wire: Wire
) -> None:
    """And needs neither a service nor an hour."""
    gap = Gap(gap="1", timestamp=NOON, reason="disk", count=2, service="openai")
    for _ in range(2):
        client.send([client.prepare(encode(gap))])
    assert wire.operations() == ["GetItem", "UpdateItem", "BatchWriteItem", "BatchWriteItem"]
    values = wire.requests[1].json["ExpressionAttributeValues"]
    assert values[":gapMonths"] == {"SS": ["2026-11"]}


@pytest.mark.parametrize("failing", [0, 1], ids=["the service", "the hour"])
def test_while_the_registration_fails_the_batch_waits(
    client: DynamoClient, wire: Wire, table: Table, failing: int
) -> None:
    """Nothing is put that no reader would find, and the next try registers again."""
    updates: list[Request] = []

    def update(request: Request) -> Reply:
        updates.append(request)
        return fault("InternalServerError", 500) if len(updates) == failing + 1 else Reply(
            {"Attributes": REGISTRY}
        )  # fmt: skip

    table.update = update
    puts = puts_of(client, named("a"))
    with pytest.raises(Exception, match="InternalServerError"):
        client.send(puts)
    assert sent(wire) == []
    assert client.send(puts) == []
    assert sent(wire) == [["a"]]
    assert len(updates) == 3 + failing


def test_a_table_without_a_registry_is_given_one_shard(client: DynamoClient, wire: Wire) -> None:
    """One that a template made: the first writer settles it for all."""
    real = wire.answer
    wire.answer = lambda r: Reply({}) if r.operation == "GetItem" else real(r)
    client.send(puts_of(client, named("a")))
    first = wire.requests[1].json
    assert first["UpdateExpression"] == "SET #shards = if_not_exists(#shards, :shards)"
    entry = first["ExpressionAttributeValues"][":shards"]["L"][0]["M"]
    assert entry == {"from": {"S": "0001-01-01T00:00:00.000000Z"}, "shards": {"N": "1"}}


def test_a_registry_that_cannot_be_read_is_no_empty_one(client: DynamoClient, wire: Wire) -> None:
    """To guess the shards would put the same record in two places."""
    odd: list[Any] = [b"", b"<html>", {"Item": {"shards": {"L": [{"M": {}}]}}}, {"Item": 5}]
    for body in odd:
        wire.answer = lambda _, body=body: Reply(body)
        with pytest.raises(CorruptReplyError):
            client.prepare(encode(make_metric()))


def test_a_table_that_is_gone_takes_its_registry_along(
    client: DynamoClient, wire: Wire, table: Table
) -> None:
    """Made anew it knows no service: what this process registered before is registered again."""
    puts = puts_of(client, named("a"))
    client.send(puts)
    table.batch = lambda _: fault("ResourceNotFoundException")
    with pytest.raises(Exception, match="ResourceNotFoundException"):
        client.send(puts)
    table.batch = lambda _: DONE
    wire.requests.clear()
    client.send(puts)
    assert wire.operations() == ["UpdateItem", "UpdateItem", "BatchWriteItem"]


# -- send --------------------------------------------------------------------------------------


def test_send_returns_what_was_not_taken(client: DynamoClient, wire: Wire, table: Table) -> None:
    """One request, no retry: whoever drives it paces."""
    table.batch = lambda request: not_taken(request, "bd")
    puts = puts_of(client, named("abcde"))
    assert client.send(puts) == [puts[1], puts[3]]
    assert sent(wire) == [["a", "b", "c", "d", "e"]]


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "AccessDenied"])
def test_send_raises_what_botocore_raises(client: DynamoClient, table: Table, code: str) -> None:
    """One table says what each error means for retries: it needs the errors themselves."""
    from botocore.exceptions import ClientError

    table.batch = lambda _: fault(code)
    with pytest.raises(ClientError) as caught:
        client.send(puts_of(client, named("a")))
    assert code_of(caught.value) == code


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>busy</html>", {"UnprocessedItems": None}])
def test_a_200_that_does_not_say_is_no_success(
    client: DynamoClient, table: Table, body: Any
) -> None:
    """Nothing counts as taken."""
    table.batch = lambda _: Reply(body)
    with pytest.raises(CorruptReplyError):
        client.send(puts_of(client, named("a")))


# -- write -------------------------------------------------------------------------------------


def test_a_batch_goes_out_in_requests_of_25_none_with_a_key_twice(
    client: DynamoClient, wire: Wire
) -> None:
    """The earlier of two goes first, so the later one stays."""
    metrics = named()
    assert write(client, [*metrics, metrics[3]]).acknowledged == 27
    assert [len(names) for names in sent(wire)] == [25, 2]
    wire.requests.clear()
    write(client, [metrics[0], metrics[1], metrics[0]])
    assert sent(wire) == [["a", "b"], ["a"]]


def test_a_request_stays_small(client: DynamoClient, wire: Wire) -> None:
    """What is sent again after a fault is at most a mebibyte, whatever its metrics hold."""
    write(client, named("abcdefgh", metadata={"text": "x" * 300_000}))
    assert [len(names) for names in sent(wire)] == [3, 3, 2]
    assert all(len(request.body) < 1 << 20 for request in wire.requests)


def test_unprocessed_items_are_sent_again_after_a_wait(
    client: DynamoClient, wire: Wire, table: Table, clock: FakeClock
) -> None:
    """Until all are taken; what was taken is not sent twice."""
    left = iter(["bcd", "bcd", "d", ""])
    table.batch = lambda request: not_taken(request, next(left))
    before = clock.monotonic()
    assert write(client, named("abcd")).acknowledged == 4
    assert sent(wire) == [list("abcd"), list("bcd"), list("bcd"), list("d")]
    assert clock.monotonic() > before


def test_a_table_that_takes_nothing_is_an_error_in_the_end(
    client: DynamoClient, wire: Wire, table: Table, clock: FakeClock
) -> None:
    """With what is left; the caller has it still, and sends all of it again."""
    table.batch = lambda request: not_taken(request, NAMES)
    with pytest.raises(StoreError, match=r"t \(us-east-1\) is throttled: it takes none of 3"):
        write(client, named("abc"))
    assert len(sent(wire)) == 5


@pytest.mark.parametrize(
    "reply",
    [
        fault("InternalServerError", 500),
        fault("ThrottlingException"),
        fault("TooOften", 429),
        Reply(b"<html>"),
        Reply(b"<html>", 503),
        Reply({"UnprocessedItems": {}}, crc="1"),
    ],
)
def test_what_passes_is_tried_again(
    client: DynamoClient, wire: Wire, table: Table, reply: Reply, clock: FakeClock
) -> None:
    """A fault of the moment costs a wait, not the batch."""
    replies = iter([reply, reply, DONE])
    table.batch = lambda _: next(replies)
    before = clock.monotonic()
    assert write(client, named("ab")).acknowledged == 2
    assert len(sent(wire)) == 3
    assert clock.monotonic() > before


def test_what_does_not_pass_is_tried_five_times(
    client: DynamoClient, wire: Wire, table: Table
) -> None:
    """And then said in one line that names the table."""
    table.batch = lambda _: fault("InternalServerError", 500, "try\nlater")
    with pytest.raises(StoreError, match=r"^the table t \(us-east-1\) cannot be used: .*Internal"):
        write(client, named("a"))
    assert len(sent(wire)) == 5


@pytest.mark.parametrize("poison", ["a", "z", "m", "az", "hij", NAMES])
def test_what_is_never_taken_dies_alone(
    client: DynamoClient, wire: Wire, table: Table, poison: str
) -> None:
    """It is found by halving, and named with DynamoDB's own words; all the others go in."""
    table.batch = refuse(poison)
    metrics = named()
    outcome = write(client, metrics)
    assert outcome.acknowledged == len(metrics) - len(poison)
    found = [rejection.record for rejection in outcome.rejected]
    assert [record.metric.request_id for record in found] == list(poison)  # type: ignore[union-attr]
    assert all("Item size has exceeded" in rejection.reason for rejection in outcome.rejected)
    assert {name for names in sent(wire) for name in names} == set(NAMES)


def test_a_gap_may_be_refused_too(client: DynamoClient, table: Table) -> None:
    """It does not count as a metric that is in the store."""
    table.batch = refuse(["gone"])
    gaps = [Gap(gap=name, timestamp=NOON, reason="disk", count=1) for name in ("gone", "kept")]
    outcome = write(client, named("ab"), gaps)
    assert outcome.acknowledged == 2
    assert [rejection.record for rejection in outcome.rejected] == [gaps[0]]


def test_a_record_that_is_none_is_rejected_unsent(client: DynamoClient, wire: Wire) -> None:
    """Its bytes say something else than a metric: no table takes that."""
    good = make_metric(request_id="good")
    odd = StoredRecord(make_metric(), b'{"service":"s"}')
    outcome = client.write(
        Batch(records=[odd, StoredRecord(good, encode(good))], segment="s", position=1)
    )
    assert outcome.acknowledged == 1
    assert [rejection.record for rejection in outcome.rejected] == [odd]
    assert sent(wire) == [["good"]]


@pytest.mark.parametrize(
    "message",
    [
        "The provided key element does not match the schema",
        "One or more parameter values were invalid: Missing the key id in the item",
        "One of the required keys was not given a value",
        "One or more parameter values were invalid: Type mismatch for Index Key jobId",
    ],
)
def test_a_table_with_other_keys_kills_no_record(
    client: DynamoClient, wire: Wire, table: Table, message: str
) -> None:
    """A wrong name in the settings is no fault of ten thousand records."""
    table.batch = lambda _: fault("ValidationException", 400, message)
    with pytest.raises(StoreError, match=r"cannot be used: .*ValidationException"):
        write(client, named("ab"))
    assert len(sent(wire)) == 1


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (fault("ResourceNotFoundException"), r"does not exist\. Create it: receipt-usage table cr"),
        (fault("AccessDeniedException"), r"is not open to these credentials.*docs/dynamodb\.md"),
        (fault("ExpiredTokenException"), r"does not accept these credentials.*Renew them"),
        (fault("UnrecognizedClientException"), r"does not accept these credentials"),
        (fault("RequestLimitExceeded"), r"is throttled.*Try again later"),
        (fault("SomethingNew"), r"cannot be used: .*SomethingNew"),
        (Reply(b"<html>"), r"cannot be used: GetItem was answered with what"),
    ],
)
def test_every_question_says_in_one_line_why_it_has_no_answer(
    client: DynamoClient, wire: Wire, reply: Reply, words: str
) -> None:
    """Which table, what happened, what to do; and never half an answer."""
    wire.answer = lambda _: reply
    for question in (
        lambda: client.get_ai_usage_metric("openai", NOON, "r"),
        lambda: list(client.query(ALL)),
        lambda: client.summarize(ALL, (), "UTC"),
        lambda: client.dropped(ALL),
        lambda: client.recorded_times([("openai", "r")]),
        lambda: write(client, named("a")),
    ):
        with pytest.raises(StoreError, match=words) as caught:
            question()
        assert str(caught.value).startswith("the table t (us-east-1) ")
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None


def test_missing_credentials_are_named(
    client: DynamoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        list(client.query(ALL))


def test_an_endpoint_that_nobody_listens_at_is_named(clock: FakeClock) -> None:
    """After as many tries as any other fault of the moment."""
    import os

    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")  # noqa: S106
    try:
        client = DynamoClient("t", endpoint_url="http://127.0.0.1:9", clock=clock)
        with pytest.raises(StoreError, match=r"t \(http://127.0.0.1:9\) cannot be reached: Could"):
            client.dropped(ALL)
    finally:
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"retention_days": 0},
        {"retention_days": float("inf")},
        {"readers": 0},
        {"tries": 0},
        {"connections": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """At once, with the name and the value."""
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"^{name}="):
        DynamoClient("t", **wrong)
