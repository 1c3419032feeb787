"""Label receipts in several processes: one job a month, one pool for all of them.

    python examples/labeling_processes.py [receipts.jsonl]

ContextProcessPoolExecutor sends the context of each ``submit`` along with its task. Every process
writes to the same spool, so the parent's report has the calls of all of them, also of those that
are gone.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from receipt_label import (
    AIUsageTracker,
    ContextProcessPoolExecutor,
    UsageQuery,
    get_client_manager,
)

WORKERS = 2
RECEIPTS = Path(__file__).parent / "data" / "receipts.jsonl"
INSTRUCTION = "What is this receipt for? One word: groceries, meals, travel, fuel, office, other."


def label(receipt: dict[str, Any]) -> str:
    """Return the label of a receipt; runs in a process of the pool.

    Each process has a ClientManager of its own, whose OpenAI client is already wrapped.
    """
    reply = get_client_manager().openai.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": receipt["text"]},
        ],
    )
    return (reply.choices[0].message.content or "other").strip()


def label_all(receipts: list[dict[str, Any]], tracker: AIUsageTracker) -> None:
    """Label the receipts in a pool, each under the job of its month."""
    labels: dict[str, Future[str]] = {}
    # spawn: a process that begins anew is safe whatever threads this one has.
    spawn = multiprocessing.get_context("spawn")
    with ContextProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
        for receipt in receipts:
            with tracker.context(job_id=f"archive-{receipt['month']}"):
                labels[receipt["id"]] = pool.submit(label, receipt)
    for receipt_id, done in labels.items():
        print(f"{receipt_id}  {done.result()}")


def report(jobs: list[str], tracker: AIUsageTracker) -> None:
    """Print what each job has used until now, this run and earlier ones."""
    print()
    for job in jobs:
        (total,) = tracker.client.summarize(UsageQuery(job_id=job))
        cost = "unpriced" if total.cost_usd is None else f"{total.cost_usd:.6f} USD"
        print(f"{job}  {total.calls} calls  {total.input_tokens} tokens in  {cost}")


def main() -> None:
    """Label each receipt of a file, and report by job."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RECEIPTS
    receipts = [json.loads(line) for line in file.read_text().splitlines()]
    with get_client_manager() as manager:
        label_all(receipts, manager.usage_tracker)
        jobs = {f"archive-{receipt['month']}" for receipt in receipts}
        report(sorted(jobs), manager.usage_tracker)


if __name__ == "__main__":
    main()
