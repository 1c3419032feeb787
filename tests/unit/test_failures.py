"""The table of failures, applied to replies and exceptions as botocore makes them."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import Any

import hypothesis.strategies as st
import pytest
from botocore.exceptions import ClientError
from hypothesis import given

from receipt_dynamo.errors import ConfigurationError, CorruptReplyError, StoreError
from receipt_dynamo.failure_rules import NOT_DYNAMODB, RULES, UNKNOWN_REFUSAL
from receipt_dynamo.failures import Fate, Kind
from receipt_dynamo.utils.circuit_breaker import Outcome
from receipt_dynamo.utils.retry_with_backoff import Backoff
from tests.support.failure_answers import CLOSED, PROBE, SENT, error, judge, reply


def test_an_empty_unprocessed_items_acknowledges_the_batch() -> None:
    """Only then: the key has to be there."""
    verdict = judge(reply())
    assert (verdict.kind, verdict.fate(), verdict.accepted) == (Kind.OK, Fate.ACK, 25)
    assert verdict.outcome(CLOSED) is Outcome.SUCCESS


def test_unprocessed_items_are_told_apart_by_key() -> None:
    """DynamoDB promises no order: the last may come first, and each is requeued by its key."""
    verdict = judge(reply(SENT[20], SENT[3]))
    assert (verdict.kind, verdict.fate(), verdict.accepted) == (Kind.PARTIAL, Fate.ACK_REST, 23)
    assert verdict.unprocessed == {SENT[3], SENT[20]}
    assert (verdict.outcome(CLOSED), verdict.backoff()) == (Outcome.SUCCESS, None)


def test_a_batch_that_is_refused_whole_is_throttled() -> None:
    """It moves no breaker; a probe that got it knows that the service answers."""
    verdict = judge(reply(*SENT))
    assert (verdict.kind, verdict.fate(), verdict.accepted) == (Kind.THROTTLED, Fate.FRONT, 0)
    assert (verdict.outcome(CLOSED), verdict.outcome(PROBE)) == (Outcome.NEUTRAL, Outcome.SUCCESS)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"ResponseMetadata": {"HTTPStatusCode": 200}},
        {"UnprocessedItems": None},
        {"UnprocessedItems": []},
        {"UnprocessedItems": {"usage": None}},
        {"UnprocessedItems": {"usage": [None]}},
        {"UnprocessedItems": {"usage": [{"DeleteRequest": {}}]}},
        {"UnprocessedItems": {"usage": [{"PutRequest": {"Item": {"PK": {"S": "x"}}}}]}},
        {"UnprocessedItems": {"usage": [{"PutRequest": {"Item": {"PK": "x", "SK": "y"}}}]}},
        reply(("stranger", "x")),
        reply(SENT[0], ("stranger", "x")),
        None,
        [],
        "",
    ],
)
def test_a_reply_that_cannot_be_right_acknowledges_nothing(broken: object) -> None:
    """botocore turns an unreadable 200 into {}: who reads that as success loses the batch."""
    verdict = judge(broken)
    assert (verdict.kind, verdict.fate(), verdict.accepted) == (Kind.CORRUPT, Fate.FRONT, None)
    assert verdict.unprocessed == set(SENT)
    assert (verdict.outcome(CLOSED), verdict.backoff()) == (Outcome.FAILURE, Backoff())


THROTTLES = """ProvisionedThroughputExceededException ThrottlingException Throttling
RequestLimitExceeded RequestThrottled RequestThrottledException TooManyRequestsException SlowDown"""


@pytest.mark.parametrize("code", THROTTLES.split())
def test_throttles_are_paced_and_never_trip(code: str) -> None:
    """Retried by the limiter where there is one; else after a full second's jitter, at no cost."""
    verdict = judge(error(code, headers={"x-amz-retry-after": "1500"}))
    assert (verdict.kind, verdict.fate(), verdict.accepted) == (Kind.THROTTLED, Fate.FRONT, 0)
    assert (verdict.outcome(CLOSED), verdict.outcome(PROBE)) == (Outcome.NEUTRAL, Outcome.SUCCESS)
    assert verdict.backoff(paced=True) is None
    assert verdict.backoff() == Backoff(base=1.0, hint=1.5, cost=0.0)


@pytest.mark.parametrize(
    ("answer", "kind", "breaker", "retry", "fate"),
    [
        (error("InternalServerError", 500), "transient", "failure", "yes", "FRONT"),
        (error("InternalFailure", 500), "transient", "failure", "yes", "FRONT"),
        (error("ServiceUnavailable", 503), "transient", "failure", "yes", "FRONT"),
        (error("503", 503), "transient", "failure", "yes", "FRONT"),
        (error("502", 502), "transient", "failure", "yes", "FRONT"),
        (error("Strange", 599), "transient", "failure", "yes", "FRONT"),
        (error("RequestTimeout", 400), "transient", "failure", "yes", "FRONT"),
        (error("408", 408), "transient", "failure", "yes", "FRONT"),
        (error("429", 429), "throttled", "neutral", "paced", "FRONT"),
        (error("SomethingNew", 429), "throttled", "neutral", "paced", "FRONT"),
        (error("ReplicatedWriteConflictException"), "conflict", "neutral", "yes", "FRONT"),
        (error("ExpiredTokenException"), "auth", "neutral", "once", "KEEP"),
        (error("RequestExpired"), "auth", "neutral", "once", "KEEP"),
        (error("AccessDeniedException"), "auth", "fatal", "no", "KEEP"),
        (error("UnrecognizedClientException"), "auth", "fatal", "no", "KEEP"),
        (error("InvalidSignatureException"), "auth", "fatal", "no", "KEEP"),
        (error("IncompleteSignature"), "auth", "fatal", "no", "KEEP"),
        (error("ResourceNotFoundException"), "config", "fatal", "no", "KEEP"),
        (error("UnknownOperationException"), "config", "fatal", "no", "KEEP"),
        (error("ValidationException"), "poison", "neutral", "no", "BISECT"),
        (error("SerializationException"), "poison", "neutral", "no", "BISECT"),
        (error("ItemCollectionSizeLimitExceededException"), "poison", "neutral", "no", "BISECT"),
        (error("413", 413), "split", "neutral", "no", "BISECT"),
        (error("RequestEntityTooLarge", 400), "split", "neutral", "no", "BISECT"),
        (error("NeverHeardOf", 400), "poison", "neutral", "no", "BISECT"),
        (error("407", 407), "config", "fatal", "no", "KEEP"),
        (error("403", 403), "config", "fatal", "no", "KEEP"),
        (error("", 404), "config", "fatal", "no", "KEEP"),
        (error("302", 302), "config", "fatal", "no", "KEEP"),
        (error("", 0), "corrupt", "failure", "yes", "FRONT"),
        (error("Unknown", 200), "corrupt", "failure", "yes", "FRONT"),
        (OSError(errno.EMFILE, "too many"), "transient", "failure", "yes", "FRONT"),
        (TimeoutError(), "transient", "failure", "yes", "FRONT"),
        (ValueError("ours"), "bug", "neutral", "no", "KEEP"),
        (MemoryError(), "bug", "neutral", "no", "KEEP"),
        (KeyboardInterrupt(), "interrupted", "neutral", "no", "FRONT"),
        (SystemExit(), "interrupted", "neutral", "no", "FRONT"),
        (GeneratorExit(), "interrupted", "neutral", "no", "FRONT"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:70],
)
def test_each_answer_has_its_row(
    answer: object, kind: str, breaker: str, retry: str, fate: str
) -> None:
    """Kind, what the breaker learns, whether it is tried again, and what becomes of the batch."""
    verdict = judge(answer)
    assert (verdict.kind, verdict.outcome(CLOSED)) == (kind, breaker)
    assert (verdict.rule.retry, verdict.fate()) == (retry, Fate[fate])
    assert verdict.unprocessed == set(SENT)


def test_expired_credentials_are_signed_anew_once_and_then_are_configuration() -> None:
    """A second time, and on a probe, which has no second attempt, it is fatal."""
    verdict = judge(error("ExpiredToken"))
    assert verdict.backoff() == Backoff(attempts=2)
    assert verdict.outcome(CLOSED) is Outcome.NEUTRAL
    assert verdict.outcome(CLOSED, again=True) is verdict.outcome(PROBE) is Outcome.FATAL


@pytest.mark.parametrize(
    "message",
    [
        "The provided key element does not match the schema",
        "One or more parameter values were invalid: Missing the key PK in the item",
        "One of the required keys was not given a value",
        "One or more parameter values were invalid: Type mismatch for Index Key sh Expected: N",
    ],
)
def test_a_refusal_that_speaks_of_the_tables_keys_buries_nobody(message: str) -> None:
    """Every record has the same keys: the table is wrong, and the record waits for another."""
    verdict = judge(error("ValidationException", message=message), SENT[:1])
    assert (verdict.kind, verdict.fate()) == (Kind.CONFIG, Fate.KEEP)
    assert verdict.outcome(CLOSED) is Outcome.FATAL


def test_our_own_store_error_is_judged_by_its_cause() -> None:
    """The store says in its own words what botocore raised; the words change no verdict."""

    def raised(cause: Exception | None) -> StoreError:
        try:
            raise StoreError("the table cannot be used") from cause
        except StoreError as caught:
            return caught

    assert judge(raised(error("AccessDeniedException"))).kind is Kind.AUTH
    assert judge(raised(raised(TimeoutError()))).kind is Kind.TRANSIENT
    assert judge(raised(None)).kind is Kind.TRANSIENT
    assert judge(CorruptReplyError("crc")).kind is Kind.CORRUPT
    assert judge(ConfigurationError("no region")).kind is Kind.CONFIG


def test_a_reply_that_our_own_decoder_fails_on_is_corrupt() -> None:
    """What the decoder said is its cause, and no fault of this library: it is asked for again."""
    unreadable = CorruptReplyError("no JSON")
    unreadable.__cause__ = ValueError("byte 0")
    told = StoreError("the table cannot be used")
    told.__cause__ = unreadable
    assert {judge(error).kind for error in (unreadable, told)} == {Kind.CORRUPT}


def test_poison_is_dead_only_when_it_is_alone() -> None:
    """A batch is halved; what is refused alone carries DynamoDB's own words."""
    verdict = judge(error("ValidationException", message="too wide"), SENT[:1])
    assert (verdict.fate(), str(verdict)) == (Fate.DEAD, "poison (ValidationException: too wide)")
    assert judge(error("413", 413), SENT[:1]).fate() is Fate.DEAD
    assert judge(error("AccessDenied"), SENT[:1]).fate() is Fate.KEEP


def test_nobody_but_dynamodb_condemns_a_record() -> None:
    """A 4xx of a proxy or a captive portal has no error code: the record is kept."""
    for status in (400, 401, 402, 403, 404, 405, 407, 409, 418, 451):
        assert judge(error(str(status), status), SENT[:1]).rule is NOT_DYNAMODB
        assert judge(error("Coded", status), SENT[:1]).rule is UNKNOWN_REFUSAL


def test_throttling_reasons_tell_a_hot_key_from_the_table() -> None:
    """Under either spelling of the field; a reply without them is no hot key."""
    reasons = [{"reason": "TableWriteKeyRangeThroughputExceeded", "resource": "arn:t"}]
    verdict = judge(error("ProvisionedThroughputExceededException", ThrottlingReasons=reasons))
    assert verdict.throttling == ("TableWriteKeyRangeThroughputExceeded arn:t",)
    assert verdict.hot_partition
    assert judge(error("ThrottlingException", throttlingReasons=reasons)).hot_partition
    reasons = [{"reason": "TableWriteProvisionedThroughputExceeded", "resource": "arn:t"}]
    assert not judge(error("ThrottlingException", throttlingReasons=reasons)).hot_partition
    assert not judge(error("ThrottlingException")).hot_partition


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-amz-retry-after": "250"}, 0.25),
        ({"retry-after": "7"}, 7.0),
        ({"x-amz-retry-after": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"x-amz-retry-after": "-1"}, None),
        ({"x-amz-retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_the_servers_hint_is_read_from_its_headers(
    headers: dict[str, str], seconds: float | None
) -> None:
    """DynamoDB's own header is in milliseconds, HTTP's in seconds; nonsense is no hint."""
    assert judge(error("503", 503, headers=headers)).retry_after == seconds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.no_cover
@given(answer=JSON, key=st.sampled_from(["UnprocessedItems", "x"]))
def test_no_reply_is_believed_that_does_not_say_so(answer: Any, key: str) -> None:
    """Whatever JSON comes: only an empty map of unprocessed items acknowledges, and none raises."""
    for body in (answer, {key: answer}, {key: {"usage": answer}}):
        verdict = judge(body)
        said = isinstance(body, dict) and isinstance(body.get("UnprocessedItems"), dict)
        if verdict.kind is Kind.OK:
            assert said
            assert not any(body["UnprocessedItems"].values())
        else:
            assert verdict.kind is Kind.CORRUPT


@given(code=st.text() | st.none() | st.integers(), status=st.integers() | st.none() | st.text())
def test_no_client_error_is_without_a_verdict(code: Any, status: Any) -> None:
    """Whatever code and status come, classifying raises nothing."""
    answer = ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "x"
    )  # type: ignore[typeddict-item]
    assert judge(answer).rule in RULES


def test_an_exception_that_cannot_be_shown_is_classified_too() -> None:
    """A broken __str__ of somebody's is no reason to fail here."""

    class Broken(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    verdict = judge(Broken())
    assert (verdict.kind, str(verdict)) == (Kind.BUG, "bug (Broken)")


def test_a_client_error_without_a_response_is_corrupt() -> None:
    """Nothing can be told from it; the batch is sent again."""
    broken = error("x")
    broken.response = None  # type: ignore[assignment]
    assert judge(broken).kind is Kind.CORRUPT
    assert str(judge(broken)) == "corrupt"


def test_classifying_loads_no_botocore() -> None:
    """It costs a quarter of a second, and whoever records only does not need it."""
    code = (
        "import sys, receipt_dynamo.failures as f; f.classify(OSError()); f.classify({});"
        "assert not {'botocore', 'boto3', 'tenacity'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
