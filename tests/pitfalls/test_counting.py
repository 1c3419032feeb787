"""Counted twice: by repeats, by sums that are kept apart from records, by days of two timezones."""

from __future__ import annotations

import asyncio
import gc
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from receipt_dynamo import AIUsageMetric, Settings, UsageClient, open_usage_client
from receipt_label import AIUsageTracker
from tests.support import make_metric
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer, recorded
from tests.vendors.conftest import Make, Records

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


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_client_wrapped_twice_counts_a_reply_without_an_id_once(
    make: Make, tracker: AIUsageTracker, records: Records, asynchronous: bool
) -> None:
    """Embeddings carry neither id nor time: only the wrapping can tell (trouble 31)."""

    async def call_async() -> None:
        async with tracker.wrap(tracker.wrap(make("AsyncOpenAI"))) as client:
            again = tracker.wrap(client.with_options(timeout=9))
            await again.embeddings.create(model="text-embedding-3-small", input="total")

    if asynchronous:
        asyncio.run(call_async())
    else:
        with tracker.wrap(tracker.wrap(make("OpenAI"))) as client:
            again = tracker.wrap(client.with_options(timeout=9))
            again.embeddings.create(model="text-embedding-3-small", input="total")
    (record,) = records()
    assert (record.input_tokens, record.response_id) == (4, None)


def test_a_stream_without_an_id_counts_once_however_often_it_ends(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Read to its end, closed, closed by two threads, left: no second record (trouble 49)."""
    answer = recorded("/v1/chat/completions", stream=True, model="gpt-4o-mini")
    assert answer is not None
    nameless = replace(answer, body=re.sub(rb'"id":"[^"]+"', b'"id":""', answer.body))
    server.script(nameless, nameless)
    with tracker.wrap(make("OpenAI")) as client, ThreadPoolExecutor(2) as pool:
        for left in (False, True):
            stream = client.chat.completions.create(model="gpt-4o-mini", messages=SAY, stream=True)
            with stream:
                for _ in stream:
                    if left:
                        break
            for closing in [pool.submit(stream.close) for _ in range(2)]:
                closing.result()
            stream.close()
            del stream
    gc.collect()
    assert [record.status for record in records()] == ["complete", "partial"]
