"""A metric survives every form it is written in: DynamoDB, JSON, pickle, copies."""

from __future__ import annotations

import copy
import pickle
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_dynamo import PRICE_SOURCES, STATUSES, UNPRICED_REASONS, AIUsageMetric
from receipt_dynamo.entities import checks
from tests.support import FULL_FIELDS, make_metric


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


counts = st.integers(0, 10**9)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
ids = st.none() | texts
money = st.decimals(0, 10**12, allow_nan=False, allow_infinity=False, places=20) | st.builds(
    lambda digits, exponent: Decimal((0, tuple(digits), exponent)),
    st.lists(st.integers(0, 9), min_size=1, max_size=38),
    st.integers(-128, 80),
).filter(lambda value: value == 0 or value.adjusted() >= -130)
floats = st.floats(-1e100, 1e100).filter(lambda value: value == 0 or abs(value) > 1e-100)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
times = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
)


@st.composite
def metrics(draw: st.DrawFn) -> AIUsageMetric:
    """Any valid metric."""
    cached, written, fresh = draw(st.tuples(counts, counts, counts))
    reasoning, spoken = draw(st.tuples(counts, counts))
    fields: dict[str, Any] = {
        "service": draw(st.sampled_from(["openai", "Anthropic", "göögle", "my service"])),
        "model": draw(texts),
        "operation": draw(texts),
        "timestamp": draw(times),
        "request_id": draw(st.just("") | texts),
        "api_calls": draw(counts),
        "usage_details": draw(
            st.dictionaries(texts.filter(lambda t: len(t.encode()) <= 64), counts, max_size=3)
        ),
        "provider_cost_usd": draw(st.none() | money),
        "latency_ms": draw(st.none() | st.floats(0, 1e9).filter(lambda v: v == 0 or v > 1e-100)),
        "status": draw(st.sampled_from(sorted(STATUSES))),
        "github_pr": draw(st.none() | st.integers(1, 10**6)),
        "error": draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=50)),
        "metadata": draw(st.dictionaries(texts, json_values, max_size=3)),
    }
    for name in ("user_id", "job_id", "batch_id", "tool", "response_id", "environment"):
        fields[name] = draw(ids)
    if draw(st.booleans()):
        fields.update(
            input_tokens=cached + written + fresh,
            cached_input_tokens=cached,
            cache_write_tokens=written,
        )
    if draw(st.booleans()):
        fields.update(output_tokens=reasoning + spoken, reasoning_tokens=reasoning)
    if draw(st.booleans()):
        fields.update(
            cost_usd=draw(money), price_source=draw(st.sampled_from(sorted(PRICE_SOURCES)))
        )
    else:
        fields["unpriced_reason"] = draw(st.sampled_from(sorted(UNPRICED_REASONS)))
    return AIUsageMetric(**fields)


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
