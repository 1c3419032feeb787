"""What goes wrong between this library and a table: whether to ask again, and how to say it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from receipt_dynamo.errors import CorruptReplyError, StoreError, UsageError
from receipt_dynamo.utils.clock import Clock

__all__ = ["code_of", "explain", "is_missing_table", "is_passing", "is_refusal", "persist"]

T = TypeVar("T")

_THROTTLES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_REFUSALS = frozenset(
    {"ItemCollectionSizeLimitExceededException", "SerializationException", "ValidationException"}
)
_OF_THE_TABLE = (
    "does not match the schema",
    "Missing the key",
    "required keys was not given a value",
    "Type mismatch for",
)
_ACCESS = ("AccessDenied", "NotAuthorized")
_IDENTITY = (
    "ExpiredToken",
    "IncompleteSignature",
    "InvalidSignature",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClient",
)
_SERVER_FAULT, _TOO_MANY = 500, 429
_BASE_SECONDS, _THROTTLED_BASE_SECONDS, _CAP_SECONDS = 0.025, 1.0, 5.0


def code_of(error: BaseException) -> str:
    """Return DynamoDB's word for an error, such as ``"ValidationException"``; "" if it has none."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))


def _status_of(error: BaseException) -> int:
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_throttle(error: BaseException) -> bool:
    return code_of(error) in _THROTTLES or _status_of(error) == _TOO_MANY


def is_passing(error: BaseException) -> bool:
    """Whether the same call may well succeed a moment later."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return _is_throttle(error) or _status_of(error) >= _SERVER_FAULT
    if isinstance(error, exceptions.SSLError):  # a ConnectionError of botocore's, and for ever
        return False
    return isinstance(
        error,
        CorruptReplyError
        | exceptions.ConnectionError
        | exceptions.HTTPClientError
        | ResponseParserError
        | exceptions.CredentialRetrievalError,
    )


def is_refusal(error: BaseException) -> bool:
    """Whether what was sent is at fault: one item of the batch, never the table or the moment."""
    if code_of(error) not in _REFUSALS:
        return False
    return not any(sign in str(error) for sign in _OF_THE_TABLE)


def is_missing_table(error: BaseException) -> bool:
    """Whether there is no such table."""
    return code_of(error) == "ResourceNotFoundException"


def persist(call: Callable[[], T], *, tries: int, clock: Clock, rng: Random) -> T:
    """Return what ``call`` returns; what may pass is tried again, ``tries`` times in all.

    Waits are full jitter, from a base of 25 ms, or 1 s where the table is throttled, up to 5 s.
    """
    for attempt in range(tries - 1):
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
            base = _THROTTLED_BASE_SECONDS if _is_throttle(error) else _BASE_SECONDS
        clock.sleep(rng.uniform(0, min(_CAP_SECONDS, base * 2**attempt)))
    return call()


def explain(error: Exception, place: str) -> UsageError:
    """Return what this library raises for ``error``: one line that names table and remedy."""
    if isinstance(error, UsageError) and not isinstance(error, CorruptReplyError):
        return error
    return StoreError(f"{place} {_explained(error)}")


def _explained(error: Exception) -> str:
    from botocore import exceptions

    code = code_of(error)
    if is_missing_table(error):
        told = "does not exist. Create it: receipt-usage table create"
    elif code.startswith(_ACCESS):
        told = (
            f"is not open to these credentials: {error}. "
            "docs/table.md lists the permissions that are needed."
        )
    elif code.startswith(_IDENTITY):
        told = f"does not accept these credentials: {error}. Renew them."
    elif isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        told = (
            f"cannot be used: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or run with a role."
        )
    elif _is_throttle(error):
        told = f"is throttled: {error}. Try again later."
    elif isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        told = f"cannot be reached: {error}"
    else:
        told = f"cannot be used: {str(error) or repr(error)}"
    return told
