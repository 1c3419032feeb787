"""The table of failures by itself: complete, without contradiction, and as it is documented."""

from __future__ import annotations

import sys

import botocore.exceptions as botocore_errors
import pytest
from botocore.session import Session

from receipt_dynamo.failure_rules import RULES, UNKNOWN_REFUSAL
from receipt_dynamo.failures import Fate, Kind, Retry, Verdict
from receipt_dynamo.utils.circuit_breaker import Outcome
from tests.support.failure_answers import error, judge
from tools import semantics


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SSLError", "config"),
        ("ProxyConnectionError", "transient"),
        ("ConnectTimeoutError", "transient"),
        ("EndpointConnectionError", "transient"),
        ("ReadTimeoutError", "transient"),
        ("ConnectionClosedError", "transient"),
        ("ResponseStreamingError", "transient"),
        ("HTTPClientError", "transient"),
        ("CredentialRetrievalError", "transient"),
        ("ChecksumError", "corrupt"),
        ("NoCredentialsError", "auth"),
        ("PartialCredentialsError", "auth"),
        ("TokenRetrievalError", "auth"),
        ("UnauthorizedSSOTokenError", "auth"),
        ("NoRegionError", "config"),
        ("UnknownEndpointError", "config"),
        ("ProfileNotFound", "config"),
        ("ParamValidationError", "poison"),
    ],
)
def test_the_nearest_class_of_an_exception_decides(name: str, kind: str) -> None:
    """An SSLError is a ConnectionError too, and a bad certificate is no passing trouble."""
    cls = getattr(botocore_errors, name)
    words = dict.fromkeys(
        "endpoint_url error proxy_url provider error_msg cred_var checksum_type expected_checksum "
        "actual_checksum service_name region_name profile report".split(),
        "x",
    )
    verdict = judge(cls(**words))
    assert (verdict.kind, verdict.code) == (kind, name)


def test_every_exception_in_the_table_exists() -> None:
    """A misspelt name would match nothing, for ever."""
    for rule in RULES:
        for name in rule.exceptions:
            module, _, cls = name.rpartition(".")
            __import__(module)
            assert issubclass(getattr(sys.modules[module], cls), BaseException), name


def test_every_error_that_dynamodbs_model_names_has_a_row_of_its_own() -> None:
    """Of the calls that this library makes; a new one in a new botocore shows here."""
    service = Session().get_service_model("dynamodb")
    for operation in "BatchWriteItem PutItem GetItem Query CreateTable DescribeTable".split():
        for shape in service.operation_model(operation).error_shapes:
            if shape.name != "ConditionalCheckFailedException":  # our puts have no condition
                assert judge(error(shape.name)).rule is not UNKNOWN_REFUSAL, shape.name


def test_no_answer_is_in_two_rows() -> None:
    """Codes and exceptions are unique, and no prefix shadows a code of another row."""
    codes = [code for rule in RULES for code in rule.codes]
    names = [name for rule in RULES for name in rule.exceptions]
    assert len(codes) == len(set(codes))
    assert len(names) == len(set(names))
    for rule in RULES:
        for start in (code[:-1] for code in rule.codes if code.endswith("*")):
            assert not [
                code
                for other in RULES
                if other is not rule
                for code in other.codes
                if code.startswith(start)
            ]


def test_only_poison_ever_ends_in_dead() -> None:
    """Throttles, outages, permissions and missing tables never do, for a single record either."""
    for rule in RULES:
        fate = Verdict(rule=rule, sent=1).fate()
        assert (fate is Fate.DEAD) == (rule.kind in (Kind.POISON, Kind.SPLIT))


def test_throttling_never_trips_the_breaker() -> None:
    """The one catastrophic choice: it costs nineteen twentieths of the goodput."""
    for rule in RULES:
        if rule.kind is Kind.THROTTLED:
            outcomes = {rule.breaker, rule.probe, rule.again}
            assert outcomes <= {Outcome.NEUTRAL, Outcome.SUCCESS, None}


def test_the_documentation_is_the_tables() -> None:
    """docs/semantics.md is what ``python -m tools.semantics`` writes."""
    assert semantics.PAGE.read_text(encoding="utf-8") == semantics.page()


def test_the_documentation_names_every_rule_code_and_exception() -> None:
    """A reader finds each answer on the page."""
    page = semantics.page()
    for rule in RULES:
        assert f"| {rule.name} |" in page
        assert rule.note in page
        for name in (*rule.codes, *rule.exceptions):
            assert f"`{name.removeprefix('builtins.')}`" in page
    assert {rule.retry for rule in RULES} == set(Retry)
