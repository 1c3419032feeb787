"""Wrong costs: what is charged twice, at the wrong rate, at none, or at tomorrow's."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message

from receipt_dynamo import UsageClient
from receipt_label import AIUsageTracker, PriceBook
from tests.pitfalls.conftest import RunProgram
from tests.support.vendor_calls import SAY
from tests.support.vendor_server import VendorServer, recorded
from tests.vendors.conftest import Make, Records

NOVEMBER = datetime(2026, 11, 20, tzinfo=UTC)
# Claude Haiku 4.5, USD per million: input 1.00, cache read 0.10, 5-minute write 1.25, output 5.00
HAIKU = "claude-haiku-4-5-20251001"
OWN_RATES = f"""
[[price]]
service = "anthropic"
model = "{HAIKU}"
rates = {{ input_tokens = "1", cached_input_tokens = "0.1", cache_write_tokens = "1.25", output_tokens = "5" }}
"""  # noqa: E501 - an inline table of TOML is one line
COST = Decimal("0.017883")  # 3 x 1 + 20,000 x 0.1 + 12,304 x 1.25 + 100 x 5 = 17,883 millionths


def message(**changes: Any) -> dict[str, Any]:
    """Return a reply of Anthropic's, whose input is told without what the cache read or wrote."""
    return {
        "id": "msg_01ABCDEFGHIJKLMNOPQRSTUV",
        "type": "message",
        "role": "assistant",
        "model": HAIKU,
        "content": [],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_read_input_tokens": 20_000,
            "cache_creation_input_tokens": 12_304,
            "output_tokens": 100,
        },
        **changes,
    }


def by_hand(tracker: AIUsageTracker) -> None:
    """Say the same as OpenTelemetry does: input with all of the cache in it."""
    tracker.record(
        service="anthropic", model=HAIKU, operation="chat", timestamp=NOVEMBER,
        input_tokens=32_307, cached_input_tokens=20_000, cache_write_tokens=12_304,
        output_tokens=100,
    )  # fmt: skip


TOLD: dict[str, Any] = {
    "a reply": lambda tracker: tracker.record_response(message(), timestamp=NOVEMBER),
    "an object of the SDK": lambda tracker: tracker.record_response(
        Message.model_validate(message()), timestamp=NOVEMBER
    ),
    "by hand": by_hand,
}


@pytest.mark.parametrize("own_rates", [False, True], ids=["list price", "own rates"])
@pytest.mark.parametrize("told", TOLD)
def test_what_the_cache_wrote_and_read_is_charged_once_however_it_is_told(
    client: UsageClient, tmp_path: Path, told: str, own_rates: bool
) -> None:
    """Writes twice (trouble 36), by own prices (trouble 37), reads within and beside the input
    (trouble 38): one price by hand for all.
    """
    book = None
    if own_rates:
        (tmp_path / "prices.toml").write_text(OWN_RATES)
        book = PriceBook.load(tmp_path / "prices.toml")
    TOLD[told](AIUsageTracker(client, prices=book))
    (record,) = client.query()
    assert (record.cost_usd, record.price_source) == (
        COST,
        "override" if own_rates else "genai-prices",
    )
    assert (record.input_tokens, record.total_tokens) == (32_307, 32_407)


OFFLINE = """
import sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"{event} {args}")
sys.addaudithook(refuse)
from receipt_label import AIUsageTracker
with AIUsageTracker() as tracker:
    tracker.record(
        service="openai", model="gpt-4o", operation="chat", input_tokens=1000, output_tokens=100
    )
    (total,) = tracker.client.summarize()
    print(total.cost_usd.normalize())
"""


def test_prices_are_there_without_any_network(run_program: RunProgram) -> None:
    """Nothing is fetched, so nothing can fail into a cost of 0 (trouble 43)."""
    ran = run_program(OFFLINE)
    assert (ran.returncode, ran.stdout) == (0, "0.0035\n"), ran.stderr


# Claude Sonnet 4.5, half of the list by batch: 1.50, read 0.15, output 7.50; above 200,000 tokens
# of input 3.00, 0.30, 11.25
IN_BATCHES = {
    # 2,000 x 1.5 + 8,000 x 0.15 + 100 x 7.5 = 3,000 + 1,200 + 750
    "cached": (2_000, 8_000, 100, "0.00495"),
    # 100,000 x 3 + 200,000 x 0.3 + 1,000 x 11.25 = 300,000 + 60,000 + 11,250
    "a long context": (100_000, 200_000, 1_000, "0.37125"),
}


@pytest.mark.parametrize("size", IN_BATCHES)
def test_the_cache_and_a_long_context_have_their_own_prices_in_a_batch(
    tracker: AIUsageTracker, client: UsageClient, size: str
) -> None:
    """Half of the rate that each would have outside of the batch (trouble 44)."""
    fresh, cached, output, cost = IN_BATCHES[size]
    usage = {"input_tokens": fresh, "cache_read_input_tokens": cached, "output_tokens": output}
    reply = message(model="claude-sonnet-4-5-20250929", usage=usage)
    line = {"custom_id": "a", "result": {"type": "succeeded", "message": reply}}
    tracker.record_batch_output(json.dumps(line), timestamp=NOVEMBER)
    (record,) = client.query()
    assert record.cost_usd == Decimal(cost)


def test_a_zero_that_the_vendor_tells_is_no_missing_figure(
    server: VendorServer, make: Make, tracker: AIUsageTracker, records: Records
) -> None:
    """Usage of 0 and 0 stays 0 and 0: no token is invented in its place (trouble 49)."""
    answer = recorded("/v1/chat/completions", stream=True, model="gpt-4o-mini")
    assert answer is not None
    usage = b'"prompt_tokens":78,"completion_tokens":9,"total_tokens":87'
    zeros = b'"prompt_tokens":0,"completion_tokens":0,"total_tokens":0'
    assert answer.body.count(usage) == 1
    server.script(type(answer)(answer.body.replace(usage, zeros), content_type=answer.content_type))
    with tracker.wrap(make("OpenAI")) as client:
        options = {"include_usage": True}
        list(
            client.chat.completions.create(
                model="gpt-4o-mini", messages=SAY, stream=True, stream_options=options
            )
        )
    (record,) = records()
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (0, 0, 0)
    assert (record.status, record.cost_usd, record.unpriced_reason) == ("complete", 0, None)


def test_what_is_spent_is_exact_at_every_look_beside_concurrent_calls(client: UsageClient) -> None:
    """There is no budget that could be passed by; the sum that one would go by is never half a
    call, never goes back, and is whole as soon as the last call is recorded (trouble 50).
    """
    tracker = AIUsageTracker(client)

    def work(_number: int) -> None:
        for _ in range(50):
            tracker.record(
                service="openai", model="gpt-4o", operation="chat", cost_usd=Decimal("0.1")
            )

    looks = []
    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(work, number) for number in range(8)]
        while not all(one.done() for one in working):
            looks += client.summarize()
    looks += client.summarize()
    assert all(look.cost_usd == look.calls * Decimal("0.1") for look in looks)
    assert [look.calls for look in looks] == sorted(look.calls for look in looks)
    assert looks[-1].cost_usd == 40
