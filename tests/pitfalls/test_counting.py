"""Counted twice: by repeats, by sums that are kept apart from records, by days of two timezones."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from receipt_dynamo import AIUsageMetric, Settings, UsageClient, open_usage_client
from tests.support import make_metric

MARCH = datetime(2026, 3, 27, tzinfo=UTC)  # summer time begins in Europe on the 29th
CALLS = [MARCH + timedelta(minutes=37 * n) for n in range(160)]
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Kiritimati", "America/St_Johns"]


def test_sums_and_records_never_disagree(client: UsageClient, tmp_path: Path) -> None:
    """Repeats, corrections and another writer: each sum is that of the records (trouble 29)."""

    def call(n: int, cost: str) -> AIUsageMetric:
        return make_metric(
            request_id=f"r{n}", job_id=f"j{n % 3}", model=f"m{n % 2}", cost_usd=Decimal(cost),
            input_tokens=n, output_tokens=1,
        )  # fmt: skip

    client.put_ai_usage_metrics([call(n, "0.1") for n in range(50)])
    client.flush()
    with open_usage_client(Settings(usage_dir=tmp_path / "usage", drain="manual")) as other:
        other.put_ai_usage_metrics([call(n, "0.1") for n in range(30)])
        other.put_ai_usage_metrics([call(n, "0.2") for n in range(10)])
    client.put_ai_usage_metrics([call(n, "0.3") for n in range(5)] * 2)
    for words in (["job"], ["model"], ["job", "model"], ["day"], ["service"]):
        records: defaultdict[str, Decimal] = defaultdict(Decimal)
        tokens: Counter[str] = Counter()
        for metric in client.query():
            names = {
                "job": metric.job_id, "model": metric.model, "service": metric.service,
                "day": metric.timestamp.date().isoformat(),
            }  # fmt: skip
            group = "/".join(str(names[word]) for word in words)
            records[group] += metric.cost_usd or 0
            tokens[group] += metric.input_tokens or 0
        sums = {
            "/".join(map(str, row.group.values())): (row.cost_usd, row.input_tokens)
            for row in client.summarize(by=words)
        }
        assert sums == {group: (records[group], tokens[group]) for group in records}
        assert sum(records.values()) == Decimal("6.5")  # 5 x 0.3, 5 x 0.2, 40 x 0.1


@pytest.mark.parametrize("zone", ZONES)
def test_single_days_of_any_timezone_add_up_to_the_whole(
    run: Any, client: UsageClient, zone: str
) -> None:
    """Asked day by day, each call is in one day, and in its own (trouble 34)."""
    client.put_ai_usage_metrics([make_metric(timestamp=time) for time in CALLS])
    expected = Counter(time.astimezone(ZoneInfo(zone)).date().isoformat() for time in CALLS)
    at = ("--timezone", zone, "--json")
    rows = run("report", "--by", "day", *at).json["rows"]
    assert {row["day"]: row["calls"] for row in rows} == expected
    for day, calls in expected.items():
        found = run("report", "--by", "day", "--since", day, "--until", day, *at).json
        assert [(row["day"], row["calls"]) for row in found["rows"]] == [(day, calls)]
        assert found["total"]["calls"] == calls
