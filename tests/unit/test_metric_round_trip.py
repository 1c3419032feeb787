"""A metric survives every form it is written in: DynamoDB, JSON, pickle, copies."""

from __future__ import annotations

import copy
import pickle
import re
from datetime import UTC
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import AIUsageMetric
from receipt_dynamo.entities import checks
from tests.support import FULL_FIELDS, make_metric
from tests.support.strategies import metrics


def through_boto3(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as DynamoDB's own client writes and reads it."""
    from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

    wire = {name: TypeSerializer().serialize(value) for name, value in item.items()}
    return {name: TypeDeserializer().deserialize(value) for name, value in wire.items()}


def test_the_full_metric_of_these_tests_leaves_no_field_out() -> None:
    """A new field has to be added to the tests before they pass again."""
    assert set(FULL_FIELDS) | {"unpriced_reason"} == set(AIUsageMetric.__struct_fields__)


@pytest.mark.parametrize("field", FULL_FIELDS)
def test_every_field_survives_dynamodb(field: str) -> None:
    """Each field comes back with the value and the type it had."""
    metric = AIUsageMetric(**FULL_FIELDS)
    again = AIUsageMetric.from_item(through_boto3(metric.to_item()))
    assert getattr(again, field) == getattr(metric, field) == FULL_FIELDS[field]
    assert type(getattr(again, field)) is type(getattr(metric, field))


def test_attributes_are_camel_case_and_exact() -> None:
    """The attribute names are the ones the table's indexes are built on; no float goes out."""
    item = AIUsageMetric(**FULL_FIELDS).to_item()
    assert item["requestId"] == FULL_FIELDS["request_id"]
    assert item["timestamp"] == "2026-11-21T20:00:00.123456Z"
    assert item["costUSD"] == FULL_FIELDS["cost_usd"]
    assert item["providerCostUSD"] == Decimal("0.0123")
    assert item["latencyMs"] == Decimal("812.25")
    assert item["githubPr"] == 4711
    assert item["cachedInputTokens"] == 800
    assert item["usageDetails"]["audio_seconds"] == Decimal("1.5")
    assert not [name for name in item if not re.fullmatch(r"[a-z]+([A-Z][a-z]*|USD)*", name)]


def test_unknown_fields_are_left_out_of_the_item() -> None:
    """None is unknown and costs nothing in the table; a known zero is written."""
    item = make_metric(input_tokens=0).to_item()
    assert item["inputTokens"] == 0
    assert "outputTokens" not in item
    assert "metadata" not in item


def test_from_item_ignores_keys_and_attributes_of_later_versions() -> None:
    """Items of the table carry keys, a shard and a TTL; a newer writer may add more."""
    metric = AIUsageMetric(**FULL_FIELDS)
    item = metric.to_item() | {"PK": "U#x", "SK": "y", "sh": Decimal(3), "ttl": Decimal(9)}
    assert AIUsageMetric.from_item(item | {"later": {"a": "b"}}) == metric


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"service": None}, "'service'"),
        ({"requestId": Decimal(5)}, "'requestId'"),
        ({"timestamp": "yesterday"}, "'timestamp'"),
        ({"inputTokens": Decimal("1.5")}, "'inputTokens'"),
    ],
)
def test_a_broken_item_is_named_by_its_attribute(change: dict[str, Any], named: str) -> None:
    """Whoever reads a foreign item learns which attribute is wrong."""
    item = AIUsageMetric(**FULL_FIELDS).to_item() | change
    with pytest.raises(ValueError, match=named):
        AIUsageMetric.from_item(item)


@given(metrics())
def test_any_metric_survives_every_form_it_is_written_in(metric: AIUsageMetric) -> None:
    """DynamoDB items, the spool's JSON, pickle and copies all give back the very same metric."""
    line = msgspec.json.encode(metric)
    forms = [
        AIUsageMetric.from_item(metric.to_item()),
        AIUsageMetric.from_item(through_boto3(metric.to_item())),
        msgspec.json.decode(line, type=AIUsageMetric),
        pickle.loads(pickle.dumps(metric)),  # noqa: S301 - our own bytes
        copy.deepcopy(metric),
        copy.copy(metric),
    ]
    for again in forms:
        assert again == metric
        assert again.identity == metric.identity
        assert str(again.cost_usd) == str(metric.cost_usd)
        assert again.timestamp.tzinfo is UTC
    assert b"\n" not in line
    assert msgspec.json.encode(forms[2]) == line


class Amount(Decimal):
    """A Decimal that is looked at the long way."""


_EDGES = st.integers(-172, -162) | st.integers(85, 92) | st.integers(-50, 50)
LONG = st.builds("{}E{}".format, st.integers(10**36, 10**40), _EDGES).map(Decimal)


@given(st.decimals() | LONG)
def test_the_short_look_at_money_says_what_the_long_one_says(value: Decimal) -> None:
    """The same amounts are kept, unchanged, and the same are refused."""

    def kept(amount: Decimal) -> str | None:
        try:
            return str(checks.check_money("cost_usd", amount))
        except ValueError:
            return None

    assert kept(value) == kept(Amount(value))
