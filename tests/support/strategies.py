"""What hypothesis draws from: any valid metric."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from receipt_dynamo import PRICE_SOURCES, STATUSES, UNPRICED_REASONS, AIUsageMetric

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
