"""Every answer that DynamoDB, botocore and the network may give, as one table.

``RULES`` is the whole of it; docs/semantics.md is written from it (``python -m tools.semantics``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from receipt_dynamo.utils.circuit_breaker import Outcome

__all__ = [
    "BUG",
    "CORRUPT",
    "ENDPOINT",
    "INTERRUPTED",
    "NOT_DYNAMODB",
    "OK",
    "OTHER_SCHEMA",
    "PARSERS",
    "PARTIAL",
    "POISON",
    "REFUSED",
    "RULES",
    "STORM",
    "UNKNOWN_REFUSAL",
    "Applied",
    "Fate",
    "Kind",
    "Retry",
    "Rule",
]

PARSERS, ENDPOINT = "botocore.parsers", "botocore.endpoint"


class Kind(StrEnum):
    """What an answer is."""

    OK = "ok"
    PARTIAL = "partial"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    CORRUPT = "corrupt"
    CONFLICT = "conflict"
    AUTH = "auth"
    CONFIG = "config"
    POISON = "poison"
    SPLIT = "split"
    BUG = "bug"
    INTERRUPTED = "interrupted"


class Retry(StrEnum):
    """Whether the same call is made again before anything else."""

    NO = "no"
    YES = "yes"
    ONCE = "once"
    PACED = "paced"
    """Not by the retry loop: the goodput limiter says when the next batch may go."""


class Applied(StrEnum):
    """Whether the table may have taken the records that the answer does not acknowledge."""

    NO = "no"
    MAYBE = "maybe"


class Fate(StrEnum):
    """What becomes of the records of a batch."""

    ACK = "acknowledged"
    ACK_REST = "acknowledged but for the unprocessed, which go first in the next batch"
    FRONT = "sent again, before what came later"
    KEEP = "kept in the spool and tried for ever"
    BISECT = "sent again in halves; a record that is refused alone goes to dead/"
    DEAD = "dead/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row: which answers, and what follows.

    ``codes`` are DynamoDB's error codes, with ``*`` at the end for any ending; ``messages`` parts
    of a message that turn POISON into this; ``exceptions`` full names of classes; ``statuses`` of
    HTTP for codes that no row names. ``probe`` is the outcome
    where the call was a half-open breaker's probe, ``again`` where the one retry of ``Retry.ONCE``
    ended alike; both default to ``breaker``. ``accepted``: the limiter learns how many were taken.
    """

    name: str
    kind: Kind
    fate: Fate
    note: str
    codes: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    retry: Retry = Retry.NO
    backoff_base: float | None = None
    applied: Applied = Applied.NO
    breaker: Outcome = Outcome.NEUTRAL
    probe: Outcome | None = None
    again: Outcome | None = None
    limiter: bool = False


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _botocore(text: str) -> tuple[str, ...]:
    return tuple(f"botocore.exceptions.{name}" for name in text.split())


OK = Rule(
    name="A reply with an empty UnprocessedItems",
    kind=Kind.OK,
    fate=Fate.ACK,
    note="Every record of the batch is in the table.",
    breaker=Outcome.SUCCESS,
    limiter=True,
)
PARTIAL = Rule(
    name="A reply with some UnprocessedItems",
    kind=Kind.PARTIAL,
    fate=Fate.ACK_REST,
    note="The table took part of the batch. Records are told apart by key: replies have no order.",
    breaker=Outcome.SUCCESS,
    limiter=True,
)
REFUSED = Rule(
    name="A reply with all of the batch in UnprocessedItems",
    kind=Kind.THROTTLED,
    fate=Fate.FRONT,
    note="The table is at its limit: never a reason to stop calling, only to call less often.",
    retry=Retry.PACED,
    backoff_base=1.0,
    probe=Outcome.SUCCESS,
    limiter=True,
)
THROTTLED = Rule(
    name="A throttling error",
    kind=Kind.THROTTLED,
    fate=Fate.FRONT,
    note="As above; ThrottlingReasons, where given, tell a hot key from the table's limit.",
    codes=_words(
        "ProvisionedThroughputExceededException ThrottlingException Throttling ThrottledException "
        "RequestLimitExceeded RequestThrottled* TooManyRequestsException SlowDown "
        "KMSThrottlingException LimitExceededException"
    ),
    statuses=(429,),
    retry=Retry.PACED,
    backoff_base=1.0,
    probe=Outcome.SUCCESS,
    limiter=True,
)
SERVER_FAULT = Rule(
    name="A fault of the server",
    kind=Kind.TRANSIENT,
    fate=Fate.FRONT,
    note="It may have been applied; a repeated put replaces itself, so it counts once.",
    codes=_words("InternalServer* InternalFailure* ServiceUnavailable*"),
    statuses=tuple(range(500, 600)),
    retry=Retry.YES,
    applied=Applied.MAYBE,
    breaker=Outcome.FAILURE,
)
LOST_REPLY = Rule(
    name="No reply, or one that broke off",
    kind=Kind.TRANSIENT,
    fate=Fate.FRONT,
    note="The call was sent, and what became of it is unknown. A repeated put replaces itself.",
    codes=_words("RequestTimeout*"),
    exceptions=(
        *_botocore(
            "ReadTimeoutError ConnectionClosedError ResponseStreamingError IncompleteReadError "
            "HTTPClientError"
        ),
        f"{PARSERS}.ResponseParserError",
        "receipt_dynamo.errors.StoreError",
    ),
    statuses=(408,),
    retry=Retry.YES,
    applied=Applied.MAYBE,
    breaker=Outcome.FAILURE,
)
UNREACHABLE = Rule(
    name="No connection",
    kind=Kind.TRANSIENT,
    fate=Fate.FRONT,
    note="Name resolution, routing, refused or timed-out connections, no free descriptor.",
    exceptions=(
        *_botocore(
            "ConnectTimeoutError EndpointConnectionError ProxyConnectionError ConnectionError"
        ),
        "builtins.OSError",
    ),
    retry=Retry.YES,
    breaker=Outcome.FAILURE,
)
CORRUPT = Rule(
    name="A reply that cannot be right",
    kind=Kind.CORRUPT,
    fate=Fate.FRONT,
    note="A 200 without UnprocessedItems (botocore turns an unreadable body into {}), with "
    "unprocessed records that were never sent, with a wrong CRC, or one that botocore's parser "
    "fails on. None of it is believed: the whole batch is sent again.",
    exceptions=(*_botocore("ChecksumError"), "receipt_dynamo.errors.CorruptReplyError"),
    retry=Retry.YES,
    applied=Applied.MAYBE,
    breaker=Outcome.FAILURE,
)
CONFLICT = Rule(
    name="A write conflict",
    kind=Kind.CONFLICT,
    fate=Fate.FRONT,
    note="Another region or a transaction writes the same item at this moment.",
    codes=_words("ReplicatedWriteConflictException TransactionConflictException"),
    retry=Retry.YES,
    backoff_base=0.025,
)
CREDENTIALS_AWAY = Rule(
    name="Credentials cannot be fetched",
    kind=Kind.TRANSIENT,
    fate=Fate.KEEP,
    note="The provider of the credentials (instance metadata, STS, a process) does not answer.",
    exceptions=_botocore("CredentialRetrievalError MetadataRetrievalError"),
    retry=Retry.ONCE,
    breaker=Outcome.FAILURE,
)
EXPIRED = Rule(
    name="Credentials have expired",
    kind=Kind.AUTH,
    fate=Fate.KEEP,
    note="The next signing may fetch new ones; if it does not, or the clock is wrong, it is "
    "configuration.",
    codes=_words("ExpiredToken* RequestExpired RequestTimeTooSkewed RequestInTheFuture"),
    retry=Retry.ONCE,
    probe=Outcome.FATAL,
    again=Outcome.FATAL,
)
DENIED = Rule(
    name="No permission",
    kind=Kind.AUTH,
    fate=Fate.KEEP,
    note="Configuration is never a reason to discard a record.",
    codes=_words(
        "AccessDenied* UnrecognizedClient* InvalidSignature* SignatureDoesNotMatch NotAuthorized "
        "MissingAuthenticationToken* IncompleteSignature* InvalidClientTokenId InvalidAccessKeyId "
        "OptInRequired SubscriptionRequiredException KMSAccessDeniedException"
    ),
    exceptions=_botocore(
        "NoCredentialsError PartialCredentialsError NoAuthTokenError TokenRetrievalError SSOError "
        "LoginError"
    ),
    breaker=Outcome.FATAL,
)
MISCONFIGURED = Rule(
    name="No such table, endpoint or region; no trust in the certificate",
    kind=Kind.CONFIG,
    fate=Fate.KEEP,
    note="Records wait until the configuration, the table or the key is put right.",
    codes=_words(
        "ResourceNotFoundException TableNotFoundException ResourceInUseException UnknownOperation* "
        "KMSDisabledException KMSInvalidStateException KMSNotFoundException"
    ),
    exceptions=(
        *_botocore("SSLError NoRegionError UnknownEndpointError BotoCoreError"),
        "receipt_dynamo.errors.ConfigurationError",
    ),
    breaker=Outcome.FATAL,
)
OTHER_SCHEMA = Rule(
    name="A ValidationException that speaks of the table's keys",
    kind=Kind.CONFIG,
    fate=Fate.KEEP,
    note="Every record has the same keys, so it is the table that was made with others.",
    messages=(
        "does not match the schema",
        "Missing the key",
        "required keys was not given a value",
        "Type mismatch for",
    ),
    breaker=Outcome.FATAL,
)
NOT_DYNAMODB = Rule(
    name="A 3xx or 4xx without an error code of DynamoDB's",
    kind=Kind.CONFIG,
    fate=Fate.KEEP,
    note="A proxy, gateway or captive portal spoke: it is no judge of records.",
    statuses=tuple(range(300, 400)),
    breaker=Outcome.FATAL,
)
POISON = Rule(
    name="The request is refused for what it holds",
    kind=Kind.POISON,
    fate=Fate.BISECT,
    note="One bad record fails a batch as a whole, so it is found by halving.",
    codes=_words(
        "ValidationException SerializationException ItemCollectionSizeLimitExceededException"
    ),
    exceptions=_botocore("ParamValidationError"),
)
TOO_LARGE = Rule(
    name="The request is too large",
    kind=Kind.SPLIT,
    fate=Fate.BISECT,
    note="Half of it may pass.",
    codes=_words("RequestEntityTooLarge* RequestTooLarge*"),
    statuses=(413,),
)
UNKNOWN_REFUSAL = Rule(
    name="Any other 4xx with an error code",
    kind=Kind.POISON,
    fate=Fate.BISECT,
    note="An answer newer than this table. Logged once for each code.",
    statuses=tuple(range(400, 500)),
)
STORM = Rule(
    name="Three batches in a row that are refused whole, with one message",
    kind=Kind.CONFIG,
    fate=Fate.KEEP,
    note="The table has another schema, and no record is to blame: nothing more goes to dead/.",
    breaker=Outcome.FATAL,
)
BUG = Rule(
    name="Any other exception",
    kind=Kind.BUG,
    fate=Fate.KEEP,
    note="A fault of this library or of a hook: logged with its traceback, and no record is lost.",
    exceptions=("builtins.Exception",),
)
INTERRUPTED = Rule(
    name="KeyboardInterrupt, SystemExit, GeneratorExit",
    kind=Kind.INTERRUPTED,
    fate=Fate.FRONT,
    note="Raised on to whom it is meant for, after the records are back in the queue.",
    exceptions=("builtins.BaseException",),
    applied=Applied.MAYBE,
)

RULES: tuple[Rule, ...] = (
    OK,
    PARTIAL,
    REFUSED,
    THROTTLED,
    SERVER_FAULT,
    LOST_REPLY,
    UNREACHABLE,
    CORRUPT,
    CONFLICT,
    CREDENTIALS_AWAY,
    EXPIRED,
    DENIED,
    MISCONFIGURED,
    OTHER_SCHEMA,
    NOT_DYNAMODB,
    POISON,
    TOO_LARGE,
    UNKNOWN_REFUSAL,
    STORM,
    BUG,
    INTERRUPTED,
)
"""Every answer, in the order of the documentation. Codes and names are unique among them."""
