"""``receipt-usage dead``: records that the store would not take, looked at, retried or dropped."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from receipt_label.cli.output import called, counted, note, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from receipt_dynamo import DeadLetter, DeadLetters, UsageClient

__all__ = ["command"]

_NO_LETTERS = "there are no dead letters"
_KNOWN = (
    "service",
    "model",
    "operation",
    "timestamp",
    "request_id",
    "input_tokens",
    "output_tokens",
    "cost_usd",
)
_ids = click.argument("ids", metavar="[ID]...", nargs=-1)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="dead")
def command() -> None:
    """List, show, retry or drop the records that the store would not take.

    They lie in dead/ in the spool of this environment, each with the reason, and wait there.
    """


@command.command(name="list")
@_json
def list_letters(as_json: bool) -> int:
    """List the dead letters, and say where damaged lines lie."""
    dead = _dead_letters()
    letters, quarantined = dead.letters(), dead.quarantined()
    if as_json:
        write_json(
            {
                "letters": [_letter_json(letter) for letter in letters],
                "quarantine": [
                    {"file": str(path), "lines": lines} for path, lines in quarantined.items()
                ],
            }
        )
        return 0
    if letters:
        _print_letters(letters)
    else:
        note(_NO_LETTERS)
    _note_unreadable([letter for letter in letters if letter.fault is not None])
    if quarantined:
        lines = counted(sum(quarantined.values()), "damaged line")
        place = next(iter(quarantined)).parent
        note(f"beside them {lines} in {place}: counted as lost; they cannot be retried")
    return 0


@command.command(name="show")
@click.argument("name", metavar="ID")
def show(name: str) -> int:
    """Print one letter as JSON, with the whole record."""
    letter = _dead_letters().letter(name)
    try:
        record = json.loads(letter.record)
    except ValueError:
        record = letter.record
    write_json({**_letter_json(letter), "fault": letter.fault, "record": record})
    return 0


@command.command(name="retry")
@_ids
@click.option("--all", "every", is_flag=True, help="Every letter that is a record.")
@_json
def retry(ids: tuple[str, ...], every: bool, as_json: bool) -> int:
    """Send dead letters again, and say what became of them.

    Once what refused them is mended. The exit code is 1 when one of them was not delivered.
    """
    _check_choice(ids, every=every)
    from receipt_label.cli.opening import open_client

    with open_client() as client:
        dead = _dead_letters()
        retried = dead.retry(None if every else ids)
        again, waiting = _deliver(client, dead, retried)
        unreadable = [letter for letter in dead.letters() if letter.fault is not None]
    delivered = len(retried) - again - waiting
    if as_json:
        write_json(
            {"retried": len(retried), "delivered": delivered, "dead": again, "waiting": waiting}
        )
    if retried:
        note(f"retried: {counted(len(retried), 'letter')}, {delivered:,} delivered")
    elif not unreadable:
        note(_NO_LETTERS)
    if again:
        note(f"dead again: {again:,}. See: {called('dead list')}")
    if waiting:
        note(f"waiting in the spool: {waiting:,}. See: {called('ship')}")
    if every:
        _note_unreadable(unreadable)
    return 1 if again or waiting or (unreadable and not retried) else 0


@command.command(name="drop")
@_ids
@click.option("--all", "every", is_flag=True, help="Every letter; asks first, unless --yes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
def drop(ids: tuple[str, ...], every: bool, yes: bool, as_json: bool) -> int:
    """Give dead letters up.

    They are removed, and every report counts them as lost, with their tokens and cost.
    """
    _check_choice(ids, every=every)
    dead = _dead_letters()
    chosen = [letter.id for letter in dead.letters()] if every else ids
    dropped: Sequence[DeadLetter] = ()
    if chosen and (yes or not every or _is_confirmed(len(chosen))):
        dropped = dead.drop(chosen)
    if as_json:
        write_json({"dropped": len(dropped)})
    if dropped:
        note(f"dropped: {counted(len(dropped), 'letter')}. Reports count what was in them as lost")
    else:
        note("nothing was dropped" if chosen else _NO_LETTERS)
    return 0


def _dead_letters() -> DeadLetters:
    from receipt_dynamo import DeadLetters
    from receipt_label.cli.opening import read_settings

    return DeadLetters(read_settings())


def _check_choice(ids: Sequence[str], *, every: bool) -> None:
    if every and ids:
        raise click.UsageError("name letters, or say --all, not both")
    if not every and not ids:
        raise click.UsageError(f"name at least one letter ({called('dead list')}), or say --all")


def _is_confirmed(count: int) -> bool:
    """Ask whether all letters may go. Raises click.UsageError where there is nobody to ask."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise click.UsageError("--all drops every dead letter: add --yes")
    return click.confirm(f"Drop {counted(count, 'letter')}, and count them as lost?", err=True)


def _deliver(
    client: UsageClient, dead: DeadLetters, retried: Sequence[DeadLetter]
) -> tuple[int, int]:
    """Deliver what was retried; return how many of it are dead again, and how many wait."""
    from receipt_dynamo import UsageError
    from receipt_label.cli.progress import take_in

    if not retried:
        return 0, 0
    count_left = client.backlog()
    try:
        take_in(client)
    except UsageError:
        note(f"in the spool again, for the next command: {counted(len(retried), 'letter')}")
        raise
    names = {letter.id for letter in retried}
    again = sum(letter.id in names for letter in dead.letters())
    return again, min(count_left(), len(retried) - again)


def _print_letters(letters: Sequence[DeadLetter]) -> None:
    from receipt_label.cli.tables import Column, print_table

    print_table(
        [
            Column("id"),
            Column("died"),
            Column("service"),
            Column("model"),
            Column("input", figures=True),
            Column("output", figures=True),
            Column("cost USD", figures=True),
            Column("reason"),
        ],
        [
            [
                letter.id,
                None if letter.died is None else f"{letter.died:%Y-%m-%d %H:%M}",
                letter.service,
                letter.model,
                letter.input_tokens,
                letter.output_tokens,
                letter.cost_usd,
                letter.reason,
            ]
            for letter in letters
        ],
    )


def _note_unreadable(letters: Sequence[DeadLetter]) -> None:
    if letters:
        count = counted(len(letters), "letter is no record", "letters are no records")
        note(f"{count}: to be dropped, or mended by hand; the first is {letters[0].id}")


def _letter_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "died": _plain(letter.died),
        "reason": letter.reason,
        "can_be_retried": letter.fault is None,
        **{name: _plain(getattr(letter, name)) for name in _KNOWN},
        "file": str(letter.file),
        "line": letter.line,
    }


def _plain(value: Any) -> Any:
    from decimal import Decimal

    from receipt_dynamo import plain_decimal

    if isinstance(value, Decimal):
        return plain_decimal(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value
