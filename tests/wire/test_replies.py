"""The table of failures holds for what real botocore makes of each reply on the wire.

The replies go in by botocore's ``before-send`` hook: parsing, error classes and hooks are its own,
and there is no network. test_oldest.py runs this on the oldest version that is supported.
"""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import Session

from receipt_dynamo.failures import Fate, classify
from receipt_dynamo.utils.circuit_breaker import Outcome, Permit
from tests.support.fake_dynamodb import (
    FakeDynamoDB,
    make_item,
    put_requests,
    wire_response,
)
from tests.support.simulation import Simulation
from tests.wire.conftest import SENT, JudgeWire, judge_client, judge_store, make_client, make_store

HTML = b"<html><body>Bad Gateway</body></html>"
TYPE = "com.amazonaws.dynamodb.v20120810#"


def unprocessed(*keys: tuple[str, str]) -> dict[str, Any]:
    requests = [{"PutRequest": {"Item": {"PK": {"S": p}, "SK": {"S": s}}}} for p, s in keys]
    return {"UnprocessedItems": {"usage": requests} if requests else {}}


def refused(code: str, message: str = "m", prefix: str = TYPE) -> dict[str, Any]:
    return {"__type": prefix + code, "message": message}


REPLIES: dict[str, tuple[int, Any, str]] = {
    # name: (status, body, kind)
    "all written": (200, unprocessed(), "ok"),
    "some unprocessed": (200, unprocessed(SENT[2], SENT[0]), "partial"),
    "all unprocessed": (200, unprocessed(*SENT), "throttled"),
    "a stranger unprocessed": (200, unprocessed(("P", "stranger")), "corrupt"),
    "an empty object": (200, {}, "corrupt"),
    "an empty body": (200, b"", "corrupt"),
    "a page": (200, HTML, "corrupt"),
    "a cut object": (200, b'{"UnprocessedItems": {', "corrupt"),
    "null": (200, b"null", "corrupt"),
    "a list": (200, b"[]", "corrupt"),
    "a string": (200, b'"ok"', "corrupt"),
    "a number": (200, b"7", "corrupt"),
    "no text": (200, b"\xff\xfe\x00", "corrupt"),
    "null in its place": (200, b'{"UnprocessedItems": null}', "corrupt"),
    "a list in its place": (200, b'{"UnprocessedItems": []}', "corrupt"),
    "a word in its place": (200, b'{"UnprocessedItems": "none"}', "corrupt"),
    "a request without a put": (200, b'{"UnprocessedItems": {"usage": [{}]}}', "corrupt"),
    "beyond all depth": (200, b'{"UnprocessedItems": ' + b"[" * 200_000, "corrupt"),
    "PTEE": (400, refused("ProvisionedThroughputExceededException"), "throttled"),
    "ThrottlingException": (400, refused("ThrottlingException"), "throttled"),
    "Throttling of another voice": (
        400, refused("ThrottlingException", prefix="com.amazon.coral.availability#"), "throttled"
    ),
    "RequestLimitExceeded": (400, refused("RequestLimitExceeded"), "throttled"),
    "SlowDown": (503, refused("SlowDown"), "throttled"),
    "429 without a code": (429, HTML, "throttled"),
    "InternalServerError": (500, refused("InternalServerError"), "transient"),
    "InternalFailure": (500, refused("InternalFailure", prefix=""), "transient"),
    "ServiceUnavailable": (503, refused("ServiceUnavailable", prefix=""), "transient"),
    "500 without a body": (500, b"", "transient"),
    "502 with a page": (502, HTML, "transient"),
    "503 with a page": (503, HTML, "transient"),
    "504 with a page": (504, HTML, "transient"),
    "500 with a list": (500, b"[]", "transient corrupt"),
    "408": (408, b"", "transient"),
    "conflict": (400, refused("ReplicatedWriteConflictException"), "conflict"),
    "expired": (400, refused("ExpiredTokenException", prefix="x#"), "auth"),
    "expired, the other name": (403, refused("RequestExpired", prefix=""), "auth"),
    "denied": (400, refused("AccessDeniedException", prefix="x#"), "auth"),
    "unknown key": (400, refused("UnrecognizedClientException", prefix="x#"), "auth"),
    "wrong signature": (400, refused("InvalidSignatureException", prefix="x#"), "auth"),
    "no signature": (400, refused("MissingAuthenticationTokenException", prefix="x#"), "auth"),
    "half a signature": (400, refused("IncompleteSignatureException", prefix="x#"), "auth"),
    "no table": (400, refused("ResourceNotFoundException"), "config"),
    "no DynamoDB": (400, refused("UnknownOperationException", prefix="x#"), "config"),
    "another schema": (
        400,
        refused("ValidationException", "The provided key element does not match the schema"),
        "config",
    ),
    "302": (302, HTML, "config"),
    "403 with a page": (403, HTML, "config"),
    "404 with a page": (404, HTML, "config"),
    "407 with a page": (407, HTML, "config"),
    "400 without a code": (400, b"{}", "config"),
    "ValidationException": (400, refused("ValidationException", "too many"), "poison"),
    "SerializationException": (400, refused("SerializationException", prefix="x#"), "poison"),
    "collection too large": (400, refused("ItemCollectionSizeLimitExceededException"), "poison"),
    "a new refusal": (400, refused("NeverHeardOfException"), "poison"),
    "413": (413, b"", "split"),
}  # fmt: skip
FATES = {
    "ok": "ACK",
    "partial": "ACK_REST",
    "auth": "KEEP",
    "config": "KEEP",
    "poison": "BISECT",
    "split": "BISECT",
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_what_the_table_says(judge_wire: JudgeWire, name: str) -> None:
    """Kind, fate and which records it acknowledges, as botocore gave it."""
    status, body, kind = REPLIES[name]
    verdict = judge_wire(wire_response(status, body))
    assert verdict.kind in kind.split(), verdict
    assert verdict.fate() is Fate[FATES.get(kind, "FRONT")]
    acknowledged = set(SENT) - verdict.unprocessed
    assert acknowledged == {"ok": set(SENT), "partial": {SENT[1]}}.get(kind, set())


def test_there_are_as_many_kinds_of_replies_as_were_promised() -> None:
    """Thirty-six at least, and those of the sockets beside them."""
    assert len(REPLIES) >= 36


def test_a_wrong_checksum_acknowledges_nothing(judge_wire: JudgeWire) -> None:
    """A flipped bit in 'nothing unprocessed' would lose a batch."""
    reply = wire_response(200, unprocessed(), {"x-amz-crc32": "1"})
    verdict = judge_wire(reply)
    assert (verdict.kind, verdict.fate()) == ("corrupt", Fate.FRONT)


def test_a_reply_without_a_checksum_is_believed(judge_wire: JudgeWire) -> None:
    """Engines that stand in for DynamoDB send none."""
    reply = wire_response(200, unprocessed())
    del reply.headers["x-amz-crc32"]
    assert judge_wire(reply).kind == "ok"


def test_a_hint_of_the_server_arrives(judge_wire: JudgeWire) -> None:
    """Milliseconds in DynamoDB's header."""
    reply = wire_response(400, refused("ThrottlingException"), {"x-amz-retry-after": "1500"})
    assert judge_wire(reply).retry_after == 1.5


@pytest.mark.parametrize(
    ("code", "field"),
    [
        ("ProvisionedThroughputExceededException", "ThrottlingReasons"),
        ("RequestLimitExceeded", "ThrottlingReasons"),
        ("ThrottlingException", "throttlingReasons"),
    ],
)
def test_the_reasons_of_a_throttle_arrive(judge_wire: JudgeWire, code: str, field: str) -> None:
    """Also the one that is spelt otherwise: a hot key is told from the table's limit."""
    reasons = [{"reason": "TableWriteKeyRangeThroughputExceeded", "resource": "arn:table"}]
    verdict = judge_wire(wire_response(400, {**refused(code), field: reasons}))
    assert verdict.hot_partition
    assert verdict.throttling == ("TableWriteKeyRangeThroughputExceeded arn:table",)


def test_every_modelled_error_of_the_call_is_among_the_replies() -> None:
    """What this botocore knows that BatchWriteItem may answer."""
    model = Session().get_service_model("dynamodb").operation_model("BatchWriteItem")
    bodies = json.dumps([body for _, body, _ in REPLIES.values() if isinstance(body, dict)])
    for shape in model.error_shapes:
        assert shape.name in bodies


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "transient"),
        (ConnectionResetError(), "transient"),
        (ValueError("a hook's own fault"), "bug"),
    ],
    ids=repr,
)
def test_what_is_raised_while_sending_is_classified(
    judge_wire: JudgeWire, error: Exception, kind: str
) -> None:
    """botocore passes on as it is what is none of its own."""
    assert judge_wire(error).kind == kind


def test_an_interrupt_while_sending_passes_through_botocore(judge_wire: JudgeWire) -> None:
    """It is nobody's to swallow, and moves no breaker."""
    with pytest.raises(KeyboardInterrupt) as caught:
        judge_wire(KeyboardInterrupt())
    verdict = classify(caught.value, sent=SENT)
    assert verdict.outcome(Permit(1, probe=True)) is Outcome.NEUTRAL


def test_a_bad_parameter_is_poison_before_it_is_sent() -> None:
    """botocore's own validation, where a caller has it on."""
    with pytest.raises(Exception, match="Parameter validation failed") as caught:
        make_client(parameter_validation=True).batch_write_item(RequestItems={"usage": 7})
    assert classify(caught.value, sent=SENT[:1]).fate() is Fate.DEAD


def test_no_region_is_configuration() -> None:
    """Found when the client is made."""
    with pytest.raises(Exception, match="region") as caught:
        make_client(region_name=None).batch_write_item(RequestItems={"usage": 7})
    assert classify(caught.value, sent=SENT).kind == "config"


@pytest.mark.parametrize(
    ("profile", "variables", "kind"),
    [
        ("", {}, "auth"),
        ("", {"AWS_ACCESS_KEY_ID": "only"}, "auth"),
        ("credential_process = false", {}, "transient"),
    ],
    ids=["none", "half", "a provider that fails"],
)
def test_credentials_that_are_missing_or_away(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, profile: str, variables: Any, kind: str
) -> None:
    """None at all is configuration; a provider that does not answer may do so later."""
    (tmp_path / "config").write_text(f"[default]\n{profile}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    verdict = judge_store(make_store())
    assert (verdict.kind, verdict.fate()) == (kind, Fate.KEEP)


def test_the_fake_table_speaks_to_real_botocore() -> None:
    """Its second face: the same capacity, refusals and validation, through botocore's parser."""
    table = FakeDynamoDB(Simulation(), capacity=2.0)
    client = make_client()
    client.meta.events.register("before-send.dynamodb", table.before_send)
    verdict = judge_client(client)
    assert (verdict.kind, verdict.accepted) == ("partial", 2)
    verdict = judge_client(client)
    assert (verdict.kind, verdict.code) == ("throttled", "ProvisionedThroughputExceededException")
    assert verdict.throttling[0].startswith("TableWriteProvisionedThroughputExceeded")
    with pytest.raises(ClientError, match="duplicates"):
        client.batch_write_item(**put_requests([make_item(SENT[0])] * 2))
    with pytest.raises(ClientError, match="Too many items"):
        client.batch_write_item(**put_requests([make_item(("P", f"{n}")) for n in range(26)]))
    assert len(table.items) == 2
