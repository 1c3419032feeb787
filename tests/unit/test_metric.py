"""AIUsageMetric: what it refuses, what it keeps, and that it never changes."""

from __future__ import annotations

import copy
import enum
import pickle
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any

import msgspec
import pytest

from receipt_dynamo import (
    PRICE_SOURCES,
    STATUSES,
    UNPRICED_REASONS,
    AIUsageMetric,
    mint_request_id,
)
from receipt_dynamo.entities import request_id
from tests.support import FULL_FIELDS, NOON, in_fork, make_metric

CEST = timezone(timedelta(hours=2))


class Colour(enum.StrEnum):
    RED = "red"


class OldEnum(str, enum.Enum):  # noqa: UP042 - its str() is not its value: that is the point
    KEY = "key"


class Number(enum.IntEnum):
    SEVEN = 7


class Index:
    """A whole number of a foreign kind, as numpy's are."""

    def __index__(self) -> int:
        return 9


class Plain(str):
    __slots__ = ()


REFUSED: list[tuple[str, Any, str]] = [
    # field, value, what the message says beside the field and the value
    ("service", "", "name the AI service"),
    ("service", "  ", "name the AI service"),
    ("service", None, "name the AI service"),
    ("service", 5, "name the AI service"),
    ("service", "open#ai", "without '#'"),
    ("service", "open\nai", "printable"),
    ("service", "x" * 129, "128 bytes"),
    ("model", "", "empty"),
    ("model", None, "empty"),
    ("model", 4, "no text"),
    ("model", "x" * 257, "257 bytes"),
    ("operation", "", "empty"),
    ("timestamp", datetime(2026, 1, 1), "no timezone"),  # noqa: DTZ001 - naive on purpose
    ("timestamp", "2026-01-01", "no datetime"),
    ("timestamp", 1_780_000_000, "no datetime"),
    ("timestamp", datetime(1, 1, 1, tzinfo=CEST), "years 1 to 9999"),
    ("request_id", "x" * 513, "513 bytes"),
    ("request_id", 7, "no text"),
    ("api_calls", -1, "never negative"),
    ("api_calls", None, "pass 1"),
    ("input_tokens", -1, "never negative"),
    ("input_tokens", 10**12 + 1, "at most"),
    ("input_tokens", 1.0, "no whole number"),
    ("input_tokens", True, "no whole number"),
    ("input_tokens", "12", "no whole number"),
    ("output_tokens", -5, "never negative"),
    ("cached_input_tokens", -2, "never negative"),
    ("cache_write_tokens", Decimal(1), "no whole number"),
    ("reasoning_tokens", float("nan"), "no whole number"),
    ("total_tokens", 5, "give input_tokens and output_tokens"),
    ("usage_details", [1], "no dict"),
    ("usage_details", 0, "no dict"),
    ("usage_details", {"seconds": "1"}, "no number"),
    ("usage_details", {"seconds": float("nan")}, "out of range"),
    ("usage_details", {"seconds": float("inf")}, "out of range"),
    ("usage_details", {"seconds": -1}, "out of range"),
    ("usage_details", {"seconds": True}, "no number"),
    ("usage_details", {5: 1}, "no text"),
    ("cost_usd", 0.1, "no exact money|not exact money"),
    ("cost_usd", float("nan"), "not exact money"),
    ("cost_usd", True, "not exact money"),
    ("cost_usd", "ten", "no number"),
    ("cost_usd", Decimal("NaN"), "no amount"),
    ("cost_usd", Decimal("sNaN"), "no amount"),
    ("cost_usd", Decimal("Infinity"), "no amount"),
    ("cost_usd", Decimal("-0.01"), "negative"),
    ("cost_usd", Decimal("1." + "1" * 38), "39 significant digits"),
    ("cost_usd", Decimal("1E+126"), "DynamoDB"),
    ("cost_usd", Decimal("1E-131"), "DynamoDB"),
    ("provider_cost_usd", 0.5, "not exact money"),
    ("provider_cost_usd", Decimal(-1), "negative"),
    ("price_source", "caller", "needs a price"),
    ("unpriced_reason", "because", "one of"),
    ("unpriced_reason", [], "one of"),
    ("unpriced_reason", 0, "one of"),
    ("latency_ms", -1.0, "out of range"),
    ("latency_ms", float("nan"), "out of range"),
    ("latency_ms", float("inf"), "out of range"),
    ("latency_ms", 10**400, "out of range"),
    ("latency_ms", "3", "no duration"),
    ("latency_ms", True, "no duration"),
    ("status", "done", "one of"),
    ("status", [], "one of"),
    ("status", None, "one of"),
    ("user_id", 5, "no text"),
    ("job_id", b"x", "no text"),
    ("batch_id", "ü" * 129, "258 bytes"),
    ("conversation_id", "\ud800", "lone surrogate"),
    ("github_pr", 0, "no pull request"),
    ("github_pr", -4, "never negative"),
    ("github_pr", "12", "no whole number"),
    ("metadata", [1], "no dict"),
    ("metadata", 0, "no dict"),
    ("metadata", {"a": {1, 2}}, "not JSON"),
    ("metadata", {"a": NOON}, "not JSON"),
    ("metadata", {"a": b"x"}, "not JSON"),
    ("metadata", {"a": float("nan")}, "no number"),
    ("metadata", {"a": 2**64}, "64 bits"),
    ("metadata", {1: "a"}, "keys are text"),
    ("metadata", {"": "a"}, "keys are text"),
    ("metadata", {"a": "\udfff"}, "lone surrogate"),
]


@pytest.mark.parametrize(("field", "value", "says"), REFUSED)
def test_a_bad_value_is_a_valueerror_that_names_field_and_value(
    field: str, value: Any, says: str
) -> None:
    """Whoever reads the message knows which field was wrong, what it held and what to do."""
    with pytest.raises(ValueError, match=says) as caught:
        make_metric(**{field: value})
    message = str(caught.value)
    assert message.startswith(field)
    inner = next(iter(value.values())) if isinstance(value, dict) else value
    shown = str(inner) if isinstance(inner, Decimal) else repr(inner)
    if isinstance(inner, datetime) and field == "timestamp":
        shown = inner.isoformat()
    elif isinstance(value, dict) and "keys are text" in says:
        shown = repr(next(iter(value)))
    elif isinstance(value, dict) and list(value) == [5]:
        shown = "5"
    assert shown[:50] in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input_tokens": 5, "cached_input_tokens": 6}, "cached_input_tokens=6"),
        ({"input_tokens": 5, "cached_input_tokens": 3, "cache_write_tokens": 3}, "input_tokens=5"),
        ({"output_tokens": 5, "reasoning_tokens": 6}, "reasoning_tokens=6"),
        ({"input_tokens": 1, "output_tokens": 2, "total_tokens": 4}, "total_tokens=4"),
        ({"cost_usd": Decimal(1), "unpriced_reason": "no_usage"}, "set only one"),
        ({"cost_usd": Decimal(1), "price_source": "guess"}, "price_source='guess'"),
        ({"cost_usd": Decimal(1), "price_source": {}}, "price_source={}"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], says: str) -> None:
    """No total can be wrong because one record was."""
    with pytest.raises(ValueError, match=says.replace("{", r"\{")):
        make_metric(**fields)


def test_metadata_that_holds_itself_is_refused() -> None:
    """Endless metadata is an error of its own, no RecursionError."""
    endless: dict[str, Any] = {}
    endless["again"] = endless
    with pytest.raises(ValueError, match="nested deeper than 30 levels"):
        make_metric(metadata=endless)


def test_limits_themselves_are_accepted() -> None:
    """What the documentation allows goes in, to the last byte and digit."""
    metric = make_metric(
        request_id="x" * 512,
        user_id="ü" * 128,
        input_tokens=10**12,
        cached_input_tokens=10**12,
        cost_usd=Decimal("9." + "9" * 37 + "E+125"),
        usage_details={f"unit{n}": n for n in range(64)},
        metadata={"low": -(2**63), "high": 2**64 - 1, "k" * 1024: ""},
    )
    assert AIUsageMetric.from_item(metric.to_item()) == metric
    assert make_metric(cost_usd=Decimal("1E-130")).cost_usd == Decimal("1E-130")


def test_values_are_kept_plain_whatever_class_they_came_in() -> None:
    """Enums and foreign integers become what they stand for: every store can write them."""
    metric = make_metric(
        service=Plain(" OpenAI "),
        model=Colour.RED,
        operation=Plain("chat"),
        request_id=Plain("id"),
        input_tokens=Index(),
        output_tokens=Number.SEVEN,
        github_pr=Index(),
        status=Plain("partial"),
        unpriced_reason=Plain("no_usage"),
        user_id=OldEnum.KEY,
        error=Plain("e"),
        usage_details={OldEnum.KEY: 1},
        metadata={OldEnum.KEY: OldEnum.KEY, "n": Number.SEVEN, "t": (1, 2)},
    )
    for name in metric.__struct_fields__:
        assert type(getattr(metric, name)).__module__ in (
            "builtins",
            "datetime",
            "receipt_dynamo.entities.frozen",
        ), name
    assert metric.service == "openai"
    assert (metric.input_tokens, metric.output_tokens, metric.total_tokens) == (9, 7, 16)
    assert metric.metadata == {"key": "key", "n": 7, "t": [1, 2]}
    assert metric.usage_details == {"key": 1}
    assert msgspec.json.decode(msgspec.json.encode(metric), type=AIUsageMetric) == metric


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (3, Decimal(3)),
        ("0.10", Decimal("0.10")),
        (Decimal("-0"), Decimal(0)),
        (Decimal("0E-999"), Decimal(0)),
        (Decimal("1" + "0" * 60), Decimal("1E+60")),
    ],
)
def test_money_is_exact_whatever_form_it_came_in(given: Any, kept: Decimal) -> None:
    """Whole numbers and decimal texts are exact; trailing zeros are no digits; zero has no sign."""
    cost = make_metric(cost_usd=given).cost_usd
    assert cost == kept
    assert str(cost)[0] != "-"


def test_money_does_not_depend_on_the_callers_decimal_context() -> None:
    """A pipeline that computes with five digits loses none of ours."""
    exact = "0.1234567890123456789012345678901234567"
    with localcontext(prec=5):
        metric = make_metric(cost_usd=Decimal(exact))
        again = AIUsageMetric.from_item(metric.to_item())
    assert str(metric.cost_usd) == str(again.cost_usd) == exact


def test_exactly_one_of_cost_and_reason_is_set() -> None:
    """Unpriced is not zero, and a price has a source."""
    unpriced, priced = make_metric(), make_metric(cost_usd=Decimal(0))
    assert (unpriced.cost_usd, unpriced.unpriced_reason) == (None, "not_priced")
    assert (priced.unpriced_reason, priced.price_source) == (None, "caller")
    for reason in UNPRICED_REASONS:
        assert make_metric(unpriced_reason=reason).unpriced_reason == reason
    for source in PRICE_SOURCES:
        assert make_metric(cost_usd=Decimal(1), price_source=source).price_source == source
    for status in STATUSES:
        assert make_metric(status=status).status == status


def test_empty_ids_mean_none() -> None:
    """An empty text never becomes a group of its own."""
    metric = make_metric(user_id="", job_id="", tool="", response_id="", error="")
    assert (metric.user_id, metric.job_id, metric.tool, metric.response_id, metric.error) == (
        (None,) * 5
    )


def test_a_long_error_is_cut_within_its_bytes_and_stays_text() -> None:
    """An error of any size or content never costs the record."""
    assert len(make_metric(error="ü" * 5000).error.encode()) <= 4096
    assert make_metric(error="x" * 5000).error.endswith("…")
    assert make_metric(error=ValueError("odd")).error == "odd"
    assert make_metric(error="\ud800").error == "?"


def test_the_callers_dicts_are_never_touched_and_never_followed() -> None:
    """What the caller does to its own dicts later changes no record, and the other way round."""
    metadata: dict[str, Any] = {"a": {"b": [1]}}
    details = {"pages": 1}
    before = copy.deepcopy((metadata, details))
    metric = make_metric(metadata=metadata, usage_details=details)
    assert (metadata, details) == before
    metadata["a"]["b"].append(2)
    details["pages"] = 5
    assert (metric.metadata, metric.usage_details) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "service", "x"),
        lambda m: delattr(m, "service"),
        lambda m: m.metadata.update(x=1),
        lambda m: m.metadata.pop("a"),
        lambda m: m.metadata.clear(),
        lambda m: m.metadata.setdefault("x", 1),
        lambda m: m.metadata["a"].__setitem__("x", 1),
        lambda m: m.metadata["a"].__ior__({"x": 1}),
        lambda m: m.metadata["a"]["b"].append(1),
        lambda m: m.metadata["a"]["b"].__setitem__(0, 9),
        lambda m: m.metadata["a"]["b"].__delitem__(0),
        lambda m: m.metadata["a"]["b"].__iadd__([1]),
        lambda m: m.metadata["a"]["b"].sort(),
        lambda m: m.usage_details.__delitem__("audio_seconds"),
    ],
)
def test_nothing_of_a_metric_can_be_changed(change: Any) -> None:
    """Immutable to the depth of its metadata, also after pickling and copying."""
    for metric in (
        AIUsageMetric(**FULL_FIELDS),
        pickle.loads(pickle.dumps(AIUsageMetric(**FULL_FIELDS))),  # noqa: S301 - our own bytes
        copy.deepcopy(AIUsageMetric(**FULL_FIELDS)),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change(metric)
        assert metric == AIUsageMetric(**FULL_FIELDS)


def test_identity_is_service_time_and_request_id_fixed_at_construction() -> None:
    """The same call told in another time zone and spelling of its service is the same record."""
    here = make_metric(service="OpenAI ", request_id="r", timestamp=NOON.astimezone(CEST))
    there = make_metric(request_id="r", model="other")
    assert here.identity == there.identity == ("openai", NOON, "r")
    assert here.timestamp.tzinfo is UTC
    assert hash(here) == hash(there)
    assert here != there


def test_minted_ids_are_unique_over_threads_and_forks() -> None:
    """Two records under one id would be a silent loss: no thread and no child repeats one."""
    found: list[list[str]] = []

    def mint() -> None:
        found.append([mint_request_id() for _ in range(2000)])

    threads = [threading.Thread(target=mint) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [one for batch in found for one in batch]
    assert len(set(ids)) == 16_000

    mine = {identity.split("-")[0] for identity in ids}
    assert len(mine) == 1

    def child() -> None:
        assert mint_request_id().split("-")[0] not in mine
        assert mint_request_id() != mint_request_id()

    assert [in_fork(child) for _ in range(5)] == [0] * 5


def test_a_fork_that_no_hook_saw_mints_under_a_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """uWSGI forks in C: the child is told by the mark of its process alone."""
    before = mint_request_id().split("-")[0]
    monkeypatch.setattr(request_id._mint, "mark", b"\0")
    assert mint_request_id().split("-")[0] != before
