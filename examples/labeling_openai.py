"""Label receipts with OpenAI, and see what the labels cost.

    python examples/labeling_openai.py [receipts.jsonl]

The wrapped client records each call by itself: tokens, cost, latency, and the job in force. So does
the tool, at its fixed price.
"""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from openai import OpenAI

from receipt_label import AIUsageTracker, UsageQuery

JOB = "labels-openai"
RECEIPTS = Path(__file__).parent / "data" / "receipts.jsonl"
LABELS = ("groceries", "meals", "travel", "fuel", "office", "other")
INSTRUCTION = f"What is this receipt for? Answer with one word: {', '.join(LABELS)}."
COMPANIES = {
    "ATU57780315": "Café am Markt",
    "DE129273398": "Autohof Nord",
    "DE136695976": "Supermarkt Mitte",
    "FR83404833048": "Chemins de fer",
}

tracker = AIUsageTracker()  # one a process
client = tracker.wrap(OpenAI())


@tracker.tool("vat_register", cost=Decimal("0.01"))
def company_of(vat_number: str) -> str:
    """Return who a receipt is from; stands for a register that takes a cent a query."""
    return COMPANIES[vat_number]


def label(receipt: dict[str, Any]) -> str:
    """Return the label of a receipt."""
    company = company_of(receipt["vat_number"])
    reply = client.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": f"{company}: {receipt['text']}"},
        ],
    )
    word = (reply.choices[0].message.content or "").strip(" .\n").lower()
    return word if word in LABELS else "other"


def report() -> None:
    """Print what the job has used until now, this run and earlier ones."""
    print(f"\n{JOB:<32} calls    input   output    cost USD")
    used = UsageQuery(job_id=JOB)
    for row in tracker.client.summarize(used, by=("service", "model")):
        name = f"{row.group['service']} {row.group['model']}"
        cost = "unpriced" if row.cost_usd is None else f"{row.cost_usd:.6f}"
        print(f"{name:<32} {row.calls:>5} {row.input_tokens:>8} {row.output_tokens:>8} {cost:>11}")
    (total,) = tracker.client.summarize(used)
    print(f"{'total':<32} {total.calls:>5} {'':>17} {total.cost_usd or 0:>11.6f}")


def main() -> None:
    """Label each receipt of a file, and report."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RECEIPTS
    receipts = [json.loads(line) for line in file.read_text().splitlines()]
    with tracker:
        with tracker.context(job_id=JOB, user_id="bookkeeping"):
            for receipt in receipts:
                print(f"{receipt['id']}  {label(receipt)}")
        report()


if __name__ == "__main__":
    main()
