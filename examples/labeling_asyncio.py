"""Label receipts with asyncio: many at a time, streams of two vendors, one task for each receipt.

    python examples/labeling_asyncio.py [receipts.jsonl] [--patience SECONDS]

OpenAI says what a receipt is for, Anthropic says why. The reason is left after its first sentence,
and given up when it takes too long. A stream is recorded once, however it ends: ``complete``,
``partial`` where it was left, ``aborted`` where it was cancelled, with what was told until then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from pathlib import Path
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from receipt_label import AIUsageTracker, UsageQuery

JOB = "labels-asyncio"
RECEIPTS = Path(__file__).parent / "data" / "receipts.jsonl"
AT_A_TIME = 4
ASK_LABEL = "What is this receipt for? One word: groceries, meals, travel, fuel, office, other."
ASK_REASON = "Say in one sentence why this receipt is for "

tracker = AIUsageTracker()
# OpenAI's streams say their usage when asked to: include_usage asks, and hides the answer.
openai = tracker.wrap(AsyncOpenAI(), include_usage=True)
anthropic = tracker.wrap(AsyncAnthropic())


async def label_of(receipt: dict[str, Any]) -> str:
    """Return the label of a receipt, from a stream that is read to its end."""
    stream = await openai.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": f"{ASK_LABEL}\n{receipt['text']}"}],
        stream=True,
    )
    deltas = [chunk.choices[0].delta async for chunk in stream if chunk.choices]
    return "".join(delta.content or "" for delta in deltas).strip()


async def reason_for(label: str, receipt: dict[str, Any]) -> str:
    """Return the first sentence of the reason; the rest of the stream is not waited for."""
    question = f"{ASK_REASON}{label}: {receipt['text']}"
    text = ""
    async with anthropic.messages.stream(
        model="claude-sonnet-4-6",
        max_tokens=200,
        messages=[{"role": "user", "content": question}],
    ) as stream:
        async for piece in stream.text_stream:
            text += piece
            if re.search(r"\.\s+\S", text):  # a second sentence begins
                break
    return re.split(r"(?<=\.)\s", text.strip())[0]


@tracker.track("label_receipt")
async def label_receipt(receipt: dict[str, Any], patience: float) -> str:
    """Return label and reason of a receipt; without a reason that takes more than ``patience``."""
    label = await label_of(receipt)
    try:
        async with asyncio.timeout(patience):
            reason = await reason_for(label, receipt)
    except TimeoutError:
        reason = "(no reason in time)"
    return f"{receipt['id']}  {label:<10} {reason}"


async def label_all(receipts: list[dict[str, Any]], patience: float) -> None:
    """Label all of them, a few at a time. Each task starts with the context of this one."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def label_one(receipt: dict[str, Any]) -> str:
        async with places, tracker.context(metadata={"receipt": receipt["id"]}):
            return await label_receipt(receipt, patience)

    async with openai, anthropic, tracker.context(job_id=JOB), asyncio.TaskGroup() as group:
        tasks = [group.create_task(label_one(receipt)) for receipt in receipts]
    for task in tasks:
        print(task.result())


def main() -> None:
    """Label each receipt of a file, and say how its calls ended."""
    parser = argparse.ArgumentParser(description="Label receipts, a few at a time.")
    parser.add_argument("receipts", nargs="?", type=Path, default=RECEIPTS)
    parser.add_argument("--patience", type=float, default=30, help="seconds for each reason")
    given = parser.parse_args()
    receipts = [json.loads(line) for line in given.receipts.read_text().splitlines()]
    with tracker:
        asyncio.run(label_all(receipts, given.patience))
        print()
        calls = tracker.client.query(UsageQuery(job_id=JOB, operation="chat"))
        for call in sorted(calls, key=lambda call: (call.metadata["receipt"], call.timestamp)):
            cost = call.unpriced_reason if call.cost_usd is None else f"{call.cost_usd:.6f} USD"
            print(f"{call.metadata['receipt']}  {call.service:<10} {call.status:<9} {cost}")


if __name__ == "__main__":
    main()
