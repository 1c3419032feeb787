"""What goes wrong between this library and a table: whether to ask again, and how to say it.

What an answer means stands in one table, failure_rules.py; here it is applied to calls that
somebody waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from receipt_dynamo.errors import CorruptReplyError, StoreError, UsageError
from receipt_dynamo.failures import Fate, Kind, classify
from receipt_dynamo.utils.clock import Clock
from receipt_dynamo.utils.retry_with_backoff import Backoff, RetrySettings, retry_with_backoff

__all__ = ["code_of", "explain", "is_missing_table", "is_passing", "is_refusal", "persist"]

T = TypeVar("T")

_ACCESS = ("AccessDenied", "NotAuthorized")
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
_DEADLINE_SECONDS = 60.0  # for all tries together: somebody waits for the answer


def code_of(error: BaseException) -> str:
    """Return DynamoDB's word for an error, such as ``"ValidationException"``; "" if it has none."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))


def is_passing(error: BaseException) -> bool:
    """Whether the same call may well succeed a moment later."""
    return _backoff(error) is not None


def is_refusal(error: BaseException) -> bool:
    """Whether what was sent is at fault: one item of the batch, never the table or the moment."""
    return classify(error).rule.fate is Fate.BISECT


def is_missing_table(error: BaseException) -> bool:
    """Whether there is no such table."""
    return code_of(error) == "ResourceNotFoundException"


def _backoff(error: BaseException) -> Backoff | None:
    return classify(error).backoff()


def persist(call: Callable[[], T], *, tries: int, clock: Clock, rng: Random) -> T:
    """Return what ``call`` returns; what may pass is tried again, ``tries`` times in all.

    Waits are full jitter, from a base of 25 ms, or 1 s where the table is throttled, up to 5 s.
    """
    settings = RetrySettings(attempts=tries, deadline=_DEADLINE_SECONDS)
    return retry_with_backoff(
        call, on=_backoff, settings=settings, clock=clock, chance=rng.random
    )()


def explain(error: BaseException, place: str) -> UsageError:
    """Return what this library raises for ``error``: one line that names table and remedy."""
    if isinstance(error, UsageError) and not isinstance(error, CorruptReplyError):
        return error
    return StoreError(f"{place} {_explained(error)}")


def _explained(error: BaseException) -> str:
    verdict = classify(error)
    if is_missing_table(error):
        told = (
            "does not exist. Create it: receipt-usage table create. If its name is wrong, set "
            "DYNAMODB_TABLE_NAME"
        )
    elif verdict.code.startswith(_ACCESS):
        told = (
            f"is not open to these credentials: {error}. "
            "docs/dynamodb.md lists the permissions that are needed."
        )
    elif verdict.code in _NO_CREDENTIALS:
        told = (
            f"cannot be used: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or run with a role."
        )
    elif verdict.kind is Kind.AUTH:
        told = f"does not accept these credentials: {error}. Renew them."
    elif verdict.kind is Kind.THROTTLED:
        told = f"is throttled: {error}. Try again later."
    elif verdict.kind is Kind.TRANSIENT and not code_of(error):
        told = f"cannot be reached: {error}"
    else:
        told = f"cannot be used: {str(error) or repr(error)}"
    return told
