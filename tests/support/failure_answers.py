"""Replies and errors as botocore makes them, and what the table of failures says of them."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from receipt_dynamo.failures import Key, Verdict, classify
from receipt_dynamo.utils.circuit_breaker import Permit

SENT: list[Key] = [(f"U#openai#{n}", f"2026-11-21T20:00:00.000000Z#r{n}") for n in range(25)]
CLOSED, PROBE = Permit(1, probe=False), Permit(2, probe=True)


def reply(*keys: Key, table: str = "usage") -> dict[str, Any]:
    requests = [{"PutRequest": {"Item": {"PK": {"S": p}, "SK": {"S": s}}}} for p, s in keys]
    return {"UnprocessedItems": {table: requests} if requests else {}, "ResponseMetadata": {}}


def error(code: str, status: int = 400, message: str = "m", **more: Any) -> ClientError:
    headers = more.pop("headers", {})
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        **more,
    }
    return ClientError(response, "BatchWriteItem")  # type: ignore[arg-type]


def judge(answer: object, sent: list[Key] | None = None) -> Verdict:
    return classify(answer, sent=SENT if sent is None else sent)
