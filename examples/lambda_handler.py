"""Label receipts in AWS Lambda, from a queue (SQS): ``lambda_handler.handler`` is the handler.

    python examples/lambda_handler.py          one invocation, here

What makes clients stands outside the handler: it runs once for each sandbox, at its cold start. The
sandbox is frozen when the handler returns, so ``flush_after_invocation`` delivers before. Records
wait in the directory for temporary files, for Lambda's home cannot be written.

In Lambda: ``DYNAMODB_TABLE_NAME`` names the table. A function without one fails at its cold start,
with an error that says so. ``OPENAI_API_KEY`` is the vendor's; a function that reads secrets sets
it before this module is imported. docs/dynamodb.md lists the permissions.
"""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from receipt_label import flush_after_invocation, get_client_manager, partial_failure_context

INSTRUCTION = "What is this receipt for? One word: groceries, meals, travel, fuel, office, other."
SECONDS_A_CALL = 20.0

manager = get_client_manager()
tracker = manager.usage_tracker
openai = manager.openai.with_options(timeout=SECONDS_A_CALL, max_retries=1)
invocations = count()


def label(receipt: dict[str, Any]) -> str:
    """Return the label of a receipt."""
    reply = openai.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": receipt["text"]},
        ],
    )
    return (reply.choices[0].message.content or "other").strip()


@flush_after_invocation(tracker)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Label the receipts of a batch; those that fail are named, and the queue brings them again."""
    labels: dict[str, str] = {}
    invocation = tracker.context(
        session_id=getattr(context, "aws_request_id", None),
        metadata={"cold_start": next(invocations) == 0},
    )
    with invocation, partial_failure_context("label_batch", tracker=tracker) as batch:
        for message in event["Records"]:
            with batch.attempt(message["messageId"]):
                receipt = json.loads(message["body"])
                with tracker.context(job_id=f"inbox-{receipt['month']}"):
                    labels[message["messageId"]] = label(receipt)
    failed = [one["messageId"] for one in event["Records"] if one["messageId"] not in labels]
    return {
        "labels": labels,
        "batchItemFailures": [{"itemIdentifier": name} for name in failed],
    }


if __name__ == "__main__":
    body = json.dumps({"id": "r-1", "month": "2026-11", "text": "2 coffee, total 9.80 EUR"})
    print(json.dumps(handler({"Records": [{"messageId": "m-1", "body": body}]}, None)))
