"""Write docs/semantics.md from the table of failures: ``python -m tools.semantics``.

A test compares the file with what this module makes, so that neither changes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from receipt_dynamo.failure_rules import RULES, Applied, Fate, Kind, Retry, Rule
from receipt_dynamo.guards import GuardSettings
from receipt_dynamo.table_round import PARKED
from receipt_dynamo.utils.circuit_breaker import CircuitBreakerSettings, Outcome
from receipt_dynamo.utils.retry_with_backoff import RetrySettings

PAGE = Path(__file__).parent.parent / "docs" / "semantics.md"

INTRODUCTION = """\
# What becomes of a record, for every answer that DynamoDB can give

<!-- Written by `python -m tools.semantics` from receipt_dynamo/failure_rules.py. Edit that. -->

A record that was answered `STORED` lies in the spool until the table has acknowledged it. So the
question is never whether it survives a bad answer, but when it is sent again, and what is learned
from the answer. There are only three ways out of the spool. The table acknowledges it. Or it is
set aside in `dead/` with the reason, where DynamoDB refused it alone for what it holds, or failed
on it again and again while it took others (below). Or it is removed by choice (by an operator, or
with `overflow="drop_oldest"`). No outage, no throttle, no missing permission and no missing table
discards a record.

Records are sent with BatchWriteItem, 25 at a time, as unconditional puts under a key that was fixed
when the record was made. A put that is repeated replaces itself. So a lost reply, a repeated batch
or two senders at once change nothing: delivered at least once, counted once.
"""

READING = """\
## How to read it

- **Your record**: what happens to the records of the batch that got this answer. `dead/` is reached
  only by a record that failed in a batch of its own.
- **In the table?**: whether records that the answer does not acknowledge may be there all the same.
- **Tried again**: by the retry loop, with the same batch, at most {attempts} attempts and
  {deadline:g} s in all. *Paced*: not there; the goodput limiter says when the next batch may go.
  The loop is only the fast path: after it, records are tried again from the queue or the spool.
- **Breaker**: what the circuit breaker learns. {failures} failures in a row, or half of at least
  {attempts_seen} attempts, stop all calls for {base:g} s, doubled up to {most:g} s while it goes
  on; *fatal* stops them at once for {fatal:g} s, because the next call cannot end otherwise. While
  it is open nothing is sent but one batch after each break, as a probe. *Nothing* neither trips nor
  heals it; throttling is never a reason to stop calling.
- **Limiter**: whether the goodput limiter learns from it how much the table takes at this moment.
"""

STOPPED = """\
## When one batch fails each time

A batch that the server fails on each time, while others pass, would fail every probe and block
all that follows. A failed probe therefore goes behind what else waits. A batch that failed three
times, each time with another batch passing in between, is halved like a refused one; so is any
batch, when everything that waits has failed as often. A record that fails {alone} times alone, each
time with others passing in between, goes to `dead/`, where its reason begins with "{parked}":
the server never called it bad, so it is worth `receipt-usage dead retry` when that is over.

When three batches in a row are refused whole, each record alone and all with one message, then it
is the table that is wrong. From then on nothing goes to `dead/`, and the breaker opens, until the
table takes a record again.
"""

_OUTCOMES = {
    Outcome.SUCCESS: "success",
    Outcome.FAILURE: "failure",
    Outcome.NEUTRAL: "nothing",
    Outcome.FATAL: "fatal",
}
_KINDS = {
    Kind.OK: "Written",
    Kind.PARTIAL: "Written in part",
    Kind.THROTTLED: "Throttled",
    Kind.TRANSIENT: "The service or the network is in trouble",
    Kind.CORRUPT: "The reply cannot be believed",
    Kind.CONFLICT: "A conflict with another writer",
    Kind.AUTH: "No permission",
    Kind.CONFIG: "Wrong configuration",
    Kind.POISON: "Refused for what it holds",
    Kind.SPLIT: "Too large",
    Kind.BUG: "A fault of this library",
    Kind.INTERRUPTED: "Interrupted",
}
_RETRIES = {Retry.NO: "no", Retry.YES: "yes", Retry.ONCE: "once", Retry.PACED: "paced"}
_FATES = {fate: fate.value[:1].upper() + fate.value[1:] for fate in Fate}


def page() -> str:
    """Return the whole page."""
    breaker, retry = CircuitBreakerSettings(), RetrySettings()
    reading = READING.format(
        attempts=retry.attempts,
        deadline=retry.deadline,
        failures=breaker.consecutive_failures,
        attempts_seen=breaker.minimum_attempts,
        base=breaker.base_break,
        most=breaker.max_break,
        fatal=breaker.fatal_break,
    )
    stopped = STOPPED.format(alone=GuardSettings().strikes_alone, parked=PARKED)
    return "\n".join([INTRODUCTION, *_overview(), "", reading, *_details(), stopped])


def _overview() -> Iterator[str]:
    yield "## The table\n"
    yield "| Answer | Your record | In the table? | Tried again | Breaker | Limiter |"
    yield "|---|---|---|---|---|---|"
    for rule in RULES:
        limiter = "learns" if rule.limiter else "nothing"
        cells = (_fate(rule), _applied(rule), _RETRIES[rule.retry], _breaker(rule), limiter)
        yield f"| {rule.name} | {' | '.join(cells)} |"


def _fate(rule: Rule) -> str:
    return _FATES[rule.fate]


def _applied(rule: Rule) -> str:
    if rule.fate is Fate.ACK:
        return "yes"
    return "perhaps" if rule.applied is Applied.MAYBE else "no"


def _breaker(rule: Rule) -> str:
    words = _OUTCOMES[rule.breaker]
    if rule.again is not None:
        words += f"; if the retry ends alike: {_OUTCOMES[rule.again]}"
    if rule.probe is not None:
        words += f"; of a probe: {_OUTCOMES[rule.probe]}"
    return words


def _details() -> Iterator[str]:
    yield "## Answer by answer\n"
    for rule in RULES:
        yield f"### {rule.name}\n"
        yield f"{_KINDS[rule.kind]}. {rule.note}\n"
        if rule.codes:
            yield f"- Error codes: {_list(rule.codes)}"
        if rule.messages:
            yield f"- Words in the message: {_list(rule.messages)}"
        if rule.exceptions:
            names = (name.removeprefix("builtins.") for name in rule.exceptions)
            yield f"- Exceptions: {_list(names)}"
        if rule.statuses:
            yield f"- HTTP status, where the code is none of this page's: {_statuses(rule)}"
        if rule.codes or rule.messages or rule.exceptions or rule.statuses:
            yield ""


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _statuses(rule: Rule) -> str:
    first, last = rule.statuses[0], rule.statuses[-1]
    return str(first) if first == last else f"{first} to {last}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
