"""What an answer of DynamoDB, botocore or the network means for a record: the table, applied.

    verdict = classify(answer, sent=keys)      # a reply of BatchWriteItem, or an exception
    breaker.record(permit, verdict.outcome(permit))

The rules are in failure_rules.py, docs/semantics.md shows them. Exceptions are matched by name
along their method resolution order, the nearest class first, so no botocore is loaded here: an
SSLError is a ConnectionError as well, but its own rule is nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any

from receipt_dynamo.errors import StoreError
from receipt_dynamo.failure_rules import (
    BUG,
    CORRUPT,
    ENDPOINT,
    INTERRUPTED,
    NOT_DYNAMODB,
    OK,
    OTHER_SCHEMA,
    PARSERS,
    PARTIAL,
    POISON,
    REFUSED,
    RULES,
    UNKNOWN_REFUSAL,
    Fate,
    Kind,
    Retry,
    Rule,
)
from receipt_dynamo.utils.circuit_breaker import Outcome, Permit
from receipt_dynamo.utils.retry_with_backoff import Backoff

__all__ = [
    "Fate",
    "Key",
    "Kind",
    "Retry",
    "Rule",
    "Verdict",
    "classify",
    "classify_left",
    "primary_key",
]

Key = tuple[str, str]
"""The partition key and the sort key of an item."""

_CLIENT_ERROR = "botocore.exceptions.ClientError"

_BY_CODE = {c: rule for rule in RULES for c in rule.codes if not c.endswith("*")}
_BY_PREFIX = {c[:-1]: rule for rule in RULES for c in rule.codes if c.endswith("*")}
_BY_EXCEPTION = {name: rule for rule in RULES for name in rule.exceptions}
_BY_STATUS: dict[int, Rule] = {}
for _rule in RULES:
    for _status in _rule.statuses:
        _BY_STATUS.setdefault(_status, _rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One answer, judged.

    ``unprocessed`` are the keys of the batch that the table refused for now; all of them where the
    answer acknowledges none. ``code`` and ``message`` are DynamoDB's, or the exception's.
    ``throttling`` are its reasons, as ``reason resource``; ``retry_after`` is in seconds.
    """

    rule: Rule
    sent: int = 0
    unprocessed: frozenset[Key] = frozenset()
    code: str = ""
    message: str = ""
    throttling: tuple[str, ...] = ()
    retry_after: float | None = None

    @property
    def kind(self) -> Kind:
        """What the answer is."""
        return self.rule.kind

    @property
    def accepted(self) -> int | None:
        """How many records the table took, for the limiter; None: the answer does not tell."""
        return self.sent - len(self.unprocessed) if self.rule.limiter else None

    @property
    def hot_partition(self) -> bool:
        """Whether one partition is at its limit, rather than the table."""
        return any("KeyRange" in reason for reason in self.throttling)

    def backoff(self, *, paced: bool = False) -> Backoff | None:
        """Return how the retry loop goes on with the same call, or None if it does not.

        ``paced``: a limiter spaces such calls, so that a throttled one is not repeated here. A
        throttled retry costs nothing of the quota: the pause before it is its price.
        """
        retry = self.rule.retry
        if retry is Retry.NO or (retry is Retry.PACED and paced):
            return None
        return Backoff(
            base=self.rule.backoff_base,
            hint=self.retry_after,
            cost=0.0 if retry is Retry.PACED else None,
            attempts=2 if retry is Retry.ONCE else None,
        )

    def outcome(self, permit: Permit, *, again: bool = False) -> Outcome:
        """Return what the breaker learns; ``again``: the call before ended by the same rule."""
        rule = self.rule
        if permit.probe and rule.probe is not None:
            return rule.probe
        if again and rule.again is not None:
            return rule.again
        return rule.breaker

    def fate(self) -> Fate:
        """Return what becomes of the batch: a record refused alone is dead."""
        if self.rule.fate is Fate.BISECT and self.sent == 1:
            return Fate.DEAD
        return self.rule.fate

    def __str__(self) -> str:
        words = f"{self.code}: {self.message}" if self.message else self.code
        return f"{self.kind} ({words})" if words else str(self.kind)


def primary_key(item: Mapping[str, Any]) -> Key:
    """Return the key of an item in DynamoDB's JSON. Raises KeyError, TypeError if there is none."""
    return item["PK"]["S"], item["SK"]["S"]


def classify(
    answer: object,
    *,
    sent: Collection[Key] = (),
    key_of: Callable[[Mapping[str, Any]], Key] = primary_key,
) -> Verdict:
    """Judge what a BatchWriteItem returned or raised. ``sent`` are the keys of the batch.

    ``answer`` is botocore's reply (low-level client) or an exception. Raises nothing.
    """
    keys = frozenset(sent)
    if isinstance(answer, BaseException):
        return _classify_exception(answer, keys)
    unprocessed = _unprocessed(answer, key_of)
    if unprocessed is None:
        return Verdict(rule=CORRUPT, sent=len(keys), unprocessed=keys)
    return classify_left(unprocessed, sent=keys)


def classify_left(left: Collection[Key], *, sent: Collection[Key]) -> Verdict:
    """Judge a reply that somebody else has read: ``left`` are the keys that were not processed."""
    keys, unprocessed = frozenset(sent), frozenset(left)
    if not unprocessed:
        rule = OK
    elif unprocessed == keys:
        rule = REFUSED
    elif unprocessed < keys:
        rule = PARTIAL
    else:  # keys that were never sent
        rule, unprocessed = CORRUPT, keys
    return Verdict(rule=rule, sent=len(keys), unprocessed=unprocessed)


def _unprocessed(
    reply: object, key_of: Callable[[Mapping[str, Any]], Key]
) -> frozenset[Key] | None:
    """Return the keys that the table refused, or None if the reply does not say."""
    if not isinstance(reply, Mapping) or not isinstance(reply.get("UnprocessedItems"), Mapping):
        return None
    try:
        return frozenset(
            key_of(request["PutRequest"]["Item"])
            for requests in reply["UnprocessedItems"].values()
            for request in requests
        )
    except (KeyError, TypeError, AttributeError):
        return None


def _classify_exception(error: BaseException, keys: frozenset[Key]) -> Verdict:
    while type(error) is StoreError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # our own words for it; the cause tells more
    for cls in type(error).__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name == _CLIENT_ERROR:
            return _classify_client_error(getattr(error, "response", None), keys)
        rule = _BY_EXCEPTION.get(name)
        if rule is not None:
            break
    else:  # pragma: no cover - BaseException is in the table
        rule = INTERRUPTED
    if rule is BUG and _raised_by_parser(error):
        rule = CORRUPT
    return Verdict(
        rule=rule,
        sent=len(keys),
        unprocessed=keys,
        code=type(error).__name__,
        message=_message(error),
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception of somebody's that cannot even be shown
        return ""


def _raised_by_parser(error: BaseException) -> bool:
    """Return whether reading the reply upset botocore: its body is JSON, but no object.

    Either in its parser, or, with ``null``, in the lines that take over what the parser made; of
    the latter only the innermost frame counts, for hooks are called from there as well.
    """
    trace, module = error.__traceback__, None
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__")
        if module == PARSERS:
            return True
        trace = trace.tb_next
    return module == ENDPOINT


def _classify_client_error(response: object, keys: frozenset[Key]) -> Verdict:
    reply: Mapping[str, Any] = response if isinstance(response, Mapping) else {}
    error = _mapping(reply, "Error")
    metadata = _mapping(reply, "ResponseMetadata")
    code = str(error.get("Code") or "")
    message = str(error.get("Message") or "")
    status = metadata.get("HTTPStatusCode")
    rule = _rule_of(code, status if isinstance(status, int) else 0)
    if rule is POISON and any(sign in message for sign in OTHER_SCHEMA.messages):
        rule = OTHER_SCHEMA
    return Verdict(
        rule=rule,
        sent=len(keys),
        unprocessed=keys,
        code=code,
        message=message,
        throttling=_throttling(reply),
        retry_after=_retry_after(_mapping(metadata, "HTTPHeaders")),
    )


def _rule_of(code: str, status: int) -> Rule:
    rule = _BY_CODE.get(code)
    if rule is None:
        rule = next((rule for start, rule in _BY_PREFIX.items() if code.startswith(start)), None)
    if rule is not None:
        return rule
    unspoken = not code or code.isdecimal()  # botocore gives the status where there is no code
    rule = _BY_STATUS.get(status, CORRUPT)
    return NOT_DYNAMODB if rule is UNKNOWN_REFUSAL and unspoken else rule


def _mapping(reply: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = reply.get(name)
    return value if isinstance(value, Mapping) else MappingProxyType({})


def _throttling(reply: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = reply.get("ThrottlingReasons") or reply.get("throttlingReasons") or ()
    return tuple(
        f"{reason.get('reason', '')} {reason.get('resource', '')}".strip()
        for reason in reasons
        if isinstance(reason, Mapping)
    )


def _retry_after(headers: Mapping[str, Any]) -> float | None:
    """Return the seconds that the server asks for: its own header in ms, or HTTP's in seconds."""
    for name, unit in (("x-amz-retry-after", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, TypeError, ValueError):
            continue
        if isfinite(seconds) and seconds >= 0:
            return seconds
    return None
